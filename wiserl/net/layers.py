"""A network from a list of layers, each a dict: `{"type": "linear", "in_features": 4, "out_features": 128}`."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from wiserl.core.spaces import child_spaces, leaf_spaces
from wiserl.core.tree import Nested, tree_leaves
from wiserl.net.encoder import Features, flat_leaf
from wiserl.net.images import ImageInput, is_image
from wiserl.util.errors import InputError, nearest
from wiserl.util.option_files import read_file


class Normalize(nn.Module):
    """Divides by `max`, the largest value that comes in: 255 for pixels."""

    def __init__(self, max: float) -> None:  # noqa: A002  (the name that files have)
        super().__init__()
        if isinstance(max, bool) or not isinstance(max, int | float) or not 0 < max < math.inf:
            raise ValueError(f"max={max!r}: expected a number above 0")
        self.max = max

    def forward(self, values: Tensor) -> Tensor:
        return values / self.max


LAYERS: dict[str, type[nn.Module]] = {
    "adaptive_avgpool2d": nn.AdaptiveAvgPool2d,
    "adaptive_maxpool2d": nn.AdaptiveMaxPool2d,
    "avgpool1d": nn.AvgPool1d,
    "avgpool2d": nn.AvgPool2d,
    "celu": nn.CELU,
    "conv1d": nn.Conv1d,
    "conv2d": nn.Conv2d,
    "conv3d": nn.Conv3d,
    "elu": nn.ELU,
    "flatten": nn.Flatten,
    "gelu": nn.GELU,
    "group_norm": nn.GroupNorm,
    "hardswish": nn.Hardswish,
    "hardtanh": nn.Hardtanh,
    "identity": nn.Identity,
    "layer_norm": nn.LayerNorm,
    "leaky_relu": nn.LeakyReLU,
    "linear": nn.Linear,
    "maxpool1d": nn.MaxPool1d,
    "maxpool2d": nn.MaxPool2d,
    "mish": nn.Mish,
    "normalize": Normalize,
    "prelu": nn.PReLU,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "tanh": nn.Tanh,
    "unflatten": nn.Unflatten,
    "zero_pad2d": nn.ZeroPad2d,
}
"""Layers by the name in a file; underscores may be added or left out."""

_BATCHES = "acting and learning see other batches, and both are training"
_REFUSED = {
    "batchnorm1d": f"{_BATCHES}: use layer_norm or group_norm",
    "batchnorm2d": f"{_BATCHES}: use group_norm",
    "dropout": f"{_BATCHES}: it would drop features while acting, too",
    "lstm": "a layer has no memory: use net=rnn, cnn_rnn or lstm_cnn",
    "gru": "a layer has no memory: use net=rnn or cnn_rnn with cell=gru",
    "rnn": "a layer has no memory: use net=rnn or cnn_rnn",
    "softmax": "outputs of a policy are made probabilities by what is on top of this network",
}
_BY_PLAIN_NAME = {name.replace("_", ""): name for name in LAYERS}
# Tensors are float32 on the learner's device; what is done in place would be done to the replay's observations.
_NOT_OFFERED = ("self", "args", "kwargs", "device", "dtype", "inplace", "return_indices")
_ROWS = 3

Layer = Mapping[str, Any]


def read_layers(path: str | Path) -> list[dict[str, Any]]:
    """The list of layers in a JSON or YAML file.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    loaded = read_file(path, "network file")
    if not isinstance(loaded, list):
        raise InputError(f"network file '{path}' holds a {type(loaded).__name__}: expected {_EXPECTED}")
    for index, layer in enumerate(loaded):
        _check_layer(index, layer)
    return loaded


_EXPECTED = 'a list of layers such as {"type": "linear", "in_features": 4, "out_features": 128}'


def _check_layer(index: int, layer: object) -> str:
    """The name in `LAYERS` of a layer's type."""
    if not isinstance(layer, Mapping) or not isinstance(layer.get("type"), str):
        raise InputError(f"layer {index} of the network is {layer!r}: expected {_EXPECTED}")
    plain = layer["type"].replace("_", "").lower()
    if plain in _REFUSED:
        raise InputError(f"layer {index} of the network, {layer['type']}, is not offered: {_REFUSED[plain]}")
    if plain not in _BY_PLAIN_NAME:
        raise InputError(
            f"layer {index} of the network has an unknown type '{layer['type']}': {nearest(layer['type'], LAYERS)}"
        )
    return _BY_PLAIN_NAME[plain]


def make_layer(index: int, layer: Layer) -> nn.Module:
    """The module of one layer.

    Raises:
        InputError: its type is not in `LAYERS`, or its other entries are not what that takes; `index` is named.
    """
    name = _check_layer(index, layer)
    parameters = inspect.signature(LAYERS[name].__init__).parameters
    offered = {key: parameter for key, parameter in parameters.items() if key not in _NOT_OFFERED}
    given = {key: _as_tuples(value) for key, value in layer.items() if key != "type"}
    for key in given:
        if key not in offered:
            valid = nearest(str(key), offered) if offered else "it takes none"
            raise InputError(f"layer {index} ({name}) has no argument '{key}': {valid}")
    missing = [key for key, parameter in offered.items() if parameter.default is parameter.empty and key not in given]
    if missing:
        raise InputError(
            f"layer {index} ({name}) lacks {', '.join(missing)}: expected {name} with {', '.join(offered)}"
        )
    try:
        return LAYERS[name](**given)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        shown = ", ".join(f"{key}={value!r}" for key, value in given.items())
        raise InputError(f"layer {index} ({name}) cannot be made of {shown}: {_line(error)}") from error


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


class _Rows(nn.Module):
    """The input of the first layer: `[N, *shape]` float32.

    An image is `[N, C, H, W]`, whatever the order of the env; what counts or chooses is one-hot; the entries of a Dict or Tuple
    are side by side.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        super().__init__()
        children = child_spaces(space)
        self.names = None if children is None else [name for name, _, _ in children]
        self.shape: tuple[int, ...]
        if children is not None:
            if any(is_image(leaf) for _, leaf in leaf_spaces(space)):
                raise InputError(
                    f"a list of layers cannot encode {space}: it has an image among other entries, which need networks of their "
                    "own; use net=auto, cnn or impala_cnn, or network= with a class of your own"
                )
            parts = [_Rows(child) for _, _, child in children]
            self.parts = nn.ModuleList(parts)
            self.shape = (sum(math.prod(part.shape) for part in parts),)
            return
        self.image = ImageInput(space) if isinstance(space, spaces.Box) and is_image(space) else None
        self.flat = flat_leaf(space)
        if self.image is not None:
            self.shape = self.image.shape
        elif isinstance(space, spaces.Box | spaces.MultiBinary) and space.shape:
            self.shape = tuple(space.shape)
        else:
            self.shape = (int(self.flat.size),)  # type: ignore[arg-type]

    def forward(self, obs: Nested) -> Tensor:
        if self.names is not None:
            values = [part(obs[name]).flatten(1) for name, part in zip(self.names, self.parts, strict=True)]
            return torch.cat(values, 1)
        if self.image is not None:
            return self.image.channels_first(obs).float()
        flat: Tensor = self.flat(obs)
        return flat.view(-1, *self.shape)


class LayerNetwork(Features):
    """Features of an observation by a list of layers, one after the other.

    Args:
        space: observation space of one agent.
        layers: a dict each: `type`, a key of `LAYERS`, and the arguments of that layer.

    Raises:
        InputError: a layer cannot be made, or does not fit what comes in; its index and type are named.
    """

    def __init__(self, space: spaces.Space[Any], layers: Sequence[Layer]) -> None:
        super().__init__()
        if not layers:
            raise InputError(f"the list of layers is empty: expected {_EXPECTED}")
        self.rows = _Rows(space)
        modules = [make_layer(index, layer) for index, layer in enumerate(layers)]
        self.layers = nn.Sequential(*modules)
        names = [_check_layer(index, layer) for index, layer in enumerate(layers)]
        values, source = torch.zeros(_ROWS, *self.rows.shape), f"the observation ({space})"
        for index, (name, module) in enumerate(zip(names, modules, strict=True)):
            values = _through(module, values, f"layer {index} ({name})", source)
            source = f"layer {index} ({name})"
        if values.ndim != 2:
            raise InputError(
                f"{source} is the last of the network and gives {_shape(values)} of each observation: expected features in one "
                "axis; add a flatten layer at the end"
            )
        self.size = values.shape[1]

    def forward(self, obs: Nested) -> Tensor:
        """`[N, size]`."""
        rows = tree_leaves(obs)[0][1]
        if not len(rows):  # not every layer takes nothing
            return torch.zeros(0, self.size, dtype=torch.float32, device=rows.device)
        features: Tensor = self.layers(self.rows(obs))
        return features


def _through(module: nn.Module, values: Tensor, what: str, source: str) -> Tensor:
    """The output of a layer for rows of zeros."""
    axes = _axes(module)
    problem = ""
    if axes is None or values.ndim == axes + 1:
        try:
            with torch.no_grad():
                after = module(values)
            if isinstance(after, Tensor) and after.ndim > 1 and len(after) == _ROWS:
                return after
            problem = " (it would mix rows of a batch)"
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            problem = f" ({_line(error)})"
    raise InputError(
        f"{what} does not fit: from {source} comes {_shape(values)} of each observation, expected {_expected_shape(module)}{problem}"
    )


def _shape(values: Tensor) -> str:
    return str(list(values.shape[1:]))


def _axes(module: nn.Module) -> int | None:
    """Axes of what a layer takes of each row, where it would take the rows of a batch for one of them otherwise."""
    kind = type(module).__name__.lower()
    return int(kind[-2]) + 1 if kind.endswith(("1d", "2d", "3d")) else None


def _expected_shape(module: nn.Module) -> str:
    sides = ("height", "width", "depth")[: (_axes(module) or 1) - 1]
    if isinstance(module, nn.Linear):
        return f"in_features={module.in_features} numbers on the last axis"
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return f"[in_channels={module.in_channels}, {', '.join(sides)}], at least as large as the kernel"
    if isinstance(module, nn.LayerNorm):
        return f"normalized_shape={list(module.normalized_shape)} on the last axes"
    if isinstance(module, nn.GroupNorm):
        return f"[num_channels={module.num_channels}, ...]"
    return f"[channels, {', '.join(sides)}]" if sides else f"what {module} takes"
