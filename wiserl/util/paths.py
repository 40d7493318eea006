"""Paths that callers give."""

from __future__ import annotations

import os
from pathlib import Path

from wiserl.util.errors import InputError


def as_path(given: object, name: str, instead: str = "") -> Path:
    """What was given for the argument `name`, as a path.

    Args:
        given: text, or an object that stands for a path.
        name: of the argument, for messages.
        instead: what else it may be, for messages.

    Raises:
        InputError: it is neither, is empty, or cannot be looked at (too long a name, a link to itself, no permission).
    """
    text = os.fspath(given) if isinstance(given, os.PathLike) else given
    if not isinstance(text, str) or not text:
        raise InputError(f"{name}={given!r} is not valid: expected a path{f', {instead}' if instead else ''}")
    try:
        Path(text).stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # whether it is to be there, the caller knows
    except (OSError, ValueError) as error:
        raise InputError(f"{name}={text} cannot be opened: {getattr(error, 'strerror', None) or error}") from None
    return Path(text)
