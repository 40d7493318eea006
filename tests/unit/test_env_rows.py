"""wiserl.env.rows: one env as rows, agents that die and join, and envs that break their contract."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo import ParallelEnv

from tests.envs import BoxObs, Chain, DyingAgents
from wiserl.env.rows import EnvRows, read_spec
from wiserl.util.errors import EnvError, InputError
from wiserl.util.seeding import episode_seed, first_episode

ACTIONS = np.zeros(3, np.int64)


def rows_of(env) -> EnvRows:
    return EnvRows(env, read_spec(env, type(env)))


def test_the_spec_of_a_parallel_env_lists_its_possible_agents_in_order():
    spec = read_spec(DyingAgents(), DyingAgents)
    assert spec.agents == ("agent_0", "agent_1", "agent_2")
    assert spec.action_space == spaces.Discrete(2)


def test_agents_with_different_spaces_are_refused_by_name():
    class Mixed(DyingAgents):
        def action_space(self, agent):
            return spaces.Discrete(4 if agent == "agent_1" else 2)

    with pytest.raises(InputError, match=r"agent_0, agent_2: Discrete\(2\); agent_1: Discrete\(4\).*not supported yet"):
        read_spec(Mixed(), Mixed)


def test_agents_die_and_join_as_rows_that_are_alive_or_not():
    rows = rows_of(DyingAgents(length=10))
    rows.begin(first_episode(0))
    buffers = rows.buffers
    alive, terminated, truncated, ended, env_ended = [buffers.alive[0].tolist()], [], [], [], []
    for _ in range(10):
        was_alive = buffers.alive[0].copy()
        rows.step(ACTIONS)
        assert not buffers.reward[0, ~was_alive].any()
        assert not buffers.obs[0, ~buffers.alive[0]].any()
        alive.append(buffers.alive[0].tolist())
        terminated.append(buffers.terminated[0].tolist())
        truncated.append(buffers.truncated[0].tolist())
        ended.append(bool(buffers.ended[0]))
        env_ended.append(bool(buffers.env_ended[0]))
    # Rows act before step t when alive[t]: agent_0 in steps 1-4, agent_1 in 1-7, agent_2 in 3-10, then a new episode.
    assert np.sum(alive[:10], axis=0).tolist() == [4, 7, 8]
    assert alive[2] == [True, True, True]
    assert alive[10] == [True, True, False]
    assert np.argwhere(terminated).tolist() == [[3, 0], [9, 2]]
    assert np.argwhere(truncated).tolist() == [[6, 1]]
    assert np.nonzero(ended)[0].tolist() == [3, 6, 9]
    assert np.nonzero(env_ended)[0].tolist() == [9]


def test_the_final_observation_of_a_dead_agent_is_kept_apart():
    rows = rows_of(DyingAgents(length=10))
    rows.begin(first_episode(0))
    for _ in range(7):
        rows.step(ACTIONS)
    final = rows.buffers.final_obs[0]
    assert final[1, 2] == np.float32(0.7)
    assert final[1, :2].sum() == 1
    assert not final[0].any()
    assert not rows.buffers.obs[0, 1].any()


def test_only_living_agents_get_their_own_action():
    class Recording(DyingAgents):
        def step(self, actions):
            self.given = dict(actions)
            return super().step(actions)

    env = Recording()
    rows = rows_of(env)
    rows.begin(first_episode(0))
    rows.step(np.array([0, 1, 1]))
    assert env.given == {"agent_0": 0, "agent_1": 1}
    for _ in range(4):
        rows.step(np.array([0, 1, 0]))
    assert env.given == {"agent_1": 1, "agent_2": 0}


def test_an_agent_kept_in_agents_after_its_end_ends_once():
    class Lingering(ParallelEnv):
        """Keeps agent_0 in `agents`, and reports its end and a reward in every step after it."""

        def __init__(self):
            self.inner = DyingAgents()
            self.possible_agents = self.inner.possible_agents
            self.observation_space, self.action_space = self.inner.observation_space, self.inner.action_space

        @property
        def agents(self):
            return [agent for agent in self.possible_agents if agent in self.inner.agents or agent == "agent_0"]

        def reset(self, seed=None, options=None):
            return self.inner.reset(seed=seed)

        def step(self, actions):
            acting = {agent: action for agent, action in actions.items() if agent in self.inner.agents}
            obs, rewards, terminations, truncations, infos = self.inner.step(acting)
            if "agent_0" not in self.inner.agents:
                obs["agent_0"], rewards["agent_0"] = np.ones(3, np.float32), 100.0
                terminations["agent_0"], truncations["agent_0"] = True, False
            return obs, rewards, terminations, truncations, infos

    rows = rows_of(Lingering())
    rows.begin(first_episode(0))
    ends, reward = 0, 0.0
    for _ in range(9):
        was_alive = rows.buffers.alive[0, 0]
        rows.step(ACTIONS)
        ends += int(rows.buffers.terminated[0, 0])
        reward += float(rows.buffers.reward[0, 0]) if not was_alive else 0.0
    assert ends == 1
    assert reward == 0.0


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda env, result: env.agents.remove("agent_1"), "agent_1 left env.agents with neither"),
        (lambda env, result: result[0].pop("agent_1"), "agent_1 is in env.agents but has no observation"),
    ],
)
def test_a_parallel_env_that_breaks_its_contract_is_named_with_the_agent(spoil, said):
    class Spoilt(DyingAgents):
        def step(self, actions):
            result = super().step(actions)
            spoil(self, result)
            return result

    rows = rows_of(Spoilt())
    rows.begin(first_episode(0))
    with pytest.raises(EnvError, match=said):
        rows.step(ACTIONS)


def test_a_truncated_agent_without_final_observation_is_refused():
    class Spoilt(DyingAgents):
        def step(self, actions):
            obs, *rest = super().step(actions)
            return {agent: obs[agent] for agent in self.agents}, *rest

    rows = rows_of(Spoilt())
    rows.begin(first_episode(0))
    for _ in range(6):
        rows.step(ACTIONS)
    with pytest.raises(EnvError, match="agent_1 was truncated without a final observation"):
        rows.step(ACTIONS)


def test_an_env_without_agents_after_reset_is_refused():
    class Empty(DyingAgents):
        def reset(self, seed=None, options=None):
            result = super().reset(seed=seed)
            self.agents = []
            return result

    with pytest.raises(EnvError, match="no agents after reset"):
        rows_of(Empty()).begin(first_episode(0))


def test_a_gymnasium_env_is_one_row_that_is_always_alive():
    rows = rows_of(Chain(length=3, max_steps=4))
    rows.begin(first_episode(1))
    for _ in range(6):
        rows.step(np.array([1]))
        assert rows.buffers.alive.tolist() == [[True]]


class BothSingle(BoxObs):
    def step(self, action):
        obs, reward, _, truncated, info = super().step(action)
        return obs, reward, truncated, truncated, info


class BothParallel(DyingAgents):
    def step(self, actions):
        obs, rewards, terminations, truncations, infos = super().step(actions)
        both = {agent: terminations[agent] or truncations[agent] for agent in terminations}
        return obs, rewards, both, both, infos


@pytest.mark.parametrize(("env", "steps"), [(BothSingle(length=1), 1), (BothParallel(), 4)])
def test_terminated_wins_where_an_env_reports_both(env, steps):
    rows = rows_of(env)
    rows.begin(first_episode(0))
    for _ in range(steps):
        rows.step(ACTIONS)
    assert rows.buffers.terminated[0, 0]
    assert not rows.buffers.truncated.any()


def test_each_episode_has_a_seed_of_its_own_that_follows_from_the_first():
    seeds = []

    class Seeded(BoxObs):
        def reset(self, *, seed=None, options=None):
            seeds.append(seed)
            return super().reset(seed=seed)

    rows = rows_of(Seeded(length=1))
    rows.begin(first_episode(3))
    rows.step(np.array([0]))
    rows.step(np.array([0]))
    assert seeds == [3, episode_seed(first_episode(3) + 1), episode_seed(first_episode(3) + 2)]
    assert rows.buffers.episode.tolist() == [first_episode(3) + 2]
    rows.begin(first_episode(3) + 1)
    assert seeds[-1] == seeds[1]
