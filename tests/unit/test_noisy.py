"""Noisy layers: what their weights are, when they are noisy, and that nothing of the noise stays behind."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from tests.fragments import random_obs
from wiserl.net.encoder import MLP, Encoder
from wiserl.net.noisy import Noise, NoisyLinear, make_noisy
from wiserl.net.optim import FlatAdam, TrainedNetwork, flatten_parameters


class Fixed(np.random.Generator):
    """A generator whose normals are given."""

    def __init__(self, *values: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.values = np.array(values, np.float32)

    def standard_normal(self, size: int, dtype: type) -> np.ndarray:
        assert (size, dtype) == (len(self.values), np.float32)
        return self.values


def noisy_mlp(sigma0: float = 0.5) -> MLP:
    torch.manual_seed(0)
    mlp = MLP([3, 5, 2], "relu")
    make_noisy(mlp, sigma0)
    return mlp


def test_weights_are_the_means_plus_scaled_factorised_noise_computed_by_hand():
    plain = nn.Linear(2, 1)
    with torch.no_grad():
        plain.weight.copy_(torch.tensor([[1.0, 2.0]]))
        plain.bias.fill_(3.0)
    layer = NoisyLinear(plain, sigma0=0.5 * math.sqrt(2))  # scales of 0.5
    with Noise(layer).draw(Fixed(4.0, -9.0, 16.0)):  # f(x) = sign(x) sqrt|x|: inputs 2 and -3, output 4
        assert layer.weight.tolist() == [[1 + 0.5 * 8, 2 - 0.5 * 12]]
        assert layer.bias.tolist() == [3 + 0.5 * 4]
        assert layer(torch.tensor([[1.0, 1.0]])).item() == 5 - 4 + 5
    assert layer(torch.tensor([[1.0, 1.0]])).item() == 6


def test_scales_start_at_sigma0_over_the_root_of_the_inputs_and_means_where_the_plain_layer_did():
    plain = nn.Linear(16, 3)
    means = [plain.weight.detach().clone(), plain.bias.detach().clone()]
    layer = NoisyLinear(plain, 0.5)
    assert torch.equal(layer.weight_mean, means[0])
    assert torch.equal(layer.bias_mean, means[1])
    assert layer.weight_mean.abs().max() <= 0.25
    assert set(layer.weight_scale.flatten().tolist()) == set(layer.bias_scale.tolist()) == {0.125}


def test_noise_has_the_spread_of_a_product_of_two_factors():
    layer = NoisyLinear(nn.Linear(1, 1), 1.0)
    noise, rng = Noise(layer), np.random.default_rng(0)
    drawn = []
    for _ in range(4000):
        with noise.draw(rng):
            drawn.append([(layer.weight - layer.weight_mean).item(), (layer.bias - layer.bias_mean).item()])
    weight, bias = np.array(drawn).T
    assert weight.std() == pytest.approx(math.sqrt(2 / math.pi), rel=0.05)  # E f(x)^2 = E|x|
    assert bias.std() == pytest.approx((2 / math.pi) ** 0.25, rel=0.05)
    assert abs(weight.mean()) < 0.05


def test_every_linear_layer_becomes_noisy_and_no_other():
    space = spaces.Dict({"image": spaces.Box(0, 255, (8, 8, 3), np.uint8), "more": spaces.Discrete(2)})
    encoder = Encoder(space, (8,), "relu")
    obs = {"image": torch.zeros(2, 8, 8, 3, dtype=torch.uint8), "more": torch.tensor([0, 1])}
    before, linear = encoder(obs), sum(isinstance(layer, nn.Linear) for layer in encoder.modules())
    make_noisy(encoder, 0.5)
    found = [type(layer) for layer in encoder.modules()]
    assert linear == 3  # of the image, of the entry beside it, on top of both
    assert found.count(NoisyLinear) == 3
    assert nn.Linear not in found
    assert nn.Conv2d in found
    assert torch.equal(encoder(obs), before)
    with Noise(encoder).draw(np.random.default_rng(0)):
        assert not torch.equal(encoder(obs), before)


def test_outside_of_a_draw_the_means_speak_whatever_happened_inside():
    mlp = noisy_mlp()
    obs = torch.ones(4, 3)
    means, noise, rng = mlp(obs), Noise(mlp), np.random.default_rng(0)
    with noise.draw(rng):
        first = mlp(obs)
    second = []

    def fail_within() -> None:
        with torch.inference_mode(), noise.draw(rng):
            second.append(mlp(obs))
            raise KeyError

    with pytest.raises(KeyError):
        fail_within()
    assert not torch.equal(first, means)
    assert not torch.equal(first, second[0])
    assert torch.equal(first[0], first[1])  # one draw for all rows
    assert torch.equal(mlp(obs), means)
    assert all(layer.noise is None for layer in mlp.layers)
    with noise.draw(None):
        assert torch.equal(mlp(obs), means)


@pytest.mark.parametrize("make", [np.random.default_rng, lambda seed: torch.Generator().manual_seed(seed)])
def test_equal_generators_draw_equal_noise(make):
    mlp, obs = noisy_mlp(), torch.ones(1, 3)
    outputs = []
    for seed in (1, 1, 2):
        with Noise(mlp).draw(make(seed)):
            outputs.append(mlp(obs).tolist())
    assert outputs[0] == outputs[1] != outputs[2]


def test_a_network_without_noisy_layers_draws_nothing():
    mlp, rng = MLP([3, 2], "relu"), np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    before = [rng.bit_generator.state, generator.get_state()]
    with Noise(mlp).draw(rng), Noise(mlp).draw(generator):
        mlp(torch.ones(1, 3))
    assert rng.bit_generator.state == before[0]
    assert torch.equal(generator.get_state(), before[1])


def test_noise_is_neither_a_parameter_nor_a_buffer():
    mlp = noisy_mlp()
    with Noise(mlp).draw(np.random.default_rng(0)):
        names = set(mlp.state_dict())
        assert not dict(mlp.named_buffers())
    assert names == {
        f"layers.{i}.{what}_{part}" for i in (0, 1) for what in ("weight", "bias") for part in ("mean", "scale")
    }


def test_the_gradient_reaches_means_and_scales_and_an_optimiser_moves_both():
    mlp = noisy_mlp()
    flat = flatten_parameters(mlp)
    before, optimizer = flat.detach().clone(), FlatAdam(mlp, flat, 0.1)
    with Noise(mlp).draw(np.random.default_rng(0)):
        loss = mlp(torch.ones(4, 3)).square().sum() + 1.0
    optimizer.step(loss, 0.1)  # after the draw: the graph keeps it
    last = mlp.layers[1]
    for parameter in (last.weight_mean, last.weight_scale, last.bias_mean, last.bias_scale):
        assert parameter.grad.abs().max() > 0.0
    assert not torch.equal(flat.detach(), before)
    assert mlp.layers[0].weight_mean.data_ptr() == flat.data_ptr()  # views into the flat parameters, still


def test_copies_have_weights_and_noise_of_their_own():
    mlp = noisy_mlp()
    network = TrainedNetwork(mlp, flatten_parameters(mlp), 0.1, math.inf)
    obs = torch.ones(1, 3)
    means = mlp(obs)
    with Noise(network.target).draw(np.random.default_rng(0)):
        assert torch.equal(mlp(obs), means)
        assert torch.equal(network.frozen(obs), means)
        assert not torch.equal(network.target(obs), means)
    with Noise(mlp).draw(np.random.default_rng(0)):
        copied = copy.deepcopy(mlp)
        assert torch.equal(network.target(obs), means)
    with torch.no_grad():
        mlp.layers[1].bias_mean.add_(1.0)
    assert torch.equal(network.frozen(obs), mlp(obs))
    assert torch.equal(network.target(obs), means)
    assert not torch.equal(copied(obs), mlp(obs))


@pytest.mark.parametrize(
    "space", [spaces.Discrete(3), spaces.MultiBinary(2), spaces.Box(0, 255, (10, 10, 1), np.uint8)]
)
def test_it_works_on_every_kind_of_observation(space):
    encoder = Encoder(space, (8,), "tanh")
    make_noisy(encoder, 0.5)
    obs = torch.from_numpy(random_obs(space, (2,), np.random.default_rng(0)))
    with Noise(encoder).draw(np.random.default_rng(0)):
        assert encoder(obs).shape == (2, encoder.size)


def test_a_compiled_function_takes_each_draw_and_is_compiled_once():
    mlp, obs = noisy_mlp(), torch.ones(4, 3)
    noise, graphs = Noise(mlp), []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(mlp.forward, backend=backend)
    for seed in range(3):
        with noise.draw(np.random.default_rng(seed)):
            torch.testing.assert_close(compiled(obs), mlp(obs))
    assert len(graphs) == 1
