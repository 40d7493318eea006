"""Envs to measure with: one whose cost is waiting, as that of a simulator behind a socket is, and two that need memory."""

from __future__ import annotations

import time
from typing import Any

import gymnasium as gym
import numpy as np

STEP_SECONDS = 0.005


class SleepyEnv(gym.Env[Any, Any]):
    """Each step takes 5 ms of waiting; the observation is 4 zeros, the reward 1, an episode 100 steps."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; the observation is `[4]` float32."""
        super().reset(seed=seed)
        self._steps = 0
        return np.zeros(4, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Wait 5 ms; the episode is truncated after 100 steps."""
        time.sleep(STEP_SECONDS)
        self._steps += 1
        return np.zeros(4, np.float32), 1.0, False, self._steps >= 100, {}


class WithoutVelocity(gym.ObservationWrapper[Any, Any, Any]):
    """Shows positions alone: what goes on has to be remembered."""

    def __init__(self, env: gym.Env[Any, Any], positions: tuple[int, ...]) -> None:
        super().__init__(env)
        self._positions = np.array(positions)
        space = env.observation_space
        assert isinstance(space, gym.spaces.Box)
        self.observation_space = gym.spaces.Box(space.low[self._positions], space.high[self._positions])

    def observation(self, observation: Any) -> Any:
        return observation[self._positions]


def cartpole_without_velocity() -> gym.Env[Any, Any]:
    """CartPole-v1 of which only the cart's place and the pole's angle are seen."""
    return WithoutVelocity(gym.make("CartPole-v1"), (0, 2))


def pendulum_without_velocity() -> gym.Env[Any, Any]:
    """Pendulum-v1 of which only the angle is seen, by its cosine and sine."""
    return WithoutVelocity(gym.make("Pendulum-v1"), (0, 1))
