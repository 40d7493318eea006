"""wiserl.env.check: what is wrong with an env is found, and what is right is left alone."""

from __future__ import annotations

from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo import ParallelEnv

from tests.envs import BoxAction, BoxObs, Chain, DictObs, DyingAgents, TupleObs
from wiserl.env.check import check_env
from wiserl.env.goals import BitFlip, ReachGoal
from wiserl.util.errors import InputError

GOOD = [
    "CartPole-v1",
    "Pendulum-v1",
    "LunarLander-v3",
    "FrozenLake-v1",
    "mpe2/simple_spread_v3",
    *(f"tests.envs:{name}" for name in ("Chain", "DictObs", "TupleObs", "DiscreteObs", "MultiDiscreteAction")),
    *(f"wiserl.env.goals:{name}" for name in ("BitFlip", "ReachGoal")),
    *(f"tests.envs:{name}" for name in ("MultiBinaryAction", "BoxAction", "DyingAgents", "sleepy_env")),
]


@pytest.mark.parametrize("env", GOOD)
def test_a_good_env_has_no_problem(env):
    assert check_env(env) == []


def spoilt(base, **methods):
    """A subclass of `base` with some methods or attributes replaced."""
    return type("Spoilt", (base,), methods)


def stepping(change):
    """A step that changes what the env's own step returned."""

    def step(self, action):
        return change(self, *super(type(self), self).step(action))

    return step


def resetting(change):
    def reset(self, *, seed=None, options=None):
        return change(*super(type(self), self).reset(seed=seed))

    return reset


def bad_reset_seed(self, options=None):
    return BoxObs.reset(self, seed=0)


def unseeded_reset(self, *, seed=None, options=None):
    self._np_random = np.random.default_rng()
    self._steps, self._target = 0, 0
    return self._np_random.random(2, dtype=np.float32), {}


def unseeded_step(self, obs, *rest):
    return np.random.default_rng().random(2, dtype=np.float32), *rest


def aliased(self, obs, *rest):
    if not hasattr(self, "_kept"):
        self._kept = obs
    self._kept[...] = obs
    return self._kept, *rest


def computing(change):
    """A goal env whose compute_reward differs from what its own steps earn."""

    def compute_reward(self, achieved, desired, info):
        return change(ReachGoal.compute_reward(self, achieved, desired, info))

    return spoilt(ReachGoal, compute_reward=compute_reward)


class WithoutReward(gym.Wrapper):
    """Goals are observed, and compute_reward is not passed on."""

    def has_wrapper_attr(self, name):
        return name != "compute_reward" and super().has_wrapper_attr(name)


class Doubled(gym.RewardWrapper):
    def reward(self, reward):
        return 2.0 * reward


class Pair(ParallelEnv):
    """Two agents, each with a goal of its own; `offset` is what the env forgets in hindsight."""

    metadata: ClassVar = {}
    possible_agents: ClassVar = ["a", "b"]

    def __init__(self, offset=0.0):
        self.offset = offset
        self.spaces = {agent: BitFlip(4).observation_space for agent in self.possible_agents}
        self.actions = {agent: spaces.Discrete(4) for agent in self.possible_agents}
        self.envs = {agent: BitFlip(4) for agent in self.possible_agents}

    def observation_space(self, agent):
        return self.spaces[agent]

    def action_space(self, agent):
        return self.actions[agent]

    def compute_reward(self, achieved, desired, info):
        return self.envs["a"].compute_reward(achieved, desired, info) + self.offset

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        given = {agent: env.reset(seed=seed) for agent, env in self.envs.items()}
        return {agent: obs for agent, (obs, _) in given.items()}, {agent: {} for agent in given}

    def step(self, actions):
        given = {agent: self.envs[agent].step(action) for agent, action in actions.items()}
        parts = [{agent: values[part] for agent, values in given.items()} for part in range(5)]
        self.agents = [agent for agent in self.agents if not (parts[2][agent] or parts[3][agent])]
        return tuple(parts)


GOAL_CASES = [
    (lambda: WithoutReward(ReachGoal()), "has no compute_reward(achieved_goal, desired_goal, info)"),
    (computing(lambda reward: reward.mean()), "compute_reward of env"),
    (computing(lambda reward: reward[:, None]), "expected ["),
    (computing(lambda reward: reward * np.nan), "gave nan for achieved_goal"),
    (computing(lambda reward: reward / 2), "compute_reward gave -0.5 for the goals of a step that earned -1"),
    (computing(lambda reward: {}["x"]), "compute_reward raised KeyError: 'x' at "),
    (lambda: Doubled(ReachGoal()), "compute_reward gave -1 for the goals of a step that earned -2"),
    (lambda: Pair(offset=1.0), "compute_reward gave 0 for the goals of a step that earned -1"),
    (
        spoilt(
            BitFlip,
            __init__=lambda self: (
                BitFlip.__init__(self),
                self.observation_space.spaces.update(desired_goal=spaces.Discrete(3)),
            )[0],
            _observe=lambda self: {**BitFlip._observe(self), "desired_goal": 2},
        ),
        "hindsight needs arrays of one shape",
    ),
]


@pytest.mark.parametrize(("env", "said"), GOAL_CASES, ids=[said for _, said in GOAL_CASES])
def test_a_goal_env_whose_goals_cannot_be_exchanged_is_told_why(env, said):
    problems = check_env(env)
    assert len(problems) == 1
    assert said in problems[0].what
    assert problems[0].fix


def test_agents_with_goals_are_checked_as_well():
    assert check_env(Pair) == []


CASES = [
    (spoilt(BoxObs, observation_space=None), "observation_space is None"),
    (spoilt(BoxObs, observation_space=spaces.Text(3)), "observation_space is Text"),
    (spoilt(BoxObs, action_space=spaces.Dict({"a": spaces.Discrete(2)})), "action_space is Dict"),
    (spoilt(BoxObs, reset=resetting(lambda obs, info: obs)), "returned a ndarray; expected (observation, info dict)"),
    (spoilt(BoxObs, reset=bad_reset_seed), "raised TypeError"),
    (spoilt(BoxObs, reset=unseeded_reset), "two resets with one seed gave different"),
    (spoilt(BoxObs, step=stepping(unseeded_step)), "two episodes with one seed"),
    (spoilt(BoxObs, step=stepping(aliased)), "two steps returned the same array"),
    (spoilt(BoxObs, step=stepping(lambda self, o, r, te, tr, i: (o, r, te, i))), "step returned 4 values"),
    (spoilt(BoxObs, step=stepping(lambda self, o, r, *rest: (o, np.array([r]), *rest))), "reward of step() is array"),
    (spoilt(BoxObs, step=stepping(lambda self, o, r, *rest: (o, float("inf"), *rest))), "reward of step() is inf"),
    (spoilt(BoxObs, step=stepping(lambda self, o, r, te, *rest: (o, r, 0, *rest))), "terminated of step() is 0 (int)"),
    (spoilt(BoxObs, step=stepping(lambda self, o, *rest: (o[:1], *rest))), "has shape (1,), its space says (2,)"),
    (spoilt(BoxObs, step=stepping(lambda self, o, *rest: (o.astype(float), *rest))), "has dtype float64"),
    (spoilt(BoxObs, step=stepping(lambda self, o, *rest: (o + 2, *rest))), "its space says 0.0 to 1.0"),
    (spoilt(BoxObs, step=stepping(lambda self, o, *rest: (o * np.nan, *rest))), "has nan at index [0]"),
    (
        spoilt(DictObs, step=stepping(lambda self, o, *rest: ({"image": o["image"]}, *rest))),
        "its space says ['image', 'v",
    ),
    (
        spoilt(TupleObs, step=stepping(lambda self, o, *rest: ((o[0], 2), *rest))),
        "observation entry '1' of step() is 2",
    ),
    (
        spoilt(TupleObs, step=stepping(lambda self, o, *rest: (o[:1], *rest))),
        "has 1 entries, its space is a Tuple of 2",
    ),
    (spoilt(BoxAction, action_space=spaces.Box(-np.inf, np.inf, (1,))), "infinite bounds"),
    (spoilt(BoxAction, action_space=spaces.Box(1.0, 1.0, (1,))), "low 1.0 and high 1.0"),
    (spoilt(Chain, metadata={"render_modes": ["rgb_array"]}), "no render_fps"),
    (spoilt(BoxObs, render_mode="human"), "render_mode is 'human'"),
    ("tests.envs:raising_env", "step raised RuntimeError: broken at step 5 at "),
    (spoilt(DyingAgents, __init__=lambda self: setattr(self, "possible_agents", [])), "possible_agents is []"),
    (
        spoilt(DyingAgents, action_space=lambda self, agent: spaces.Discrete(2 + (agent == "agent_1"))),
        "different action_spaces",
    ),
    (spoilt(DyingAgents, reset=resetting(lambda obs, info: obs)), "returned a dict; expected (observations, infos)"),
    (spoilt(DyingAgents, step=stepping(lambda self, o, r, *rest: (o, {}, *rest))), "acted, but the rewards of step()"),
    (
        spoilt(DyingAgents, step=stepping(lambda self, o, *rest: ({a: o[a] for a in self.agents}, *rest))),
        "agent agent_0 ended without a final observation",
    ),
    (
        spoilt(DyingAgents, step=stepping(lambda self, o, r, te, tr, i: (o, r, dict.fromkeys(te, False), tr, i))),
        "agent agent_0 left env.agents with neither",
    ),
    (
        spoilt(DyingAgents, step=stepping(lambda self, o, r, te, tr, i: (o, r, dict.fromkeys(te, True), tr, i))),
        "agent agent_0 ended but is still in env.agents",
    ),
    (spoilt(DyingAgents, step=stepping(lambda self, o, *rest: ({}, *rest))), "has no observation"),
]


@pytest.mark.parametrize(("env", "said"), CASES, ids=[said for _, said in CASES])
def test_a_bad_env_is_told_what_is_wrong_and_how_to_mend_it(env, said):
    problems = check_env(env)
    assert any(said in problem.what for problem in problems), problems
    assert all(problem.fix for problem in problems)


def test_a_kind_of_problem_is_listed_once():
    env = spoilt(BoxObs, step=stepping(lambda self, o, *rest: (o + 2, *rest)))
    assert len(check_env(env)) == 1


def test_a_nan_is_not_blamed_on_the_seed():
    assert [problem.what for problem in check_env("tests.envs:nan_env")] == [
        "observation of step() has nan at index [1]"
    ]


def test_an_env_that_cannot_be_made_is_an_input_error():
    with pytest.raises(InputError, match="not known"):
        check_env("NoSuchEnv-v0")


class Ageing(BoxObs):
    """Its episodes depend on how many it has had: those of a new copy are others."""

    def reset(self, *, seed=None, options=None):
        self._episodes = getattr(self, "_episodes", -1) + 1
        return super().reset(seed=seed)

    def show(self, target):
        return super().show(target) / np.float32(1 + (self._episodes > 6))


def test_an_env_whose_episodes_depend_on_earlier_ones_cannot_be_continued():
    (problem,) = check_env(Ageing)
    assert "came to another observation: a resumed run cannot continue its episodes exactly" in problem.what
    assert "let reset(seed=...) set all that an episode depends on" in problem.fix
