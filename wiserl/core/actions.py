"""How a policy's actions become what an env expects, and back."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from wiserl.core.masks import MaskLayout
from wiserl.core.spaces import Space
from wiserl.core.tree import Array
from wiserl.util.errors import InputError

ACTION_KINDS = "Box, Discrete, MultiDiscrete, MultiBinary"


def bounded_action_size(space: Space, algorithm: str) -> int:
    """Number of entries of a Box action whose bounds are all finite: a policy's actions are then in [-1, 1].

    Raises:
        InputError: it is another space, which `algorithm` cannot act in.
    """
    is_float = isinstance(space, spaces.Box) and np.dtype(space.dtype).kind == "f"
    if not (is_float and np.isfinite(space.low).all() and np.isfinite(space.high).all()):  # type: ignore[attr-defined]
        raise InputError(
            f"{algorithm} cannot act in {space}: it needs a Box action space of floats with finite bounds. dqn and sac do Discrete; "
            "ppo does MultiDiscrete, MultiBinary and unbounded Box; gymnasium.wrappers.RescaleAction gives a Box finite bounds"
        )
    return int(np.prod(space.shape or ()))


class ActionCodec:
    """Turns a policy's actions into those an env expects, and back.

    A policy emits: Discrete an int64 scalar counted from 0; MultiDiscrete int64 `[k]`, each counted from 0; MultiBinary
    int64 `[k]` of 0 and 1; Box float32 of the space's shape, in [-1, 1] where both bounds are finite and in the env's
    own units where not. What lies outside the bounds is clipped.

    Attributes:
        space: the action space of one agent.
        shape: trailing shape of a policy's action.
        dtype: dtype of a policy's action, int64 or float32.
        masks: the layout of its masks.
    """

    def __init__(self, space: Space) -> None:
        """Raises:
        InputError: the space is not supported.
        """
        self.space = space
        self.shape: tuple[int, ...] = ()
        self.dtype: np.dtype[Any] = np.dtype(np.int64)
        self.masks = MaskLayout(space)
        self._start: Any = 0
        if isinstance(space, spaces.Discrete):
            self._start = int(space.start)
        elif isinstance(space, spaces.MultiDiscrete):
            self.shape = (int(space.nvec.size),)
            self._start = space.start.astype(np.int64).reshape(-1)
        elif isinstance(space, spaces.MultiBinary):
            self.shape = (int(np.prod(space.shape)),)
        elif isinstance(space, spaces.Box):
            self.shape, self.dtype = space.shape, np.dtype(np.float32)
            self._prepare_box(space)
        else:
            raise InputError(
                f"action space {space} is not supported; supported: {ACTION_KINDS}. "
                "A wrapper with an action() method (gymnasium.ActionWrapper) can turn it into one"
            )

    def _prepare_box(self, space: spaces.Box) -> None:
        self._compute_dtype = np.dtype(np.float32 if space.dtype == np.float32 else np.float64)
        self._low = space.low.astype(self._compute_dtype)
        self._high = space.high.astype(self._compute_dtype)
        self._finite = np.isfinite(self._low) & np.isfinite(self._high)
        # Halved before the subtraction: high - low overflows where the bounds are those of the dtype.
        half_low, half_high = np.where(self._finite, self._low, 0) / 2, np.where(self._finite, self._high, 0) / 2
        self._scale = np.where(self._finite, half_high - half_low, 1).astype(self._compute_dtype)
        self._offset = (half_high + half_low).astype(self._compute_dtype)
        self._is_identity = bool((self._scale == 1).all() and (self._offset == 0).all())

    def to_env(self, actions: Array) -> Array:
        """What the env's `step` expects.

        Args:
            actions: policy actions `[..., *self.shape]`.

        Returns:
            `[..., *space.shape]` in the space's dtype; may share memory with `actions`.
        """
        space = self.space
        if isinstance(space, spaces.Discrete):
            return actions + self._start if self._start else actions
        if isinstance(space, spaces.Box):
            actions = actions.astype(self._compute_dtype, copy=False)
            if not self._is_identity:
                actions = actions * self._scale + self._offset
            # Clipped last, to catch what rounding pushed past a bound; np.clip's wrapper costs more than these two.
            values: Array = np.minimum(np.maximum(actions, self._low), self._high)
            if values.dtype != space.dtype:
                values = (np.rint(values) if np.dtype(space.dtype).kind in "iu" else values).astype(space.dtype)
            return values
        shape = space.shape or ()
        if isinstance(space, spaces.MultiDiscrete):
            actions = actions + self._start
        reshaped: Array = actions.astype(space.dtype, copy=False).reshape(actions.shape[:-1] + shape)
        return reshaped

    def from_env(self, action: Any) -> Array:
        """The inverse of `to_env`: env actions `[..., *space.shape]` to policy actions `[..., *self.shape]`."""
        space = self.space
        given = np.asarray(action)
        if isinstance(space, spaces.Box):
            centred = given.astype(self._compute_dtype) - self._offset
            normalised: Array = (centred / np.where(self._scale == 0, 1, self._scale)).astype(self.dtype)
            return normalised
        leading = given.shape[: given.ndim - len(space.shape or ())]
        counted: Array = given.astype(self.dtype).reshape(leading + self.shape) - self._start
        return counted

    def random(self, rng: np.random.Generator, leading: tuple[int, ...], mask: Array | None = None) -> Array:
        """Uniform policy actions `[*leading, *self.shape]`; standard normal where a Box has an infinite bound.

        With `mask`, bool `[*leading, n]`, uniform over those that are valid.
        """
        if mask is not None:
            return self.masks.random(rng, mask)
        size = leading + self.shape
        if isinstance(self.space, spaces.Box):
            uniform: Array = rng.uniform(-1.0, 1.0, size)
            if not self._finite.all():
                uniform = np.where(self._finite, uniform, rng.standard_normal(size))
            return uniform.astype(self.dtype)
        high: Any = 2
        if isinstance(self.space, spaces.Discrete):
            high = int(self.space.n)
        elif isinstance(self.space, spaces.MultiDiscrete):
            high = self.space.nvec.reshape(-1)
        integers: Array = rng.integers(high, size=size)
        return integers


def action_to_env(space: gym.Space[Any], action: Array) -> Array:
    """`ActionCodec(space).to_env(action)`, for a single use; keep the codec where it is called per step."""
    return ActionCodec(space).to_env(action)
