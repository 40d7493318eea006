"""Networks from lists of layers: the same as written by hand, and what does not fit is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import yaml
from gymnasium import spaces
from torch import nn

from wiserl.net.layers import LAYERS, LayerNetwork, make_layer, read_layers
from wiserl.util.errors import InputError

VECTOR = spaces.Box(-1.0, 1.0, (4,), np.float32)
IMAGE = spaces.Box(0, 255, (36, 40, 3), np.uint8)


class ByHand(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 16), nn.Linear(16, 8)
        self.norm = nn.LayerNorm(16)

    def forward(self, obs):
        return torch.relu(self.second(torch.tanh(self.norm(self.first(obs)))))


class ImagesByHand(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 8, stride=4), nn.Conv2d(8, 4, (3, 3))
        self.last = nn.Linear(64, 8)

    def forward(self, obs):
        pixels = obs.permute(0, 3, 1, 2).float() / 255
        pixels = torch.nn.functional.max_pool2d(torch.relu(self.first(pixels)), 2)
        return self.last(
            torch.nn.functional.leaky_relu(self.second(nn.functional.pad(pixels, (1, 1, 1, 1))), 0.1).flatten(1)
        )


VECTOR_LAYERS = [
    {"type": "linear", "in_features": 4, "out_features": 16},
    {"type": "layer_norm", "normalized_shape": 16},
    {"type": "tanh"},
    {"type": "linear", "in_features": 16, "out_features": 8},
    {"type": "relu"},
]
IMAGE_LAYERS = [
    {"type": "normalize", "max": 255},
    {"type": "conv2d", "in_channels": 3, "out_channels": 8, "kernel_size": 8, "stride": 4},
    {"type": "relu"},
    {"type": "max_pool2d", "kernel_size": 2},
    {"type": "zero_pad2d", "padding": 1},
    {"type": "conv2d", "in_channels": 8, "out_channels": 4, "kernel_size": [3, 3]},
    {"type": "LeakyReLU", "negative_slope": 0.1},
    {"type": "flatten"},
    {"type": "linear", "in_features": 64, "out_features": 8},
]


def test_a_list_of_layers_is_the_network_written_by_hand_bit_for_bit():
    torch.manual_seed(0)
    network, expected = LayerNetwork(VECTOR, VECTOR_LAYERS), ByHand()
    names = ["first", "norm", "second"]
    copy_weights(expected, network, names)
    compare(network, expected, torch.randn(6, 4), names)
    assert network.size == 8


def test_an_image_goes_channels_first_through_the_network_written_by_hand():
    torch.manual_seed(0)
    network, expected = LayerNetwork(IMAGE, IMAGE_LAYERS), ImagesByHand()
    names = ["first", "second", "last"]
    copy_weights(expected, network, names)
    obs = torch.randint(0, 256, (5, *IMAGE.shape), dtype=torch.uint8)
    compare(network, expected, obs, names)
    first = LayerNetwork(spaces.Box(0, 255, (3, 36, 40), np.uint8), IMAGE_LAYERS)
    first.load_state_dict(network.state_dict())
    assert torch.equal(first(obs.permute(0, 3, 1, 2)), network(obs))


def copy_weights(hand, network, names):
    with_weights = [layer for layer in network.layers if any(True for _ in layer.parameters())]
    for name, layer in zip(names, with_weights, strict=True):
        layer.load_state_dict(getattr(hand, name).state_dict())


def compare(network, hand, obs, names):
    out, expected = network(obs), hand(obs)
    assert torch.equal(out, expected)
    out.square().sum().backward()
    expected.square().sum().backward()
    with_weights = [layer for layer in network.layers if any(True for _ in layer.parameters())]
    for name, layer in zip(names, with_weights, strict=True):
        for one, other in zip(layer.parameters(), getattr(hand, name).parameters(), strict=True):
            assert torch.equal(one.grad, other.grad)


def test_types_are_found_with_and_without_underscores():
    for name in ("maxpool2d", "max_pool2d", "MaxPool2d"):
        assert isinstance(make_layer(0, {"type": name, "kernel_size": 2}), nn.MaxPool2d)


@pytest.mark.parametrize(
    ("space", "obs", "width"),
    [
        (spaces.Box(-1.0, 1.0, (), np.float32), torch.zeros(3), 1),
        (spaces.Discrete(4), torch.tensor([0, 3, 1]), 4),
        (spaces.MultiDiscrete([2, 3]), torch.tensor([[0, 2], [1, 1], [0, 0]]), 5),
        (spaces.MultiBinary(6), torch.ones(3, 6, dtype=torch.int8), 6),
        (spaces.Dict(a=spaces.Discrete(3), b=spaces.Box(0, 1, (2, 2))), {"a": torch.tensor([0, 1, 2]), "b": torch.ones(3, 2, 2)}, 7),
        (spaces.Tuple((VECTOR, spaces.Discrete(2))), {"0": torch.ones(3, 4), "1": torch.tensor([0, 1, 1])}, 6),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, spaces.Space) else "",
)  # fmt: skip
def test_every_space_without_an_image_is_rows_of_numbers(space, obs, width):
    network = LayerNetwork(space, [{"type": "linear", "in_features": width, "out_features": 5}])
    features = network(obs)
    assert features.shape == (3, 5)
    assert features.dtype == torch.float32


def test_no_rows_are_no_features():
    network = LayerNetwork(IMAGE, [*IMAGE_LAYERS[:-2], {"type": "flatten"}])
    assert network(torch.zeros(0, *IMAGE.shape, dtype=torch.uint8)).shape == (0, network.size)


def refused(space, layers):
    with pytest.raises(InputError) as caught:
        LayerNetwork(space, layers)
    return str(caught.value)


@pytest.mark.parametrize(
    ("space", "layers", "parts"),
    [
        (VECTOR, [{"type": "linear", "in_features": 5, "out_features": 8}],
         ["layer 0 (linear)", "the observation", "[4]", "in_features=5"]),
        (VECTOR, [VECTOR_LAYERS[0], {"type": "relu"}, {"type": "linear", "in_features": 15, "out_features": 8}],
         ["layer 2 (linear)", "from layer 1 (relu) comes [16]", "in_features=15"]),
        (VECTOR, [{"type": "conv2d", "in_channels": 3, "out_channels": 8, "kernel_size": 2}],
         ["layer 0 (conv2d)", "[4]", "[in_channels=3, height, width]"]),
        # Rows of a batch must not be taken for channels.
        (spaces.Box(0, 1, (6, 6)), [{"type": "conv2d", "in_channels": 3, "out_channels": 8, "kernel_size": 2}],
         ["layer 0 (conv2d)", "[6, 6]", "[in_channels=3, height, width]"]),
        (IMAGE, [{"type": "conv2d", "in_channels": 4, "out_channels": 8, "kernel_size": 2}], ["[3, 36, 40]", "in_channels=4"]),
        (IMAGE, [{"type": "maxpool2d", "kernel_size": 8}, {"type": "conv2d", "in_channels": 3, "out_channels": 8, "kernel_size": 6}],
         ["layer 1 (conv2d)", "from layer 0 (maxpool2d) comes [3, 4, 5]", "Kernel size"]),
        (VECTOR, [{"type": "layer_norm", "normalized_shape": [5]}], ["layer 0 (layer_norm)", "normalized_shape=[5]"]),
        (VECTOR, [{"type": "flatten", "start_dim": 0}], ["layer 0 (flatten)", "mix rows"]),
        (IMAGE, [{"type": "relu"}], ["layer 0 (relu) is the last", "[3, 36, 40]", "flatten"]),
        (VECTOR, [], ["empty", "in_features"]),
        (VECTOR, [{"type": "liner"}], ["layer 0", "unknown type 'liner'", "did you mean 'linear'?"]),
        (VECTOR, [{"type": "relu"}, {"type": "dropout", "p": 0.5}], ["layer 1", "dropout", "while acting"]),
        (VECTOR, [{"type": "lstm"}], ["layer 0", "net=rnn"]),
        (VECTOR, [{"kind": "relu"}], ["layer 0", "'kind': 'relu'", "expected a list of layers"]),
        (VECTOR, [{"type": "linear", "in_feature": 4, "out_features": 8}],
         ["layer 0 (linear)", "no argument 'in_feature'", "did you mean 'in_features'?"]),
        (VECTOR, [{"type": "linear", "in_features": 4}], ["layer 0 (linear) lacks out_features"]),
        (VECTOR, [{"type": "linear", "in_features": 4, "out_features": "wide"}], ["layer 0 (linear)", "out_features='wide'"]),
        (VECTOR, [{"type": "relu", "inplace": True}], ["layer 0 (relu)", "'inplace'", "takes none"]),
        (VECTOR, [{"type": "normalize", "max": 0}], ["layer 0 (normalize)", "above 0"]),
        (spaces.Dict(image=IMAGE, more=VECTOR), [{"type": "flatten"}], ["an image among other entries", "network="]),
        (spaces.Text(3), [{"type": "flatten"}], ["Text is not supported"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(space, layers, parts):
    message = refused(space, layers)
    for part in parts:
        assert part in message, message


def test_files_are_json_or_yaml(tmp_path):
    (tmp_path / "net.json").write_text(json.dumps(VECTOR_LAYERS), encoding="utf-8")
    (tmp_path / "net.yaml").write_text(yaml.safe_dump(VECTOR_LAYERS), encoding="utf-8")
    assert read_layers(tmp_path / "net.json") == VECTOR_LAYERS == read_layers(tmp_path / "net.yaml")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (None, ["cannot be read", "No such file"]),
        ("[1", ["neither YAML nor JSON"]),
        ('{"type": "relu"}', ["holds a dict", "a list of layers"]),
        ('["relu"]', ["layer 0", "'relu'", "a list of layers"]),
        ('[{"type": "relux"}]', ["layer 0", "did you mean"]),
    ],
)
def test_a_file_that_is_no_network_is_refused(text, parts, tmp_path):
    path = tmp_path / "net.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_layers(path)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_says_what_it_lacks_or_can_be_made(name):
    try:
        layer = make_layer(0, {"type": name})
    except InputError as error:
        assert f"layer 0 ({name}) lacks " in str(error)  # noqa: PT017
    else:
        assert type(layer) is LAYERS[name]
