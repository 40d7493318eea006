"""The numpy path of acting gives PyTorch's values, follows its weights, and steps aside where it does not apply."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from tests.fragments import DISCRETE, make_spec
from wiserl.agent.base.algorithm import Algorithm
from wiserl.agent.catalogue import algorithm_class
from wiserl.core.config import make_config
from wiserl.net.acting import NumpyPolicy, numpy_features
from wiserl.net.encoder import Encoder
from wiserl.net.q_network import QNetwork

VECTOR = spaces.Box(-1.0, 1.0, (3, 2), np.float32)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("hidden", [(), (8,), (8, 6)])
def test_it_gives_the_networks_values_and_follows_changes_in_place(activation, hidden):
    torch.manual_seed(0)
    encoder = Encoder(VECTOR, hidden, activation)
    forward = numpy_features(encoder)
    obs = np.random.default_rng(0).standard_normal((5, 3, 2)).astype(np.float32)
    for _ in range(2):
        given = obs.copy()
        expected = encoder(torch.from_numpy(obs)).detach().numpy()
        np.testing.assert_allclose(forward(given), expected, rtol=1e-5, atol=1e-6)
        assert np.array_equal(given, obs), "the observation was written to"
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.mul_(1.5)


@pytest.mark.parametrize(
    ("space", "activation"),
    [(VECTOR, "gelu"), (spaces.Discrete(3), "tanh"), (spaces.Box(0, 255, (10, 10, 1), np.uint8), "relu")],
)
def test_it_steps_aside_for_what_it_does_not_cover(space, activation):
    encoder = Encoder(space, (8,), activation)
    assert numpy_features(encoder) is None


# ---- the network that acts is the one that learns, whatever was changed about it ----

BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
AGENTS = {
    "ppo": DISCRETE,
    "sarsa": DISCRETE,
    "dqn": DISCRETE,
    "sac": BOX,
    "sac-discrete": DISCRETE,
    "ddpg": BOX,
    "td3": BOX,
}
ALL = pytest.mark.parametrize("name", AGENTS)


def make_agent(name: str, change: Callable[[nn.Module], nn.Module | None] = lambda network: None) -> Algorithm:
    """An algorithm whose `_build` gives what `change` makes of the network (None: the network itself)."""
    base = algorithm_class(name.removesuffix("-discrete"))

    class Changed(base):
        def _build(self) -> nn.Module:
            network = super()._build()
            return change(network) or network

    config = make_config(base.config_class, {"hidden_sizes": (8,), "activation": "tanh"}, name)
    agent = Changed(spec=make_spec(action=AGENTS[name]), config=config, seed=3)
    agent.env_steps = 1000  # past random actions
    return agent


def what_acts(agent: Algorithm) -> np.ndarray:
    obs = np.random.default_rng(0).standard_normal((4, 1, 3)).astype(np.float32)
    return agent._act(obs)


def what_learns(agent: Algorithm) -> np.ndarray:
    obs = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    with torch.no_grad():
        return agent.policy(torch.from_numpy(obs)).numpy()


def assert_acts_as_it_learns(agent: Algorithm, plain: np.ndarray) -> None:
    np.testing.assert_allclose(what_acts(agent), what_learns(agent), rtol=1e-5, atol=1e-6)
    assert not np.allclose(what_acts(agent), plain), "the change makes no difference, so this test says nothing"


def as_subclass(network: nn.Module, **methods: Any) -> nn.Module:
    """The network, of a subclass with these methods."""
    network.__class__ = type("Overridden", (type(network),), methods)
    return network


@ALL
def test_the_built_in_networks_act_by_numpy(name):
    agent = make_agent(name)
    assert agent._forward is not None
    np.testing.assert_allclose(what_acts(agent), what_learns(agent), rtol=1e-5, atol=1e-6)


@ALL
def test_a_network_that_overrides_forward_acts_by_it(name):
    def change(network: nn.Module) -> nn.Module:
        known = type(network)
        return as_subclass(network, forward=lambda self, obs: -2.0 * known.forward(self, obs) + 0.5)

    assert_acts_as_it_learns(make_agent(name, change), what_acts(make_agent(name)))


@pytest.mark.parametrize("name", ["ppo", "dqn", "sarsa"])
def test_a_network_that_overrides_outputs_acts_by_it(name):
    def change(network: nn.Module) -> nn.Module:
        known = type(network)
        return as_subclass(network, outputs=lambda self, obs: -2.0 * known.outputs(self, obs) + 0.5)

    assert_acts_as_it_learns(make_agent(name, change), what_acts(make_agent(name)))


class Scaled(nn.Linear):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return 3.0 * super().forward(features) + 1.0


def the_encoder(network: nn.Module) -> Encoder:
    return network.actor_encoder if hasattr(network, "actor_encoder") else network.encoder


def with_another_head(network: nn.Module) -> None:
    for name, module in network.named_children():
        if isinstance(module, nn.Linear):
            scaled = Scaled(module.in_features, module.out_features)
            scaled.load_state_dict(module.state_dict())
            setattr(network, name, scaled)


def with_another_encoder(network: nn.Module) -> None:
    encoder = the_encoder(network)
    as_subclass(encoder, forward=lambda self, obs: 0.1 - Encoder.forward(self, obs))


def with_another_part(network: nn.Module) -> None:
    encoder = the_encoder(network)
    encoder.entry = as_subclass(encoder.entry, forward=lambda self, obs: 2.0 * obs.flatten(1))
    encoder.is_vector = False


def with_another_mlp(network: nn.Module) -> None:
    the_encoder(network).mlp = nn.Sequential(nn.Linear(3, 8), nn.Sigmoid())


def with_a_method_of_its_own(network: nn.Module) -> None:
    forward = network.forward
    network.forward = lambda obs: 0.5 - forward(obs)


def with_a_hook(network: nn.Module) -> None:
    network.register_forward_hook(lambda module, inputs, outputs: 0.5 - outputs)


def with_a_hook_before_the_encoder(network: nn.Module) -> None:
    the_encoder(network).register_forward_pre_hook(lambda module, inputs: (2.0 * inputs[0],))


CHANGES = pytest.mark.parametrize(
    "change",
    [
        with_another_head,
        with_another_encoder,
        with_another_part,
        with_another_mlp,
        with_a_method_of_its_own,
        with_a_hook,
        with_a_hook_before_the_encoder,
    ],
)


@ALL
@CHANGES
def test_a_network_with_another_part_or_a_hook_acts_by_it(name, change):
    assert_acts_as_it_learns(make_agent(name, change), what_acts(make_agent(name)))


def with_new_layers(network: nn.Module) -> None:
    layers = the_encoder(network).mlp.layers
    layers[0] = nn.Linear(3, 8)


def with_a_new_weight(network: nn.Module) -> None:
    layer = the_encoder(network).mlp.layers[0]
    layer.weight = nn.Parameter(2.0 * layer.weight.detach())


def with_another_activation(network: nn.Module) -> None:
    the_encoder(network).mlp.activation = torch.relu


@ALL
@pytest.mark.parametrize(
    "change",
    [
        with_another_head,
        with_another_mlp,
        with_a_method_of_its_own,
        with_a_hook,
        with_a_hook_before_the_encoder,
        with_new_layers,
        with_a_new_weight,
        with_another_activation,
    ],
)
def test_so_does_one_that_is_changed_after_it_was_built(name, change):
    agent = make_agent(name)
    before = what_acts(agent)
    change(agent.policy)
    assert_acts_as_it_learns(agent, before)


def test_a_stream_or_a_normaliser_that_comes_later_is_acted_by():
    agent = make_agent("dqn")
    before = what_acts(agent)
    agent.policy.value = nn.Linear(8, 1)
    assert_acts_as_it_learns(agent, before)


def test_a_subclass_may_say_again_what_it_comes_down_to():
    network = as_subclass(QNetwork(make_spec(), (8,), "tanh", False, None), plain=QNetwork.plain)
    assert NumpyPolicy.of(network) is not None
