"""Uniform experience replay with n-step windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from wiserl.core.batch import FIELDS, Fragment
from wiserl.core.tree import Array, Nested, set_rows, take_rows
from wiserl.replay.frames import AGE, FrameStore
from wiserl.replay.rows import GOING, TERMINATED
from wiserl.replay.store import TransitionStore
from wiserl.util.errors import InputError

_STORED = ("obs", "action", "reward", AGE)
_SAMPLED = (*_STORED, "next_obs", "terminated", "discount", "index", "weight")


class Replay:
    """Transitions of all streams (envs of all runners), sampled uniformly with replacement.

    Each observation is stored once (`replay.store` has the layout). Rows of agents that are not alive are never
    sampled. Not thread-safe.

    Args:
        capacity: transitions kept per agent over all streams; each stream keeps `capacity // num_streams` steps.
        num_streams: envs over all runners; a fragment's `stream` entries must be below it.
        seed: of the generator that samples.
        n_step: longest reward window, in env steps.
        gamma: discount per env step, in [0, 1].
        extras: names of further fragment fields `[T, E, A, ...]` to store and to return from `sample`. `action_mask`
            and `next_action_mask` are stored without being named if the first fragment has them.
        frame_stack: k, where observations are stacks of the last k frames `[T, E, A, k, ...]`, as
            gymnasium's FrameStackObservation makes them: each frame is stored once. 0: they are stored whole.
        frame_padding: what is below the first frame of an episode: "reset" that frame again, "zero" zeros.

    Raises:
        InputError: a capacity below one step per stream, `n_step` below 1, gamma outside [0, 1], an extra with the
            name of something that `sample` returns anyway, or no such `frame_stack` or `frame_padding`.
    """

    def __init__(
        self,
        capacity: int,
        num_streams: int,
        seed: int,
        n_step: int = 1,
        gamma: float = 0.99,
        extras: Sequence[str] = (),
        frame_stack: int = 0,
        frame_padding: str = "reset",
    ) -> None:
        if n_step < 1 or not 0.0 <= gamma <= 1.0:
            raise InputError(f"replay with n_step {n_step}, gamma {gamma}; expected n_step >= 1 and gamma in [0, 1]")
        if isinstance(extras, str):
            raise InputError(f"replay extras {extras!r}: expected a tuple of names, ({extras!r},)")
        elsewhere = (name for name, field in FIELDS.items() if not field.axes.startswith("TEA"))
        taken = sorted(set(extras).intersection((*_SAMPLED, *elsewhere)))
        if taken:
            raise InputError(
                f"replay extras {taken} have names that every batch or fragment uses; give them other names"
            )
        self.n_step, self.gamma = n_step, gamma
        self._store = (
            FrameStore(capacity, num_streams, extras, frame_stack, frame_padding)
            if frame_stack
            else TransitionStore(capacity, num_streams, extras)
        )
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._powers = (gamma ** np.arange(n_step + 1)).astype(np.float32)

    def __len__(self) -> int:
        """Number of transitions that can be sampled."""
        return self._store.count

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return self._store.nbytes

    def add(self, fragment: Fragment) -> None:
        """Store a fragment (`core.batch`: fields `[T, E, A, ...]`); the oldest steps of its streams give way.

        Where `fresh` says that an env was reset in between (or its runner restarted), the transition stored last
        counts as truncated if its episode was still going, and bootstraps from the observation that followed it.

        Raises:
            ValueError: a field to be stored is missing or has another shape or dtype than in the first fragment, a
                stream is unknown or named twice, or an episode ended without a final observation. With `frame_stack`:
            observations are no stacks of frames that move on by one frame per step. Nothing is stored.
        """
        self._store.insert(fragment)

    def sample(self, batch_size: int) -> dict[str, Nested]:
        """Draw transitions uniformly, with replacement.

        Returns:
            Copies, `batch_size` rows each: `obs` and `action` as stored; `reward` float32, the discounted sum over a
            window of `n_step` steps, or fewer where the episode or the stored experience ends; `next_obs`, the
            observation after the window, where an episode ended the true final one; `terminated` bool, of the
            window's last step; `discount` float32, gamma to the power of the window's length, by which to multiply
            the bootstrapped value; `index` int64, for `write`; the extras of the first step (`next_action_mask`: of
            the last step).

        Raises:
            ValueError: the replay is empty.
        """
        self._require_some()
        return self._gather(self._draw(batch_size))

    def write(self, index: Array, name: str, values: Nested) -> None:
        """Overwrite an extra: `values [B, ...]` at the rows `index` int64 `[B]` that `sample` returned.

        Raises:
            ValueError: `name` is no extra of this replay.
        """
        fields = self._store.fields
        if name not in fields or name in _STORED:
            raise ValueError(
                f"replay has no extra '{name}' to write to; it has {sorted(set(fields).difference(_STORED))}. "
                f"Name it in extras= when the replay is made"
            )
        set_rows(fields[name], index, values)

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on exactly as if there had been no break.

        Returns:
            A flat dict of numpy arrays (contiguous, only what is filled) and of values that JSON can hold (the
            generator's state has integers of 128 bits). The arrays are views: write them out before the next `add`.
        """
        return self._store.state_dict() | {"rng": self._rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave, the generator's state included; the arrays are copied.

        Raises:
            InputError: it was saved with another capacity, number of streams or set of extras.
        """
        self._store.load_state_dict(state)
        self._rng.bit_generator.state = state["rng"]

    def _require_some(self) -> None:
        if not self._store.count:
            raise ValueError("cannot sample from an empty replay; add fragments first (raise learning_starts)")

    def _draw(self, batch_size: int) -> Array:
        """Uniform over all written rows; rows that hold no transition are drawn again."""
        written, kind = self._store.written, self._store.kind
        rows: Array = (self._rng.random(batch_size) * written).astype(np.int64)
        held = kind.take(rows)
        if np.count_nonzero(held) == batch_size:
            return rows
        rows = rows[held > 0]
        while len(rows) < batch_size:
            expected = (batch_size - len(rows)) * written // self._store.count
            more = (self._rng.random(expected + 8) * written).astype(np.int64)
            rows = np.concatenate([rows, more[kind.take(more) > 0]])[:batch_size]
        return rows

    def _gather(self, rows: Array) -> dict[str, Nested]:
        """The batch of the windows that begin at `rows [B]`."""
        store = self._store
        if self.n_step == 1:
            last, reward, discount = rows, store.fields["reward"].take(rows), np.empty(len(rows), np.float32)
            discount.fill(self.gamma)
        else:
            last, reward, discount = self._sum_windows(rows)
        batch = {
            "obs": store.observations(rows),
            "action": take_rows(store.fields["action"], rows),
            "reward": reward,
            "next_obs": store.following(last),
            "terminated": store.kind.take(last) == TERMINATED,
            "discount": discount,
            "index": rows,
        }
        for name, field in store.fields.items():
            if name not in _STORED:
                batch[name] = take_rows(field, last if name == "next_action_mask" else rows)
        return batch

    def _sum_windows(self, rows: Array) -> tuple[Array, Array, Array]:
        """Last row, discounted reward sum and discount of the windows from `rows [B]`, each `[B]`.

        A window goes on from a step after which the episode went on, to a row that holds a transition.
        """
        store = self._store
        path = (rows + np.arange(self.n_step)[:, None] * store.stride) % len(store.kind)
        kind = store.kind.take(path)
        inside = np.ones(path.shape, np.bool_)
        np.logical_and.accumulate((kind[:-1] == GOING) & (kind[1:] > 0), axis=0, out=inside[1:])
        length = inside.sum(0)
        reward = store.fields["reward"].take(path)
        reward *= self._powers[:-1, None]
        return path[length - 1, np.arange(len(rows))], reward.sum(0, where=inside), self._powers.take(length)
