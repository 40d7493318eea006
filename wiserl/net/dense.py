"""A linear layer on the CPU by oneDNN, whose matrix product takes half of the usual one's time on processors with AVX-512.

PyTorch multiplies float32 matrices by MKL, which leaves AVX-512 unused on processors of other makers. The gain is for matrices
that are large next to the price of a call; small ones, other devices and compiled code go the usual way.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

MIN_PRODUCTS = 2**21
"""Multiplications from which on oneDNN is faster, its price per call included: measured with batches of 32 to 2048 rows and layers
64 to 256 wide.
"""
_AVAILABLE = bool(torch.backends.mkldnn.is_available()) and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call]


def linear(features: Tensor, weight: Tensor, bias: Tensor, relu: bool = False) -> Tensor:
    """`features @ weight.T + bias`, and what `torch.relu` makes of it if asked for.

    Args:
        features: `[N, inputs]`.
        weight: `[outputs, inputs]`.
        bias: `[outputs]`.
        relu: whether to apply it.

    Returns:
        `[N, outputs]`.
    """
    if by_onednn(features, weight):
        result: Tensor = _OneDNNLinear.apply(features, weight, bias, relu)  # type: ignore[no-untyped-call]
        return result
    outputs = F.linear(features, weight, bias)
    return torch.relu(outputs) if relu else outputs


def by_onednn(features: Tensor, weight: Tensor) -> bool:
    """Whether `linear` leaves this product to oneDNN. It depends on shapes alone, so that every run computes the same."""
    return (
        _AVAILABLE
        and len(features) * weight.numel() >= MIN_PRODUCTS
        and features.device.type == "cpu"
        and features.dtype == weight.dtype == torch.float32
        and not torch.compiler.is_compiling()
    )


def _product(left: Tensor, right: Tensor, bias: Tensor | None = None, after: str = "none") -> Tensor:
    """`left @ right.T (+ bias)`."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, bias, after, [], "")
    return result


class _OneDNNLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
        outputs = _product(features, weight, bias, "relu" if relu else "none")
        ctx.save_for_backward(features, weight, outputs if relu else None)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        features, weight, outputs = ctx.saved_tensors
        gradient = gradients[0]
        if outputs is not None:
            gradient = torch.ops.aten.threshold_backward(gradient, outputs, 0)
        of_features, of_weight, of_bias, _ = ctx.needs_input_grad
        return (
            _product(gradient, weight.t()) if of_features else None,
            _product(gradient.t(), features.t()) if of_weight else None,
            gradient.sum(0) if of_bias else None,
            None,
        )
