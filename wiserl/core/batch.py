"""The one data schema: what a fragment holds, the axes of each field, and how fragments are checked and joined.

Axes: `T` steps of the fragment, `E` envs, `A` agents (1 for a gymnasium env), `K` episodes cut or ended inside the
fragment whose final observation is kept, `M` episodes finished. Observations are trees of arrays (`core.tree`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from wiserl.core.tree import Nested, tree_leaves, tree_map
from wiserl.util.errors import EnvError

Fragment: TypeAlias = dict[str, Nested]


@dataclass(frozen=True)
class Field:
    """Declaration of one field: leading axes, dtype kinds allowed (numpy's one-letter kinds), unit or meaning."""

    axes: str
    kinds: str
    meaning: str
    required: bool = True


FIELDS: dict[str, Field] = {
    "obs": Field("TEA", "biuf", "observation the action was chosen on"),
    "action": Field(
        "TEA", "biuf", "action as the policy produced it; Box actions in [-1, 1] where the bounds are finite"
    ),
    "reward": Field("TEA", "f", "reward of the step, as the env gave it"),
    "terminated": Field("TEA", "b", "the step ended the agent's episode in a terminal state: no bootstrap"),
    "truncated": Field("TEA", "b", "the step was the last for another reason: bootstrap from the final observation"),
    "last_obs": Field(
        "EA", "biuf", "observation after the last step of the fragment (after a reset, if there was one)"
    ),
    "final_obs": Field("KA", "biuf", "true final observation of each episode that ended inside the fragment"),
    "final_at": Field("K", "iu", "where: the (t, e) of each entry of final_obs, shape [K, 2]"),
    "version": Field("E", "iu", "weight version the env's steps were chosen with (the oldest, if it changed)"),
    "rank": Field("E", "iu", "rank of the runner that stepped the env"),
    "stream": Field("E", "iu", "index of the env over all runners: rank * envs per runner + env"),
    "fresh": Field("E", "b", "the env was reset just before this fragment: it does not continue the one before"),
    "alive": Field("TEA", "b", "the row is a real step of a living agent; absent: all are", required=False),
    "action_mask": Field("TEA", "b", "which actions were valid, [T, E, A, n] (`core.masks`)", required=False),
    "last_mask": Field("EA", "b", "the same for last_obs, [E, A, n]", required=False),
    "final_mask": Field(
        "KA", "b", "the same for final_obs, [K, A, n]; all True where no action follows", required=False
    ),
    "log_prob": Field("TEA", "f", "log-probability of the action under the behaviour policy", required=False),
    "memory": Field("EA", "f", "what acting remembered before the fragment's first step, [E, A, M]", required=False),
    "last_memory": Field("EA", "f", "what it remembers after the last step (zero after a reset)", required=False),
    "final_memory": Field("KA", "f", "what it remembered at each entry of final_obs", required=False),
    "state": Field("TE", "biuf", "global state for centralised training, [T, E, ...]", required=False),
    "episode_return": Field(
        "M", "f", "undiscounted return of each finished episode, summed over agents", required=False
    ),
    "episode_length": Field("M", "iu", "env steps of each finished episode", required=False),
}
_E_AXIS = {name: field.axes.index("E") for name, field in FIELDS.items() if "E" in field.axes}


def check_fragment(fragment: Fragment) -> None:
    """Check a fragment against the schema: fields present, leading axes equal, dtypes as declared (no pass over the data).

    Raises:
        ValueError: naming the field, what it has and what was expected.
    """
    missing = [name for name, field in FIELDS.items() if field.required and name not in fragment]
    if missing:
        raise ValueError(f"fragment lacks {', '.join(missing)}; it has {', '.join(fragment)}")
    if fragment["reward"].ndim != 3:
        raise ValueError(f"fragment field reward has shape {fragment['reward'].shape}, expected three axes: [T, E, A]")
    num_steps, num_envs, num_agents = fragment["reward"].shape
    sizes = {"T": num_steps, "E": num_envs, "A": num_agents, "K": len(fragment["final_at"])}
    for name, value in fragment.items():
        field = FIELDS.get(name, Field("TEA", "biufcSUO", "added by the user"))
        for path, leaf in tree_leaves(value, name):
            expected = tuple(sizes.get(axis, leaf.shape[0] if leaf.ndim else 0) for axis in field.axes)
            if leaf.shape[: len(expected)] != expected:
                raise ValueError(
                    f"fragment field {path} has shape {leaf.shape}, expected {list(field.axes)} = {expected} first"
                )
            if leaf.dtype.kind not in field.kinds:
                raise ValueError(f"fragment field {path} has dtype {leaf.dtype}, expected one of kinds '{field.kinds}'")


def check_finite(fragment: Fragment, env: str, first_step: int) -> None:
    """Refuse NaN and infinite observations and rewards, before they reach a learner.

    Args:
        fragment: with fields `[T, E, A, ...]`.
        env: name of the env, for the message.
        first_step: vector steps the runner had made before this fragment.

    Raises:
        EnvError: naming env, step and entry of the first bad value.
    """
    for name in ("reward", "obs", "last_obs", "final_obs"):
        for path, leaf in tree_leaves(fragment[name], name):
            if leaf.dtype.kind != "f" or np.isfinite(leaf).all():
                continue
            where = tuple(int(i) for i in np.argwhere(~np.isfinite(leaf))[0])
            rank = int(fragment["rank"][0])
            if name == "last_obs":
                step, env_index, entry = len(fragment["reward"]), where[0], where[1:]
            elif name == "final_obs":
                step, env_index = (int(i) for i in fragment["final_at"][where[0]])
                entry = where[1:]
            else:
                step, env_index, entry = where[0], where[1], where[2:]
            what = "reward" if name == "reward" else "observation"
            raise EnvError(
                f"env '{env}' returned {leaf[where]} as {what} at step {first_step + step} of env {env_index} of runner {rank}, "
                f"entry {path}[agent, ...] = {list(entry)}; expected finite numbers. "
                f"Training stopped before any weight was touched by it: fix the env (`wiserl check-env` helps)"
            )


def concat_fragments(fragments: Sequence[Fragment]) -> Fragment:
    """Join fragments of several runners along the env axis, in the order given. One fragment comes back as it is."""
    if len(fragments) == 1:
        return fragments[0]
    joined: Fragment = {}
    offsets = np.cumsum([0] + [fragment["reward"].shape[1] for fragment in fragments[:-1]])
    for name in fragments[0]:
        parts = [fragment[name] for fragment in fragments]
        if name == "final_at":
            parts = [part + np.array([0, offset]) for part, offset in zip(parts, offsets, strict=True)]
        axis = _E_AXIS.get(name, 1 if name not in FIELDS else 0)
        joined[name] = tree_map(lambda *leaves, axis=axis: np.concatenate(leaves, axis=axis), *parts)
    return joined


def concat_by_length(fragments: Sequence[Fragment]) -> list[Fragment]:
    """Join those fragments that have the same number of steps T, in the order given.

    In a sync round all have, but for one of a runner that was replaced at the end of training, which may come from before.
    """
    lengths = dict.fromkeys(len(fragment["reward"]) for fragment in fragments)
    return [concat_fragments([each for each in fragments if len(each["reward"]) == length]) for length in lengths]


def count_env_steps(fragment: Fragment) -> int:
    """Env steps in a fragment: one per env and time in which at least one agent was alive."""
    if "alive" in fragment:
        return int(fragment["alive"].any(axis=2).sum())
    num_steps, num_envs, _ = fragment["reward"].shape
    return int(num_steps * num_envs)
