"""The built-in algorithms, by the name the command line uses."""

from __future__ import annotations

import importlib

from wiserl.core.algorithm import Algorithm
from wiserl.util.errors import InputError, nearest

_WHERE = {"ddpg": "DDPG", "dqn": "DQN", "ppo": "PPO", "sac": "SAC", "td3": "TD3"}


def algorithm_names() -> list[str]:
    """Names of all algorithms."""
    return sorted(_WHERE)


def algorithm_class(name: str) -> type[Algorithm]:
    """The class of an algorithm.

    Raises:
        InputError: there is none of that name; the message has the nearest.
    """
    if name not in _WHERE:
        raise InputError(f"unknown algorithm '{name}': {nearest(name, _WHERE)}")
    found: type[Algorithm] = getattr(importlib.import_module(f"wiserl.agent.{name}"), _WHERE[name])
    return found
