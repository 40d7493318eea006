"""The algorithms, by the name the command line uses: the built-in ones, and a user's own as `module:Class`."""

from __future__ import annotations

import functools
import importlib
import inspect
from dataclasses import dataclass
from typing import TypeAlias

from wiserl.agent.base.algorithm import Algorithm
from wiserl.util.errors import InputError, nearest
from wiserl.util.imports import import_module


@dataclass(frozen=True)
class Algo:
    """An algorithm that was asked for and found.

    Attributes:
        name: by which it is saved and named in messages.
        algorithm: its class; where a learner runs on another machine, the name may mean nothing.
    """

    name: str
    algorithm: type[Algorithm]


AlgoLike: TypeAlias = str | type[Algorithm] | Algo
"""What names an algorithm: one of `algorithm_names`, `module:Class` of a user's own, the class itself, or what was found by it."""

_WHERE = {"ddpg": "DDPG", "dqn": "DQN", "ppo": "PPO", "qrdqn": "QRDQN", "sac": "SAC", "sarsa": "SARSA", "td3": "TD3"}


def algorithm_names() -> list[str]:
    """Names of all algorithms."""
    return sorted(_WHERE)


def find_algorithm(algo: AlgoLike) -> Algo:
    """The algorithm of that name or class.

    Raises:
        InputError: as `algorithm_class`.
    """
    if isinstance(algo, Algo):
        return algo
    algorithm = algorithm_class(algo)
    return Algo(algorithm_name(algo), algorithm)


def algorithm_name(algo: str | type[Algorithm]) -> str:
    """The name by which an algorithm is saved: a name as it is; of a class the built-in name, or `module:Class`."""
    if isinstance(algo, str):
        return algo
    return _builtin_name(algo) or f"{algo.__module__}:{algo.__qualname__}"


def algorithm_class(algo: str | type[Algorithm]) -> type[Algorithm]:
    """The class of an algorithm. One that is handed over is found by its name from then on, in this process.

    Raises:
        InputError: there is none of that name (the message has the nearest), its module cannot be imported, or what was
            given is no algorithm.
    """
    if isinstance(algo, str) and ":" not in algo:
        if algo not in _WHERE:
            raise InputError(f"unknown algorithm '{algo}': {nearest(algo, _WHERE)}")
        found: type[Algorithm] = getattr(importlib.import_module(f"wiserl.agent.{algo}"), _WHERE[algo])
        return found
    if isinstance(algo, str):
        return _given.get(algo) or _check_algorithm(_import(algo))
    if not _builtin_name(_check_algorithm(algo)):
        _given[algorithm_name(algo)] = algo
    return algo


_given: dict[str, type[Algorithm]] = {}


def _builtin_name(algorithm: type) -> str:
    module, _, name = algorithm.__module__.rpartition(".")
    return name if module == "wiserl.agent" and _WHERE.get(name) == algorithm.__qualname__ else ""


def _import(name: str) -> object:
    module, _, path = name.partition(":")
    try:
        container = import_module(module)
    except (ModuleNotFoundError, ValueError) as error:
        problem = str(error)
    else:
        try:
            return functools.reduce(getattr, path.split("."), container)
        except AttributeError as error:
            problem = str(error)
    raise InputError(
        f"algorithm '{name}' cannot be imported ({problem}): expected module:Class, with the module installed or in the "
        "current folder. A class of a script (__main__) is known in that script alone: move it to a module, or do this there"
    )


def _check_algorithm(given: object) -> type[Algorithm]:
    if not (isinstance(given, type) and issubclass(given, Algorithm)):
        raise InputError(
            f"{given!r} is no algorithm: expected a subclass of wiserl.agent.base.algorithm.Algorithm, such as "
            f"wiserl.agent.dqn.DQN. Names: {', '.join(algorithm_names())}"
        )
    if inspect.isabstract(given):
        raise InputError(f"{given.__qualname__} is incomplete: it lacks {', '.join(sorted(given.__abstractmethods__))}")
    return given
