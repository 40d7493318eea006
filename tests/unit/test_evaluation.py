"""Evaluation: whole episodes, the number asked for, seeded, of one agent or many."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from tests.envs import BoxObs, Chain, DyingAgents, Relay
from wiserl.core.memory import RowMemory
from wiserl.policy import evaluation
from wiserl.policy.evaluation import evaluate


class Scripted:
    """A policy from a function of observations `[E, A, ...]`; records how it was asked."""

    def __init__(self, act: Any) -> None:
        self._act = act
        self.asked: list[bool] = []
        self.seeds: list[tuple[Any, ...]] = []

    def check_spaces(self, spec: Any) -> None:
        pass

    def memory(self, envs: int, agents: int) -> RowMemory:
        return RowMemory(0, envs, agents)

    def act(self, obs: Any, deterministic: bool = True, memory: Any = None) -> np.ndarray:
        self.asked.append(deterministic)
        return np.asarray(self._act(obs), np.int64)

    def reseed(self, *parts: Any) -> None:
        self.seeds.append(parts)


PERFECT = Scripted(lambda obs: obs[..., 1] > 0.5)


class Noisy(BoxObs):
    """The reward is a random number of the env's own, so that a return shows the seed."""

    def __init__(self, length: int = 3) -> None:
        super().__init__(length)

    def match(self, target: Any, action: Any) -> float:
        return float(self.np_random.random())


class Lengths(BoxObs):
    """An episode of env i of the process is i steps long: long ones must count as often as short ones."""

    made = 0

    def __init__(self) -> None:
        Lengths.made += 1
        super().__init__(Lengths.made)


@pytest.mark.parametrize("episodes", [1, 5, 20, 33])
def test_as_many_whole_episodes_as_asked_for(episodes):
    returns = evaluate(PERFECT, BoxObs, {"length": 7}, episodes, seed=0)
    assert returns.shape == (episodes,)
    assert returns.tolist() == [7.0] * episodes


def test_each_env_contributes_one_episode_however_long_it_is():
    Lengths.made = 0
    assert evaluate(PERFECT, Lengths, {}, 10, seed=0).tolist() == [float(i) for i in range(1, 11)]


def test_returns_depend_on_the_seed_alone():
    first, twin, other = (evaluate(PERFECT, Noisy, {}, 25, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, twin)
    assert not np.array_equal(first, other)
    assert len(set(first.tolist())) == 25, "each episode has a seed of its own"
    assert np.array_equal(evaluate(PERFECT, Noisy, {}, 20, 1), first[:20])


def test_the_policy_is_asked_for_what_was_asked_for_and_seeded():
    for deterministic in (True, False):
        policy = Scripted(lambda obs: obs[..., 1] > 0.5)
        evaluate(policy, BoxObs, {"length": 2}, 3, 7, deterministic)
        assert set(policy.asked) == {deterministic}
        assert policy.seeds == [(7, "eval", "act")]


def test_rewards_of_terminal_steps_count_and_those_of_the_next_episode_do_not():
    returns = evaluate(Scripted(lambda obs: np.ones(obs.shape[:2])), Chain, {"length": 4}, 6, 0)
    assert returns.tolist() == [1.0] * 6


def test_the_return_of_many_agents_is_their_sum_until_the_last_has_ended():
    """Agents end at different times and one joins late: an episode is over when no living agent goes on."""
    returns = evaluate(PERFECT, DyingAgents, {"length": 10}, 3, 0)
    assert returns.tolist() == [4 + 7 + 8] * 3


def test_an_episode_goes_on_where_an_agent_joins_as_the_last_one_leaves():
    assert evaluate(PERFECT, Relay, {"leg": 2}, 3, 0).tolist() == [6.0] * 3


def test_an_episode_without_end_is_cut_and_the_log_says_so(monkeypatch, caplog):
    monkeypatch.setattr(evaluation, "MAX_STEPS", 50)
    with caplog.at_level(logging.WARNING, "wiserl"):
        returns = evaluate(PERFECT, BoxObs, {"length": 10**9}, 2, 0)
    assert returns.tolist() == [50.0, 50.0]
    assert "2 episode(s) had not ended after 50 steps" in caplog.text


def test_envs_are_closed():
    closed = []

    class Closing(BoxObs):
        observation_space = spaces.Box(0.0, 1.0, (2,), np.float32)

        def close(self) -> None:
            closed.append(self)

    evaluate(PERFECT, Closing, {"length": 2}, 3, 0)
    assert len(closed) == 3
