"""First weights of a network: functions of a seed, whatever else this process does with PyTorch."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

_LOCK = threading.RLock()
"""PyTorch's generator and default dtype belong to the whole process: two runs in two threads would draw from each other's seed."""


@contextlib.contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Seed PyTorch's generator for what is built inside, as float32; afterwards generator and default dtype are as they were."""
    with _LOCK, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs as well
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(default)
