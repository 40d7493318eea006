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
    try:
        here = os.getcwd()
    except FileNotFoundError:  # the folder is gone: what is installed can be imported still
        return importlib.import_module(name)
    if here not in sys.path:
        sys.path.append(here)
    # First for what is named, as with `python -m`. Anything else there that has the name of an installed module is not run.
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(here)


def import_object(name: str) -> object:
    """What `module:path.to.it` names.

    Raises:
        ModuleNotFoundError, ValueError, AttributeError: there is no such module, or it has no such thing.
    """
    module, _, path = name.partition(":")
    return functools.reduce(getattr, path.split("."), import_module(module))
