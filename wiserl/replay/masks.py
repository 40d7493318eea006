"""Action masks in replay: those after each step, and replays that were saved without any."""

from __future__ import annotations

from typing import Any

import numpy as np

from wiserl.core.batch import Fragment
from wiserl.core.masks import following_masks

MASKS = ("action_mask", "next_action_mask")


def with_next_masks(fragment: Fragment) -> Fragment:
    """A fragment whose masks say also, as `next_action_mask [T, E, A, n]`, what was valid after each step; others as they are."""
    if "last_mask" not in fragment or "next_action_mask" in fragment:
        return fragment
    mask, last, final = (fragment[name] for name in ("action_mask", "last_mask", "final_mask"))
    ended = fragment["terminated"] | fragment["truncated"]
    following = following_masks(mask, last, final, fragment["final_at"], ended)
    return {**fragment, "next_action_mask": following}


def with_valid_masks(state: dict[str, Any], size: int) -> dict[str, Any]:
    """The state of a replay whose transitions have masks of `size`; where they had none, all actions count as valid.

    They were stored by a version that ignored masks. Any replay's `state_dict` may have given the state.
    """
    state = dict(state)
    for key in [key for key in state if key.rpartition(".")[2] == "fields" and "action_mask" not in state[key]]:
        part = key.removesuffix("fields")  # of a mixed replay: its number and a dot
        names = {name: f"field.{name}" for name in MASKS}
        state[key] = {**state[key], **names}
        for name in names.values():
            state[part + name] = np.ones((len(state[part + "kind"]), size), np.bool_)
    return state
