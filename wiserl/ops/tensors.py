"""From arrays to tensors."""

from __future__ import annotations

import torch

from wiserl.core.tree import Nested


def to_tensors(tree: Nested, device: torch.device, skip_axes: int = 0) -> Nested:
    """Arrays of a nested dict as tensors on `device`, their first `skip_axes` axes joined into one."""
    if isinstance(tree, dict):
        return {key: to_tensors(value, device, skip_axes) for key, value in tree.items()}
    # What came through Ray's object store is read-only, which PyTorch does not know.
    tensor = torch.from_numpy(tree if tree.flags.writeable else tree.copy())
    if skip_axes > 1:
        tensor = tensor.flatten(0, skip_axes - 1)
    return tensor if device.type == "cpu" else tensor.to(device, non_blocking=True)
