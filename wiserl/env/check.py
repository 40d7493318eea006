"""Finding what is wrong with an env, and saying how to fix it (`wiserl check-env`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from wiserl.core.actions import ActionCodec
from wiserl.env.check_base import Checker, Stop, shape_of
from wiserl.env.check_values import Problem
from wiserl.env.make import EnvLike, is_parallel, make_env


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


class _SingleChecker(Checker):
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
            self.say("reset", f"{when} returned {shape_of(given)}; expected (observation, info dict)", "return obs, {}")
            raise Stop
        self._action_space: gym.Space[Any] = self.env.action_space
        self._last = given[0]
        self.check_obs(self.env.observation_space, given[0], when)
        self.masks.look("", self._action_space, *given, when)
        return given[0]

    def step(self, action: Any) -> tuple[Any, bool]:
        given = self.call("step", self.env.step, action)
        if not isinstance(given, tuple) or len(given) != 5:
            what = f"step returned {shape_of(given)}; expected (observation, reward, terminated, truncated, info)"
            self.say(
                "step", what, "return obs, reward, terminated, truncated, {}; the old `done` is terminated or truncated"
            )
            raise Stop
        obs, reward, terminated, truncated, info = given
        self.check_obs(self.env.observation_space, obs, "step()")
        self.check_reward(reward, "step()")
        terminated = self.check_flag("terminated", terminated, "step()")
        truncated = self.check_flag("truncated", truncated, "step()")
        if not isinstance(info, dict):
            self.say(
                "info", f"info of step() is a {type(info).__name__}", "return a dict, {} when there is nothing to say"
            )
        if isinstance(obs, np.ndarray) and isinstance(self._last, np.ndarray) and np.shares_memory(obs, self._last):
            what = "two steps returned the same array: what was kept of an earlier one changes"
            self.say("alias", what, "return self._obs.copy()")
        self._last = obs
        self.masks.look("", self._action_space, obs, info, "step()", acts=not terminated)
        self.note_step(obs, reward)
        return (obs, reward, terminated, truncated), terminated or truncated

    def random_action(self) -> Any:
        return _random_action(self, self._action_space, "")


class _ParallelChecker(Checker):
    """A PettingZoo parallel env."""

    def check_spaces(self) -> bool:
        agents = getattr(self.env, "possible_agents", None)
        if not agents or len(set(agents)) != len(agents):
            fix = "set self.possible_agents in __init__ to the names of all agents that can ever act, each once"
            self.say("possible_agents", f"possible_agents is {agents!r}", fix)
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
            what = f"{when} returned {shape_of(given)}; expected (observations, infos), two dicts by agent"
            self.say("reset", what, "return {agent: obs}, {agent: {}}")
            raise Stop
        if not self.env.agents:
            self.say("reset", f"env.agents is empty after {when}", "set self.agents in reset to those that act first")
            raise Stop
        self._check_agents(given[0], when)
        for agent in self.env.agents:
            self.masks.look(
                agent, self.env.action_space(agent), given[0][agent], given[1].get(agent), f"{when}, agent {agent}"
            )
        return given[0]

    def _check_agents(self, obs: Mapping[str, Any], when: str) -> None:
        unknown = [agent for agent in self.env.agents if agent not in self.env.possible_agents]
        if unknown:
            what = f"env.agents has {unknown} after {when}, which possible_agents lacks"
            self.say("agents", what, "list every agent in possible_agents")
            raise Stop
        for agent in self.env.agents:
            if agent not in obs:
                what = f"agent {agent} is in env.agents after {when} but has no observation"
                self.say("agents", what, "return an observation for each agent that acts next")
                raise Stop
        for agent, value in obs.items():
            self.check_obs(self.env.observation_space(agent), value, f"{when}, agent {agent}")

    def step(self, action: Any) -> tuple[Any, bool]:
        acting = list(self.env.agents)
        given = self.call("step", self.env.step, {agent: action[agent] for agent in acting})
        if not isinstance(given, tuple) or len(given) != 5 or not all(isinstance(item, dict) for item in given):
            what = f"step returned {shape_of(given)}; expected five dicts by agent"
            self.say("step", what, "return observations, rewards, terminations, truncations, infos")
            raise Stop
        obs, rewards, terminations, truncations, infos = given
        for agent in acting:
            for name, part in (("rewards", rewards), ("terminations", terminations), ("truncations", truncations)):
                if agent not in part:
                    what = f"agent {agent} acted, but the {name} of step() lack it"
                    self.say(name, what, "return an entry for each agent that acted, also when it has just ended")
                    raise Stop
            self.check_reward(rewards[agent], f"step(), agent {agent}")
            terminated = self.check_flag("terminated", terminations[agent], f"step(), agent {agent}")
            truncated = self.check_flag("truncated", truncations[agent], f"step(), agent {agent}")
            self._check_end(agent, terminated, truncated, obs)
            if agent in obs:
                self.note_step(obs[agent], rewards[agent])
        self._check_agents(obs, "step()")
        for agent in obs:
            acts = agent in self.env.agents or (bool(truncations.get(agent)) and not terminations.get(agent))
            self.masks.look(
                agent, self.env.action_space(agent), obs[agent], infos.get(agent), f"step(), agent {agent}", acts
            )
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
        agents = self.env.possible_agents
        return {agent: _random_action(self, self.env.action_space(agent), agent) for agent in agents}


def _random_action(checker: Checker, space: Any, agent: str) -> Any:
    """A valid action as the env's step takes it."""
    codec, mask = ActionCodec(space), checker.masks.valid.get(agent)
    return codec.to_env(codec.random(checker.random, (1,), None if mask is None else mask[None]))[0]
