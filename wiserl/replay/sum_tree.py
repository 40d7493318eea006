"""Sums over sums of numbers: to draw an index in proportion to its number (Schaul et al. 2016, appendix B.2.1)."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

from wiserl.core.tree import Array

_FAN = 16  # children per node
_TOP = 4096  # most nodes without a parent; a million priorities are two levels below these
_MANY = 4096  # indices from which it pays to find those that share a parent


class SumTree:
    """Sums over sums of non-negative numbers, float64, to draw an index in proportion to its number.

    All calls take whole batches: the only Python loop is over the levels. A changed node is summed anew from its
    children, so rounding errors do not pile up. Rows of few numbers are summed by PyTorch, since
    numpy takes several times as long for them.

    Args:
        size: how many numbers; all are 0 at first.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._levels: list[Array] = []  # from the numbers upwards, `[nodes, children]`
        while not self._levels or size > _TOP:
            size = -(-size // _FAN)
            self._levels.append(np.zeros((size, _FAN)))
        self._top = np.zeros(size)

    @property
    def total(self) -> float:
        """Sum of all numbers."""
        return float(self._top.sum())

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return self._top.nbytes + sum(level.nbytes for level in self._levels)

    def get(self, indices: Array) -> Array:
        """The numbers at `indices [B]`, float64 `[B]`."""
        return self._levels[0].take(indices)

    def update(self, indices: Array, values: Array) -> None:
        """Set the numbers at `indices` int64 `[B]` to `values [B]`, finite and not below 0."""
        self._levels[0].put(indices, values)
        for children, parents in pairwise((*self._levels, self._top)):
            indices = indices // _FAN
            if len(indices) > _MANY:
                # Neighbours share parents: a whole replay that is loaded shrinks by the fan at each level.
                first = np.ones(len(indices), np.bool_)
                np.not_equal(indices[1:], indices[:-1], out=first[1:])
                indices = indices[first]
            parents.put(indices, torch.from_numpy(children.take(indices, 0)).sum(1).numpy())

    def find(self, values: Array) -> Array:
        """For each of `values [B]` in [0, total): the first index at which the running sum exceeds it, int64 `[B]`.

        An index whose number is 0 is never returned, whatever the rounding, unless all are 0.
        """
        sums = self._top.cumsum()
        values = np.minimum(values, np.nextafter(sums[-1], 0.0))
        node = sums.searchsorted(values, "right")
        child = place = node  # place: of the child in all running sums
        lanes = np.arange(len(values)) * _FAN
        for level in reversed(self._levels):
            values = values - np.where(child > 0, sums.take(place - 1, mode="wrap"), 0.0)
            sums = torch.from_numpy(level.take(node, 0)).cumsum(1).numpy()
            values = np.minimum(values, np.nextafter(sums[:, -1], 0.0))
            child = (sums > values[:, None]).argmax(1)
            place = lanes + child
            node = node * _FAN + child
        return node
