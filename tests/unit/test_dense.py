"""The linear layer by oneDNN computes what PyTorch's does, forwards and backwards, and only where it is meant to."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from wiserl.net.dense import MIN_PRODUCTS, by_onednn, linear


def layer(rows: int, inputs: int, outputs: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((rows, inputs), (outputs, inputs), (outputs,))
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", [(256, 256, 256), (1024, 16, 300), (8, 16, 4)])
def test_it_computes_what_the_usual_layer_does_and_passes_the_same_gradients(shape, relu):
    ours, usual = layer(*shape), layer(*shape)
    seen = linear(*ours, relu=relu)
    expected = torch.relu(F.linear(*usual)) if relu else F.linear(*usual)
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-4)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    (seen * weights).sum().backward()
    (expected * weights).sum().backward()
    for mine, theirs in zip(ours, usual, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-3)


def test_frozen_weights_get_no_gradient_and_pass_it_on():
    features, weight, bias = layer(256, 256, 256)
    weight.requires_grad_(False)
    bias.requires_grad_(False)
    linear(features, weight, bias, relu=True).sum().backward()
    assert weight.grad is None
    assert bias.grad is None
    assert features.grad.abs().sum() > 0


def test_it_gives_the_same_bits_each_time():
    first, second = (linear(*layer(256, 256, 256), relu=True) for _ in range(2))
    assert torch.equal(first, second)


def test_large_float32_products_on_the_cpu_go_by_onednn_and_no_others():
    rows = MIN_PRODUCTS // (64 * 64)
    features, weight, _ = layer(rows, 64, 64)
    assert by_onednn(features, weight) == torch.backends.mkldnn.is_available()
    assert not by_onednn(features[:-1], weight)
    assert not by_onednn(features.double(), weight.double())
    assert not by_onednn(features.to("meta"), weight.to("meta"))
