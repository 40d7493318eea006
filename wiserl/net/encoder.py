"""Encoders: from an observation of any supported space to a feature vector.

Box vectors go through an MLP, images through a CNN, Discrete entries through a one-hot code and an MLP; a Dict or Tuple has
an encoder per entry (a CNN for an image, a layer for all else), joined, and an MLP on top. `net.choice` has the other kinds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812  (the field's usual name)
from gymnasium import spaces
from torch import Tensor, nn

from wiserl.core.spaces import child_spaces
from wiserl.core.tree import Nested
from wiserl.net.dense import dense
from wiserl.net.images import ImageInput, NatureCNN, is_image
from wiserl.util.errors import InputError

MakeImageNetwork: TypeAlias = Callable[[spaces.Box], nn.Module]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "elu": F.elu,
    "gelu": F.gelu,
    "silu": F.silu,
}


class Features(nn.Module):
    """What gives features `[N, size]` from observations with leading axis N.

    Attributes:
        size: how many features.
        memory_size: numbers that it remembers of each row from step to step; 0: none.
        keeps_weights: whether the weights it was made with are to stay: `orthogonal_` leaves them alone.
    """

    size: int
    memory_size: int = 0
    keeps_weights: bool = False


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
    if isinstance(module, Features) and module.keeps_weights:
        return
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            nn.init.orthogonal_(layer.weight, gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


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


class FlatPixels(ImageInput):
    """The pixels of an image side by side; those of uint8 are divided by 255."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space)
        self.size = math.prod(self.shape)

    def forward(self, image: Tensor) -> Tensor:
        return self.pixels(image).flatten(1)


def one_hot_sizes(space: spaces.Space[object]) -> list[int] | None:
    """Lengths of the one-hot codes of a Discrete or MultiDiscrete space, one after the other; None for others."""
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    return [int(n) for n in space.nvec.reshape(-1)] if isinstance(space, spaces.MultiDiscrete) else None


def flat_leaf(space: spaces.Space[object]) -> nn.Module:
    """The numbers of a leaf space side by side, `[N, size]` float32: one-hot codes where it is of choices.

    Raises:
        InputError: the space is not supported.
    """
    sizes = one_hot_sizes(space)
    if sizes is not None:
        return _OneHot(sizes)
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        return Flat(int(math.prod(space.shape)))
    raise InputError(
        f"observation space {type(space).__name__} is not supported; supported: Box, Discrete, MultiDiscrete, MultiBinary, "
        "Dict and Tuple of these. Wrap the env with a gymnasium ObservationWrapper"
    )


def _leaf(space: spaces.Space[object], images: MakeImageNetwork) -> nn.Module:
    return images(space) if isinstance(space, spaces.Box) and is_image(space) else flat_leaf(space)


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

    def __init__(self, children: list[tuple[str, Any, spaces.Space[Any]]], width: int, activation: str,
                 images: MakeImageNetwork) -> None:  # fmt: skip
        super().__init__()
        # A list: torch refuses some names of entries ("type", "values", "arm.left") as names of modules.
        self.names = [name for name, _, _ in children]
        entries = [self._entry(child, width, activation, images) for _, _, child in children]
        self.entries = nn.ModuleList(entries)
        self.size = sum(int(entry.size) for entry in entries)  # type: ignore[arg-type,misc]

    @staticmethod
    def _entry(space: spaces.Space[Any], width: int, activation: str, images: MakeImageNetwork) -> nn.Module:
        children = child_spaces(space)
        if children is not None:
            return _Join(children, width, activation, images)
        entry = _leaf(space, images)
        return entry if is_image(space) and images is not FlatPixels else _Layer(entry, width, activation)

    def forward(self, obs: dict[str, Nested]) -> Tensor:
        return torch.cat([entry(obs[name]) for name, entry in zip(self.names, self.entries, strict=True)], 1)


class Encoder(Features):
    """Features of an observation, by an MLP, and networks for the images in it.

    Args:
        space: observation space of one agent.
        hidden_sizes: widths of the MLP on top; an image alone has none (its CNN ends in 512 features). The first is also the
            width of the layer that each flat entry of a Dict or Tuple has of its own.
        activation: a key of `ACTIVATIONS`.
        images: makes the network of an image; `FlatPixels`: images have none, and are entries as others are.
    """

    def __init__(self, space: spaces.Space[object], hidden_sizes: Sequence[int], activation: str,
                 images: MakeImageNetwork = NatureCNN) -> None:  # fmt: skip
        super().__init__()
        children = child_spaces(space)
        width = hidden_sizes[0] if hidden_sizes else 64
        self.entry = _leaf(space, images) if children is None else _Join(children, width, activation, images)
        self.is_vector = isinstance(self.entry, Flat)
        flat = int(self.entry.size)  # type: ignore[arg-type]
        self.mlp = MLP([flat, *([] if is_image(space) and images is not FlatPixels else hidden_sizes)], activation)
        self.size = self.mlp.size

    def forward(self, obs: Nested) -> Tensor:
        """`[N, size]` from an observation with leading axis N."""
        if self.is_vector and obs.ndim == 2:
            return self.mlp.forward(obs.float())
        return self.mlp.forward(self.entry(obs))
