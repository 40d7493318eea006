"""Checks of what an env declares and returns: spaces, observations, rewards, flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from gymnasium import spaces

from wiserl.core.actions import ACTION_KINDS, ActionCodec
from wiserl.core.spaces import LEAF_SPACES, OBSERVATION_KINDS, child_spaces, entries_problem, leaf_spaces
from wiserl.env.contract import read_flag, read_reward
from wiserl.util.errors import EnvError, InputError


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with an env.

    Attributes:
        what: what was found, with the values seen.
        fix: what to change.
    """

    what: str
    fix: str


class Findings:
    """Collects the problems of one env.

    Attributes:
        problems: by a key per kind of problem, in the order found.
    """

    def __init__(self) -> None:
        self.problems: dict[str, Problem] = {}

    def say(self, key: str, what: str, fix: str) -> None:
        """Note a problem, once per key."""
        self.problems.setdefault(key, Problem(what, fix))

    def check_space(self, space: Any, action_space: Any, whose: str = "") -> bool:
        """Check one pair of spaces; whether they are usable."""
        usable = True
        for kind, given in (("observation_space", space), ("action_space", action_space)):
            if not isinstance(given, spaces.Space):
                self.say(
                    kind, f"{kind}{whose} is {given!r}", f"set self.{kind} to a gymnasium.spaces object in __init__"
                )
                usable = False
        if not usable:
            return False
        for path, leaf in leaf_spaces(space):
            if not isinstance(leaf, LEAF_SPACES):
                entry = f" entry '{path}'" if path else ""
                fix = f"wrap the env (gymnasium.ObservationWrapper); supported: {OBSERVATION_KINDS}"
                self.say(f"observation_space {path}", f"observation_space{whose}{entry} is {leaf}", fix)
                usable = False
        if problem := entries_problem(space):
            self.say(
                "entries",
                f"observation_space{whose}: {problem}",
                "give each entry a name of its own, and one entry at least",
            )
            usable = False
        try:
            ActionCodec(action_space)
        except InputError:
            fix = f"wrap the env (gymnasium.ActionWrapper); supported: {ACTION_KINDS}"
            self.say("action_space", f"action_space{whose} is {action_space}", fix)
            usable = False
        if isinstance(action_space, spaces.Box):
            self._check_bounds(action_space, whose)
        return usable

    def _check_bounds(self, space: spaces.Box, whose: str) -> None:
        if not (np.isfinite(space.low) & np.isfinite(space.high)).all():
            self.say(
                "bounds",
                f"action_space{whose} has infinite bounds: {space}",
                "give finite low and high: actions in [-1, 1] are scaled to them, and taken as they are without",
            )
        elif (space.low >= space.high).any():
            at = tuple(int(i) for i in np.argwhere(space.low >= space.high)[0])
            what = f"action_space{whose} has low {space.low[at]} and high {space.high[at]} at entry {list(at)}"
            self.say("bounds", what, "make low smaller than high")

    def check_obs(self, space: Any, obs: Any, when: str, path: str = "") -> None:
        """Note where an observation is not what its space says."""
        entry = f"observation entry '{path}'" if path else "observation"
        children = child_spaces(space)
        if children is not None:
            self._check_entries(space, obs, f"{entry} of {when}")
            for name, key, child in children:
                if (key in obs) if isinstance(obs, Mapping) else isinstance(obs, tuple | list) and key < len(obs):
                    self.check_obs(child, obs[key], when, f"{path}.{name}" if path else name)
            return
        key = f"observation {path}"
        try:
            array = np.asarray(obs)
        except Exception as error:  # whatever making an array of it raises
            what = f"{entry} of {when} is a {type(obs).__name__} that makes no array ({type(error).__name__}: {error})"
            self.say(key, what, "return what the space says")
            return
        if isinstance(space, spaces.Box) and array.shape != space.shape:
            fix = "return that shape, or set observation_space to it"
            self.say(key, f"{entry} of {when} has shape {array.shape}, its space says {space.shape}", fix)
        elif array.dtype.kind == "f" and not np.isfinite(array).all():
            at = [int(i) for i in np.argwhere(~np.isfinite(array))[0]]
            what = f"{entry} of {when} has {array[tuple(at)]} at index {at}"
            self.say(key, what, "return finite numbers only: training stops at the first that is not")
        elif isinstance(space, spaces.Box) and not np.can_cast(array.dtype, np.dtype(space.dtype)):
            fix = f"return obs.astype(np.{space.dtype}), or set the space's dtype"
            self.say(key, f"{entry} of {when} has dtype {array.dtype}, its space says {space.dtype}", fix)
        elif isinstance(space, spaces.Box) and ((array < space.low) | (array > space.high)).any():
            at = [int(i) for i in np.argwhere((array < space.low) | (array > space.high))[0]]
            here = tuple(at)
            bounds = f"{space.low[here]} to {space.high[here]}"
            what = f"{entry} of {when} is {array[here]} at index {at}, its space says {bounds}"
            self.say(key, what, "widen low and high of the space, or clip the observation")
        elif not space.contains(obs):
            self.say(key, f"{entry} of {when} is {obs!r}, not in its space {space}", "return what the space says")

    def _check_entries(self, space: Any, obs: Any, what: str) -> None:
        if isinstance(space, spaces.Dict):
            expected: Any = sorted(map(str, space.spaces))
            given: Any = sorted(map(str, obs)) if isinstance(obs, Mapping) else f"a {type(obs).__name__}"
            if expected != given:
                fix = "return a dict with exactly the entries of observation_space"
                self.say(what, f"{what} has {given}, its space says {expected}", fix)
        elif not isinstance(obs, tuple) or len(obs) != len(space.spaces):
            given = f"{len(obs)} entries" if isinstance(obs, tuple) else f"a {type(obs).__name__}"
            fix = "return a tuple with one entry per space"
            self.say(what, f"{what} has {given}, its space is a Tuple of {len(space.spaces)}", fix)

    def check_reward(self, reward: Any, when: str) -> None:
        """Note a reward that is no finite number."""
        try:
            number = read_reward(reward, when)
        except EnvError:
            number = None
        if number is None or not (isinstance(reward, Real) or (isinstance(reward, np.ndarray) and reward.ndim == 0)):
            self.say("reward", f"reward of {when} is {reward!r} ({type(reward).__name__})", "return float(reward)")
        elif not np.isfinite(number):
            fix = "return finite rewards: training stops at the first that is not"
            self.say("reward", f"reward of {when} is {reward}", fix)

    def check_flag(self, name: str, value: Any, when: str) -> bool:
        """Note a terminated or truncated that is no bool; returns what it is taken for."""
        if not isinstance(value, bool | np.bool_):
            self.say(name, f"{name} of {when} is {value!r} ({type(value).__name__})", f"return bool({name})")
        try:
            return read_flag(name, value, when)
        except EnvError:
            return True  # the episode ends, and a new one begins
