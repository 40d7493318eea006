"""Finding what is wrong with an env, and saying how to mend it (`wiserl check-env`)."""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import data_equivalence

from wiserl.env.check_continuing import can_continue
from wiserl.env.check_goals import goal_problem
from wiserl.env.check_values import Findings, Problem
from wiserl.env.goals import GoalReward, is_goal_env
from wiserl.env.make import EnvLike, is_parallel, make_env
from wiserl.env.multi_agent import read_spec
from wiserl.env.spaces import ActionCodec, EnvSpec
from wiserl.util.errors import InputError

_STEPS = 300
_SECONDS = 3.0
_SAME_STEPS = 20
_SEED_MEND = "draw all random numbers from self.np_random, seeded by super().reset(seed=seed)"


def check_env(env: EnvLike, kwargs: Mapping[str, Any] | None = None) -> list[Problem]:
    """Try an env for at most 300 steps or some 3 s with random actions, and list what is wrong with it.

    Args:
        env: see `make_env`.
        kwargs: arguments of the env.

    Returns:
        the problems, one of each kind, in the order found; empty for an env that keeps its contract.

    Raises:
        InputError: the env cannot be made.
    """
    made = make_env(env, kwargs)
    checker = _ParallelChecker(made) if is_parallel(made) else _SingleChecker(made)
    try:
        checker.run(env, kwargs or {})
    finally:
        made.close()
    return list(checker.problems.values())


class _Stop(Exception):
    """Nothing more can be tried: a call raised or returned something that cannot be read on."""


class _Checker(Findings, ABC):
    """What both kinds of env share; subclasses make one call of each kind and check what it returned."""

    def __init__(self, env: Any) -> None:
        super().__init__()
        self.env = env
        self._rng = np.random.default_rng(0)
        self._has_goals = False
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
        except _Stop:
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
            mend = "make it run; `python -m pdb` stops where it was raised"
            if "seed" in str(error) and isinstance(error, TypeError):
                mend = "give it the signature reset(self, *, seed=None, options=None)"
            self.say(what, f"{what} raised {type(error).__name__}: {error}{where}", mend)
            raise _Stop from error

    def note_step(self, obs: Any, reward: Any) -> None:
        """Keep the goals of a step that was checked, where the env has goals."""
        if self._has_goals and isinstance(obs, Mapping):
            self._goal_steps.append(copy.deepcopy((obs.get("achieved_goal"), obs.get("desired_goal"), reward)))

    def _check_goals(self, spec: EnvSpec, reward: GoalReward) -> None:
        if any(key.startswith(("observation", "reward")) for key in self.problems):
            return  # What was observed or earned is wrong by itself.
        problem = self.call("compute_reward", goal_problem, spec, reward, self._goal_steps)
        if problem is not None:
            self.say("goals", problem.what, problem.mend)

    def _check_continuing(self, name: EnvLike, kwargs: Mapping[str, Any]) -> None:
        """A new copy of the env must come to where this one is: a resumed run does that."""
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
        actions = [self.random_action() for _ in range(_SAME_STEPS)]
        steps = self._episode(actions)
        if self.problems:
            return  # A NaN differs from itself: comparing would blame the seed.
        if not _same(first, self.reset(0)):
            self.say("seed", "two resets with one seed gave different observations", _SEED_MEND)
        elif not _same(steps, self._episode(actions)):
            self.say("seed", "two episodes with one seed and the same actions differ", _SEED_MEND)

    def _episode(self, actions: list[Any]) -> list[Any]:
        seen = []
        for action in actions:
            observed, over = self.step(copy.deepcopy(action))
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


class _SingleChecker(_Checker):
    """A gymnasium env."""

    def check_spaces(self) -> bool:
        self._check_render()
        observation_space = getattr(self.env, "observation_space", None)
        return self.check_space(observation_space, getattr(self.env, "action_space", None))

    def _check_render(self) -> None:
        modes = self.env.metadata.get("render_modes", [])
        mode = getattr(self.env, "render_mode", None)
        if mode is not None and mode not in modes:
            what = f"render_mode is {mode!r}, metadata['render_modes'] is {modes}"
            self.say("render", what, "list every mode in metadata['render_modes']")
        elif "rgb_array" in modes and not self.env.metadata.get("render_fps"):
            what = "metadata has render_modes and no render_fps"
            self.say("render", what, "set metadata['render_fps']: videos of `wiserl play` use it")

    def reset(self, seed: int | None) -> Any:
        when = "reset()" if seed is None else f"reset(seed={seed})"
        given = self.call(when, self.env.reset) if seed is None else self.call(when, self.env.reset, seed=seed)
        if not isinstance(given, tuple) or len(given) != 2 or not isinstance(given[1], dict):
            self.say(
                "reset", f"{when} returned {_shape_of(given)}; expected (observation, info dict)", "return obs, {}"
            )
            raise _Stop
        self._action_space: gym.Space[Any] = self.env.action_space
        self._last = given[0]
        self.check_obs(self.env.observation_space, given[0], when)
        return given[0]

    def step(self, action: Any) -> tuple[Any, bool]:
        given = self.call("step", self.env.step, action)
        if not isinstance(given, tuple) or len(given) != 5:
            what = f"step returned {_shape_of(given)}; expected (observation, reward, terminated, truncated, info)"
            self.say(
                "step", what, "return obs, reward, terminated, truncated, {}; the old `done` is terminated or truncated"
            )
            raise _Stop
        obs, reward, terminated, truncated, info = given
        self.check_obs(self.env.observation_space, obs, "step()")
        self.check_reward(reward, "step()")
        self.check_flag("terminated", terminated, "step()")
        self.check_flag("truncated", truncated, "step()")
        if not isinstance(info, dict):
            self.say(
                "info", f"info of step() is a {type(info).__name__}", "return a dict, {} when there is nothing to say"
            )
        if isinstance(obs, np.ndarray) and isinstance(self._last, np.ndarray) and np.shares_memory(obs, self._last):
            what = "two steps returned the same array: what was kept of an earlier one changes"
            self.say("alias", what, "return self._obs.copy()")
        self._last = obs
        self.note_step(obs, reward)
        return (obs, reward, terminated, truncated), bool(terminated or truncated)

    def random_action(self) -> Any:
        codec = ActionCodec(self._action_space)
        return codec.to_env(codec.random(self._rng, (1,)))[0]


class _ParallelChecker(_Checker):
    """A PettingZoo parallel env."""

    def check_spaces(self) -> bool:
        agents = getattr(self.env, "possible_agents", None)
        if not agents or len(set(agents)) != len(agents):
            mend = "set self.possible_agents in __init__ to the names of all agents that can ever act, each once"
            self.say("possible_agents", f"possible_agents is {agents!r}", mend)
            return False
        for agent in agents:
            observation_space = self._space_of("observation_space", agent)
            if not self.check_space(observation_space, self._space_of("action_space", agent), f" of agent {agent}"):
                return False
        return True

    def _space_of(self, kind: str, agent: str) -> Any:
        function = getattr(self.env, kind, None)
        try:
            space = function(agent) if callable(function) else None
        except Exception as error:
            return error
        if callable(function) and space is not function(agent):
            what = f"{kind}('{agent}') returns a new object each time"
            self.say(kind, what, "make the spaces in __init__ and return those: their random state must persist")
        return space

    def reset(self, seed: int | None) -> Any:
        when = "reset()" if seed is None else f"reset(seed={seed})"
        given = self.call(when, self.env.reset) if seed is None else self.call(when, self.env.reset, seed=seed)
        if not isinstance(given, tuple) or len(given) != 2 or not all(isinstance(item, dict) for item in given):
            what = f"{when} returned {_shape_of(given)}; expected (observations, infos), two dicts by agent"
            self.say("reset", what, "return {agent: obs}, {agent: {}}")
            raise _Stop
        if not self.env.agents:
            self.say("reset", f"env.agents is empty after {when}", "set self.agents in reset to those that act first")
            raise _Stop
        self._check_agents(given[0], when)
        return given[0]

    def _check_agents(self, obs: Mapping[str, Any], when: str) -> None:
        unknown = [agent for agent in self.env.agents if agent not in self.env.possible_agents]
        if unknown:
            what = f"env.agents has {unknown} after {when}, which possible_agents lacks"
            self.say("agents", what, "list every agent in possible_agents")
            raise _Stop
        for agent in self.env.agents:
            if agent not in obs:
                what = f"agent {agent} is in env.agents after {when} but has no observation"
                self.say("agents", what, "return an observation for each agent that acts next")
                raise _Stop
        for agent, value in obs.items():
            self.check_obs(self.env.observation_space(agent), value, f"{when}, agent {agent}")

    def step(self, action: Any) -> tuple[Any, bool]:
        acting = list(self.env.agents)
        given = self.call("step", self.env.step, {agent: action[agent] for agent in acting})
        if not isinstance(given, tuple) or len(given) != 5 or not all(isinstance(item, dict) for item in given):
            what = f"step returned {_shape_of(given)}; expected five dicts by agent"
            self.say("step", what, "return observations, rewards, terminations, truncations, infos")
            raise _Stop
        obs, rewards, terminations, truncations, _ = given
        for agent in acting:
            for name, part in (("rewards", rewards), ("terminations", terminations), ("truncations", truncations)):
                if agent not in part:
                    what = f"agent {agent} acted, but the {name} of step() lack it"
                    self.say(name, what, "return an entry for each agent that acted, also when it has just ended")
                    raise _Stop
            self.check_reward(rewards[agent], f"step(), agent {agent}")
            self.check_flag("terminated", terminations[agent], f"step(), agent {agent}")
            self.check_flag("truncated", truncations[agent], f"step(), agent {agent}")
            self._check_end(agent, bool(terminations[agent]), bool(truncations[agent]), obs)
            if agent in obs:
                self.note_step(obs[agent], rewards[agent])
        self._check_agents(obs, "step()")
        return (obs, rewards, terminations, truncations), not self.env.agents

    def _check_end(self, agent: str, terminated: bool, truncated: bool, obs: Mapping[str, Any]) -> None:
        if terminated or truncated:
            if agent in self.env.agents:
                what = f"agent {agent} ended but is still in env.agents"
                self.say("ended", what, "remove it from self.agents in the step in which it ends")
            if agent not in obs:
                what = f"agent {agent} ended without a final observation"
                self.say("final", what, "return its observation in that step: a truncated episode bootstraps from it")
        elif agent not in self.env.agents:
            what = f"agent {agent} left env.agents with neither termination nor truncation"
            self.say("left", what, "return True for it in one of the two in the step in which it leaves")

    def random_action(self) -> Any:
        return {agent: self._random(agent) for agent in self.env.possible_agents}

    def _random(self, agent: str) -> Any:
        codec = ActionCodec(self.env.action_space(agent))
        return codec.to_env(codec.random(self._rng, (1,)))[0]


def _same(first: Any, second: Any) -> bool:
    return bool(data_equivalence(first, second, exact=True))


def _shape_of(value: Any) -> str:
    """What a call returned, short enough for a line."""
    if isinstance(value, tuple):
        return f"{len(value)} values ({', '.join(type(item).__name__ for item in value)})"
    return f"a {type(value).__name__}"
