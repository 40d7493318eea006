"""What a step would have earned with another goal: the env's own `compute_reward`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np

from wiserl.core.tree import Array
from wiserl.env.make import EnvLike, env_id, make_env
from wiserl.util.errors import EnvError, InputError


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
