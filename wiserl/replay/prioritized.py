"""Prioritised experience replay, proportional variant: Schaul et al. 2016, arXiv:1511.05952, section 3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from wiserl.core.batch import Fragment
from wiserl.core.tree import Array, Nested
from wiserl.replay.sum_tree import SumTree
from wiserl.replay.uniform import Replay
from wiserl.util.errors import InputError

_EPSILON = 1e-6  # keeps a transition with no error samplable; small next to errors of the order of 1


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
