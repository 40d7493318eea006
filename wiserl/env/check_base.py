"""What `wiserl check-env` tries with an env of either kind: seeds, steps, goals."""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium.utils.env_checker import data_equivalence

from wiserl.core.goals import is_goal_env
from wiserl.core.spec import EnvSpec
from wiserl.env.check_continuing import can_continue
from wiserl.env.check_goals import goal_problem
from wiserl.env.check_masks import MaskCheck
from wiserl.env.check_values import Findings
from wiserl.env.goal_reward import GoalReward
from wiserl.env.make import EnvLike
from wiserl.env.rows import read_spec
from wiserl.util.errors import InputError

_STEPS = 300
_SECONDS = 3.0
_SAME_STEPS = 20
_SEED_FIX = "draw all random numbers from self.np_random, seeded by super().reset(seed=seed)"


class Stop(Exception):
    """Nothing more can be tried: a call raised or returned something that cannot be read on."""


class Checker(Findings, ABC):
    """What both kinds of env share; subclasses make one call of each kind and check what it returned."""

    def __init__(self, env: Any) -> None:
        super().__init__()
        self.env = env
        self.random = np.random.default_rng(0)
        self._has_goals = False
        self.masks = MaskCheck(self.say)
        self._goal_steps: list[tuple[Any, Any, Any]] = []  # achieved, desired, reward

    def run(self, name: EnvLike, kwargs: Mapping[str, Any]) -> None:
        if not self.check_spaces():
            return
        try:
            spec = read_spec(self.env, name)
        except InputError as error:
            self.say("spec", str(error), "see docs/architecture.md for what an env may be")
            return
        self._has_goals = is_goal_env(spec)
        try:
            self._check_seed()
            self._check_steps()
            self._check_continuing(name, kwargs)
            if self._has_goals:
                self._check_goals(spec, GoalReward(name, kwargs))
        except Stop:
            pass

    @abstractmethod
    def check_spaces(self) -> bool:
        """Check the env's spaces; whether they can be read at all."""

    @abstractmethod
    def reset(self, seed: int | None) -> Any:
        """Reset and check; what was observed."""

    @abstractmethod
    def step(self, action: Any) -> tuple[Any, bool]:
        """Step and check; what was observed (all that a seed should fix), and whether the episode is over."""

    @abstractmethod
    def random_action(self) -> Any:
        """An action as the env's step takes it."""

    def call(self, what: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the env; an exception is a problem that ends the check."""
        try:
            return function(*args, **kwargs)
        except Exception as error:
            last = error.__traceback__
            while last is not None and last.tb_next is not None:
                last = last.tb_next
            where = f" at {last.tb_frame.f_code.co_filename}:{last.tb_lineno}" if last else ""
            fix = "make it run; `python -m pdb` stops where it was raised"
            if "seed" in str(error) and isinstance(error, TypeError):
                fix = "give it the signature reset(self, *, seed=None, options=None)"
            self.say(what, f"{what} raised {type(error).__name__}: {error}{where}", fix)
            raise Stop from error

    def note_step(self, obs: Any, reward: Any) -> None:
        """Keep the goals of a step that was checked, where the env has goals."""
        if self._has_goals and isinstance(obs, Mapping):
            self._goal_steps.append(copy.deepcopy((obs.get("achieved_goal"), obs.get("desired_goal"), reward)))

    def _check_goals(self, spec: EnvSpec, reward: GoalReward) -> None:
        if any(key.startswith(("observation", "reward")) for key in self.problems):
            return  # What was observed or earned is wrong by itself.
        problem = self.call("compute_reward", goal_problem, spec, reward, self._goal_steps)
        if problem is not None:
            self.say("goals", problem.what, problem.fix)

    def _check_continuing(self, name: EnvLike, kwargs: Mapping[str, Any]) -> None:
        """A new copy of the env must be able to get to where this one is, as in a resumed run."""
        if self.problems:
            return  # What is wrong in one copy would be found again in two.
        if not self.call("an episode repeated in a new copy of the env", can_continue, name, kwargs):
            self.say(
                "continue",
                "a new copy of the env, given the seed and actions of an episode, came to another observation: a resumed run "
                "cannot continue its episodes exactly, it begins new ones",
                "let reset(seed=...) set all that an episode depends on: nothing from earlier episodes, the clock or the process",
            )

    def _check_seed(self) -> None:
        """Two episodes with one seed and the same actions must not differ."""
        first = copy.deepcopy(self.reset(0))
        actions: list[Any] = []
        steps = self._episode(actions, _SAME_STEPS)
        if self.problems:
            return  # A NaN differs from itself: comparing would blame the seed.
        if not _same(first, self.reset(0)):
            self.say("seed", "two resets with one seed gave different observations", _SEED_FIX)
        elif not _same(steps, self._episode(actions)):
            self.say("seed", "two episodes with one seed and the same actions differ", _SEED_FIX)

    def _episode(self, actions: list[Any], more: int = 0) -> list[Any]:
        """What is observed under these actions and `more` random ones, which are appended to them."""
        seen = []
        for number in range(len(actions) + more):
            if number == len(actions):
                actions.append(self.random_action())
            observed, over = self.step(copy.deepcopy(actions[number]))
            seen.append(copy.deepcopy(observed))
            if over:
                break
        return seen

    def _check_steps(self) -> None:
        self.reset(1)
        deadline = time.monotonic() + _SECONDS
        for _ in range(_STEPS):
            _, over = self.step(self.random_action())
            if over:
                self.reset(None)
            if time.monotonic() > deadline:
                break


def _same(first: Any, second: Any) -> bool:
    return bool(data_equivalence(first, second, exact=True))


def shape_of(value: Any) -> str:
    """What a call returned, short enough for a line."""
    if isinstance(value, tuple):
        return f"{len(value)} values ({', '.join(type(item).__name__ for item in value)})"
    return f"a {type(value).__name__}"
