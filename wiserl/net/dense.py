"""Fully connected layers on the CPU as one autograd node, each matrix product by the faster of two libraries.

PyTorch multiplies float32 matrices by MKL, which leaves AVX-512 unused on processors of other makers; oneDNN takes half of its
time for products that are large next to the price of a call. PyTorch's tanh takes eight times as long as its sigmoid, from which
it can be had. An autograd node written in Python costs as much as a layer saves, hence one for all layers. Small networks, other
devices and compiled code go the usual way.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

MIN_PRODUCTS = 2**21
"""Multiplications from which on oneDNN does a product, its price per call included: measured with batches of 32 to 2048 rows and
layers 64 to 256 wide, amid the rest of an update (alone, it pays from half of that on).
"""
MIN_TANH = 2**13
"""Values of tanh from which on the cheaper way to them pays for the node."""
_MINUS_ONE = torch.tensor(-1.0, dtype=torch.float32)

Activation: TypeAlias = Literal["none", "relu", "tanh"]
Layers: TypeAlias = Sequence[tuple[Tensor, Tensor]]


def dense(features: Tensor, layers: Layers, activation: Activation) -> Tensor:
    """`activation(features @ weight.T + bias)`, layer after layer.

    Args:
        features: `[N, inputs]`.
        layers: weight `[outputs, inputs]` and bias `[outputs]` of each.
        activation: after each.

    Returns:
        `[N, outputs of the last]`.
    """
    if not as_one_node(features, layers, activation):
        return _usual(features, layers, activation)
    if not torch.is_grad_enabled():
        return _outputs(features, layers, activation)[-1]
    result: Tensor = _Dense.apply(features, activation, *(tensor for layer in layers for tensor in layer))  # type: ignore[no-untyped-call]
    return result


def as_one_node(features: Tensor, layers: Layers, activation: Activation) -> bool:
    """Whether `dense` leaves the usual way. It depends on shapes alone, so that every run computes the same."""
    if not layers or features.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    if any(tensor.dtype != torch.float32 for tensor in (features, layers[0][0])):
        return False
    if activation == "tanh" and len(features) * sum(len(weight) for weight, _ in layers) >= MIN_TANH:
        return True
    return any(_is_large(features, weight) for weight, _ in layers) and _has_onednn()


def _usual(features: Tensor, layers: Layers, activation: Activation) -> Tensor:
    for weight, bias in layers:
        features = F.linear(features, weight, bias)
        if activation != "none":
            features = torch.relu(features) if activation == "relu" else torch.tanh(features)
    return features


def _outputs(features: Tensor, layers: Layers, activation: Activation) -> list[Tensor]:
    """The input, and the output of each layer."""
    outputs = [features]
    for weight, bias in layers:
        if _is_large(features, weight):
            # Its own relu, done on the way, makes 0 of NaN.
            features = _product(features, weight, bias, "tanh" if activation == "tanh" else "none")
            if activation == "relu":
                features.relu_()
        elif activation == "tanh":  # tanh(x) = 2 sigmoid(2 x) - 1
            features = torch.addmm(bias, features, weight.t(), beta=2, alpha=2).sigmoid_()
            torch.add(_MINUS_ONE, features, alpha=2, out=features)
        else:
            features = F.linear(features, weight, bias)
            if activation == "relu":
                features.relu_()
        outputs.append(features)
    return outputs


def _is_large(features: Tensor, weight: Tensor) -> bool:
    return len(features) * weight.numel() >= MIN_PRODUCTS


def _product(
    left: Tensor, right: Tensor, bias: Tensor | None = None, after: Literal["none", "tanh"] = "none"
) -> Tensor:
    """`left @ right.T (+ bias)`, then `after`: by oneDNN, or by PyTorch's public functions where there is none."""
    if _has_onednn():
        by_onednn: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, bias, after, [], "")
        return by_onednn
    product = F.linear(left, right, bias)
    return product.tanh_() if after == "tanh" else product


@functools.cache
def _has_onednn() -> bool:
    """Whether the kernel, which is no public one, is there and takes what it is given here."""
    row = torch.ones(1, 1, dtype=torch.float32)
    with contextlib.suppress(AttributeError, RuntimeError, TypeError):
        torch.ops.mkldnn._linear_pointwise(row, row, None, "none", [], "")
        return True
    return False


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, activation: Activation, *parameters: Tensor) -> Tensor:
        weights = parameters[::2]
        outputs = _outputs(features, list(zip(weights, parameters[1::2], strict=True)), activation)
        ctx.activation = activation
        ctx.save_for_backward(*outputs, *parameters)
        return outputs[-1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        depth = len(ctx.saved_tensors) // 3
        outputs, parameters = ctx.saved_tensors[: depth + 1], ctx.saved_tensors[depth + 1 :]
        if torch.is_grad_enabled():  # the gradient is to be differentiated again: the penalty of a gradient's size, say
            return _differentiable(ctx, gradient, outputs[0], parameters)
        weights = parameters[::2]
        of_features, _, *of_parameters = ctx.needs_input_grad
        gradients: list[Tensor | None] = []  # bias and weight of the last layer, of the one before, ...
        for index in reversed(range(depth)):
            inputs, weight = outputs[index], weights[index]
            if ctx.activation == "relu":
                gradient = torch.ops.aten.threshold_backward(gradient, outputs[index + 1], 0)
            elif ctx.activation == "tanh":
                gradient = torch.ops.aten.tanh_backward(gradient, outputs[index + 1])
            large = _is_large(inputs, weight)
            of_weight, of_bias = of_parameters[2 * index : 2 * index + 2]
            gradients.append(gradient.sum(0) if of_bias else None)
            if of_weight:
                gradients.append(_product(gradient.t(), inputs.t()) if large else gradient.t().mm(inputs))
            else:
                gradients.append(None)
            if index or of_features:
                gradient = _product(gradient, weight.t()) if large else gradient.mm(weight)
        return gradient if of_features else None, None, *reversed(gradients)


def _differentiable(
    ctx: Any, gradient: Tensor, features: Tensor, parameters: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """What `_Dense.backward` returns, as the usual layers compute it, with a graph of its own."""
    # Views stand for the tensors, so that a weight which occurs twice, or which the input was computed from, is counted once.
    features, *parameters = [tensor.view_as(tensor) for tensor in (features, *parameters)]
    output = _usual(features, list(zip(parameters[::2], parameters[1::2], strict=True)), ctx.activation)
    needed = [need for index, need in enumerate(ctx.needs_input_grad) if index != 1]
    wanted = [tensor for tensor, need in zip((features, *parameters), needed, strict=True) if need]
    found = iter(torch.autograd.grad(output, wanted, gradient, create_graph=True))
    of_features, *of_parameters = [next(found) if need else None for need in needed]
    return of_features, None, *of_parameters
