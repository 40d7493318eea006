"""Running normalisation of observations, part of the policy: its statistics travel and are saved with the weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from wiserl.core.batch import Nested, tree_map


class ObservationNormalizer(nn.Module):
    """Shifts and scales each float entry of the observation by its running mean and variance, clipped to ±10.

    Images (uint8) and discrete entries pass unchanged. Moments are kept in float64 and merged as in Chan et al. 1979.
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, space: spaces.Space[Any]) -> None:
        super().__init__()
        self.entries = nn.ModuleDict()
        self.is_float = isinstance(space, spaces.Box) and np.dtype(space.dtype).kind == "f"
        if isinstance(space, spaces.Dict):
            self.entries = nn.ModuleDict({key: ObservationNormalizer(entry) for key, entry in space.spaces.items()})
        elif isinstance(space, spaces.Tuple):
            self.entries = nn.ModuleDict({str(i): ObservationNormalizer(entry) for i, entry in enumerate(space.spaces)})
        elif self.is_float:
            assert space.shape is not None
            self.register_buffer("mean", torch.zeros(space.shape, dtype=torch.float64))
            self.register_buffer("var", torch.ones(space.shape, dtype=torch.float64))
            self.register_buffer("count", torch.tensor(1e-4, dtype=torch.float64))

    def update(self, obs: Nested) -> None:
        """Take in observations `[N, ...]`."""
        for key, entry in self.entries.items():
            entry.update(obs[key])  # type: ignore[operator]
        if self.is_float:
            new = obs.double()
            total = self.count + len(new)
            delta = new.mean(0) - self.mean
            scatter = (
                self.var * self.count + new.var(0, unbiased=False) * len(new) + delta**2 * self.count * len(new) / total
            )
            self.mean += delta * len(new) / total
            self.var = scatter / total
            self.count = total

    def forward(self, obs: Nested) -> Nested:
        """Normalised observations `[N, ...]`, float32."""
        if isinstance(obs, dict):
            return {key: self.entries[key](value) for key, value in obs.items()}
        if not self.is_float:
            return obs
        return ((obs - self.mean) / torch.sqrt(self.var + 1e-8)).clamp(-10.0, 10.0).float()


def to_tensors(tree: Nested, device: torch.device, skip_axes: int = 0) -> Nested:
    """Arrays of a nested dict as tensors on `device`, their first `skip_axes` axes joined into one."""

    def convert(leaf: object) -> Tensor:
        tensor = torch.as_tensor(leaf)
        if skip_axes:
            tensor = tensor.reshape(-1, *tensor.shape[skip_axes:])
        return tensor.to(device, non_blocking=True)

    return tree_map(convert, tree)
