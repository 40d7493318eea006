"""Exploration: noise that is added to continuous actions, random choices among discrete ones."""

from __future__ import annotations

from typing import Literal

import numpy as np

from wiserl.core.masks import random_choice
from wiserl.core.tree import Array


class ActionNoise:
    """Gaussian, independent at each step, or Ornstein-Uhlenbeck, which drifts (Uhlenbeck and Ornstein 1930).

    The latter is x' = (1 - theta) x + std * N(0, 1), from 0, for each entry of the actions; its variance goes to
    std^2 / (1 - (1 - theta)^2). It starts anew with each episode: whoever acts carries it.

    Args:
        kind: which; `none`: zeros.
        std: standard deviation of what each step adds.
        theta: of Ornstein-Uhlenbeck: share of the noise that each step takes away.

    Attributes:
        drifts: whether it depends on the step before.
    """

    def __init__(self, kind: Literal["gaussian", "ornstein_uhlenbeck", "none"], std: float, theta: float) -> None:
        self.std = 0.0 if kind == "none" else std
        self.kept = 1.0 - theta if kind == "ornstein_uhlenbeck" else 0.0
        self.drifts = bool(self.kept and self.std)

    def add(self, action: Array, rng: np.random.Generator) -> Array:
        """`action` float32 `[E, A, ...]` in [-1, 1] with noise that does not drift, clipped to these bounds."""
        return self.add_drifting(action, None, rng)[0] if self.std else action

    def add_drifting(self, action: Array, before: Array | None, rng: np.random.Generator) -> tuple[Array, Array]:
        """The same with noise that goes on from that of the step before; the noise itself comes with it."""
        noise = rng.standard_normal(action.shape, np.float32)
        noise *= self.std
        if before is not None:
            noise += np.float32(self.kept) * before
        noisy: Array = np.minimum(np.maximum(action + noise, -1.0), 1.0)
        return noisy, noise


def epsilon_greedy(values: Array, epsilon: float, rng: np.random.Generator, mask: Array | None = None) -> Array:
    """Choices `[...]` among n whose values `[..., n]` are given: the best one, or any with probability `epsilon`.

    With `mask`, bool `[..., n]`, both among those that are valid.
    """
    choice: Array = (values if mask is None else np.where(mask, values, -np.inf)).argmax(-1)
    if epsilon > 0.0:
        explore = rng.random(choice.shape) < epsilon
        if explore.any():
            choice[explore] = random_choices(rng, (int(explore.sum()),), values.shape[-1], _rows(mask, explore))
    return choice


def random_choices(rng: np.random.Generator, shape: tuple[int, ...], n: int, mask: Array | None) -> Array:
    """Uniform choices among n, int64 `shape`; with `mask`, bool `[*shape, n]`, among those that are valid."""
    return rng.integers(n, size=shape) if mask is None else random_choice(rng, mask)


def epsilon_greedy_value(values: Array, epsilon: float, mask: Array | None = None) -> Array:
    """Expected value `[...]` of `epsilon_greedy` among choices with these values `[..., n]`."""
    if mask is None:
        best, mean = values.max(-1), values.mean(-1)
    else:
        best = np.where(mask, values, -np.inf).max(-1)
        mean = values.sum(-1, where=mask) / mask.sum(-1)
    expected: Array = (1 - epsilon) * best + epsilon * mean
    return expected.astype(values.dtype, copy=False)


def _rows(mask: Array | None, rows: Array) -> Array | None:
    return None if mask is None else mask[rows]
