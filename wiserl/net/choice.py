"""Which network encodes observations: by name, from a list of layers, or the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from gymnasium import spaces

from wiserl.core.config import ConfigType, PositiveInt, option
from wiserl.core.spaces import leaf_spaces
from wiserl.net.encoder import Encoder, Features, FlatPixels, MakeImageNetwork
from wiserl.net.images import ImageInput, ImpalaCNN, NatureCNN, is_image
from wiserl.net.layers import LayerNetwork, read_layers
from wiserl.net.normalize import NormalizedFeatures, ObservationNormalizer
from wiserl.net.own import OwnNetwork, network_name
from wiserl.net.recurrent import Cell, RecurrentEncoder
from wiserl.util.errors import InputError, nearest
from wiserl.util.plain import plain

Activation: TypeAlias = Literal["tanh", "relu", "elu", "gelu", "silu"]
Net: TypeAlias = str | list[dict[str, Any]]
"""A network as a configuration keeps it: a key of `KINDS`, a list of layers, or `module:Class` of a user's own."""


@dataclass(frozen=True)
class Kind:
    """A network that has a name.

    Attributes:
        images: makes the networks of images.
        needs_image: whether an observation without an image is refused.
        recurrent: whether there is a memory on top.
    """

    images: MakeImageNetwork
    needs_image: bool = False
    recurrent: bool = False


KINDS = {
    "auto": Kind(NatureCNN),
    "mlp": Kind(FlatPixels),
    "cnn": Kind(NatureCNN, needs_image=True),
    "impala_cnn": Kind(ImpalaCNN, needs_image=True),
    "rnn": Kind(FlatPixels, recurrent=True),
    "cnn_rnn": Kind(NatureCNN, needs_image=True, recurrent=True),
    "lstm_cnn": Kind(NatureCNN, needs_image=True, recurrent=True),
}


@dataclass(frozen=True)
class NetworkConfig(metaclass=ConfigType):
    """What every algorithm's networks are made of. A subclass may have other defaults.

    `net` may be given as a file or a class as well (see `as_net`); what is kept can be saved, and opened without either file.

    Raises:
        InputError: a network that there is not, or a file that holds none.
    """

    net: Net = option("auto", "auto, mlp, cnn, impala_cnn, rnn, cnn_rnn, lstm_cnn, FILE.json or .yaml, or module:Class")
    cell: Cell = option("lstm", "of rnn and cnn_rnn")
    memory_units: PositiveInt = option(64, "of rnn, cnn_rnn and lstm_cnn: features that come out of the memory")
    hidden_sizes: tuple[PositiveInt, ...] = option((64, 64), "widths of each network (on top of a CNN: none)")
    activation: Activation = option("tanh", "after each hidden layer")

    def __post_init__(self) -> None:
        object.__setattr__(self, "net", as_net(self.net))
        if self.net == "lstm_cnn" and self.cell != "lstm":
            raise InputError(
                f"net=lstm_cnn with cell={self.cell}: its cell is an LSTM; use net=cnn_rnn with cell={self.cell}"
            )


def as_net(given: Net | Path | Callable[..., Any]) -> Net:
    """A network as it is kept: names stay, a file becomes its list of layers, a class or function `module:Class`.

    Raises:
        InputError: there is no such network or file, or the class cannot be found by its name.
    """
    if callable(given):
        return network_name(given)
    if isinstance(given, Path) or (isinstance(given, str) and given.endswith((".json", ".yaml", ".yml"))):
        return read_layers(given)
    if isinstance(given, str) and given not in KINDS and ":" not in given:
        raise InputError(
            f"unknown network '{given}': {nearest(given, KINDS)}; or a file of layers (.json, .yaml), or module:Class of your own"
        )
    return plain(given, "net") if isinstance(given, list | tuple) else given


def with_net(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with what is given as `network` (or `net`) as `net`, in the form in which it is kept.

    Raises:
        InputError: as `as_net`, or both are given.
    """
    options = dict(options)
    network = options.pop("network", None)
    if network is not None and options.get("net") is not None:
        raise InputError(f"network={network!r} and net={options['net']!r}: both name the network; give one of them")
    net = network if network is not None else options.get("net")
    if net is not None:
        options["net"] = as_net(net)
    return options


def is_recurrent(net: Net) -> bool:
    """Whether a network has memory."""
    return isinstance(net, str) and net in KINDS and KINDS[net].recurrent


def make_encoder(
    space: spaces.Space[Any], config: NetworkConfig, hidden_sizes: Sequence[int] | None = None,
    normalizer: ObservationNormalizer | None = None,
) -> Features:  # fmt: skip
    """The network that a configuration asks for, from observations of a space to features.

    Args:
        space: observation space of one agent.
        config: which one, its sizes and activation.
        hidden_sizes: instead of those of the configuration.
        normalizer: of the observations that the network is given; None: they stay as they are. Networks that are to have the
            same statistics are given the same one.

    Raises:
        InputError: it does not fit the space.
    """
    if normalizer is not None:
        return NormalizedFeatures(normalizer, make_encoder(space, config, hidden_sizes))
    net, sizes = config.net, config.hidden_sizes if hidden_sizes is None else hidden_sizes
    if not isinstance(net, str):
        return LayerNetwork(space, net)
    if net not in KINDS:
        return OwnNetwork(space, net)
    kind = KINDS[net]
    if kind.needs_image:
        _check_images(space, net, kind)
    body = Encoder(space, sizes, config.activation, kind.images)
    return RecurrentEncoder(body, config.cell, config.memory_units) if kind.recurrent else body


def _check_images(space: spaces.Space[Any], net: str, kind: Kind) -> None:
    images = [leaf for _, leaf in leaf_spaces(space) if isinstance(leaf, spaces.Box) and is_image(leaf)]
    without = "rnn" if kind.recurrent else "mlp"
    if not images:
        raise InputError(
            f"net={net} cannot encode {space}: it needs an image, a Box of three axes (one of them the channels) or, of uint8 "
            f"pixels up to 255, of two or four; use net={without}"
            + ("" if kind.recurrent else ", or auto, which goes by the space")
        )
    for image in images:
        channels, height, width = ImageInput(image).shape
        if kind.images is NatureCNN and min(height, width) < NatureCNN.MIN_SIDE:
            raise InputError(
                f"net={net} cannot encode {space}: its images have {height}×{width} pixels and {channels} channels, expected "
                f"{NatureCNN.MIN_SIDE}×{NatureCNN.MIN_SIDE} or more; use net={without}"
                + ("" if kind.recurrent else ", or impala_cnn, which takes any size")
            )
