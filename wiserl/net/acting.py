"""Acting on few rows: a small MLP evaluated by numpy, at a third of the price of PyTorch's calls; and random choices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from wiserl.core.batch import Array
from wiserl.net.encoder import Encoder, Features

_ACTIVATIONS: dict[Callable[[Tensor], Tensor], Callable[..., Array]] = {
    torch.tanh: np.tanh,
    torch.relu: lambda features: np.maximum(features, 0.0, out=features),
}


def numpy_forward(encoder: Features, head: nn.Linear) -> Callable[[Array], Array] | None:
    """`head(encoder(obs))` as a function of arrays `[N, ...]`, for vector observations, tanh or relu, on the CPU.

    It reads the modules' own memory, so it follows every change of their weights that is made in place.

    Returns:
        The function, giving `[N, outputs]` float32; None for networks it does not cover.
    """
    if type(encoder) is not Encoder:
        return None
    activation = _ACTIVATIONS.get(encoder.mlp.activation)
    if not encoder.is_vector or activation is None or head.weight.device.type != "cpu":
        return None
    *hidden, last = [
        (layer.weight.detach().numpy().T, layer.bias.detach().numpy()) for layer in (*encoder.mlp.layers, head)
    ]

    def forward(obs: Array) -> Array:
        features = obs.reshape(len(obs), -1).astype(np.float32, copy=False)
        for weight, bias in hidden:
            features = features @ weight
            features += bias
            features = activation(features)
        outputs: Array = features @ last[0]
        outputs += last[1]
        return outputs

    return forward


def epsilon_greedy(values: Array, epsilon: float, rng: np.random.Generator) -> Array:
    """Choices `[...]` among n whose values `[..., n]` are given: the best one, or any with probability `epsilon`."""
    choice: Array = values.argmax(-1)
    if epsilon > 0.0:
        explore = rng.random(choice.shape) < epsilon
        if explore.any():
            choice[explore] = rng.integers(values.shape[-1], size=int(explore.sum()))
    return choice
