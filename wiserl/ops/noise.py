"""Noise that is added to continuous actions for exploration."""

from __future__ import annotations

from typing import Literal

import numpy as np

from wiserl.core.batch import Array


class ActionNoise:
    """Gaussian, independent at each step, or Ornstein-Uhlenbeck, which drifts (Uhlenbeck and Ornstein 1930).

    The latter is x' = (1 - theta) x + std * N(0, 1), from 0, for each entry of the actions; its variance goes to
    std^2 / (1 - (1 - theta)^2). It starts anew with each episode, and where the number of rows changes.

    Args:
        kind: which; `none`: zeros.
        std: standard deviation of what each step adds.
        theta: of Ornstein-Uhlenbeck: share of the noise that each step takes away.
    """

    def __init__(self, kind: Literal["gaussian", "ornstein_uhlenbeck", "none"], std: float, theta: float) -> None:
        self.std = 0.0 if kind == "none" else std
        self.kept = 1.0 - theta if kind == "ornstein_uhlenbeck" else 0.0
        self._last: Array | None = None

    def reset(self) -> None:
        """Forget the drift."""
        self._last = None

    def end_episode(self, env: int) -> None:
        """Forget the drift of the first axis's row `env`."""
        if self._last is not None:
            self._last[env] = 0.0

    def add(self, action: Array, rng: np.random.Generator) -> Array:
        """`action` float32 `[E, A, ...]` in [-1, 1] with noise, clipped to these bounds."""
        if not self.std:
            return action
        noise = rng.standard_normal(action.shape, np.float32)
        noise *= self.std
        if self.kept:
            if self._last is not None and self._last.shape == noise.shape:
                noise += np.float32(self.kept) * self._last
            self._last = noise
        noisy: Array = np.minimum(np.maximum(action + noise, -1.0), 1.0)
        return noisy
