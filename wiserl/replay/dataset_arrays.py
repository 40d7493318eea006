"""Arrays of a data set, checked against the spaces of an env and put into the layout of fragments."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
from gymnasium import spaces

from wiserl.core.actions import ActionCodec
from wiserl.core.spaces import Space, child_spaces, leaf_layout
from wiserl.core.spec import EnvSpec
from wiserl.core.tree import Array, Nested
from wiserl.util.errors import InputError

UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
_ALIASES = {"terminations": "terminals", "truncations": "timeouts"}  # D4RL's names
_TOLERANCE = 1e-4  # of a Box action's range, for what rounding pushed past a bound


class ArrayReader:
    """Takes arrays `[N, ...]` by name, checks them against a spec, and turns them into what a policy sees and emits.

    All methods raise InputError where an array is missing or does not fit, naming it, what it has and what was expected.

    Args:
        where: what the arrays are from, for messages.
        arrays: by name, as `replay.dataset` lists them.
        spec: of the env.
    """

    def __init__(self, where: str, arrays: Mapping[str, Array], spec: EnvSpec) -> None:
        self.where, self.arrays, self.spec = where, arrays, spec
        rewards = self._find("rewards")
        self.total = len(rewards) if rewards.ndim else 0
        if not self.total:
            self._refuse("rewards", f"has shape {list(rewards.shape)}", "[N], with N > 0 transitions")

    @property
    def has_next(self) -> bool:
        """Whether there are next observations."""
        return any(name.split("/")[0] == "next_observations" for name in self.arrays)

    def steps(self) -> tuple[Array, Array, Array]:
        """Rewards float32, terminations and truncations bool, each `[N]`."""
        terminations, truncations = (self._take(name, (), np.bool_) for name in ("terminations", "truncations"))
        return self._take("rewards", (), np.float32), terminations, truncations

    def observations(self, name: str) -> Nested:
        """Observations in the layout of `core.spaces`."""
        return self._observations(name, self.spec.observation_space)

    def _observations(self, name: str, space: Space) -> Nested:
        children = child_spaces(space)
        if children is not None:
            return {key: self._observations(f"{name}/{key}", child) for key, _, child in children}
        shape, dtype = leaf_layout(space)
        kept = self._take(name, shape, dtype)
        if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
            kept = kept - space.start
        self._check_counts(name, kept, space)
        return kept

    def actions(self) -> Array:
        """Actions as a policy emits them."""
        space = self.spec.action_space
        codec = ActionCodec(space)
        if not isinstance(space, spaces.Box):
            counts = codec.from_env(self._take("actions", space.shape or (), np.int64))
            self._check_counts("actions", counts, space)
            return counts
        given = self._take("actions", space.shape, space.dtype)
        bounded = np.isfinite(space.low) & np.isfinite(space.high)
        high, low = (np.where(bounded, bound, 0.0).astype(np.float64) for bound in (space.high, space.low))
        slack = _TOLERANCE * (high - low)
        self._require("actions", given, (given >= space.low - slack) & (given <= space.high + slack),
                      f"actions in the env's own units, {space}: clip or rescale them")  # fmt: skip
        return codec.from_env(np.clip(given, space.low, space.high))

    def masks(self, name: str, not_after: Array | None = None) -> Array:
        """Action masks bool `[N, n]`, all True where no action comes after, `not_after [N]`."""
        layout = ActionCodec(self.spec.action_space).masks
        mask = self._take(name, (layout.size,), np.bool_)
        if not_after is not None:
            mask = mask | not_after[:, None]
        self._require(name, mask, layout.has_choice(mask), "a valid action in each row")
        return mask

    def extra(self, name: str) -> Array:
        """An array that the algorithm has a use for; numbers with a point as float32, which networks have."""
        array = self._find(name)
        if array.ndim == 0 or len(array) != self.total or array.dtype.kind not in "biuf":
            self._refuse(
                name, f"is {array.dtype} {list(array.shape)}", f"numbers [{self.total}, ...] (N = number of rewards)"
            )
        return array.astype(np.float32) if array.dtype.kind == "f" else array

    def _check_counts(self, name: str, counts: Array, space: Space) -> None:
        """Refuse numbers that a Discrete, MultiDiscrete or MultiBinary space does not have; `counts` begin at 0."""
        if isinstance(space, spaces.Box):
            return
        sizes: Any = 2
        if isinstance(space, spaces.Discrete):
            sizes = space.n
        elif isinstance(space, spaces.MultiDiscrete):
            sizes = space.nvec.reshape(counts.shape[1:])
        self._require(name, counts, (counts >= 0) & (counts < sizes), f"what {space} has (counted from 0 here)")

    def _take(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """The array of a name as `dtype`, `[N, *shape]`, finite."""
        array, dtype = self._find(name), np.dtype(dtype)
        expected = f"{dtype} {[self.total, *shape]} (N = number of rewards) for env '{self.spec.id}'"
        if array.shape != (self.total, *shape) or not np.can_cast(array.dtype, dtype, "same_kind"):
            if dtype.kind == "b":
                expected += ": use .astype(bool)"
            self._refuse(name, f"is {array.dtype} {list(array.shape)}", expected)
        with np.errstate(over="ignore"):  # what is too large becomes infinite
            kept: Array = array.astype(dtype, copy=False)
        good = np.isfinite(kept) if dtype.kind == "f" else kept == array
        self._require(name, array, good, f"finite numbers that {dtype} can hold")
        return kept

    def _find(self, name: str) -> Array:
        for known in (name, _ALIASES.get(name, name)):
            if known in self.arrays:
                try:
                    return np.asarray(self.arrays[known])
                except UNREADABLE as error:
                    self._refuse(known, f"cannot be read ({error})", "numbers")
        raise InputError(f"{self.where} has no array '{name}'; it has {', '.join(sorted(self.arrays))}")

    def _require(self, name: str, array: Array, good: Array, expected: str) -> None:
        if not good.all():
            at = tuple(int(i) for i in np.argwhere(~good)[0])
            self._refuse(name, f"has {array[at]} at {list(at)}", expected)

    def _refuse(self, name: str, given: str, expected: str) -> NoReturn:
        raise InputError(f"{self.where}: array '{name}' {given}; expected {expected}")
