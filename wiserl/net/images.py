"""Images: which observations are some, how their axes are turned, and the networks for them."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from gymnasium import spaces
from torch import Tensor, nn

from wiserl.net.dense import dense


def is_image(space: spaces.Space[object]) -> bool:
    """Whether a space is a Box of three axes, one of them (first or last) the channels; or, if it has pixels up to 255 of uint8,
    of two axes (one channel, at least 8 pixels wide and high: no board) or four (a stack of images).
    """
    if not isinstance(space, spaces.Box):
        return False
    pixels = space.dtype == np.uint8 and bool((space.high == 255).all())
    axes = len(space.shape)
    return axes == 3 or (pixels and (axes == 4 or (axes == 2 and min(space.shape) >= 8)))


class ImageInput(nn.Module):
    """Turns images `[N, C, H, W]`, `[N, H, W, C]`, `[N, H, W]` or, a stack of k images, `[N, k, ...]` into `[N, C, H, W]`.

    Channels are the smaller of the first and last axis; those of a stack are joined.

    Attributes:
        shape: (C, H, W).
        scale: what `pixels` multiplies by: 1/255 for unsigned integers, else 1.
    """

    def __init__(self, space: spaces.Box) -> None:
        super().__init__()
        shape = (1, *space.shape) if len(space.shape) == 2 else space.shape
        self.channels_last = shape[-1] < shape[-3]
        self.scale = 1.0 / 255.0 if space.dtype is not None and space.dtype.kind == "u" else 1.0
        channels, height, width = (shape[-1], *shape[-3:-1]) if self.channels_last else shape[-3:]
        self.shape = (channels * math.prod(shape[:-3]), height, width)

    def channels_first(self, image: Tensor) -> Tensor:
        """`[N, C, H, W]`, values and dtype as they were."""
        if image.ndim == 3:
            return image.unsqueeze(1)
        image = image.movedim(-1, -3) if self.channels_last else image
        return image.flatten(1, 2) if image.ndim == 5 else image

    def pixels(self, image: Tensor) -> Tensor:
        """`[N, C, H, W]` float32, uint8 divided by 255."""
        return self.channels_first(image).float() * self.scale


class NatureCNN(ImageInput):
    """The convolutions of Mnih et al. 2015 and a linear layer to 512 features; uint8 pixels are divided by 255.

    Images below 36 pixels get 3×3 convolutions of stride 2 instead, below 8 none: every size works.
    """

    MIN_SIDE = 8

    def __init__(self, space: spaces.Box, features: int = 512) -> None:
        super().__init__(space)
        channels, height, width = self.shape
        side = min(height, width)
        if side >= 36:
            layers = [(32, 8, 4), (64, 4, 2), (64, 3, 1)]
        elif side >= self.MIN_SIDE:
            layers = [(32, 3, 2), (64, 3, 2)]
        else:
            layers = []
        modules: list[nn.Module] = []
        for outputs, kernel, stride in layers:
            modules += [nn.Conv2d(channels, outputs, kernel, stride), nn.ReLU()]
            channels = outputs
        self.convolutions = nn.Sequential(*modules, nn.Flatten())
        with torch.no_grad():
            flat = self.convolutions(torch.zeros(1, *self.shape)).shape[1]
        self.head = nn.Linear(flat, features)
        self.size = features

    def forward(self, image: Tensor) -> Tensor:
        """Features `[N, features]`."""
        return dense(self.convolutions(self.pixels(image)), [(self.head.weight, self.head.bias)], "relu")


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, pixels: Tensor) -> Tensor:
        inner: Tensor = self.second(F.relu(self.first(F.relu(pixels))))
        return pixels + inner


class ImpalaCNN(ImageInput):
    """The residual network of Espeholt et al. 2018 (figure 3, right), of 15 convolutions, and a linear layer to 256 features.

    Each of three parts halves the image, to 1 pixel at least: every size works. uint8 pixels are divided by 255.
    """

    def __init__(self, space: spaces.Box, features: int = 256) -> None:
        super().__init__(space)
        channels, height, width = self.shape
        modules: list[nn.Module] = []
        for outputs in (16, 32, 32):
            modules += [nn.Conv2d(channels, outputs, 3, padding=1), nn.MaxPool2d(3, 2, padding=1)]
            modules += [_Residual(outputs), _Residual(outputs)]
            channels, height, width = outputs, (height + 1) // 2, (width + 1) // 2
        self.convolutions = nn.Sequential(*modules, nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(channels * height * width, features)
        self.size = features

    def forward(self, image: Tensor) -> Tensor:
        """Features `[N, features]`."""
        return dense(self.convolutions(self.pixels(image)), [(self.head.weight, self.head.bias)], "relu")
