"""Where networks live."""

from __future__ import annotations

import re

import torch

from wiserl.util.errors import InputError


def check_device(name: str) -> str:
    """`name`, if this process has that device.

    Raises:
        InputError: it is not cpu, cuda or cuda:INDEX, or PyTorch finds no such GPU.
    """
    if not isinstance(name, str) or not re.fullmatch(r"cpu|cuda(:[0-9]{1,9})?", name):
        raise InputError(f"unknown device '{name}': expected cpu, cuda or cuda:INDEX")
    if name.startswith("cuda"):
        index, count = int(name[5:] or 0), torch.cuda.device_count() if torch.cuda.is_available() else 0
        if index >= count:
            found = f"GPUs 0 to {count - 1}" if count else "no GPU here"
            raise InputError(
                f"device '{name}' was asked for, but PyTorch finds {found}; use cpu, or one of those that are there"
            )
    return name
