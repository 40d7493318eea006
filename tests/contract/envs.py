"""Envs that tests can stop, watch and break from outside, through files; importable as "tests.contract.envs:NAME"."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv


class Gated(CartPoleEnv):
    """CartPole of episodes of 50 steps, which waits while the file `folder/closed` exists, from step `after` of the env on.

    While it waits, `folder/waiting-PID` exists: so a test knows that this process is in the midst of a step.
    """

    def __init__(self, folder: str, after: int) -> None:
        super().__init__()
        self._folder, self._after, self._total, self._steps = Path(folder), after, 0, 0

    def reset(self, **kwargs: Any) -> Any:
        self._steps = 0
        return super().reset(**kwargs)

    def step(self, action: Any) -> Any:
        self._total += 1
        self._steps += 1
        if self._total >= self._after and (self._folder / "closed").exists():
            waiting = self._folder / f"waiting-{os.getpid()}"
            waiting.touch()
            while (self._folder / "closed").exists():
                time.sleep(0.01)
            waiting.unlink(missing_ok=True)
        obs, reward, terminated, _, info = super().step(action)
        return obs, reward, terminated, self._steps >= 50, info


def gated(folder: str, after: int = 0) -> gym.Env:
    """See `Gated`."""
    return Gated(folder, after)


def suicidal() -> gym.Env:
    """CartPole whose process is killed at its tenth step, as for want of memory."""

    class Suicidal(CartPoleEnv):
        steps = 0

        def step(self, action: Any) -> Any:
            self.steps += 1
            if self.steps == 10:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().step(action)

    return Suicidal()


def raising(error: str) -> gym.Env:
    """CartPole whose fifth step raises a builtin exception of this name."""

    class Raising(CartPoleEnv):
        steps = 0

        def step(self, action: Any) -> Any:
            self.steps += 1
            if self.steps == 5:
                raise {
                    "EOFError": EOFError("the simulator's end"),
                    "BrokenPipeError": BrokenPipeError(errno.EPIPE, "the simulator's pipe"),
                    "SystemExit": SystemExit("the simulator's exit"),
                }[error]
            return super().step(action)

    return Raising()


class Infinite(Gated):
    """`Gated`, whose step `after` returns an infinite reward, or an observation whose third number is."""

    def __init__(self, folder: str, after: int, what: str) -> None:
        super().__init__(folder, after)
        self._what = what

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        if self._total == self._after:
            terminated = truncated = False
            if self._what == "reward":
                reward = float("inf")
            else:
                obs[2] = np.inf
        return obs, reward, terminated, truncated, info


def infinite(folder: str, after: int, what: str) -> gym.Env:
    """See `Infinite`."""
    return Infinite(folder, after, what)


class Slow(Gated):
    """CartPole of episodes of 50 steps, which counts its steps in `folder/steps-N` and sleeps in each for `ms` milliseconds if it
    is the `N = 1`st that was made after a probe, whichever process makes it.
    """

    def __init__(self, folder: str, ms: float) -> None:
        super().__init__(folder, 0)
        number = 0
        while True:
            try:
                self._count = (Path(folder) / f"steps-{number}").open("x")
                break
            except FileExistsError:
                number += 1
        self._seconds = ms / 1000.0 if number == 1 else 0.0

    def step(self, action: Any) -> Any:
        if self._seconds:
            time.sleep(self._seconds)
        self._count.write(".")
        return super().step(action)

    def close(self) -> None:
        self._count.close()
        super().close()


def slow(folder: str, ms: float = 5.0) -> gym.Env:
    """See `Slow`."""
    return Slow(folder, ms)
