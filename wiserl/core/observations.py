"""Observations on their way from an env into arrays: each is checked against its space as it is written.

Shape and dtype are looked at each time, and so are the ranges of Discrete, MultiDiscrete and MultiBinary: numpy would
broadcast, cut and wrap what does not fit, without a word. The bounds of a Box are left to `wiserl check-env`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from wiserl.core.spaces import Space, child_spaces, leaf_layout
from wiserl.core.tree import Array
from wiserl.util.errors import EnvError

_DOUBLE = np.dtype(np.float64)  # what many envs return for a space of float32
_HINT = "make the env return what its observation_space says (`wiserl check-env` helps)"


class ObservationReader:
    """Reads the observations of one agent, as an env gives them.

    Attributes:
        leaves: of the space, from left to right.
    """

    def __init__(self, space: Space) -> None:
        """Raises:
        InputError: a leaf space is not supported.
        """
        self.leaves = list(_leaves_of(space, ()))

    def write(self, buffers: Any, index: tuple[int, ...], obs: Any, who: str) -> None:
        """Put an observation at `buffers[leaf][index]`; `buffers` as `core.spaces.observation_zeros` makes them.

        Raises:
            EnvError: it lacks an entry, or one has another shape, dtype or range than its space; the message names `who` and
                the entry.
        """
        for leaf in self.leaves:
            value, target = obs, buffers
            for name, key in leaf.keys:
                value, target = leaf.entry(value, name, key, who), target[name]
            target[index] = leaf.read(value, who)


class Leaf:
    """One leaf of an observation space: where it is in an observation, and what may be there.

    Attributes:
        keys: (name in the buffers, key in an observation) from the root.
        shape: of an observation.
        exact: the dtype of the space.
    """

    def __init__(self, space: Space, keys: tuple[tuple[str, Any], ...]) -> None:
        self.keys = keys
        self.shape, self._kept = leaf_layout(space)
        self.exact = np.dtype(space.dtype)
        self._fits = {self.exact} | ({_DOUBLE} if self._kept == np.float32 else set())
        self._space = space
        self._path = ".".join(name for name, _ in keys)

    def read(self, value: Any, who: str) -> Any:
        """The value as it is kept: an array, or a number. Raises EnvError unless it is what the space says."""
        if type(value) is np.ndarray and value.dtype in self._fits and value.shape == self.shape:
            return value
        return self._converted(value, who)

    def entry(self, value: Any, name: str, key: Any, who: str) -> Any:
        """The entry `key` of a Dict or Tuple on the way to this leaf. Raises EnvError if there is none."""
        try:
            return value[key]
        except (KeyError, IndexError, TypeError):
            has = ", ".join(map(str, value)) if isinstance(value, Mapping) else f"type {type(value).__name__}"
            above = ".".join(each for each, _ in self.keys[: [each for each, _ in self.keys].index(name)])
            raise EnvError(f"observation{_entry(above)} of {who} lacks '{name}'; it has {has}: {_HINT}") from None

    def refuse(self, found: str, who: str, expected: str) -> EnvError:
        """The error for a value that is not what the space says."""
        return EnvError(f"observation{_entry(self._path)} of {who} {found}, its space says {expected}: {_HINT}")

    def _converted(self, value: Any, who: str) -> Array:
        """An array of the right shape, of a dtype that can be kept without loss (floats may be rounded)."""
        try:
            given = np.asarray(value)
        except Exception as error:
            found = f"is a {type(value).__name__} that makes no array ({type(error).__name__}: {error})"
            raise self.refuse(found, who, str(self._space)) from error
        if given.shape != self.shape:
            what = "" if isinstance(value, np.ndarray) else f" ({type(value).__name__})"
            raise self.refuse(f"has shape {given.shape}{what}", who, str(self.shape))
        if not np.can_cast(given.dtype, self._kept, "same_kind"):
            raise self.refuse(f"has dtype {given.dtype}", who, str(self._space.dtype))
        if self._kept.kind in "iu" and not np.can_cast(given.dtype, self._kept):
            lost = given != given.astype(self._kept)
            if lost.any():
                raise self.refuse(f"has {given[lost][0]} (dtype {given.dtype})", who, str(self._space.dtype))
        return given


class _DiscreteLeaf(Leaf):
    """A number, kept counted from 0."""

    def __init__(self, space: spaces.Discrete[Any], keys: tuple[tuple[str, Any], ...]) -> None:
        super().__init__(space, keys)
        self._start, self._stop = int(space.start), int(space.start + space.n)

    def read(self, value: Any, who: str) -> Any:
        # As an int of Python's: to subtract `start` from a small one of numpy's may overflow.
        number = int(value) if type(value) is int or isinstance(value, np.integer) else int(self._converted(value, who))
        if self._start <= number < self._stop:
            return number - self._start
        raise self.refuse(f"is {number}", who, f"{self._start} to {self._stop - 1}")


class _CountedLeaf(Leaf):
    """Several numbers, kept counted from 0: MultiDiscrete and MultiBinary."""

    def __init__(self, space: spaces.MultiDiscrete | spaces.MultiBinary, keys: tuple[tuple[str, Any], ...]) -> None:
        super().__init__(space, keys)
        self._start: Any = np.int64(0)
        self._sizes: Any = np.uint64(2)
        if isinstance(space, spaces.MultiDiscrete):
            self._start, self._sizes = space.start.astype(np.int64), space.nvec.astype(np.uint64)

    def read(self, value: Any, who: str) -> Any:
        given = super().read(value, who)
        counted = given - self._start
        # As unsigned numbers, where what is below 0 is above all sizes: one comparison instead of two.
        outside = counted.astype(np.int64, copy=False).view(np.uint64) >= self._sizes
        if np.count_nonzero(outside):
            at = tuple(int(i) for i in np.argwhere(outside)[0])
            first = int(np.broadcast_to(self._start, self.shape)[at])
            last = first + int(np.broadcast_to(self._sizes, self.shape)[at]) - 1
            raise self.refuse(f"is {given[at]} at index {list(at)}", who, f"{first} to {last}")
        return counted


def _leaves_of(space: Space, keys: tuple[tuple[str, Any], ...]) -> list[Leaf]:
    children = child_spaces(space)
    if children is not None:
        return [leaf for name, key, child in children for leaf in _leaves_of(child, (*keys, (name, key)))]
    if isinstance(space, spaces.Discrete):
        return [_DiscreteLeaf(space, keys)]
    if isinstance(space, (spaces.MultiDiscrete, spaces.MultiBinary)):
        return [_CountedLeaf(space, keys)]
    return [Leaf(space, keys)]


def _entry(path: str) -> str:
    return f" entry '{path}'" if path else ""
