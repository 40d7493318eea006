"""Where replay keeps the true final observations: a growing table whose slots are used again."""

from __future__ import annotations

import numpy as np

from wiserl.core.tree import Array, Nested, set_rows, take_rows, tree_leaves, tree_map


class FinalTable:
    """Observations of one agent each, in slots handed out by `put` and given back by `release`.

    Episodes end rarely next to the number of steps, so the table starts small and doubles when it is full. Its size
    follows the largest number of episode ends that were in the ring at one time.

    Args:
        like: observations `[anything, ...]`, whose trailing shapes and dtypes the table takes over.
    """

    def __init__(self, like: Nested) -> None:
        self._rows: Nested = tree_map(lambda leaf: np.zeros((0, *leaf.shape[1:]), leaf.dtype), like)
        self._free: Array = np.zeros(0, np.int32)
        self._num_free = 0

    @property
    def used(self) -> int:
        """Number of observations held."""
        return len(self._free) - self._num_free

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return int(self._free.nbytes + sum(leaf.nbytes for _, leaf in tree_leaves(self._rows)))

    def put(self, observations: Nested, count: int) -> Array:
        """Store `count` observations `[count, ...]`; returns their slots, int32 `[count]`."""
        if count > self._num_free:
            self._grow(max(64, 2 * len(self._free), self.used + count))
        self._num_free -= count
        slots: Array = self._free[self._num_free : self._num_free + count].copy()
        set_rows(self._rows, slots, observations)
        return slots

    def take(self, slots: Array) -> Nested:
        """Copies of the observations in `slots [n]`, leaves `[n, ...]`."""
        return take_rows(self._rows, slots)

    def release(self, slots: Array) -> None:
        """Give `slots [n]` back; each must be in use."""
        self._free[self._num_free : self._num_free + len(slots)] = slots
        self._num_free += len(slots)

    def _grow(self, size: int) -> None:
        added = size - len(self._free)
        free = np.zeros(size, np.int32)
        free[: self._num_free] = self._free[: self._num_free]
        free[self._num_free : self._num_free + added] = np.arange(len(self._free), size, dtype=np.int32)
        self._free, self._num_free = free, self._num_free + added
        self._rows = tree_map(
            lambda leaf: np.concatenate([leaf, np.zeros((added, *leaf.shape[1:]), leaf.dtype)]), self._rows
        )
