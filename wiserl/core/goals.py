"""What an env with goals is, as gymnasium-robotics' GoalEnv has it."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from wiserl.core.spaces import child_spaces
from wiserl.core.spec import EnvSpec
from wiserl.util.errors import InputError

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
