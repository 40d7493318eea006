"""Prioritised experience replay, proportional variant: Schaul et al. 2016, arXiv:1511.05952, section 3."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from wiserl.buffer.replay import Replay
from wiserl.core.batch import Array, Fragment, Nested
from wiserl.util.errors import InputError

_FAN = 16  # children per node
_TOP = 4096  # most nodes without a parent; a million priorities are two levels below these
_MANY = 4096  # indices from which it pays to find those that share a parent
_EPSILON = 1e-6  # keeps a transition with no error samplable; small next to errors of the order of 1


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


class PrioritizedReplay(Replay):
    """Replay that draws transition i with probability `p_i^alpha / sum_k p_k^alpha`, where `p_i = |TD error| + 1e-6`.

    New transitions get the largest priority seen so far (1 at first), so each is likely to be drawn soon. The draws of
    a batch are stratified: one from each of `batch_size` equal parts of the total, as in the paper's appendix B.2.1.

    Args:
        alpha: 0 draws uniformly, 1 in proportion to the error.
        beta: strength of the correction in `weight` where `sample` is not told another; 1 corrects fully.
        others: as in `Replay`, which documents errors, too.
    """

    def __init__(
        self,
        capacity: int,
        num_streams: int,
        seed: int,
        n_step: int = 1,
        gamma: float = 0.99,
        extras: Sequence[str] = (),
        alpha: float = 0.6,
        beta: float = 0.4,
        frame_stack: int = 0,
        frame_padding: str = "reset",
    ) -> None:
        super().__init__(capacity, num_streams, seed, n_step, gamma, extras, frame_stack, frame_padding)
        if alpha < 0.0 or not 0.0 <= beta <= 1.0:
            raise InputError(f"prioritised replay with alpha {alpha}, beta {beta}; expected alpha >= 0, beta in [0, 1]")
        self.alpha, self.beta = alpha, beta
        self._tree = SumTree(0)
        self._largest = 1.0

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return super().nbytes + self._tree.nbytes

    def add(self, fragment: Fragment) -> None:
        """As `Replay.add`."""
        store = self._store
        blocks = store.insert(fragment)
        if not self._tree.size:
            self._tree = SumTree(len(store.kind))
        agents = store.stride // store.num_streams
        changed = []
        for slots, streams in blocks:
            first_of_slot = np.arange(slots.start, slots.stop)[:, None] * store.stride
            changed.append((first_of_slot + np.arange(streams.start * agents, streams.stop * agents)).ravel())
        rows = np.concatenate(changed)
        self._tree.update(rows, np.where(store.kind[rows] > 0, self._largest, 0.0))

    def sample(self, batch_size: int, beta: float | None = None, batches: int = 1) -> dict[str, Nested]:
        """Draw transitions by priority.

        Args:
            batch_size: how many.
            beta: replaces the beta given at construction (it is usually raised to 1 in the course of training).
            batches: how many batches to draw in one go, which costs far less than one after the other. Each slice of
                `batch_size` rows is one, drawn and weighted by itself; all are drawn by the priorities as they are now.

        Returns:
            What `Replay.sample` returns, `[batches * batch_size, ...]`, and `weight` float32: `(len * P(i))^-beta`,
            divided by the largest weight of the batch so that weights only scale updates down (section 3.4). The batch's
            maximum is used, not that of the whole replay: one rare transition of tiny priority would shrink every update.

        Raises:
            ValueError: the replay is empty.
        """
        self._require_some()
        part = self._tree.total / batch_size
        places = np.arange(batch_size) + self._rng.random((batches, batch_size))
        rows = self._tree.find((places * part).ravel())
        batch = self._gather(rows)
        priorities = self._tree.get(rows).reshape(batches, batch_size)
        weight = (priorities / priorities.min(1, keepdims=True)) ** -(self.beta if beta is None else beta)
        batch["weight"] = weight.astype(np.float32).ravel()
        return batch

    def update_priorities(self, index: Array, td_error_abs: Array) -> None:
        """Set the priorities of the rows `index` int64 `[B]` that `sample` returned from `td_error_abs [B]` >= 0.

        Rows that hold no transition any more are left alone.

        Raises:
            ValueError: an error is negative, NaN or infinite (the loss has diverged).
        """
        errors = np.asarray(td_error_abs, np.float64)
        valid = np.isfinite(errors) & (errors >= 0.0)
        if not valid.all():
            raise ValueError(
                f"td_error_abs has {errors[~valid][0]}; expected finite numbers >= 0: pass absolute errors, and if the "
                f"loss has diverged, lower learning_rate or clip gradients"
            )
        held = self._store.kind.take(index) > 0
        priorities = (errors[held] + _EPSILON) ** self.alpha
        self._tree.update(index[held], priorities)
        self._largest = max(self._largest, float(priorities.max(initial=0.0)))

    def state_dict(self) -> dict[str, Any]:
        """As `Replay.state_dict`."""
        state = super().state_dict() | {"largest_priority": self._largest}
        if self._store.fields:
            state["priority"] = self._tree.get(np.arange(self._store.written))
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As `Replay.load_state_dict`."""
        if "largest_priority" not in state:
            raise InputError("the saved replay has no priorities: resume with the kind of replay it was saved with")
        super().load_state_dict(state)
        self._largest = state["largest_priority"]
        self._tree = SumTree(len(self._store.kind))
        self._tree.update(np.arange(self._store.written), state.get("priority", np.zeros(0)))
