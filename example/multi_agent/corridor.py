"""A small parallel env whose agents leave at different times: each walks to its own door and is gone."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

LENGTH = 10


class Corridor(ParallelEnv):
    """Three agents on a line of ten cells. A step costs 0.1; who reaches its door gets 1 and has left (terminated).

    Those who are still there after 30 steps are truncated. Observation: own cell, own door (both over 10), share of time gone.
    Actions: left, stay, right.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "corridor_v0", "render_modes": []}

    def __init__(self) -> None:
        self.possible_agents = ["red", "green", "blue"]
        self.agents: list[str] = []
        self.render_mode = None
        self._observation_space = spaces.Box(0.0, 1.0, (3,), np.float32)
        self._action_space = spaces.Discrete(3)
        self._rng = np.random.default_rng()

    def observation_space(self, agent: str) -> spaces.Space:
        return self._observation_space

    def action_space(self, agent: str) -> spaces.Space:
        return self._action_space

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None):
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self.agents = list(self.possible_agents)
        self._time = 0
        # A door is never where its agent begins.
        self._cell = {agent: int(self._rng.integers(LENGTH)) for agent in self.agents}
        self._door = {a: (self._cell[a] + int(self._rng.integers(1, LENGTH))) % LENGTH for a in self.agents}
        return {agent: self._see(agent) for agent in self.agents}, {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, int]):
        self._time += 1
        moved = self.agents
        for agent in moved:
            self._cell[agent] = int(np.clip(self._cell[agent] + actions[agent] - 1, 0, LENGTH - 1))
        arrived = {agent: self._cell[agent] == self._door[agent] for agent in moved}
        late = {agent: self._time >= 30 and not arrived[agent] for agent in moved}
        rewards = {agent: 1.0 if arrived[agent] else -0.1 for agent in moved}
        self.agents = [agent for agent in moved if not (arrived[agent] or late[agent])]
        return {agent: self._see(agent) for agent in moved}, rewards, arrived, late, {agent: {} for agent in moved}

    def _see(self, agent: str) -> np.ndarray:
        return np.array([self._cell[agent] / LENGTH, self._door[agent] / LENGTH, self._time / 30], np.float32)
