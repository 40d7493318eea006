"""Importing what users name."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from types import ModuleType


def import_module(name: str) -> ModuleType:
    """The module of that name, installed or in the current folder.

    Raises:
        ModuleNotFoundError: there is none, or there can be none of such a name, as `.x` or the empty one.
    """
    if not all(name.split(".")):
        raise ModuleNotFoundError(f"no module can have the name '{name}'", name=name)
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)  # As `python -m` has it; a console script such as `wiserl` does not.
    return importlib.import_module(name)


def import_object(name: str) -> object:
    """What `module:path.to.it` names.

    Raises:
        ModuleNotFoundError, ValueError, AttributeError: there is no such module, or it has no such thing.
    """
    module, _, path = name.partition(":")
    return functools.reduce(getattr, path.split("."), import_module(module))
