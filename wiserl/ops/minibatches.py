"""Minibatches of an on-policy round: every row once an epoch, in random order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wiserl.core.tree import tree_leaves, tree_map


def minibatches(
    data: dict[str, Any], size: int, rng: np.random.Generator, standardized: str | None = None
) -> Iterator[dict[str, Any]]:
    """One epoch over `data`.

    Args:
        data: tensors `[N, ...]`, nested or not, on one device.
        size: rows of a minibatch; the last one has what is left.
        rng: draws the order.
        standardized: name of the entry that `standardize` is applied to.

    Yields:
        Tensors `[size, ...]` by name.
    """
    leaf = tree_leaves(data)[0][1]
    order = torch.from_numpy(rng.permutation(len(leaf))).to(leaf.device)
    shuffled = tree_map(lambda leaf: leaf[order], data)
    if standardized is not None:
        shuffled[standardized] = standardize(shuffled[standardized], size)
    parts = tree_map(lambda leaf: leaf.split(size), shuffled)
    for index in range(-(-len(leaf) // size)):
        yield tree_map(lambda part, index=index: part[index], parts)


def standardize(values: Tensor, size: int) -> Tensor:
    """Zero mean, unit variance within each stretch of `size` of the values `[N]`; a last one of a single value stays as it is.

    All stretches at once, since small operations are what the update of a small network takes its time for.
    """
    whole = len(values) // size * size
    parts = []
    for rows in (values[:whole].view(-1, size), values[whole:].view(1, -1)):
        if rows.numel() > len(rows):
            deviation, mean = torch.std_mean(rows, 1, keepdim=True)
            rows = (rows - mean) / (deviation + 1e-8)
        parts.append(rows.reshape(-1))
    return torch.cat(parts)
