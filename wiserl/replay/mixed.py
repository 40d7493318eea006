"""Batches from several replays in fixed proportion: a user's demonstrations and own experience, say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from wiserl.core.batch import Fragment
from wiserl.core.tree import Array, Nested, take_rows, tree_map
from wiserl.replay.prioritized import PrioritizedReplay
from wiserl.replay.uniform import Replay
from wiserl.util.errors import InputError


def share_out(total: int, shares: Sequence[float]) -> list[int]:
    """`total` in whole numbers in proportion to `shares`, by largest remainder (Hamilton's method).

    Each gets its quota rounded down; what is left goes one by one to those with the largest fractions, the first of equals
    first. The numbers sum to `total` and are less than 1 away from the quotas.

    >>> share_out(32, [3.0, 1.0]), share_out(8, [1.0, 1.0, 1.0])
    ([24, 8], [3, 3, 2])
    """
    quotas = [total * share / sum(shares) for share in shares]
    counts = [int(quota) for quota in quotas]
    # Rounded, so that what is equal but for rounding errors counts as equal.
    by_remainder = sorted(range(len(shares)), key=lambda i: (-round(quotas[i] - counts[i], 9), i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


class MixedReplay:
    """Several replays as one, whose batches have a fixed number of rows from each. New fragments go to the first.

    Args:
        parts: replays with their shares of each batch; shares are positive, and need not sum to 1.

    Attributes:
        parts: the replays.
        shares: of each, summing to 1.

    Raises:
        InputError: no parts, or a share that is not positive and finite.
    """

    def __init__(self, parts: Sequence[tuple[Replay, float]]) -> None:
        given = [share for _, share in parts]
        if not parts or not all(0.0 < share < float("inf") for share in given):
            raise InputError(f"mixed replay with shares {given}; expected a positive number for each of its parts")
        self.parts = tuple(replay for replay, _ in parts)
        self.shares = tuple(share / sum(given) for share in given)

    def __len__(self) -> int:
        """Number of transitions that can be sampled: 0 as long as a part is empty, since batches need all parts."""
        lengths = [len(part) for part in self.parts]
        return sum(lengths) if all(lengths) else 0

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(part.nbytes for part in self.parts)

    @property
    def has_priorities(self) -> bool:
        """Whether a part is prioritised: then batches have a weight, and `update_priorities` has an effect."""
        return any(isinstance(part, PrioritizedReplay) for part in self.parts)

    def add(self, fragment: Fragment) -> None:
        """Store a fragment in the first part, as `Replay.add`."""
        self.parts[0].add(fragment)

    def sample(self, batch_size: int, beta: float | None = None, batches: int = 1) -> dict[str, Nested]:
        """Draw from all parts.

        Args:
            batch_size: rows of one batch; each part gives its share by `share_out`.
            beta: as in `PrioritizedReplay.sample`.
            batches: how many batches to draw in one go. Each slice of `batch_size` rows is one, with the exact number of
                rows from each part, and equals in distribution one that is drawn by itself.

        Returns:
            What `Replay.sample` returns, `[batches * batch_size, ...]`; `source` int64, the number of the part that each
            row is from; and `weight` float32 if any part is prioritised, 1 in the rows of parts that are not. Weights of a
            prioritised part are relative to the largest that it has in the batch. `index` is for `update_priorities` and
            `write` of this object.

        Raises:
            ValueError: a part is empty, or the parts have different fields.
        """
        drawn = []
        for number, (part, count) in enumerate(zip(self.parts, share_out(batch_size, self.shares), strict=True)):
            if not count:
                continue
            if not len(part):
                raise ValueError(
                    f"cannot sample: part {number} of the mixed replay is empty; add fragments to it first"
                )
            batch = (
                part.sample(count, beta, batches)
                if isinstance(part, PrioritizedReplay)
                else part.sample(count * batches)
            )
            batch["index"] = batch["index"] * len(self.parts) + number
            batch["source"] = np.full(count * batches, number)
            if self.has_priorities:
                batch.setdefault("weight", np.ones(count * batches, np.float32))
            drawn.append(batch)
        first = drawn[0]
        for batch in drawn[1:]:
            if batch.keys() != first.keys():
                differ = sorted(batch.keys() ^ first.keys())
                raise ValueError(
                    f"the parts of the mixed replay have different fields: only some have {differ}; make all with the same "
                    f"extras, and give action masks in all or in none"
                )

        def interleave(*leaves: Array) -> Array:
            joined = np.concatenate([leaf.reshape(batches, -1, *leaf.shape[1:]) for leaf in leaves], axis=1)
            return joined.reshape(-1, *joined.shape[2:])

        return {name: tree_map(interleave, *(batch[name] for batch in drawn)) for name in first}

    def update_priorities(self, index: Array, td_error_abs: Array) -> None:
        """As `PrioritizedReplay.update_priorities`; rows of parts without priorities are left alone."""
        errors = np.asarray(td_error_abs)
        for part, rows, chosen in self._split(index):
            if isinstance(part, PrioritizedReplay):
                part.update_priorities(rows, errors[chosen])

    def write(self, index: Array, name: str, values: Nested) -> None:
        """As `Replay.write`, in the parts that the rows are from."""
        for part, rows, chosen in self._split(index):
            part.write(rows, name, take_rows(values, chosen))

    def _split(self, index: Array) -> list[tuple[Replay, Array, Array]]:
        """Each part that rows of `index [B]` are from, with these rows' own indices and their places in `index`."""
        rows, source = np.divmod(np.asarray(index), len(self.parts))
        places = [(part, (source == number).nonzero()[0]) for number, part in enumerate(self.parts)]
        return [(part, rows[chosen], chosen) for part, chosen in places if len(chosen)]

    def state_dict(self) -> dict[str, Any]:
        """As `Replay.state_dict`, of all parts; names begin with the number of the part."""
        states = (part.state_dict() for part in self.parts)
        return {f"{number}.{name}": value for number, state in enumerate(states) for name, value in state.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As `Replay.load_state_dict`.

        Raises:
            InputError: it was saved with another number of parts, or a part does not fit.
        """
        states: dict[str, dict[str, Any]] = {}
        for key, value in state.items():
            number, _, name = key.partition(".")
            states.setdefault(number, {})[name] = value
        expected = [str(number) for number in range(len(self.parts))]
        if sorted(states) != sorted(expected):
            raise InputError(
                f"the saved replay is no mixed replay of {len(self.parts)} parts: resume with the replay it was saved with"
            )
        for number, part in zip(expected, self.parts, strict=True):
            part.load_state_dict(states[number])
