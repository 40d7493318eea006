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
from wiserl.net.recurrent import RecurrentEncoder, Step, numpy_step

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

    Attributes:
        beside: encoders whose memory goes on beside that of `encoder`, though nothing is made of their features.
    """

    encoder: Features
    head: nn.Linear
    then: Callable[[Array], Array] | None = None
    beside: tuple[Features, ...] = ()


class _NumpyEncoder:
    """An encoder by numpy, with its memory where it has one."""

    def __init__(self, forward: Callable[[Array], Array], step: Step | None, mlp: MLP, memory_size: int) -> None:
        self.forward, self.step, self.memory_size = forward, step, memory_size
        self._mlp, self._activation = mlp, mlp.activation

    @classmethod
    def of(cls, encoder: Features) -> _NumpyEncoder | None:
        recurrent = encoder if type(encoder) is RecurrentEncoder else None
        body = encoder if recurrent is None else recurrent.body
        forward, step = numpy_features(body), None
        body = body.body if isinstance(body, NormalizedFeatures) else body
        if recurrent is not None and not _is_patched(recurrent):
            step = numpy_step(recurrent.core)
        if forward is None or not isinstance(body, Encoder) or (recurrent is None) != (step is None):
            return None
        return cls(forward, step, body.mlp, encoder.memory_size)

    def holds(self) -> bool:
        return self._mlp.activation is self._activation


class NumpyPolicy:
    """A network as a function of arrays: `[N, ...]` to `[N, outputs]` float32.

    It reads the modules' own memory, so it follows every change of their weights that is made in place. Whether `holds` has
    to be asked before it is called: modules can be exchanged, and hooks added, at any time.
    """

    def __init__(self, plain: Plain, encoders: list[_NumpyEncoder], modules: Iterable[nn.Module]) -> None:
        self._encoders, self._then = encoders, plain.then
        self._head = _weights([plain.head])[0]
        modules = list(modules)
        self._registries = [each for module in modules for each in (module._modules, module._parameters)]
        self._held = [each for registry in self._registries for each in registry.values()]
        self._ids = list(map(id, self._held))  # of objects that are kept alive by the line above
        self._counted = list(map(vars, modules))
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
        if plain is None:
            return None
        parts = (plain.encoder, *plain.beside)
        encoders = [_NumpyEncoder.of(part) for part in parts]
        known = [encoder for encoder in encoders if encoder is not None]
        if len(known) < len(encoders) or not _is_known(plain.head):
            return None
        return cls(plain, known, (network, *(module for part in parts for module in part.modules()), plain.head))

    def holds(self) -> bool:
        """Whether the network still is what it was: nothing in it exchanged or added, no hook on it."""
        if any(self._hooks) or [id(each) for registry in self._registries for each in registry.values()] != self._ids:
            return False
        return list(map(len, self._counted)) == self._counts and all(encoder.holds() for encoder in self._encoders)

    def __call__(self, obs: Array) -> Array:
        return self._outputs(self._encoders[0].forward(obs))

    def step(self, obs: Array, memory: Array) -> tuple[Array, Array]:
        """Of a network that remembers `[N, M]`: outputs, and what it remembers then."""
        features, after, first = [], [], 0
        for encoder in self._encoders:
            assert encoder.step is not None
            own = memory[:, first : first + encoder.memory_size]
            found, then = encoder.step(encoder.forward(obs), own)
            features.append(found)
            after.append(then)
            first += encoder.memory_size
        return self._outputs(features[0]), after[0] if len(after) == 1 else np.concatenate(after, 1)

    def _outputs(self, features: Array) -> Array:
        outputs: Array = features @ self._head[0]
        outputs += self._head[1]
        return outputs if self._then is None else self._then(outputs)


def _is_patched(module: nn.Module) -> bool:
    """Whether more happens when it is called than its class says: a hook, or a method of its own."""
    if module._forward_hooks or module._forward_pre_hooks:
        return True
    return any(callable(getattr(type(module), name, None)) for name in vars(module))


def _is_known(part: nn.Module) -> bool:
    """Whether numpy can stand in for it: its class is one of those it knows, nothing else happens, it is on the CPU."""
    known = type(part) in _KNOWN and not _is_patched(part)
    return known and not (isinstance(part, nn.Linear) and (part.bias is None or part.weight.device.type != "cpu"))


def _weights(layers: Iterable[nn.Linear]) -> list[tuple[Array, Array]]:
    """Weights `[inputs, outputs]` and biases of layers: their own memory, which follows every change made in place."""
    return [(layer.weight.detach().numpy().T, layer.bias.detach().numpy()) for layer in layers]


def numpy_features(encoder: nn.Module) -> Callable[[Array], Array] | None:
    """`encoder` as a function of arrays `[N, ...]`, for vector observations, normalised or not, tanh or relu, on the CPU.

    Returns:
        The function, giving `[N, size]` float32; None for networks it does not cover: also where a part is of a class of its
        own, or has a hook.
    """
    if not all(map(_is_known, encoder.modules())):
        return None
    normalizer = None
    if isinstance(encoder, NormalizedFeatures):
        normalizer, encoder = encoder.normalizer, encoder.body
        if not normalizer.is_float or not normalizer.mean.ndim:
            return None  # whole numbers, and numbers without an axis, are not what `rows` takes
    if not isinstance(encoder, Encoder):
        return None
    activation = _ACTIVATIONS.get(encoder.mlp.activation)
    if not encoder.is_vector or activation is None:
        return None
    layers = _weights(encoder.mlp.layers)

    def forward(obs: Array) -> Array:
        features = obs if obs.ndim == 2 else obs.reshape(len(obs), -1)
        if normalizer is not None:
            features = normalizer.rows(features)
        elif features.dtype != np.float32:
            features = features.astype(np.float32)
        for weight, bias in layers:
            features = features @ weight
            features += bias
            features = activation(features)
        return features

    return forward
