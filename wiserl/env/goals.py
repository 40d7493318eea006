"""Envs with goals: the reward of a goal that was not aimed at, and two small envs in which rewards are rare.

The interface is that of gymnasium-robotics' GoalEnv: a Dict observation with `observation`, `achieved_goal` and
`desired_goal`, and `compute_reward(achieved_goal, desired_goal, info)`, from which the env's own rewards come, too.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from wiserl.core.batch import Array
from wiserl.env.make import EnvLike, env_id, make_env
from wiserl.env.spaces import EnvSpec, child_spaces
from wiserl.util.errors import EnvError, InputError

ENTRIES = ("observation", "achieved_goal", "desired_goal")


def is_goal_env(spec: EnvSpec) -> bool:
    """Whether the env observes a Dict with observation, achieved_goal and desired_goal."""
    space = spec.observation_space
    return isinstance(space, spaces.Dict) and set(ENTRIES) <= set(space.spaces)


def check_goals(spec: EnvSpec) -> None:
    """Check that goals of this env can be exchanged for others.

    Raises:
        InputError: it is no goal env, or what is achieved and what is desired are not arrays of one shape.
    """
    space = spec.observation_space
    if not isinstance(space, spaces.Dict) or not is_goal_env(spec):
        has = ", ".join(space.spaces) if isinstance(space, spaces.Dict) else str(space)
        raise InputError(
            f"env '{spec.id}' has no goals: hindsight needs a Dict observation with {', '.join(ENTRIES)}; it has {has}. "
            "Leave hindsight out, or make it a goal env (docs/algorithms/hindsight.md shows how)"
        )
    achieved, desired = space["achieved_goal"], space["desired_goal"]
    # Entries that count from another number than 0 are stored shifted, which the env's compute_reward does not know.
    shifted = any(np.any(getattr(goal, "start", 0)) for goal in (achieved, desired))
    nested = any(child_spaces(goal) is not None for goal in (achieved, desired))
    if nested or shifted or achieved.shape != desired.shape:
        raise InputError(
            f"env '{spec.id}' has achieved_goal {achieved} and desired_goal {desired}; hindsight needs arrays of one shape "
            "(Box, MultiBinary, or Discrete and MultiDiscrete that count from 0)"
        )


@dataclass(frozen=True)
class GoalReward:
    """Rewards of goals put in hindsight, by an env's own `compute_reward`. Can be pickled; the env is made when it is needed.

    Args:
        env: see `make_env`.
        env_kwargs: arguments of the env.
    """

    env: EnvLike
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __reduce__(self) -> tuple[Any, ...]:
        return GoalReward, (self.env, self.env_kwargs)

    @functools.cached_property
    def _functions(self) -> dict[str, Callable[..., Any]]:
        """`compute_reward` and, where the env has it, `compute_terminated`."""
        made = make_env(self.env, self.env_kwargs)
        names = ("compute_reward", "compute_terminated")
        if isinstance(made, gym.Env):
            found = {name: made.get_wrapper_attr(name) for name in names if made.has_wrapper_attr(name)}
        else:
            found = {name: getattr(made, name) for name in names if hasattr(made, name)}
        if "compute_reward" not in found:
            raise InputError(
                f"env '{env_id(self.env)}' has no compute_reward(achieved_goal, desired_goal, info): hindsight needs it to "
                "say what a step would have earned with another goal (docs/algorithms/hindsight.md shows one)"
            )
        return found

    def check(self) -> None:
        """Make the env.

        Raises:
            InputError: it has no `compute_reward`.
        """
        self._functions  # noqa: B018

    def __call__(self, achieved: Array, desired: Array) -> tuple[Array, Array | None]:
        """What steps that led to `achieved [B, ...]` earn if `desired [B, ...]` is the goal.

        Returns:
            Rewards float32 `[B]`, and whether the steps end the episode, bool `[B]`; None where the env has no
            `compute_terminated`.

        Raises:
            InputError: one call for all rows does not give one reward for each.
            EnvError: a reward is not finite.
        """
        functions = self._functions
        reward = np.asarray(functions["compute_reward"](achieved, desired, {}))
        if reward.shape != (len(achieved),):
            raise self._wrong_shape("compute_reward", achieved, reward)
        finite = np.isfinite(reward)
        if not finite.all():
            at = int(finite.argmin())
            raise EnvError(
                f"compute_reward of env '{env_id(self.env)}' gave {reward[at]} for achieved_goal {achieved[at]} and desired_goal "
                f"{desired[at]}; expected finite numbers"
            )
        if "compute_terminated" not in functions:
            return reward.astype(np.float32), None
        terminated = np.asarray(functions["compute_terminated"](achieved, desired, {}))
        if terminated.ndim == 0:
            # gymnasium-robotics' own are for one step only, and give a bool without complaint for many.
            pairs = zip(achieved, desired, strict=True)
            terminated = np.array([functions["compute_terminated"](*pair, {}) for pair in pairs])
        if terminated.shape != (len(achieved),):
            raise self._wrong_shape("compute_terminated", achieved, terminated)
        return reward.astype(np.float32), terminated.astype(np.bool_)

    def _wrong_shape(self, name: str, achieved: Array, values: Array) -> InputError:
        return InputError(
            f"{name} of env '{env_id(self.env)}' gave shape {list(values.shape)} for goals {list(achieved.shape)}; expected "
            f"[{len(achieved)}]: compute along the last axes, np.linalg.norm(achieved - desired, axis=-1) for one"
        )


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
