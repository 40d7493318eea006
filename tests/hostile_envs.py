"""Envs that break their contract at a chosen call; importable as "tests.hostile_envs:NAME" by worker processes and command lines."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

VECTOR = spaces.Box(-1.0, 1.0, (3,), np.float32)
BYTES = spaces.Box(0, 255, (3,), np.uint8)
SPACES: dict[str, spaces.Space] = {
    "vector": VECTOR,
    "double": spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
    "scalar": spaces.Box(0.0, 1.0, (), np.float32),
    "bytes": BYTES,
    "ints": spaces.Box(-5, 5, (3,), np.int16),
    "discrete": spaces.Discrete(4, start=-1),
    "multi": spaces.MultiDiscrete([3, 2, 4], start=[0, 5, -1]),
    "binary": spaces.MultiBinary(3),
    "dict": spaces.Dict({"x": VECTOR, "n": spaces.Discrete(3)}),
    "tuple": spaces.Tuple((spaces.Discrete(3, start=2), BYTES)),
}
LEAVES = {"dict": "x", "tuple": 1}


class EnvOfItsOwn(Exception):
    """What the env itself raises: wiserl has to let it through."""


class NoArray:
    """Raises where numpy asks for an array, and has no truth value."""

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise EnvOfItsOwn("no array")

    def __bool__(self) -> bool:
        raise EnvOfItsOwn("no truth value")


def _raise(good: Any) -> Any:
    raise EnvOfItsOwn("the env fails")


def _exit(good: Any) -> Any:
    raise SystemExit(3)


VALUES: dict[str, Callable[[Any], Any]] = {
    "none": lambda good: None,
    "text": lambda good: "False",
    "number as text": lambda good: "1.5",
    "bytes": lambda good: b"1",
    "half": lambda good: 1.7,
    "nan": lambda good: math.nan,
    "inf": lambda good: -math.inf,
    "huge": lambda good: 1e300,
    "very long": lambda good: 10**400,
    "minus one": lambda good: -1,
    "minus two": lambda good: -2,
    "three hundred": lambda good: 300,
    "complex": lambda good: 1j,
    "empty list": lambda good: [],
    "list": lambda good: [1.0],
    "ragged": lambda good: [[1.0], [1.0, 2.0]],
    "dict": lambda good: {"y": 1},
    "set": lambda good: {1},
    "function": lambda good: len,
    "no array": lambda good: NoArray(),
    "one": lambda good: np.ones(1, np.float32),
    "two": lambda good: np.ones((1, 2), np.float32),
    "wide": lambda good: np.ones((1, 3), np.float32),
    "true": lambda good: np.True_,
    "flags": lambda good: np.array([True, False]),
    "object": lambda good: np.array([None, 1, "a"], object),
    "shorts": lambda good: np.full(np.shape(good), 300, np.uint16),
    "longs": lambda good: np.full(np.shape(good), 300, np.int64),
    "floats": lambda good: np.full(np.shape(good), 0.5, np.float64),
    "halves": lambda good: np.full(np.shape(good), 2.0, np.float16),
    "nans": lambda good: np.full(np.shape(good), np.nan, np.float32),
    "strings": lambda good: np.full(np.shape(good), "1"),
    "dates": lambda good: np.full(np.shape(good), np.datetime64("2020-01-01")),
    "swapped": lambda good: np.asarray(good).astype(np.asarray(good).dtype.newbyteorder()),
    "transposed": lambda good: np.asarray(good).T,
    "as list": lambda good: np.asarray(good).tolist(),
    "raises": _raise,
    "exits": _exit,
}


def _of_its_own(value: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same, raising nothing but what the env itself may raise."""

    def spoil(good: Any) -> Any:
        try:
            return value(good)
        except Exception as error:
            raise EnvOfItsOwn(str(error)) from error

    return spoil


PARTS = ("obs", "leaf", "reward", "terminated", "truncated", "info", "all", "short", "space")


class Hostile(gym.Env):
    """Keeps its contract but for one value of one part of what one call returns.

    Args:
        kind: of `SPACES`, what it observes.
        part: of `PARTS`, what is wrong; "" nothing.
        value: of `VALUES`, what it is instead.
        at: the call that is wrong, the resets counted too.
        length: of an episode.

    Attributes:
        returned: observations that it gave, in order.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}
    action_space = spaces.Discrete(2)

    def __init__(
        self, kind: str = "vector", part: str = "", value: str = "none", at: int = 4, length: int = 5, seed: int = 0
    ) -> None:
        self.observation_space = copy.deepcopy(SPACES[kind])
        self.observation_space.seed(seed)
        self._kind, self._part, self._value, self._at, self._length = kind, part, _of_its_own(VALUES[value]), at, length
        self._calls = 0
        self.returned: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self._steps = 0
        return self._spoilt({"obs": self.observation_space.sample(), "info": {}})

    def step(self, action: Any):
        self._steps += 1
        over = self._steps >= self._length
        good = {
            "obs": self.observation_space.sample(),
            "reward": 1.0,
            "terminated": over,
            "truncated": False,
            "info": {},
        }
        return self._spoilt(good)

    def _spoilt(self, parts: dict[str, Any]) -> Any:
        self._calls += 1
        if self._calls == self._at:
            if self._part == "leaf" and self._kind in LEAVES:
                key = LEAVES[self._kind]
                obs = dict(parts["obs"]) if self._kind == "dict" else list(parts["obs"])
                obs[key] = self._value(obs[key])
                parts["obs"] = obs if self._kind == "dict" else tuple(obs)
            elif self._part == "space":
                self.observation_space, self.action_space = spaces.Box(0.0, 1.0, (7,)), spaces.Discrete(9)
                parts["obs"] = self.observation_space.sample()
            elif self._part in parts:
                parts[self._part] = self._value(parts[self._part])
            elif self._part == "all":
                self.returned.append(copy.deepcopy(parts["obs"]))
                return self._value(tuple(parts.values()))
            elif self._part == "short":
                return tuple(parts.values())[:-1]
        self.returned.append(copy.deepcopy(parts["obs"]))
        return tuple(parts.values())


AGENT_FAULTS = ("missing", "unknown", "not a dict", "value")


class HostileAgents(ParallelEnv):
    """Two agents; like `Hostile`, but one entry of one part is wrong, missing, of an unknown agent, or the part is no dict.

    `part` may also be "agents": then env.agents is wrong.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "hostile_v0", "render_modes": []}

    def __init__(
        self,
        part: str = "",
        fault: str = "value",
        value: str = "none",
        at: int = 4,
        length: int = 5,
        kind: str = "vector",
    ) -> None:
        self.possible_agents = ["a", "b"]
        self.agents: list[Any] = []
        self.render_mode = None
        self._space, self._action = copy.deepcopy(SPACES[kind]), spaces.Discrete(2)
        self._space.seed(0)
        self._part, self._fault, self._value, self._at, self._length = (
            part,
            fault,
            _of_its_own(VALUES[value]),
            at,
            length,
        )
        self._calls = 0

    def observation_space(self, agent: str) -> spaces.Space:
        return self._space

    def action_space(self, agent: str) -> spaces.Space:
        return self._action

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None):
        self._steps, self.agents = 0, ["a", "b"]
        return self._spoilt({"obs": {agent: self._space.sample() for agent in self.agents}, "info": {"a": {}, "b": {}}})

    def step(self, actions: dict[str, Any]):
        self._steps += 1
        over = self._steps >= self._length
        acted = self.agents
        parts = {
            "obs": {agent: self._space.sample() for agent in acted},
            "reward": dict.fromkeys(acted, 1.0),
            "terminated": dict.fromkeys(acted, over),
            "truncated": dict.fromkeys(acted, False),
            "info": {agent: {} for agent in acted},
        }
        self.agents = [] if over else list(acted)
        return self._spoilt(parts)

    def _spoilt(self, parts: dict[str, Any]) -> Any:
        self._calls += 1
        if self._calls != self._at:
            return tuple(parts.values())
        if self._part == "agents":
            self.agents = {
                "missing": [],
                "unknown": ["a", "b", "x"],
                "not a dict": ("a", "b"),
                "value": ["a", "b", "b"],
            }[self._fault]
        elif self._part in parts:
            part = parts[self._part]
            if self._fault == "missing":
                part.pop("b", None)
            elif self._fault == "unknown":
                part["x"] = part.pop("b", 0)
            elif self._fault == "not a dict":
                parts[self._part] = self._value(part)
            else:
                part["b"] = self._value(part.get("b"))
        elif self._part == "short":
            return tuple(parts.values())[:-1]
        return tuple(parts.values())
