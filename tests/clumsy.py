"""Envs that no training can begin with, and some that look so."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

BOX = spaces.Box(-1, 1, (2,))


class _Env(gym.Env):
    """Five steps of zeros."""

    action_space = spaces.Discrete(2)
    observation_space: spaces.Space[Any]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps = 0
        return self._obs(), {}

    def step(self, action):
        self._steps += 1
        return self._obs(), 1.0, self._steps == 5, False, {}

    def _obs(self):
        return zeros(self.observation_space)


def zeros(space):
    if isinstance(space, spaces.Dict):
        return {key: zeros(child) for key, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(zeros(child) for child in space.spaces)
    return 0 if isinstance(space, spaces.Discrete) else np.zeros(space.shape, space.dtype)


class Takes(_Env):
    """Takes one argument, whatever it is."""

    observation_space = BOX

    def __init__(self, x=None):
        self.x = x


class NoEntries(_Env):
    observation_space = spaces.Dict({})


class NoEntriesInside(_Env):
    observation_space = spaces.Dict({"a": BOX, "b": spaces.Dict({})})


class NoEntriesInTuple(_Env):
    observation_space = spaces.Tuple((BOX, spaces.Tuple(())))


class SameNames(_Env):
    observation_space = spaces.Dict([(1, BOX), ("1", spaces.Discrete(3))])


class SameNamesJoined(_Env):
    observation_space = spaces.Dict([("a.b", BOX), ("a", spaces.Dict({"b": spaces.Discrete(3)}))])


class NumberedEntries(_Env):
    observation_space = spaces.Dict({1: BOX, 2: spaces.Tuple((spaces.Dict({3: BOX}),))})


class _Parallel:
    """A parallel env as far as it is looked at before a run."""

    metadata: dict[str, Any] = {}  # noqa: RUF012
    possible_agents: list[Any]
    agents: list[Any]

    def observation_space(self, agent):
        return BOX

    def action_space(self, agent):
        return spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        return {agent: zeros(BOX) for agent in self.agents}, {agent: {} for agent in self.agents}

    def close(self):
        pass


class NoAgents(_Parallel):
    possible_agents: list[Any] = []  # noqa: RUF012


class AgentTwice(_Parallel):
    possible_agents = ["a", "a"]  # noqa: RUF012


class AgentOfOddKind(_Parallel):
    possible_agents = [("a", 1)]  # noqa: RUF012
