"""Encoders: from an observation of any supported space to a feature vector.

Box vectors go through an MLP, images through a CNN, Discrete entries through a one-hot code and an MLP; a Dict or Tuple has
an encoder per entry (a CNN for an image, a layer for all else), joined, and an MLP on top.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the field's usual name)
from gymnasium import spaces
from torch import Tensor, nn

from wiserl.core.batch import Nested
from wiserl.env.spaces import child_spaces
from wiserl.net.dense import dense
from wiserl.util.errors import InputError

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "elu": F.elu,
    "gelu": F.gelu,
    "silu": F.silu,
}


class MLP(nn.Module):
    """Linear layers of the given sizes (the first is the input), an activation after each.

    One module with a loop, not a Sequential of many: on the small networks of this field the calls of modules would cost
    as much as the arithmetic.
    """

    def __init__(self, sizes: Sequence[int], activation: str) -> None:
        super().__init__()
        layers = (nn.Linear(inputs, outputs) for inputs, outputs in itertools.pairwise(sizes))
        self.layers: Iterable[nn.Linear] = nn.ModuleList(layers)  # type: ignore[assignment]  # it is one, of Linears
        self.activation = ACTIVATIONS[activation]
        self.size = sizes[-1]

    def forward(self, features: Tensor) -> Tensor:
        """`[N, size]` from `[N, inputs]`."""
        layers = [(layer.weight, layer.bias) for layer in self.layers]
        if self.activation is torch.relu or self.activation is torch.tanh:
            return dense(features, layers, "relu" if self.activation is torch.relu else "tanh")
        for layer in layers:
            features = self.activation(dense(features, [layer], "none"))
        return features


def orthogonal_(module: nn.Module, gain: float = math.sqrt(2)) -> None:
    """Orthogonal weights and zero biases for every linear and convolutional layer (Saxe et al. 2014)."""
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            nn.init.orthogonal_(layer.weight, gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def is_image(space: spaces.Space[object]) -> bool:
    """Whether a space is a Box of three axes, one of them (first or last) the channels; or, if it has pixels up to 255 of uint8,
    of two axes (one channel, at least 8 pixels wide and high: no board) or four (a stack of images).
    """
    if not isinstance(space, spaces.Box):
        return False
    pixels = space.dtype == np.uint8 and bool((space.high == 255).all())
    axes = len(space.shape)
    return axes == 3 or (pixels and (axes == 4 or (axes == 2 and min(space.shape) >= 8)))


class NatureCNN(nn.Module):
    """The convolutions of Mnih et al. 2015 and a linear layer to 512 features; uint8 pixels are divided by 255.

    Images below 36 pixels get 3×3 convolutions of stride 2 instead, below 8 none: every size works.
    Channels are the smaller of the first and last axis. Input `[N, C, H, W]`, `[N, H, W, C]` or `[N, H, W]`; of a stack of k
    images `[N, k, ...]`, whose channels are joined.
    """

    def __init__(self, space: spaces.Box, features: int = 512) -> None:
        super().__init__()
        shape = (1, *space.shape) if len(space.shape) == 2 else space.shape
        self.channels_last = shape[-1] < shape[-3]
        self.scale = 1.0 / 255.0 if space.dtype is not None and space.dtype.kind == "u" else 1.0
        channels, height, width = (shape[-1], *shape[-3:-1]) if self.channels_last else shape[-3:]
        channels *= math.prod(shape[:-3])
        side = min(height, width)
        if side >= 36:
            layers = [(32, 8, 4), (64, 4, 2), (64, 3, 1)]
        elif side >= 8:
            layers = [(32, 3, 2), (64, 3, 2)]
        else:
            layers = []
        modules: list[nn.Module] = []
        for outputs, kernel, stride in layers:
            modules += [nn.Conv2d(channels, outputs, kernel, stride), nn.ReLU()]
            channels = outputs
        self.convolutions = nn.Sequential(*modules, nn.Flatten())
        with torch.no_grad():
            flat = self.convolutions(
                torch.zeros(1, *self._channels_first(torch.zeros(1, *space.shape)).shape[1:])
            ).shape[1]
        self.head = nn.Linear(flat, features)
        self.size = features

    def _channels_first(self, image: Tensor) -> Tensor:
        """`[N, C, H, W]`."""
        if image.ndim == 3:
            return image.unsqueeze(1)
        image = image.movedim(-1, -3) if self.channels_last else image
        return image.flatten(1, 2) if image.ndim == 5 else image

    def forward(self, image: Tensor) -> Tensor:
        """Features `[N, features]`."""
        features = self.convolutions(self._channels_first(image).float() * self.scale)
        return dense(features, [(self.head.weight, self.head.bias)], "relu")


class _OneHot(nn.Module):
    """One-hot codes of Discrete (`[N]`) and MultiDiscrete (`[N, k]`) entries, side by side."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.size = sum(self.sizes)

    def forward(self, index: Tensor) -> Tensor:
        columns = (index.flatten(1) if index.ndim > 1 else index.unsqueeze(1)).unbind(1)
        return torch.cat(
            [F.one_hot(column.long(), size) for column, size in zip(columns, self.sizes, strict=True)], 1
        ).float()


class Flat(nn.Module):
    """Numbers as they are, in one row."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, value: Tensor) -> Tensor:
        return value.flatten(1).float() if value.ndim > 1 else value.unsqueeze(1).float()


def _leaf(space: spaces.Space[object]) -> nn.Module:
    if isinstance(space, spaces.Box):
        return NatureCNN(space) if is_image(space) else Flat(int(math.prod(space.shape)))
    if isinstance(space, spaces.Discrete):
        return _OneHot([int(space.n)])
    if isinstance(space, spaces.MultiDiscrete):
        return _OneHot([int(n) for n in space.nvec.reshape(-1)])
    if isinstance(space, spaces.MultiBinary):
        return Flat(int(math.prod(space.shape)))
    raise InputError(
        f"observation space {type(space).__name__} is not supported; supported: Box, Discrete, MultiDiscrete, MultiBinary, "
        "Dict and Tuple of these. Wrap the env with a gymnasium ObservationWrapper"
    )


class _Layer(nn.Module):
    """A layer of its own on a flat entry, so that few numbers weigh as much as the many features of an image beside them."""

    def __init__(self, entry: nn.Module, width: int, activation: str) -> None:
        super().__init__()
        self.entry = entry
        self.mlp = MLP([int(entry.size), width], activation)  # type: ignore[arg-type]
        self.size = width

    def forward(self, value: Tensor) -> Tensor:
        return self.mlp.forward(self.entry(value))


class _Join(nn.Module):
    """An encoder per entry of a Dict or Tuple, their features side by side."""

    def __init__(self, children: list[tuple[str, Any, spaces.Space[Any]]], width: int, activation: str) -> None:
        super().__init__()
        # A list: torch refuses some names of entries ("type", "values", "arm.left") as names of modules.
        self.names = [name for name, _, _ in children]
        entries = [self._entry(child, width, activation) for _, _, child in children]
        self.entries = nn.ModuleList(entries)
        self.size = sum(int(entry.size) for entry in entries)  # type: ignore[arg-type,misc]

    @staticmethod
    def _entry(space: spaces.Space[Any], width: int, activation: str) -> nn.Module:
        children = child_spaces(space)
        if children is not None:
            return _Join(children, width, activation)
        return _leaf(space) if is_image(space) else _Layer(_leaf(space), width, activation)

    def forward(self, obs: dict[str, Nested]) -> Tensor:
        return torch.cat([entry(obs[name]) for name, entry in zip(self.names, self.entries, strict=True)], 1)


class Encoder(nn.Module):
    """Features of an observation. `size` is their number.

    Args:
        space: observation space of one agent.
        hidden_sizes: widths of the MLP on top; an image alone has none (its CNN ends in 512 features). The first is also the
            width of the layer that each flat entry of a Dict or Tuple has of its own.
        activation: a key of `ACTIVATIONS`.
    """

    def __init__(self, space: spaces.Space[object], hidden_sizes: Sequence[int], activation: str) -> None:
        super().__init__()
        children = child_spaces(space)
        width = hidden_sizes[0] if hidden_sizes else 64
        self.entry = _leaf(space) if children is None else _Join(children, width, activation)
        self.is_vector = isinstance(self.entry, Flat)
        flat = int(self.entry.size)  # type: ignore[arg-type]
        self.mlp = MLP([flat, *([] if is_image(space) else hidden_sizes)], activation)
        self.size = self.mlp.size

    def forward(self, obs: Nested) -> Tensor:
        """`[N, size]` from an observation with leading axis N."""
        if self.is_vector and obs.ndim == 2:
            return self.mlp.forward(obs.float())
        return self.mlp.forward(self.entry(obs))
