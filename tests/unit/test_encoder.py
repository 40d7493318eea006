"""Encoders: every observation space becomes features of the stated size, each entry by its own kind of network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from tests.fragments import random_obs
from wiserl.net.acting import numpy_features
from wiserl.net.encoder import ACTIVATIONS, MLP, Encoder, orthogonal_
from wiserl.net.images import NatureCNN, is_image
from wiserl.ops.tensors import to_tensors
from wiserl.util.errors import InputError

VECTOR = spaces.Box(-1.0, 1.0, (3,), np.float32)
SPACES = {
    "vector": VECTOR,
    "float64 vector": spaces.Box(-1.0, 1.0, (3,), np.float64),
    "integers": spaces.Box(-5, 5, (2, 2), np.int64),
    "scalar": spaces.Box(-1.0, 1.0, (), np.float32),
    "discrete": spaces.Discrete(4, start=3),
    "multi-discrete": spaces.MultiDiscrete([2, 3]),
    "table of choices": spaces.MultiDiscrete([[2, 3], [2, 2]]),
    "bits": spaces.MultiBinary([2, 2]),
    "image": spaces.Box(0, 255, (40, 36, 3), np.uint8),
    "channels first": spaces.Box(0, 255, (4, 84, 84), np.uint8),
    "small image": spaces.Box(0, 255, (10, 10, 1), np.uint8),
    "one channel": spaces.Box(0, 255, (84, 84), np.uint8),
    "stack of images": spaces.Box(0, 255, (3, 40, 36, 3), np.uint8),
    "tiny image": spaces.Box(0.0, 1.0, (4, 4, 2), np.float32),
    "tuple": spaces.Tuple((VECTOR, spaces.Discrete(2))),
    "nested": spaces.Dict(
        {
            "image": spaces.Box(0, 255, (12, 12, 1), np.uint8),
            "more": spaces.Dict({"x": VECTOR, "n": spaces.Discrete(2)}),
        }
    ),
    # Names that a torch module has itself, or cannot have.
    "awkward names": spaces.Dict(
        {"type": VECTOR, "values": VECTOR, "training": VECTOR, "arm.left": VECTOR, "": VECTOR}
    ),
}


@pytest.mark.parametrize("name", SPACES)
def test_every_space_becomes_finite_features_of_the_stated_size(name):
    torch.manual_seed(0)
    encoder = Encoder(SPACES[name], (8, 5), "tanh")
    for rows in (4, 0):  # no episode may have ended in a fragment: no final observations
        obs = to_tensors(random_obs(SPACES[name], (rows,), np.random.default_rng(0)), torch.device("cpu"))
        features = encoder(obs)
        assert features.shape == (rows, encoder.size)
        assert features.dtype == torch.float32
        assert features.isfinite().all()
    assert encoder.size == (512 if is_image(SPACES[name]) else 5)


@pytest.mark.parametrize("name", SPACES)
def test_every_entry_of_an_observation_matters(name):
    """No part of the observation is dropped on the way: the gradient reaches it, or changing it changes the features."""
    torch.manual_seed(0)
    encoder, rng = Encoder(SPACES[name], (64,), "tanh"), np.random.default_rng(0)
    obs = to_tensors(random_obs(SPACES[name], (3,), rng), torch.device("cpu"))
    before = encoder(obs)

    def entries(tree):
        return [leaf for value in tree.values() for leaf in entries(value)] if isinstance(tree, dict) else [tree]

    for leaf in entries(obs):
        kept = leaf.clone()
        leaf.copy_(1 - kept if not leaf.is_floating_point() else kept + 1)
        assert not torch.equal(encoder(obs), before)
        leaf.copy_(kept)


def test_pixels_are_scaled_to_one_and_channels_are_found_on_either_side():
    last, first = (NatureCNN(spaces.Box(0, 255, shape, np.uint8)) for shape in ((84, 84, 4), (4, 84, 84)))
    first.load_state_dict(last.state_dict())
    image = torch.randint(0, 256, (2, 84, 84, 4), dtype=torch.uint8)
    torch.testing.assert_close(last(image), first(image.permute(0, 3, 1, 2)))
    unit = NatureCNN(spaces.Box(0.0, 1.0, (84, 84, 4), np.float32))
    unit.load_state_dict(last.state_dict())
    torch.testing.assert_close(last(image), unit(image / 255.0))


def test_a_stack_of_images_is_one_image_of_all_their_channels():
    stack, joined = (NatureCNN(spaces.Box(0, 255, shape, np.uint8)) for shape in ((2, 40, 36, 3), (6, 40, 36)))
    joined.load_state_dict(stack.state_dict())
    images = torch.randint(0, 256, (5, 2, 40, 36, 3), dtype=torch.uint8)
    torch.testing.assert_close(stack(images), joined(images.permute(0, 1, 4, 2, 3).reshape(5, 6, 40, 36)))
    plain = NatureCNN(spaces.Box(0, 255, (40, 36), np.uint8))
    assert plain(images[:, 0, :, :, 0]).shape == (5, 512)


@pytest.mark.parametrize("space", [spaces.Box(0, 2, (16, 17), np.uint8), spaces.Box(0, 255, (6, 7), np.uint8)], ids=str)
def test_boards_are_no_images(space):
    assert not is_image(space)
    assert Encoder(space, (8, 5), "tanh").size == 5


def test_discrete_entries_are_one_hot():
    encoder = Encoder(spaces.MultiDiscrete([2, 3]), (), "tanh")
    assert encoder(torch.tensor([[1, 2], [0, 0]])).tolist() == [[0, 1, 0, 0, 1], [1, 0, 1, 0, 0]]


def test_the_nature_cnn_has_the_published_layers():
    layers = [m for m in NatureCNN(spaces.Box(0, 255, (84, 84, 4), np.uint8)).modules() if isinstance(m, nn.Conv2d)]
    assert [(m.out_channels, m.kernel_size[0], m.stride[0]) for m in layers] == [(32, 8, 4), (64, 4, 2), (64, 3, 1)]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_mlp_has_the_sizes_and_activations_asked_for(activation):
    network, rows = MLP([2, 3, 4], activation), torch.randn(5, 2)
    first, second = network.layers
    expected = ACTIVATIONS[activation](second(ACTIVATIONS[activation](first(rows))))
    assert (network.size, expected.shape) == (4, (5, 4))
    torch.testing.assert_close(network(rows), expected)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_numpy_acting_is_the_network_and_follows_its_weights(activation):
    encoder = Encoder(spaces.Box(-1, 1, (3,)), (8, 8), activation)
    forward = numpy_features(encoder)
    rows = torch.randn(5, 3)
    with torch.no_grad():
        for _ in range(2):
            np.testing.assert_allclose(forward(rows.numpy()), encoder(rows).numpy(), rtol=1e-5, atol=1e-6)
            for parameter in encoder.parameters():
                parameter.mul_(1.5)


@pytest.mark.parametrize(
    "space", [spaces.Discrete(3), spaces.Box(0, 255, (8, 8, 3), np.uint8), spaces.Dict(a=spaces.Box(0, 1))]
)
def test_numpy_acting_leaves_other_networks_to_torch(space):
    encoder = Encoder(space, (8,), "tanh")
    assert numpy_features(encoder) is None


def test_orthogonal_weights_have_the_gain_and_no_bias():
    layer = nn.Linear(4, 4)
    orthogonal_(layer, 0.5)
    torch.testing.assert_close(layer.weight @ layer.weight.T, 0.25 * torch.eye(4))
    assert not layer.bias.any()


def test_an_unsupported_space_is_refused_with_those_that_are():
    with pytest.raises(InputError, match="Text is not supported; supported: Box, Discrete"):
        Encoder(spaces.Dict({"words": spaces.Text(3)}), (8,), "tanh")
