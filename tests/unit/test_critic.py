"""Q-functions: their values by hand, what they share and what not, and the shapes for every kind of space."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from tests.fragments import make_spec
from wiserl.net.critic import Critics, DiscreteCritics

IMAGE = spaces.Box(0, 255, (10, 10, 1), np.uint8)


def box(*shape: int) -> spaces.Box:
    return spaces.Box(-1.0, 1.0, shape, np.float32)


def set_linear(layer: nn.Module, weight: list[list[float]], bias: list[float]) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))


def test_values_are_those_computed_by_hand():
    """One observation, two entries of an action, one hidden unit with a relu each."""
    critics = Critics(make_spec(box(1), box(2)), 2, (1,), "relu")
    first, second = critics.mlps
    set_linear(first.layers[0], [[1.0, 2.0, -1.0]], [0.5])
    set_linear(second.layers[0], [[-1.0, 0.0, 1.0]], [0.0])
    set_linear(critics.heads[0], [[2.0]], [1.0])
    set_linear(critics.heads[1], [[-3.0]], [0.25])
    obs, action = torch.tensor([[1.0], [-2.0]]), torch.tensor([[0.5, 0.25], [0.0, 1.0]])
    # First: 1 + 1 - 0.25 + 0.5 = 2.25, and below 0 the relu's 0. Second: -1 + 0.25 below 0, and 2 + 1 = 3.
    assert critics(obs, action).tolist() == [[2 * 2.25 + 1, 0.25], [1.0, -3 * 3 + 0.25]]
    assert critics.first(obs, action).tolist() == [5.5, 1.0]


def test_discrete_values_are_those_computed_by_hand():
    critics = DiscreteCritics(make_spec(box(2), spaces.Discrete(3)), 2, (), "relu")
    set_linear(critics.heads[0], [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [0.0, 0.0, 0.5])
    set_linear(critics.heads[1], [[0.0, 0.0], [2.0, 0.0], [0.0, 0.0]], [7.0, 0.0, 8.0])
    values = critics(torch.tensor([[1.0, 2.0]]))
    assert values.tolist() == [[[1.0, 7.0], [2.0, 2.0], [3.5, 8.0]]]  # [N, n, count]


@pytest.mark.parametrize("action", [box(), box(1), box(3), box(2, 2)])
@pytest.mark.parametrize(
    "observation",
    [box(3), box(2, 2), spaces.Discrete(3), IMAGE, spaces.Dict({"image": IMAGE, "flag": spaces.MultiBinary(2)})],
)
def test_every_kind_of_observation_and_shape_of_action_has_a_value(observation, action):
    spec = make_spec(observation, action)
    critics = Critics(spec, 2, (8,), "tanh")
    obs = observation.sample()
    obs = {k: torch.as_tensor(v)[None] for k, v in obs.items()} if isinstance(obs, dict) else torch.as_tensor(obs)[None]
    act = torch.as_tensor(action.sample())[None]
    values = critics(obs, act)
    assert values.shape == (1, 2)
    assert torch.equal(critics.first(obs, act), values[:, 0])


def test_the_q_functions_are_independent():
    critics = Critics(make_spec(box(3), box(2)), 2, (8,), "relu")
    obs, action = torch.randn(5, 3), torch.randn(5, 2)
    assert not torch.allclose(*critics(obs, action).unbind(1))
    critics(obs, action)[:, 0].sum().backward()
    first, second = critics.mlps
    assert first.layers[0].weight.grad.any()
    assert critics.heads[0].weight.grad.any()
    assert not second.layers[0].weight.grad.any()
    assert not critics.heads[1].weight.grad.any()


@pytest.mark.parametrize("kind", [Critics, DiscreteCritics])
def test_an_images_convolutions_are_shared(kind):
    spec = make_spec(IMAGE, box(2) if kind is Critics else spaces.Discrete(2))
    one, two = kind(spec, 1, (8,), "relu"), kind(spec, 2, (8,), "relu")
    own = sum(parameter.numel() for parameter in [*one.mlps.parameters(), *one.heads.parameters()])
    sizes = [sum(parameter.numel() for parameter in critics.parameters()) for critics in (one, two)]
    assert sizes[1] - sizes[0] == own < sizes[0] / 2
