"""Running normalisation of observations, part of the policy: its statistics travel and are saved with the weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from wiserl.core.spaces import child_spaces
from wiserl.core.tree import Array, Nested
from wiserl.net.encoder import Features


class ObservationNormalizer(nn.Module):
    """Shifts and scales each float entry of the observation by its running mean and variance, clipped to ±10.

    Images (uint8) and discrete entries pass unchanged. Moments are kept in float64 and merged as in Chan et al. 1979.
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, space: spaces.Space[Any]) -> None:
        super().__init__()
        children = child_spaces(space) or []
        # A list: torch refuses some names of entries ("type", "values", "arm.left") as names of modules.
        self.names = [name for name, _, _ in children]
        self.entries = nn.ModuleList(ObservationNormalizer(child) for _, _, child in children)
        self.is_float = isinstance(space, spaces.Box) and np.dtype(space.dtype).kind == "f"
        if self.is_float:
            assert space.shape is not None
            self.register_buffer("mean", torch.zeros(space.shape, dtype=torch.float64))
            self.register_buffer("var", torch.ones(space.shape, dtype=torch.float64))
            self.register_buffer("count", torch.tensor(0.0, dtype=torch.float64))

    def update(self, obs: Nested) -> None:
        """Take in observations `[N, ...]`."""
        for name, entry in zip(self.names, self.entries, strict=True):
            entry.update(obs[name])  # type: ignore[operator]
        if self.is_float and len(obs):
            new = obs.double()
            total = self.count + len(new)
            delta = new.mean(0) - self.mean
            scatter = (
                self.var * self.count + new.var(0, unbiased=False) * len(new) + delta**2 * self.count * len(new) / total
            )
            self.mean += delta * len(new) / total
            self.var.copy_(scatter / total)
            self.count.copy_(total)

    def forward(self, obs: Nested) -> Nested:
        """Normalised observations `[N, ...]`, float32; unchanged before the first `update`."""
        if self.names:
            return {name: entry(obs[name]) for name, entry in zip(self.names, self.entries, strict=True)}
        if not self.is_float:
            return obs
        return ((obs - self.mean) / torch.sqrt(self.var + 1e-8)).clamp(-10.0, 10.0).float()

    def rows(self, obs: Array) -> Array:
        """`forward` by numpy, to the same bits: of flat observations `[N, D]` of a Box of floats that has axes, on the CPU."""
        scaled = obs - self.mean.numpy().reshape(-1)
        scaled /= np.sqrt(self.var.numpy().reshape(-1) + 1e-8)
        result: Array = np.minimum(np.maximum(scaled, -10.0, out=scaled), 10.0, out=scaled).astype(np.float32)
        return result


class NormalizedFeatures(Features):
    """Features of normalised observations, by whatever network `body` is."""

    def __init__(self, normalizer: ObservationNormalizer, body: Features) -> None:
        super().__init__()
        self.normalizer, self.body = normalizer, body
        self.size, self.memory_size, self.keeps_weights = body.size, body.memory_size, body.keeps_weights

    def forward(self, obs: Nested) -> Tensor:
        """`[N, size]` from observations as the env gives them."""
        features: Tensor = self.body(self.normalizer(obs))
        return features


def normalizers(network: nn.Module) -> list[ObservationNormalizer]:
    """The normalisers of whole observations in a network; those of the entries of a Dict are parts of one."""
    found = [module for module in network.modules() if isinstance(module, ObservationNormalizer)]
    parts = {part for normalizer in found for part in normalizer.modules() if part is not normalizer}
    return [normalizer for normalizer in found if normalizer not in parts]
