"""Fragments as sequences, for networks with memory: where episodes begin, sequences cut to a length, minibatches of whole ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wiserl.core.batch import Fragment
from wiserl.core.tree import Array, Nested, tree_map
from wiserl.ops.minibatches import standardize

_PER_SEQUENCE, _UNROLLED = ("memory",), ("obs", "reset")


def begins(fragment: Fragment) -> Array:
    """Bool `[T, E, A]`: whether a row's episode begins at that step. At the first step the fragment's `memory` is right as it is."""
    found = np.zeros(fragment["reward"].shape, np.bool_)
    found[1:] = fragment["terminated"][:-1] | fragment["truncated"][:-1]
    if "alive" in fragment:
        found[1:] |= ~fragment["alive"][:-1]
    return found


def cut(tree: Nested, length: int) -> Nested:
    """Tensors `[T, N, ...]` as sequences side by side, `[length, S, ...]`: first those that begin at step 0, then those at
    `length`, and so on. The last ones are filled up with zeros.
    """

    def of_leaf(leaf: Tensor) -> Tensor:
        missing = -len(leaf) % length
        if missing:
            leaf = torch.cat([leaf, leaf.new_zeros(missing, *leaf.shape[1:])])
        return leaf.view(-1, length, *leaf.shape[1:]).transpose(0, 1).flatten(1, 2)

    return tree_map(of_leaf, tree)


def sequence_minibatches(
    data: dict[str, Any], size: int, rng: np.random.Generator, standardized: str | None = None
) -> Iterator[dict[str, Any]]:
    """One epoch over sequences, each unrolled as a whole.

    Args:
        data: tensors `[L, S, ...]` by name, nested or not: `obs`, `reset` (whether an episode begins there), `living` (whether a
            step counts) and what is learned from; and `memory` `[S, M]`, before the first step.
        size: steps of a minibatch, rounded down to whole sequences, one at least.
        rng: draws the order.
        standardized: name of an entry that gets zero mean and unit variance in each minibatch.

    Yields:
        `obs` and `reset` of some sequences `[L, n, ...]`, their `memory` `[n, M]`, `living`: which of the `L * n` steps count, and
        all others of those steps alone, `[N, ...]`. Without `living` in `data` all count, and it is left out.
    """
    length, sequences = data["reset"].shape
    rows = {name: leaf for name, leaf in data.items() if name not in (*_PER_SEQUENCE, *_UNROLLED, "living")}
    order = torch.from_numpy(rng.permutation(sequences)).to(data["reset"].device)
    for chosen in torch.split(order, max(size // length, 1)):
        batch = {name: tree_map(lambda leaf, chosen=chosen: leaf[:, chosen], data[name]) for name in _UNROLLED}
        batch["memory"] = data["memory"][chosen]
        steps = tree_map(lambda leaf, chosen=chosen: leaf[:, chosen].flatten(0, 1), rows)
        if "living" in data:
            living = data["living"][:, chosen].flatten().nonzero().squeeze(1)
            if not len(living):
                continue
            batch["living"] = living
            steps = tree_map(lambda leaf, living=living: leaf[living], steps)
        if standardized is not None:
            steps[standardized] = standardize(steps[standardized], len(steps[standardized]))
        yield {**batch, **steps}
