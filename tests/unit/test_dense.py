"""Layers as one autograd node compute what PyTorch's do, forwards and backwards, and only where they are meant to."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from wiserl.net.dense import MIN_PRODUCTS, MIN_TANH, _has_onednn, as_one_node, dense

LARGE = (256, 256, 256)
ACTIVATIONS = {"none": lambda features: features, "relu": torch.relu, "tanh": torch.tanh}


def network(rows: int, *sizes: int, seed: int = 0) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Features `[rows, sizes[0]]` and layers of the following sizes, each to be differentiated by."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) / shape[-1] ** 0.5).requires_grad_()

    layers = [(draw(outputs, inputs), draw(outputs)) for inputs, outputs in itertools.pairwise(sizes)]
    return draw(rows, sizes[0]), layers


def usual(features: torch.Tensor, layers: list[tuple[torch.Tensor, torch.Tensor]], activation: str) -> torch.Tensor:
    for weight, bias in layers:
        features = ACTIVATIONS[activation](F.linear(features, weight, bias))
    return features


@pytest.mark.parametrize("activation", ["none", "relu", "tanh"])
@pytest.mark.parametrize("sizes", [LARGE, (1024, 16, 300), (256, 4, 64, 64), (300, 8, 300, 16), (8, 16, 4)])
def test_it_computes_what_the_usual_layers_do_and_passes_the_same_gradients(activation, sizes):
    (features, layers), (usual_features, usual_layers) = network(*sizes), network(*sizes)
    seen = dense(features, layers, activation)
    expected = usual(usual_features, usual_layers, activation)
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(dense(features, layers, activation), seen)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    (seen * weights).sum().backward()
    (expected * weights).sum().backward()
    ours = [features, *(tensor for layer in layers for tensor in layer)]
    theirs = [usual_features, *(tensor for layer in usual_layers for tensor in layer)]
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("activation", ["none", "relu", "tanh"])
def test_without_the_private_kernel_it_computes_the_same(activation, monkeypatch):
    """Large products, which the kernel would do."""
    found = []
    for kernel in (True, False):
        if not kernel:
            monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", None)  # as when it takes other arguments
            monkeypatch.setattr("wiserl.net.dense._has_onednn", _has_onednn.__wrapped__)
            assert not _has_onednn.__wrapped__()
            monkeypatch.setattr("wiserl.net.dense.as_one_node", lambda *given: True)
        features, layers = network(256, 256, 256, 256)
        output = dense(features, layers, activation)
        output.square().sum().backward()
        found.append([output, features.grad, *(tensor.grad for layer in layers for tensor in layer)])
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-3)


def test_tanh_is_exact_where_it_is_flat_and_where_it_is_straight():
    rows = torch.tensor([[-100.0], [-1e-4], [0.0], [1e-4], [100.0]]).expand(5, MIN_TANH).reshape(-1, 1)
    layers = [(torch.ones(1, 1), torch.zeros(1))]
    assert as_one_node(rows, layers, "tanh")
    torch.testing.assert_close(dense(rows, layers, "tanh"), torch.tanh(rows), rtol=0, atol=2e-7)


@pytest.mark.parametrize("activation", ["none", "relu", "tanh"])
@pytest.mark.parametrize("sizes", [(256, 4, 64), LARGE, (256, 256, 256, 256), (8, 16, 4)])
@pytest.mark.parametrize("grad", [False, True])
def test_what_is_not_a_number_stays_so(activation, sizes, grad):
    features, layers = network(*sizes)
    with torch.no_grad():
        features[7] = float("nan")
    with torch.set_grad_enabled(grad):
        assert dense(features, layers, activation).isnan().any(1).nonzero().tolist() == [[7]]


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_weight_that_is_not_a_number_is_seen_in_the_output_and_in_the_gradients(activation):
    features, layers = network(256, 256, 256, 256)
    with torch.no_grad():
        layers[0][0][3, 5] = float("nan")
    output = dense(features, layers, activation)
    output.sum().backward()
    assert output.isnan().all()
    assert layers[1][0].grad.isnan().any()


@pytest.mark.parametrize("activation", ["none", "relu", "tanh"])
@pytest.mark.parametrize("sizes", [LARGE, (256, 256, 256, 256), (256, 4, 64, 64), (8, 16, 4)])
def test_the_size_of_a_gradient_can_be_learned_from_as_through_the_usual_layers(activation, sizes):
    """As in the penalty of Gulrajani et al. 2017, on top of a loss, with an input that itself was computed."""
    found = []
    for function in (dense, usual):
        features, layers = network(*sizes)
        inputs = 2.0 * features
        if sizes == LARGE:  # weights that occur twice, and that the input was computed from
            inputs, layers = inputs @ layers[0][0].tanh(), [*layers, layers[0]]
        output = function(inputs, layers, activation)
        weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
        wanted = [features, layers[0][0], layers[-1][1]]
        gradient, *others = torch.autograd.grad((output * weights).sum(), wanted, create_graph=True)
        loss = (gradient.norm(dim=1) - 1.0).square().mean() + output.square().mean()
        loss = loss + sum(other.square().mean() for other in others)
        loss.backward()
        tensors = [features, *(tensor for layer in layers for tensor in layer)]
        found.append((loss, [torch.zeros(()) if tensor.grad is None else tensor.grad for tensor in tensors]))
    (ours, mine), (theirs, others) = found
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    for one, other in zip(mine, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_second_derivatives_are_those_of_finite_differences(monkeypatch):
    """In double precision, where the node is used by force."""
    monkeypatch.setattr("wiserl.net.dense.as_one_node", lambda *given: True)
    monkeypatch.setattr("wiserl.net.dense._is_large", lambda *given: False)
    monkeypatch.setattr("wiserl.net.dense._MINUS_ONE", torch.tensor(-1.0, dtype=torch.float64))
    features, layers = network(3, 4, 5, 2)
    tensors = [tensor.detach().double().requires_grad_() for tensor in (features, *layers[0], *layers[1])]

    def function(features: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
        return dense(features, list(zip(given[::2], given[1::2], strict=True)), "tanh")

    assert torch.autograd.gradcheck(function, tensors)
    assert torch.autograd.gradgradcheck(function, tensors)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_frozen_weights_get_no_gradient_and_pass_it_on(activation):
    features, layers = network(256, 256, 256, 256)
    for layer in layers:
        for tensor in layer:
            tensor.requires_grad_(False)
    dense(features, layers, activation).sum().backward()
    assert all(tensor.grad is None for layer in layers for tensor in layer)
    assert features.grad.abs().sum() > 0


def test_an_input_that_needs_no_gradient_gets_none():
    features, layers = network(256, 256, 256)
    features.requires_grad_(False)
    dense(features, layers, "relu").sum().backward()
    assert features.grad is None
    assert layers[0][0].grad.abs().sum() > 0


def test_it_gives_the_same_bits_each_time():
    first, second = (dense(*network(*LARGE), "relu") for _ in range(2))
    assert torch.equal(first, second)


def test_only_large_float32_networks_on_the_cpu_leave_the_usual_way():
    rows = MIN_PRODUCTS // (64 * 64)
    features, layers = network(rows, 64, 64)
    assert as_one_node(features, layers, "relu") == torch.backends.mkldnn.is_available()
    assert not as_one_node(features[:-1], layers, "relu")
    assert as_one_node(features[: MIN_TANH // 64], layers, "tanh")
    assert not as_one_node(features[: MIN_TANH // 64 - 1], layers, "tanh")
    for moved in (torch.Tensor.double, lambda tensor: tensor.to("meta")):
        assert not as_one_node(moved(features), [(moved(weight), moved(bias)) for weight, bias in layers], "tanh")
