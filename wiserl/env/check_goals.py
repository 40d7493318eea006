"""Checks of an env with goals: what it computes in hindsight has to be what its steps earn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from wiserl.core.goals import check_goals
from wiserl.core.spec import EnvSpec
from wiserl.env.check_values import Problem
from wiserl.env.goal_reward import GoalReward
from wiserl.util.errors import WiserlError

_SEE = "docs/algorithms/hindsight.md has a goal env of 30 lines; without hindsight this one can be trained as it is"


def goal_problem(spec: EnvSpec, reward: GoalReward, steps: Sequence[tuple[Any, Any, Any]]) -> Problem | None:
    """What keeps goals of this env from being put in hindsight, if anything does.

    Args:
        spec: of the env.
        reward: its `compute_reward`.
        steps: at least two; of each the goal achieved, the goal desired, and the reward it earned.

    Raises:
        Exception: whatever `compute_reward` raises.
    """
    achieved, desired, rewards = zip(*steps, strict=True)
    earned = np.array(rewards, np.float32)
    try:
        check_goals(spec)
        reward.check()
        computed, _ = reward(np.stack(achieved), np.stack(desired))
    except WiserlError as error:
        return Problem(str(error), _SEE)
    differ = ~np.isclose(computed, earned, rtol=1e-4, atol=1e-6)
    if differ.any():
        return Problem(
            f"compute_reward gave {computed[differ][0]:g} for the goals of a step that earned {earned[differ][0]:g}",
            "have step() call it, with the goals of the observation it returns, and a wrapper that changes rewards change both; "
            "they have to follow from the two goals alone, since info is {} in hindsight",
        )
    return None
