"""Envs with goals: their base class, and two small ones in which rewards are rare.

The interface is that of gymnasium-robotics' GoalEnv: a Dict observation with `observation`, `achieved_goal` and
`desired_goal`, and `compute_reward(achieved_goal, desired_goal, info)`, from which the env's own rewards come, too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from wiserl.core.goals import ENTRIES
from wiserl.core.tree import Array
from wiserl.env.goal_reward import GoalReward as GoalReward  # a public name of this module


class GoalEnv(gym.Env[Any, Any], ABC):
    """What the two envs here share: an episode ends when its goal is reached, or after `max_steps`.

    Reward 0 in the step that reaches the goal, -1 in every other. `info["is_success"]` says whether it is reached.
    """

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps

    @abstractmethod
    def is_success(self, achieved: Array, desired: Array) -> Array:
        """Whether `achieved [..., n]` are the goals `desired [..., n]`, bool `[...]`."""

    def compute_reward(self, achieved_goal: Array, desired_goal: Array, info: Any) -> Array:
        """Rewards float32 `[...]` of steps that led to `achieved_goal [..., n]`."""
        reward: Array = self.is_success(achieved_goal, desired_goal).astype(np.float32) - np.float32(1.0)
        return reward

    def compute_terminated(self, achieved_goal: Array, desired_goal: Array, info: Any) -> Array:
        """Whether these steps end the episode, bool `[...]`."""
        return self.is_success(achieved_goal, desired_goal)

    def _begin(self, draw: Callable[[], Array]) -> tuple[dict[str, Array], dict[str, Any]]:
        """Start an episode in a state and with a goal that `draw` gives, the goal not reached yet."""
        self._steps = 0
        self._state, self._goal = draw(), draw()
        while self.is_success(self._state, self._goal):
            self._goal = draw()
        return self._observe(), {}

    def _observe(self) -> dict[str, Array]:
        return {
            "observation": self._state.copy(),
            "achieved_goal": self._state.copy(),
            "desired_goal": self._goal.copy(),
        }

    def _finish_step(self) -> tuple[dict[str, Array], float, bool, bool, dict[str, Any]]:
        """What `step` returns, the state having moved."""
        self._steps += 1
        success = bool(self.is_success(self._state, self._goal))
        info = {"is_success": success}
        return self._observe(), float(success) - 1.0, success, self._steps >= self.max_steps, info


class BitFlip(GoalEnv):
    """Bits to be made equal to others, an action flips one (Andrychowicz et al. 2017, section 3.1).

    Observation: `observation` and `achieved_goal` the bits, `desired_goal` the bits wanted, each int8 `[bits]`; both are
    drawn at random. Truncated after as many steps as there are bits.

    Args:
        bits: how many.
    """

    def __init__(self, bits: int = 15) -> None:
        super().__init__(max_steps=bits)
        self.observation_space = spaces.Dict({name: spaces.MultiBinary(bits) for name in ENTRIES})
        self.action_space = spaces.Discrete(bits)
        self._bits = bits

    def is_success(self, achieved: Array, desired: Array) -> Array:
        """Whether all bits are equal."""
        equal: Array = (achieved == desired).all(axis=-1)
        return equal

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Start an episode."""
        super().reset(seed=seed)
        return self._begin(lambda: self.np_random.integers(2, size=self._bits, dtype=np.int8))

    def step(self, action: Any) -> Any:
        """Flip the bit of this number."""
        self._state[action] ^= 1
        return self._finish_step()


class ReachGoal(GoalEnv):
    """A point in the square [-1, 1]^2 that is to come within `radius` of another one.

    Observation: `observation` and `achieved_goal` the point, `desired_goal` where it is to be, each float32 `[2]`; both are
    drawn at random. The action, in [-1, 1]^2, moves the point by `speed` times itself. Moving at random reaches about one goal
    in 60 episodes.

    Args:
        max_steps: of an episode, which is truncated then.
        speed: largest move per step and axis; from side to side takes `2 / speed` steps.
        radius: of the goal.
    """

    def __init__(self, max_steps: int = 50, speed: float = 0.05, radius: float = 0.05) -> None:
        super().__init__(max_steps)
        self.observation_space = spaces.Dict({name: spaces.Box(-1.0, 1.0, (2,), np.float32) for name in ENTRIES})
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._speed, self._radius = np.float32(speed), radius

    def is_success(self, achieved: Array, desired: Array) -> Array:
        """Whether the point is within the radius."""
        near: Array = np.linalg.norm(achieved - desired, axis=-1) <= self._radius
        return near

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Start an episode."""
        super().reset(seed=seed)
        return self._begin(lambda: self.np_random.uniform(-1.0, 1.0, 2).astype(np.float32))

    def step(self, action: Any) -> Any:
        """Move."""
        self._state = np.clip(self._state + self._speed * np.asarray(action, np.float32), -1.0, 1.0)
        return self._finish_step()
