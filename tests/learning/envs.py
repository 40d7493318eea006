"""Envs that only a working part can solve; importable by Ray workers as "tests.learning.envs:NAME"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from tests.envs import UNIT, BoxObs, DiscreteObs, Matching


class Maze(gym.Env):
    """A corridor with a small prize at the near end and a large one at the far end.

    Which of the two actions leads on differs from place to place, so that no constant policy gets far; the far prize takes
    six right steps in a row. A policy that does not look ahead takes the near one (0.2); the best gets 1.
    """

    observation_space = spaces.Box(0.0, 1.0, (8,), np.float32)
    action_space = spaces.Discrete(2)
    onward = (0, 1, 1, 0, 1, 0, 0, 0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self._place, self._steps = 1, 0
        return self._obs(), {}

    def step(self, action: int):
        self._steps += 1
        self._place += 1 if action == self.onward[self._place] else -1
        reward = {0: 0.2, 7: 1.0}.get(self._place, 0.0)
        return self._obs(), reward, reward > 0, self._steps >= 30, {}

    def _obs(self) -> np.ndarray:
        return np.eye(8, dtype=np.float32)[self._place]


class Image(Matching):
    """The action names the bright half of an image."""

    observation_space = spaces.Box(0, 255, (10, 10, 1), np.uint8)
    action_space = spaces.Discrete(2)

    def show(self, target: int) -> np.ndarray:
        image = np.zeros((10, 10, 1), np.uint8)
        image[:, 5 * target : 5 * (target + 1)] = 255
        return image


class ImageAndVector(Matching):
    """One part of the action names the bright half of an image, the other what a vector shows."""

    observation_space = spaces.Dict({"image": Image.observation_space, "vector": UNIT})
    action_space = spaces.MultiDiscrete([2, 2])

    def draw(self) -> np.ndarray:
        return self.np_random.integers(2, size=2)

    def show(self, target: np.ndarray) -> dict[str, np.ndarray]:
        image = np.zeros((10, 10, 1), np.uint8)
        image[:, 5 * target[0] : 5 * (target[0] + 1)] = 255
        return {"image": image, "vector": np.eye(2, dtype=np.float32)[target[1]]}

    def match(self, target: np.ndarray, action: Any) -> float:
        return float(np.mean(target == action))


class Everything(Matching):
    """An observation of every kind in nested entries, and an action that counts from 1."""

    observation_space = spaces.Dict(
        {
            "image": Image.observation_space,
            "more": spaces.Tuple((spaces.Box(-1.0, 1.0, (2,), np.float64), spaces.Discrete(3, start=5))),
            "many": spaces.MultiDiscrete([2, 3], start=[4, 1]),
            "bits": spaces.MultiBinary([2, 2]),
        }
    )
    action_space = spaces.Discrete(2, start=1)

    def show(self, target: int) -> dict[str, Any]:
        image = self.np_random.integers(256, size=(10, 10, 1)).astype(np.uint8)
        bits = np.full((2, 2), target, np.int8)
        return {"image": image, "more": (np.array([target, 0.5]), target + 6), "many": np.array([5, 3]), "bits": bits}


class Shifted(Matching):
    """A number far from zero and of tiny spread, large rewards: without normalisation there is nothing to be seen."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = spaces.Discrete(2)

    def show(self, target: int) -> np.ndarray:
        return np.array([100.0 + 0.01 * target])

    def match(self, target: int, action: Any) -> float:
        return 100.0 * super().match(target, action)


class FarOff(gym.Wrapper):
    """An env whose observations are 1,000 times as large and far from zero, and whose rewards are 1,000 times as large."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        assert env.observation_space.shape is not None
        self.observation_space = spaces.Box(-np.inf, np.inf, env.observation_space.shape, np.float32)

    def reset(self, **options: Any):
        obs, info = self.env.reset(**options)
        return self._far(obs), info

    def step(self, action: Any):
        obs, reward, *others = self.env.step(action)
        return self._far(obs), 1000.0 * float(reward), *others

    @staticmethod
    def _far(obs: np.ndarray) -> np.ndarray:
        return (1000.0 * obs + 5000.0).astype(np.float32)


def far_maze() -> gym.Env:
    return FarOff(Maze())


class Endless(gym.Env):
    """Reward 1 per step for the right action, cut off every 4 steps. Bootstrapped, a step is worth 1 / (1 - gamma)."""

    observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self._steps = 0
        return np.ones(1, np.float32), {}

    def step(self, action: int):
        self._steps += 1
        return np.ones(1, np.float32), 1.0, False, self._steps >= 4, {}


class Steered(gym.ActionWrapper):
    """An env of two actions, chosen by the sign of the first of two numbers."""

    action_space = spaces.Box(-2.0, 2.0, (2,), np.float32)

    def action(self, action: np.ndarray) -> int:
        assert self.action_space.contains(action)
        space = self.env.action_space
        assert isinstance(space, spaces.Discrete)
        return int(space.start + (action[0] > 0))


def steered_box() -> gym.Env:
    return Steered(BoxObs())


def steered_discrete() -> gym.Env:
    return Steered(DiscreteObs())


def steered_everything() -> gym.Env:
    return Steered(Everything())


class Fragile(gym.Wrapper):
    """Fails after so many steps while a file lies there; what it does else, it does as the env itself.

    Args:
        env: its id, or "steered".
        file: path.
        after: steps.
    """

    def __init__(self, env: str, file: str, after: int) -> None:
        super().__init__(steered_box() if env == "steered" else BoxObs())
        self._file, self._left = Path(file), after

    def step(self, action: Any):
        self._left -= 1
        if self._left < 0 and self._file.exists():
            raise RuntimeError("the env broke")
        return super().step(action)
