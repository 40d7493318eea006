"""What `reset` and `step` of an env returned, besides observations: checked each time it is not plainly right.

The common case (a float, a bool, a dict) is told by its type alone, where the step is made. What is not that comes here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from wiserl.util.errors import EnvError

log = logging.getLogger("wiserl")

NUMBERS = frozenset({float, np.float64, np.float32})
"""Types of a reward that need no second look."""

Step = tuple[Any, Any, Any, Any, Any]


def close_env(env: Any, who: str) -> None:
    """Close an env. What it raises then is told and costs nothing: what was learned does not depend on it."""
    try:
        env.close()
    except Exception as error:
        log.warning("%s raised %s in close(): %s", who, type(error).__name__, error)


def reset_parts(given: Any, who: str) -> tuple[Any, Any]:
    """Observation and info of `reset`, or of all agents.

    Raises:
        EnvError: it gave something else.
    """
    if isinstance(given, tuple | list) and len(given) == 2:
        return given[0], given[1]
    raise EnvError(f"{who} returned {_kind(given)}; expected (observation, info): return obs, {{}}")


def step_parts(given: Any, who: str) -> Step:
    """The five parts that `step` returned.

    Raises:
        EnvError: it gave something else.
    """
    if isinstance(given, tuple | list) and len(given) == 5:
        return given[0], given[1], given[2], given[3], given[4]
    raise EnvError(
        f"{who} returned {_kind(given)}; expected (observation, reward, terminated, truncated, info): the old `done` is "
        "terminated or truncated"
    )


def read_reward(given: Any, who: str) -> float:
    """A reward as a float: of a number, or of an array that holds one.

    Raises:
        EnvError: it is none.
    """
    number = given if type(given) in NUMBERS else _single(given, "biuf")
    if number is None:
        raise EnvError(f"{who} gave the reward {_shown(given)}; expected one number: return float(reward)")
    return float(number)


def read_flag(name: str, given: Any, who: str) -> bool:
    """`terminated` or `truncated` as a bool: of a bool, of 0 or 1, or of an array that holds one of these.

    Raises:
        EnvError: it is something else, which Python might well take for true (a text, say).
    """
    if type(given) is bool or type(given) is np.bool_:
        return bool(given)
    flag = _single(given, "biuf")
    if flag is None or flag not in (0, 1):
        raise EnvError(f"{who} gave {name} = {_shown(given)}; expected a bool: return bool({name})")
    return bool(flag)


def read_info(given: Any, who: str) -> Mapping[str, Any]:
    """An info; nothing (None) counts as an empty one.

    Raises:
        EnvError: it is no dict.
    """
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return given
    raise EnvError(f"{who} gave the info {_shown(given)}; expected a dict, {{}} where there is nothing to say")


def check_dicts(parts: tuple[Any, ...], names: tuple[str, ...], who: str) -> None:
    """Check that each part of what a parallel env returned is a dict.

    Raises:
        EnvError: naming the first that is none.
    """
    for name, part in zip(names, parts, strict=True):
        if not isinstance(part, Mapping):
            raise EnvError(f"{who} gave {_shown(part)} as {name}; expected a dict by agent")


def of_agent(part: Mapping[str, Any], name: str, agent: str, who: str) -> Any:
    """The entry of an agent that acted.

    Raises:
        EnvError: there is none.
    """
    try:
        return part[agent]
    except KeyError:
        has = ", ".join(map(str, part)) or "none"
        raise EnvError(
            f"{who} gave no {name} of agent {agent}, which acted; it gave those of {has}. Return one for each agent that acted, "
            "also when it has just ended"
        ) from None


def _single(given: Any, kinds: str) -> Any:
    """The one number that this is or holds; None if it is something else."""
    if isinstance(given, str | bytes):
        return None
    try:
        array = np.asarray(given)
    except Exception:  # whatever making an array of it raises: it is no number
        return None
    return array.item() if array.size == 1 and array.dtype.kind in kinds else None


def _shown(given: Any) -> str:
    text = repr(given)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(given).__name__})"


def _kind(given: Any) -> str:
    if isinstance(given, tuple | list):
        return f"{len(given)} values ({', '.join(type(item).__name__ for item in given)})"
    return f"a {type(given).__name__}"
