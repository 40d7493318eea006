"""The environment variables that are numbers. Each process reads its own; on Ray a script's are handed on to all of them."""

from __future__ import annotations

import math
import os

from wiserl.util.errors import InputError


def wait_seconds(default: float = 600.0) -> float:
    """The longest any wait for an answer lasts: what WISERL_WAIT_SECONDS says, else `default`.

    Raises:
        InputError: it is no number above 0.
    """
    return _number("WISERL_WAIT_SECONDS", default, "a number of seconds above 0, 600 say")


def num_threads() -> int:
    """PyTorch's threads in each process: what WISERL_THREADS says, else 1.

    Raises:
        InputError: it is no whole number above 0.
    """
    return int(_number("WISERL_THREADS", 1, "a whole number above 0", whole=True))


def _number(name: str, default: float, expected: str, whole: bool = False) -> float:
    given = os.environ.get(name)
    if given is None:
        return default
    try:
        value = float(int(given) if whole else float(given))
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise InputError(f"environment variable {name} is '{given}'; expected {expected}: set it so, or unset it")
    return value
