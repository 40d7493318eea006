"""Noisy networks (Fortunato et al. 2018): linear layers whose weights carry learned noise, so that acting explores by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the field's usual name)
from torch import Tensor, nn

from wiserl.util.errors import InputError


class NoisyLinear(nn.Module):
    """A linear layer with factorised Gaussian noise (Fortunato et al. 2018, equations 9 to 11).

    `weight` and `bias` are read as those of `nn.Linear`: the means, with the noise that `Noise.draw` has set. The noise is
    neither a parameter nor a buffer, so it does not travel with the weights and is in no checkpoint.

    Args:
        plain: its weights become the means: PyTorch draws them as the paper does, uniformly within ±1/√inputs.
        sigma0: initial scale of the noise times √inputs.

    Attributes:
        noise: the factors `[inputs]` and `[outputs]`, or None for the means alone.
    """

    def __init__(self, plain: nn.Linear, sigma0: float) -> None:
        super().__init__()
        self.in_features, self.out_features = plain.in_features, plain.out_features
        scale = sigma0 / math.sqrt(self.in_features)
        self.weight_mean, self.bias_mean = plain.weight, plain.bias
        self.weight_scale = nn.Parameter(torch.full_like(plain.weight, scale))
        self.bias_scale = nn.Parameter(torch.full_like(plain.bias, scale))
        self.noise: tuple[Tensor, Tensor] | None = None

    @property
    def weight(self) -> Tensor:
        """`[outputs, inputs]`."""
        if self.noise is None:
            return self.weight_mean
        inputs, outputs = self.noise
        return torch.addcmul(self.weight_mean, self.weight_scale, torch.outer(outputs, inputs))

    @property
    def bias(self) -> Tensor:
        """`[outputs]`."""
        if self.noise is None:
            return self.bias_mean
        return torch.addcmul(self.bias_mean, self.bias_scale, self.noise[1])

    def forward(self, features: Tensor) -> Tensor:
        """`[N, outputs]` from `[N, inputs]`."""
        return F.linear(features, self.weight, self.bias)


def make_noisy(module: nn.Module, sigma0: float) -> None:
    """Turn every linear layer inside `module` into a noisy one. Convolutions stay as they are."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            if child.bias is None:
                raise InputError(
                    f"noisy=true with a linear layer without bias ({child}): its noise has no place; give the layer a bias"
                )
            setattr(module, name, NoisyLinear(child, sigma0))
        else:
            make_noisy(child, sigma0)


class Noise:
    """The noise of all noisy layers of one network. A network that has none is left alone, and nothing is drawn."""

    def __init__(self, network: nn.Module) -> None:
        self._layers = [layer for layer in network.modules() if isinstance(layer, NoisyLinear)]
        self._sizes = [size for layer in self._layers for size in (layer.in_features, layer.out_features)]

    @contextmanager
    def draw(self, generator: torch.Generator | np.random.Generator | None) -> Iterator[None]:
        """Within, the network has one draw of noise, the same for all rows of a batch. Before and after, the means alone.

        Args:
            generator: what it is drawn from, a torch generator on the network's device; None: no noise within either.
        """
        if generator is None or not self._layers:
            yield
            return
        if isinstance(generator, np.random.Generator):
            normal = torch.from_numpy(generator.standard_normal(sum(self._sizes), np.float32))
            normal = normal.to(self._layers[0].weight_mean.device)
        else:
            normal = torch.randn(sum(self._sizes), generator=generator, dtype=torch.float32, device=generator.device)
        factors = torch.split(normal.sign() * normal.abs().sqrt(), self._sizes)
        try:
            for layer, inputs, outputs in zip(self._layers, factors[::2], factors[1::2], strict=True):
                layer.noise = (inputs, outputs)
            yield
        finally:
            for layer in self._layers:
                layer.noise = None
