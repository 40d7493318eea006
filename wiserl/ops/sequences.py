"""Fragments as sequences, for networks with memory: cut where episodes begin and to a length, and minibatches of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wiserl.core.batch import Fragment
from wiserl.core.tree import Array, Nested, tree_map
from wiserl.ops.minibatches import standardize


def begins(fragment: Fragment) -> Array:
    """Bool `[T, E, A]`: whether a row's episode begins at that step. At the first step the fragment's `memory` is right as it is."""
    found = np.zeros(fragment["reward"].shape, np.bool_)
    found[1:] = fragment["terminated"][:-1] | fragment["truncated"][:-1]
    if "alive" in fragment:
        found[1:] |= ~fragment["alive"][:-1]
    return found


@dataclass(frozen=True)
class Sequences:
    """Where the steps of a fragment are in S sequences, none of which has the beginning of an episode inside.

    Attributes:
        source: int64 `[L, S]`, the row of `[T * N]` that is there; 0 behind a sequence's end.
        living: bool `[L, S]`, whether a step of a living agent is there.
        part: int64 `[S]`, the row of `[parts * N]` that has what is remembered before it, where the fragment is unrolled in parts
            of `length` steps; -1 where an episode begins: nothing.
    """

    source: Array
    living: Array
    part: Array

    @classmethod
    def of(cls, fragment: Fragment, length: int) -> Sequences:
        """Those of a fragment: rows are cut at each multiple of `length` steps, and where episodes begin."""
        steps = len(fragment["reward"])
        fresh = begins(fragment).reshape(steps, -1)
        rows = fresh.shape[1]
        alive = fragment.get("alive", np.True_)
        alive = np.broadcast_to(alive, fragment["reward"].shape).reshape(steps * rows)
        starts = fresh.copy()
        starts[::length] = True
        first = np.flatnonzero(starts.T)  # row after row: n * T + t
        lengths = np.diff(first, append=rows * steps)
        row, begin = np.divmod(first, steps)
        offset = np.arange(lengths.max())[:, None]
        inside = offset < lengths
        source = np.where(inside, (begin + offset) * rows + row, 0)
        living = inside & alive[source]
        part = np.where(fresh[begin, row], -1, begin // length * rows + row)
        kept = living.any(axis=0)
        return cls(source[:, kept], living[:, kept], part[kept])

    def take(self, rows: Nested) -> Nested:
        """Of tensors `[T * N, ...]`: `[L, S, ...]`."""
        return tree_map(lambda leaf: leaf[torch.from_numpy(self.source).to(leaf.device)], rows)

    def memory(self, parts: Tensor) -> Tensor:
        """What is remembered before each sequence, `[S, M]`, of what is remembered before each part, `[parts * N, M]`."""
        found = parts[torch.from_numpy(np.maximum(self.part, 0)).to(parts.device)]
        return found.masked_fill(torch.from_numpy(self.part < 0).to(parts.device).unsqueeze(1), 0.0)


def sequence_minibatches(
    data: dict[str, Any], size: int, rng: np.random.Generator, standardized: str | None = None
) -> Iterator[dict[str, Any]]:
    """One epoch over sequences, each of them whole.

    Args:
        data: `obs` and what is learned from as tensors `[L, S, ...]`, nested or not; `memory` `[S, M]`, before the first step;
            `living`, the `Sequences` they were taken by.
        size: living steps of a minibatch, give or take some sequences (`shares`).
        rng: draws the order.
        standardized: name of an entry that gets zero mean and unit variance in each minibatch.

    Yields:
        `obs` of some sequences `[l, s, ...]`, their `memory` `[s, M]`, `living`: which of the `l * s` steps count, and all others
        of those steps alone, `[N, ...]`.
    """
    living = data["living"].living
    if not living.size:
        return
    device = data["memory"].device
    order = rng.permutation(living.shape[1])
    for share in shares(living.sum(0)[order], size):
        chosen = order[share]
        longest = int(np.flatnonzero(living[:, chosen].any(axis=1))[-1]) + 1
        where = np.flatnonzero(living[:longest, chosen])
        columns, steps = torch.from_numpy(chosen).to(device), torch.from_numpy(where).to(device)
        taken = {
            name: tree_map(lambda leaf, columns=columns, longest=longest: leaf[:longest, columns], leaf)
            for name, leaf in data.items()
            if name not in ("memory", "living")
        }
        obs = taken.pop("obs")
        rows = {name: leaf.flatten(0, 1)[steps] for name, leaf in taken.items()}
        if standardized is not None:
            rows[standardized] = standardize(rows[standardized], len(rows[standardized]))
        yield {"obs": obs, "memory": data["memory"][columns], "living": steps, **rows}


def shares(lengths: Array, size: int) -> list[Array]:
    """Divide sequences, in their order, into shares of about `size` steps, and none of fewer than half of it if there are more.

    A loss is the mean over its minibatch: each step of one of 5 steps would weigh 50 times as much as one of 250.

    Args:
        lengths: int64 `[S]`, steps of each sequence, at least one each.
        size: steps of a share. A sequence is in the one that its middle falls into.

    Returns:
        Indices of sequences, share after share.
    """
    if not len(lengths):
        return []
    places = (2 * lengths.cumsum() - lengths) // (2 * size)
    found = np.split(np.arange(len(lengths)), np.flatnonzero(np.diff(places)) + 1)
    steps = [int(lengths[share].sum()) for share in found]
    while len(steps) > 1 and 2 * min(steps) < size:
        short = steps.index(min(steps))
        left = short > 0 and (short + 1 == len(steps) or steps[short - 1] < steps[short + 1])
        first = short - 1 if left else short
        steps[first : first + 2] = [steps[first] + steps[first + 1]]
        found[first : first + 2] = [np.concatenate(found[first : first + 2])]
    return found
