"""Acting on few rows: a small MLP evaluated by numpy, at a third of the price of PyTorch's calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from wiserl.core.tree import Array
from wiserl.net.encoder import MLP, Encoder, Features, Flat
from wiserl.net.normalize import NormalizedFeatures, ObservationNormalizer

_ACTIVATIONS: dict[Callable[[Tensor], Tensor], Callable[..., Array]] = {
    torch.tanh: np.tanh,
    torch.relu: lambda features: np.maximum(features, 0.0, out=features),
}

_KNOWN = frozenset({Encoder, Flat, MLP, nn.ModuleList, nn.Linear, NormalizedFeatures, ObservationNormalizer})
"""Parts whose `forward` is what numpy computes. Their subclasses may have another."""


@dataclass(frozen=True)
class Plain:
    """What the `forward` of a network comes down to: `then(head(encoder(obs)))`.

    A class of networks says so once, by a method `plain()` that returns this, or None where more is in the way.
    """

    encoder: Features
    head: nn.Linear
    then: Callable[[Array], Array] | None = None


class NumpyPolicy:
    """A network as a function of arrays: `[N, ...]` to `[N, outputs]` float32.

    It reads the modules' own memory, so it follows every change of their weights that is made in place. Whether `holds` has
    to be asked before it is called: modules can be exchanged, and hooks added, at any time.
    """

    def __init__(self, forward: Callable[[Array], Array], plain: Plain, modules: Iterable[nn.Module]) -> None:
        encoder = _body(plain.encoder)
        assert isinstance(encoder, Encoder)
        self._forward, self._then = forward, plain.then
        self._mlp, self._activation = encoder.mlp, encoder.mlp.activation
        modules = list(modules)
        registries = [each for module in modules for each in (module._modules, module._parameters)]
        self._places = [(registry, name, held) for registry in registries for name, held in registry.items()]
        self._counted = [*registries, *map(vars, modules)]
        self._counts = list(map(len, self._counted))
        self._hooks = [each for module in modules for each in (module._forward_hooks, module._forward_pre_hooks)]

    @classmethod
    def of(cls, network: nn.Module) -> NumpyPolicy | None:
        """Of a network whose very class has a method `plain`; None for all others, and where it says None.

        A subclass does not inherit it: what it overrides would be left out. It may say the same again.
        """
        if "plain" not in vars(type(network)) or _is_patched(network):
            return None
        plain: Plain | None = network.plain()  # type: ignore[operator]
        forward = None if plain is None else numpy_forward(plain.encoder, plain.head)
        if plain is None or forward is None:
            return None
        return cls(forward, plain, (network, *plain.encoder.modules(), plain.head))

    def holds(self) -> bool:
        """Whether the network still is what it was: nothing in it exchanged or added, no hook on it."""
        if any(self._hooks) or self._mlp.activation is not self._activation:
            return False
        for registry, name, held in self._places:
            if registry.get(name) is not held:
                return False
        return list(map(len, self._counted)) == self._counts

    def __call__(self, obs: Array) -> Array:
        outputs = self._forward(obs)
        return outputs if self._then is None else self._then(outputs)


def _is_patched(module: nn.Module) -> bool:
    """Whether more happens when it is called than its class says: a hook, or a method of its own."""
    if module._forward_hooks or module._forward_pre_hooks:
        return True
    return any(callable(getattr(type(module), name, None)) for name in vars(module))


def _body(encoder: Features) -> Features:
    """What is behind a normaliser, if there is one."""
    return encoder.body if isinstance(encoder, NormalizedFeatures) else encoder


def numpy_forward(encoder: Features, head: nn.Linear) -> Callable[[Array], Array] | None:
    """`head(encoder(obs))` as a function of arrays `[N, ...]`, for vector observations, normalised or not, tanh or relu, on the CPU.

    It reads the modules' own memory, so it follows every change of their weights and statistics that is made in place.

    Returns:
        The function, giving `[N, outputs]` float32; None for networks it does not cover: also where a part is of a class of
        its own, or has a hook.
    """
    parts = (*encoder.modules(), head)
    normalizer = encoder.normalizer if isinstance(encoder, NormalizedFeatures) else None
    encoder = _body(encoder)
    if not isinstance(encoder, Encoder):
        return None
    if any(type(part) not in _KNOWN or _is_patched(part) for part in parts):
        return None
    activation = _ACTIVATIONS.get(encoder.mlp.activation)
    if not encoder.is_vector or activation is None or head.weight.device.type != "cpu":
        return None
    if normalizer is not None and (not normalizer.is_float or not normalizer.mean.ndim):
        return None  # numbers of other kinds, and numbers alone, are none that `rows` takes
    if any(layer.bias is None for layer in (*encoder.mlp.layers, head)):
        return None
    *hidden, last = [
        (layer.weight.detach().numpy().T, layer.bias.detach().numpy()) for layer in (*encoder.mlp.layers, head)
    ]

    def forward(obs: Array) -> Array:
        features = obs.reshape(len(obs), -1)
        features = features.astype(np.float32, copy=False) if normalizer is None else normalizer.rows(features)
        for weight, bias in hidden:
            features = features @ weight
            features += bias
            features = activation(features)
        outputs: Array = features @ last[0]
        outputs += last[1]
        return outputs

    return forward
