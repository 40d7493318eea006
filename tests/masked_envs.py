"""Envs with action masks for tests, importable as "tests.masked_envs:NAME". They refuse invalid actions by an error."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

SEEN = spaces.Box(0.0, 1.0, (4,), np.float32)
MULTI = (10, 20)


def draw_mask(rng: np.random.Generator, sizes: tuple[int, ...]) -> np.ndarray:
    """One tenth of the choices of each component is valid."""
    masks = [np.zeros(size, np.int8) for size in sizes]
    for mask in masks:
        mask[rng.choice(len(mask), len(mask) // 10, replace=False)] = 1
    return np.concatenate(masks)


def check_action(mask: np.ndarray, action: Any, sizes: tuple[int, ...]) -> None:
    for part, choice in zip(np.split(mask, np.cumsum(sizes)[:-1]), np.atleast_1d(action), strict=True):
        if not part[choice]:
            raise RuntimeError(f"invalid action {action}, mask {mask}")


class Masked(gym.Env):
    """New observation and mask at each step; 1 for the first valid choice. Half of the episodes terminate, with no action left.

    Args:
        form: "info" or "observation", PettingZoo's form.
        multi: MultiDiscrete actions.
        length: of an episode at most.
        refuse: whether an invalid action is an error.
    """

    def __init__(self, form: str = "info", multi: bool = False, length: int = 12, refuse: bool = True) -> None:
        self.sizes = MULTI if multi else (20,)
        self.action_space = spaces.MultiDiscrete(MULTI) if multi else spaces.Discrete(20)
        n = sum(self.sizes)
        self._in_obs, self._length, self._refuse = form == "observation", length, refuse
        self.observation_space = (
            spaces.Dict({"observation": SEEN, "action_mask": spaces.Box(0, 1, (n,), np.int8)}) if self._in_obs else SEEN
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self._steps, self._terminates = 0, bool(self.np_random.integers(2))
        return self._show(draw_mask(self.np_random, self.sizes))

    def step(self, action: Any):
        if self._refuse:
            check_action(self.mask, action, self.sizes)
        reward = float(np.atleast_1d(action)[0] == self.mask.argmax())
        self._steps += 1
        over = self._steps >= self._length
        mask = draw_mask(self.np_random, self.sizes)
        terminated = over and self._terminates
        obs, info = self._show(mask * (not terminated))
        return obs, reward, terminated, over and not terminated, info

    def _show(self, mask: np.ndarray):
        self.mask = mask
        seen = self.np_random.random(4, dtype=np.float32)
        if self._in_obs:
            return {"observation": seen, "action_mask": mask}, {}
        return seen, {"action_mask": mask}


class MaskedAgents(ParallelEnv):
    """Three agents with masks; agent_2 joins after two steps, the others end after 5 and 8, agent_2 after 11."""

    metadata: ClassVar[dict[str, Any]] = {"name": "masked_agents_v0", "render_modes": []}

    def __init__(self, form: str = "observation") -> None:
        self.possible_agents = ["agent_0", "agent_1", "agent_2"]
        self.agents: list[str] = []
        self.render_mode = None
        self._in_obs = form == "observation"
        mask = spaces.MultiBinary(10)
        space = spaces.Dict({"observation": SEEN, "action_mask": mask}) if self._in_obs else SEEN
        self._spaces = {agent: (space, spaces.Discrete(10)) for agent in self.possible_agents}
        self._ends = {"agent_0": 5, "agent_1": 8, "agent_2": 11}

    def observation_space(self, agent: str) -> spaces.Space:
        return self._spaces[agent][0]

    def action_space(self, agent: str) -> spaces.Space:
        return self._spaces[agent][1]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None):
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._steps, self.agents = 0, ["agent_0", "agent_1"]
        return self._show(self.agents, ())

    def step(self, actions: dict[str, Any]):
        assert sorted(actions) == sorted(self.agents)
        for agent, action in actions.items():
            check_action(self._masks[agent], action, (10,))
        acted = self.agents
        self._steps += 1
        rewards = {agent: float(actions[agent] == self._masks[agent].argmax()) for agent in acted}
        ended = {agent: self._steps >= self._ends[agent] for agent in acted}
        terminations = {agent: ended[agent] and agent != "agent_1" for agent in acted}
        truncations = {agent: ended[agent] and agent == "agent_1" for agent in acted}
        self.agents = [agent for agent in acted if not ended[agent]] + (["agent_2"] if self._steps == 2 else [])
        gone = [agent for agent in acted if terminations[agent]]
        obs, infos = self._show(list(dict.fromkeys([*acted, *self.agents])), gone)
        return obs, rewards, terminations, truncations, infos

    def _show(self, agents: list[str], without_choice: Any):
        self._masks = {agent: draw_mask(self._rng, (10,)) * (agent not in without_choice) for agent in agents}
        seen = {agent: self._rng.random(4, dtype=np.float32) for agent in agents}
        if self._in_obs:
            obs = {agent: {"observation": seen[agent], "action_mask": self._masks[agent]} for agent in agents}
            return obs, {agent: {} for agent in agents}
        return seen, {agent: {"action_mask": self._masks[agent]} for agent in agents}


class Faulty(Masked):
    """Gives a wrong mask at step 3 of each episode, or in its first reset none.

    Args:
        fault: "empty", "shape", "dtype", "value", "missing", "late" or "truncated".
    """

    def __init__(self, fault: str) -> None:
        super().__init__()
        self._fault = fault

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        obs, info = super().reset(seed=seed)
        return obs, {} if self._fault == "late" else info

    def step(self, action: Any):
        self._refuse = False
        obs, reward, terminated, truncated, info = super().step(action)
        mask = info["action_mask"]
        if self._steps == 3:
            changed = {"empty": mask * 0, "shape": mask[:-1], "dtype": mask.astype(float), "value": mask * 2}
            if self._fault in changed:
                info["action_mask"] = changed[self._fault]
            elif self._fault == "missing":
                info = {}
            elif self._fault == "truncated":
                truncated, info["action_mask"] = True, mask * 0
        return obs, reward, terminated, truncated, info


def bounded_with_mask() -> gym.Env:
    """A Box action and a mask, which do not go together."""
    env = Masked()
    env.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    return env
