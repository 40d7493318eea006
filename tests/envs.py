"""Small envs for tests, each solvable in seconds; importable as "tests.envs:NAME"."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

UNIT = spaces.Box(0.0, 1.0, (2,), np.float32)


class Chain(gym.Env):
    """Walk right along a chain: reward 1 and a terminal state at its end; truncated after `max_steps`."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, length: int = 5, max_steps: int = 20, render_mode: str | None = None) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, (length,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.render_mode = render_mode
        self._length, self._max_steps = length, max_steps

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self._position, self._steps = int(self.np_random.integers(2)), 0
        return self._obs(), {}

    def step(self, action: int):
        self._steps += 1
        self._position = max(0, self._position + (1 if action == 1 else -1))
        terminated = self._position == self._length - 1
        info = {"position": self._position} if terminated else {}
        return self._obs(), float(terminated), terminated, self._steps >= self._max_steps, info

    def render(self) -> np.ndarray:
        frame = np.zeros((16, 16 * self._length, 3), np.uint8)
        frame[:, 16 * self._position : 16 * (self._position + 1)] = 255
        return frame

    def _obs(self) -> np.ndarray:
        return np.eye(self._length, dtype=np.float32)[self._position]


class Matching(gym.Env):
    """A new target each step; the reward is how well the action matches the one shown. Truncated after `length` steps.

    Subclasses set the spaces and say how a target is drawn, shown and matched. A perfect policy returns `length`.
    """

    def __init__(self, length: int = 16) -> None:
        self._length = length

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self._steps = 0
        self._target = self.draw()
        return self.show(self._target), {}

    def step(self, action: Any):
        reward = float(self.match(self._target, action))
        self._steps += 1
        self._target = self.draw()
        return self.show(self._target), reward, False, self._steps >= self._length, {}

    def draw(self) -> Any:
        return int(self.np_random.integers(2))

    def show(self, target: Any) -> Any:
        return np.eye(2, dtype=np.float32)[target]

    def match(self, target: Any, action: Any) -> float:
        return float(action == target)


class BoxObs(Matching):
    """Vector observation, Discrete action."""

    observation_space = UNIT
    action_space = spaces.Discrete(2)


class DictObs(Matching):
    """An image and a vector: the action must name the bright half of the image, flipped where the vector says so."""

    def __init__(self, length: int = 16, size: int = 36) -> None:
        super().__init__(length)
        self._size = size
        image = spaces.Box(0, 255, (size, size, 1), np.uint8)
        self.observation_space = spaces.Dict({"image": image, "vector": UNIT})
        self.action_space = spaces.Discrete(2)

    def draw(self) -> tuple[int, int]:
        return int(self.np_random.integers(2)), int(self.np_random.integers(2))

    def show(self, target: tuple[int, int]) -> dict[str, np.ndarray]:
        half = self._size // 2
        image = np.zeros((self._size, self._size, 1), np.uint8)
        image[:, half * target[0] : half * (target[0] + 1)] = 255
        return {"image": image, "vector": np.eye(2, dtype=np.float32)[target[1]]}

    def match(self, target: tuple[int, int], action: Any) -> float:
        return float(action == (target[0] ^ target[1]))


class TupleObs(Matching):
    """A vector and a Discrete that counts from 5; only the latter matters."""

    observation_space = spaces.Tuple((UNIT, spaces.Discrete(3, start=5)))
    action_space = spaces.Discrete(3, start=-1)

    def draw(self) -> int:
        return int(self.np_random.integers(3))

    def show(self, target: int) -> tuple[np.ndarray, int]:
        return self.np_random.random(2, dtype=np.float32), target + 5

    def match(self, target: int, action: Any) -> float:
        return float(action == target - 1)


class DiscreteObs(Matching):
    """Discrete observation; the action is its parity."""

    observation_space = spaces.Discrete(6)
    action_space = spaces.Discrete(2)

    def draw(self) -> int:
        return int(self.np_random.integers(6))

    def show(self, target: int) -> int:
        return target

    def match(self, target: int, action: Any) -> float:
        return float(action == target % 2)


class MultiDiscreteAction(Matching):
    """Two choices, of 3 and of 2; each right one is worth a half."""

    observation_space = spaces.Box(0.0, 1.0, (5,), np.float32)
    action_space = spaces.MultiDiscrete([3, 2])

    def draw(self) -> np.ndarray:
        return self.np_random.integers([3, 2])

    def show(self, target: np.ndarray) -> np.ndarray:
        return np.concatenate([np.eye(3)[target[0]], np.eye(2)[target[1]]]).astype(np.float32)

    def match(self, target: np.ndarray, action: Any) -> float:
        return float(np.mean(target == action))


class MultiBinaryAction(Matching):
    """Three switches to be set as shown."""

    observation_space = spaces.MultiBinary(3)
    action_space = spaces.MultiBinary(3)

    def draw(self) -> np.ndarray:
        return self.np_random.integers(2, size=3).astype(np.int8)

    def show(self, target: np.ndarray) -> np.ndarray:
        return target.copy()

    def match(self, target: np.ndarray, action: Any) -> float:
        return float(np.mean(target == action))


class BoxAction(Matching):
    """A continuous action in [-2, 6], to be the number shown: reward 1 minus the distance over 8."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Box(-2.0, 6.0, (1,), np.float32)

    def draw(self) -> float:
        return float(self.np_random.uniform(-1, 1))

    def show(self, target: float) -> np.ndarray:
        return np.array([target], np.float32)

    def match(self, target: float, action: Any) -> float:
        assert self.action_space.contains(action), f"action {action!r} outside {self.action_space}"
        return 1.0 - abs(float(action[0]) - (2.0 + 4.0 * target)) / 8.0


class DyingAgents(ParallelEnv):
    """Three agents, each to name the bit it is shown. They end at different times, and one joins late.

    `agent_0` terminates at step 4, `agent_1` is truncated at step 7, `agent_2` joins after step 2 and terminates at
    step `length`, which ends the episode. A perfect policy returns 4 + 7 + (length - 2).
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "dying_agents_v0", "render_modes": []}

    def __init__(self, length: int = 10) -> None:
        self.possible_agents = ["agent_0", "agent_1", "agent_2"]
        self.agents: list[str] = []
        self.render_mode = None
        self._ends = {"agent_0": 4, "agent_1": 7, "agent_2": length}
        self._space = spaces.Box(0.0, 1.0, (3,), np.float32)
        self._action_space = spaces.Discrete(2)

    def observation_space(self, agent: str) -> spaces.Space:
        return self._space

    def action_space(self, agent: str) -> spaces.Space:
        return self._action_space

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None):
        if seed is not None or not hasattr(self, "_rng"):
            self._rng = np.random.default_rng(seed)
        self._steps = 0
        self.agents = ["agent_0", "agent_1"]
        self._bits = self._draw()
        return {agent: self._obs(agent) for agent in self.agents}, {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]):
        assert sorted(actions) == sorted(self.agents), f"actions of {sorted(actions)}, agents are {self.agents}"
        self._steps += 1
        acted = self.agents
        rewards = {agent: float(actions[agent] == self._bits[agent]) for agent in acted}
        ended = {agent: self._steps >= self._ends[agent] for agent in acted}
        terminations = {agent: ended[agent] and agent != "agent_1" for agent in acted}
        truncations = {agent: ended[agent] and agent == "agent_1" for agent in acted}
        self._bits = self._draw()
        self.agents = [agent for agent in acted if not ended[agent]] + (["agent_2"] if self._steps == 2 else [])
        seen = dict.fromkeys([*acted, *self.agents])
        return {agent: self._obs(agent) for agent in seen}, rewards, terminations, truncations, {a: {} for a in seen}

    def _draw(self) -> dict[str, int]:
        return {agent: int(bit) for agent, bit in zip(self.possible_agents, self._rng.integers(2, size=3), strict=True)}

    def _obs(self, agent: str) -> np.ndarray:
        bit = self._bits[agent]
        return np.array([1 - bit, bit, self._steps / self._ends["agent_2"]], np.float32)


class Relay(ParallelEnv):
    """Three agents, one after the other: the next joins in the step in which the one before ends, after `leg` steps.

    Each step is worth 1, so that an episode returns `3 * leg`, whatever is done.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "relay_v0", "render_modes": []}

    def __init__(self, leg: int = 2) -> None:
        self.possible_agents = ["agent_0", "agent_1", "agent_2"]
        self.agents: list[str] = []
        self.render_mode = None
        self._leg = leg

    def observation_space(self, agent: str) -> spaces.Space:
        return UNIT

    def action_space(self, agent: str) -> spaces.Space:
        return BoxObs.action_space

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None):
        self._steps, self.agents = 0, self.possible_agents[:1]
        return {self.agents[0]: self._obs()}, {self.agents[0]: {}}

    def step(self, actions: dict[str, Any]):
        (agent,) = actions
        self._steps += 1
        is_over = self._steps % self._leg == 0
        if is_over:
            leg = self._steps // self._leg
            self.agents = self.possible_agents[leg : leg + 1]
        seen = dict.fromkeys([agent, *self.agents])
        return {a: self._obs() for a in seen}, {agent: 1.0}, {agent: is_over}, {agent: False}, {a: {} for a in seen}

    def _obs(self) -> np.ndarray:
        return np.array([1.0, self._steps / (3 * self._leg)], np.float32)


class Broken(BoxObs):
    """From step `step` of an episode on: a NaN observation, a NaN reward, or an exception."""

    def __init__(self, step: int, what: str, length: int = 16) -> None:
        super().__init__(length)
        self._break_at, self._what = step, what

    def step(self, action: Any):
        obs, reward, terminated, truncated, info = super().step(action)
        if self._steps >= self._break_at:
            if self._what == "raise":
                raise RuntimeError(f"broken at step {self._steps}")
            if self._what == "reward":
                reward = float("nan")
            else:
                obs[1] = np.nan
        return obs, reward, terminated, truncated, info


def nan_env(step: int = 5, what: str = "obs") -> gym.Env:
    """NaN as observation ("obs") or reward ("reward") from step `step` of each episode on."""
    return Broken(step, what)


def raising_env(step: int = 5) -> gym.Env:
    """RuntimeError at step `step` of each episode."""
    return Broken(step, "raise")


class Sleepy(BoxObs):
    """Sleeps in each step, as an env that waits for something else."""

    def __init__(self, ms: float = 5.0, length: int = 16) -> None:
        super().__init__(length)
        self._seconds = ms / 1000.0

    def step(self, action: Any):
        time.sleep(self._seconds)
        return super().step(action)


def sleepy_env(ms: float = 5.0, length: int = 16) -> gym.Env:
    """Sleeps `ms` milliseconds in each step."""
    return Sleepy(ms, length)


class Drifting(gym.Wrapper):
    """Its rewards, and no observation, depend on what it did in earlier episodes, as gymnasium's `NormalizeReward`."""

    def __init__(self) -> None:
        super().__init__(BoxObs(length=10))
        self._all_steps = 0

    def step(self, action: Any) -> Any:
        self._all_steps += 1
        obs, reward, *others = super().step(action)
        return obs, reward / self._all_steps, *others
