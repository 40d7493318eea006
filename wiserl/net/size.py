"""A bound on the size of networks that are built from a description in a file."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from wiserl.util.errors import InputError


@contextlib.contextmanager
def parameters_up_to(numbers: int) -> Iterator[None]:
    """Within it, this thread makes no parameter of more numbers than that: it ends before its memory is touched.

    Raises:
        InputError: a larger one was asked for.
    """
    thread = threading.get_ident()

    def check(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and parameter.numel() > numbers and threading.get_ident() == thread:
            raise InputError(
                f"a network with a {type(module).__name__} of {list(parameter.shape)} is described, but there are {numbers} weights in all"
            )

    hook = register_module_parameter_registration_hook(check)
    try:
        yield
    finally:
        hook.remove()
