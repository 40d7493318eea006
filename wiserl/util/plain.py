"""Plain values: numbers, text, booleans, None, and lists and mappings of them. They can be saved as JSON, and read back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, NoReturn

import numpy as np

from wiserl.util.errors import InputError

MAX_DEPTH = 32
MAX_VALUES = 1_000_000


def plain(value: Any, name: str) -> Any:
    """`value` as plain values, in new containers; tuples stay tuples.

    A scalar of numpy becomes a number and a path text. All else would come back from a checkpoint as another thing, or not be
    saved at all, and is refused.

    Args:
        value: what was given.
        name: of the value, for messages; of what is inside, `name.key` and `name[3]`.

    Raises:
        InputError: it cannot be saved, a key is no text, or it is nested too deep or holds itself.
    """
    return _plain(value, name, 0, iter(range(MAX_VALUES)))


def _plain(value: Any, name: str, depth: int, left: Iterator[int]) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, bool | int | float | str) and not isinstance(value, Enum | np.generic)):
        return value
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
        return value if isinstance(value, str) else _refuse(value, name)
    if not isinstance(value, Mapping | list | tuple):
        _refuse(value, name)
    if depth == MAX_DEPTH:
        raise InputError(f"{_short(name)} is nested more than {MAX_DEPTH} deep, or holds itself: expected plain values")
    if isinstance(value, Mapping):
        found = {}
        for key, item in value.items():
            if not isinstance(key, str) or isinstance(key, Enum):
                raise InputError(
                    f"{_short(name)} has the key {_short(repr(key))}, which is no text but {_kind(key)}: write it in quotes "
                    "(YAML reads on, off, yes and no without them as true and false)"
                )
            _count(left, name)
            found[str(key)] = _plain(item, f"{name}.{key}", depth + 1, left)
        return found
    items = []
    for index, item in enumerate(value):
        _count(left, name)
        items.append(_plain(item, f"{name}[{index}]", depth + 1, left))
    return tuple(items) if isinstance(value, tuple) else items


def _count(left: Iterator[int], name: str) -> None:
    if next(left, None) is None:
        raise InputError(
            f"{_short(name)} holds more than {MAX_VALUES:,} values: expected a few options; put data in a file"
        )


def _refuse(value: Any, name: str) -> NoReturn:
    raise InputError(
        f"{_short(name)} is {_short(repr(value))}, {_kind(value)}, which cannot be saved with the run: give a number, text, boolean, "
        "None, list or mapping, and let the env make the rest of it"
    )


def _kind(value: Any) -> str:
    kind = type(value)
    return f"a {kind.__qualname__}" if kind.__module__ == "builtins" else f"a {kind.__module__}.{kind.__qualname__}"


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."
