"""Importing what users name."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType


def import_module(name: str) -> ModuleType:
    """The module of that name, installed or in the current folder.

    Raises:
        ModuleNotFoundError, ValueError: as `importlib.import_module`.
    """
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)  # As `python -m` has it; a console script such as `wiserl` does not.
    return importlib.import_module(name)
