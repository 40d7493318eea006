"""Weights on the wire: any tree of tensors and arrays as one contiguous array per dtype, and back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wiserl.core.tree import Array


@dataclass(slots=True)
class _Slot:
    """Where a leaf lies: its buffer, offset and shape (elements), and what to give back."""

    dtype: Any
    start: int
    shape: tuple[int, ...]
    is_tensor: bool


@dataclass(frozen=True)
class Packed:
    """A parameter tree, copied to the CPU: the tree with slots for its leaves, and a flat array per dtype."""

    tree: Any
    buffers: dict[Any, Array]

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(buffer.nbytes for buffer in self.buffers.values())


def walk(tree: Any, leaf: Callable[[Any], Any]) -> Any:
    """Apply `leaf` to everything in a tree of dicts, lists and tuples (named ones, too) that is none of these."""
    if isinstance(tree, dict):
        return {key: walk(value, leaf) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(walk(value, leaf) for value in tree))
    if isinstance(tree, (list, tuple)):
        return type(tree)([walk(value, leaf) for value in tree])
    return leaf(tree)


def pack(params: Any) -> Packed:
    """Copy a tree (dict, list, tuple) of tensors (any device), arrays and plain values into a `Packed`.

    bfloat16 travels as the int16 of the same bits, since numpy lacks it.
    """
    parts: dict[Any, list[Any]] = {}
    sizes: dict[Any, int] = {}

    def take(value: Any) -> Any:
        if isinstance(value, torch.nn.Module):
            value = value.state_dict()
            return walk(value, take)
        if isinstance(value, torch.Tensor):
            flat: Any = value.detach().reshape(-1)
        elif isinstance(value, np.ndarray):
            flat = value.reshape(-1)
        else:
            return value
        key = value.dtype
        slot = _Slot(key, sizes.get(key, 0), tuple(value.shape), isinstance(value, torch.Tensor))
        parts.setdefault(key, []).append(flat)
        sizes[key] = slot.start + flat.shape[0]
        return slot

    tree = walk(params, take)
    return Packed(tree, {key: _join(flats) for key, flats in parts.items()})


def _join(flats: list[Any]) -> Array:
    if isinstance(flats[0], torch.Tensor):
        # One concatenation on the weights' own device, then one copy to the CPU.
        devices = {flat.device for flat in flats}
        joined = torch.cat(flats if len(devices) == 1 else [flat.cpu() for flat in flats]).cpu()
        return (joined.view(torch.int16) if joined.dtype == torch.bfloat16 else joined).numpy()
    return np.concatenate(flats)


def unpack(packed: Packed) -> Any:
    """The tree again; tensors and arrays are views into the packed buffers, to be copied by whoever writes to them."""

    def give(value: Any) -> Any:
        if not isinstance(value, _Slot):
            return value
        buffer = packed.buffers[value.dtype]
        flat = buffer[value.start : value.start + math.prod(value.shape)]
        if not value.is_tensor:
            return flat.reshape(value.shape)
        tensor = torch.from_numpy(flat if flat.flags.writeable else flat.copy())
        if value.dtype is torch.bfloat16:
            tensor = tensor.view(torch.bfloat16)
        return tensor.reshape(value.shape)

    return walk(packed.tree, give)
