"""Normalisation of observations and rewards, of every algorithm: what is counted, what is learned from, what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

import wiserl
from tests.algorithms import RememberingDQN
from tests.fragments import DISCRETE, VECTOR, make_fragment, make_spec
from wiserl.agent.base.algorithm import Algorithm
from wiserl.agent.base.off_policy import OffPolicy
from wiserl.agent.catalogue import algorithm_class
from wiserl.core.batch import Fragment, concat_fragments
from wiserl.core.config import make_config
from wiserl.net.normalize import ObservationNormalizer, normalizers
from wiserl.util.errors import InputError

BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
ACTIONS: dict[str, spaces.Space] = {
    "ppo": DISCRETE,
    "sarsa": DISCRETE,
    "dqn": DISCRETE,
    "qrdqn": DISCRETE,
    "ddpg": BOX,
    "td3": BOX,
    "sac": BOX,
    "sac-discrete": DISCRETE,
}
ALL = pytest.mark.parametrize("name", ACTIONS)
REPLAY = [name for name in ACTIONS if name not in ("ppo", "sarsa")]
SMALL = {"hidden_sizes": (8,), "activation": "tanh", "batch_size": 4}


def make_agent(name: str, space: spaces.Space = VECTOR, agents: int = 1, **options: Any) -> Algorithm:
    """An algorithm with both normalisations on, for four envs; its updates are due at once."""
    chosen = algorithm_class(name.removesuffix("-discrete"))
    values: dict[str, Any] = {**SMALL, "normalize_observation": True, "normalize_reward": True}
    if issubclass(chosen, OffPolicy):
        values |= {"learning_starts": 0, "train_freq": 8, "buffer_size": 1000}
    config = make_config(chosen.config_class, values | options, name)
    agent = chosen(spec=make_spec(space, ACTIONS[name], agents), config=config, seed=3, num_streams=4, total_steps=1000)
    agent.start_learning()
    return agent


def feed(agent: Algorithm, fragment: Fragment) -> dict[str, float]:
    """Let it learn from a fragment, PPO's own numbers of which it is given."""
    steps, envs, _ = fragment["reward"].shape
    agent.env_steps += steps * envs
    return agent.update({**fragment, "log_prob": np.full(fragment["reward"].shape, -1.4, np.float32)})


def of_two_runners(agent: Algorithm, seed: int = 0, **options: Any) -> Fragment:
    """A round: fragments of two runners with two envs each, observations far off."""
    parts = [make_fragment(agent.spec, seed=10 * seed + rank, stream=np.array([2 * rank, 2 * rank + 1]), **options)
             for rank in range(2)]  # fmt: skip
    for rank, part in enumerate(parts):
        for key in ("obs", "last_obs", "final_obs"):
            part[key] = part[key] * np.float32(10.0) + np.float32(100.0 + 5.0 * rank)
    return concat_fragments(parts)


# ---- what is counted ----


@ALL
def test_the_statistics_of_two_runners_are_those_of_all_living_rows_by_hand(name):
    """Runner 0 sees 1 and 3 as its agent lives, runner 1 sees 5 and then 100 of an agent that is gone: mean 3, variance 8/3."""
    agent = make_agent(name, spaces.Box(-np.inf, np.inf, (1,), np.float32))
    parts = []
    for rank, (seen, alive) in enumerate((((1.0, 3.0), (True, True)), ((5.0, 100.0), (True, False)))):
        obs = np.array(seen, np.float32).reshape(2, 1, 1, 1)
        shape = {"alive": np.array(alive).reshape(2, 1, 1), "stream": np.array([rank]), "fresh": np.array([True])}
        ends = {(1, 0, 0): "terminated"} if rank == 0 else {(0, 0, 0): "terminated"}
        reward = np.array([2.0, 4.0] if rank == 0 else [6.0, 50.0], np.float32).reshape(2, 1, 1)
        parts.append(make_fragment(agent.spec, 2, 1, ends=ends, obs=obs, reward=reward, **shape))
    feed(agent, concat_fragments(parts))
    assert isinstance(agent.normalizer, ObservationNormalizer)
    assert float(agent.normalizer.count) == 3.0
    np.testing.assert_allclose(agent.normalizer.mean, [3.0], rtol=1e-12)
    np.testing.assert_allclose(agent.normalizer.var, [8 / 3], rtol=1e-12)
    gamma = agent.config.gamma  # discounted returns: 2, then 4 + 2 gamma; 6; what the dead agent got does not count
    assert agent.return_scale is not None
    assert agent.return_scale.count == pytest.approx(3.0, abs=1e-3)
    np.testing.assert_allclose(agent.return_scale.var, np.var([2.0, 4.0 + 2.0 * gamma, 6.0]), rtol=1e-3)


@ALL
def test_each_env_step_is_counted_once_over_rounds(name):
    agent = make_agent(name, agents=2)
    rounds = []
    for seed in range(3):
        part = of_two_runners(agent, seed, end_rate=0.1)
        part["alive"] = np.random.default_rng(seed).random(part["reward"].shape) < 0.8
        part["alive"][:, 0] = True
        rounds.append(part)
        feed(agent, part)
    seen = np.concatenate([part["obs"][part["alive"]] for part in rounds]).astype(np.float64)
    assert agent.normalizer is not None
    assert float(agent.normalizer.count) == len(seen)
    np.testing.assert_allclose(agent.normalizer.mean, seen.mean(0), rtol=1e-9)
    np.testing.assert_allclose(agent.normalizer.var, seen.var(0), rtol=1e-9)
    assert agent.return_scale is not None
    assert agent.return_scale.count == pytest.approx(len(seen), abs=1e-3)


def test_a_data_set_counts_as_seen_and_its_rewards_are_scaled_as_all_others(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(50.0, 3.0, (40, 3)).astype(np.float32) for name in ("observations", "next_observations")}
    ends = {"terminations": np.ones(40, bool), "truncations": np.zeros(40, bool)}
    rewards = rng.normal(0.0, 1000.0, 40)
    np.savez(tmp_path / "own.npz", actions=np.arange(40) % 4, rewards=rewards, **arrays, **ends)
    for share in (0.0, 0.5):
        agent = make_agent("dqn", dataset=str(tmp_path / "own.npz"), dataset_share=share)
        assert agent.normalizer is not None
        assert agent.return_scale is not None
        np.testing.assert_allclose(agent.normalizer.mean, arrays["observations"].mean(0), rtol=1e-5)
        assert agent.return_scale.var == pytest.approx(np.var(rewards), rel=1e-3)


# ---- what is learned from and acted on ----


@ALL
def test_what_acts_is_what_learns(name):
    """Numpy, where it acts, and PyTorch give the same for what the env shows; both of what is normalised."""
    agent = make_agent(name)
    for seed in range(2):
        feed(agent, of_two_runners(agent, seed))
    obs = of_two_runners(agent, 7)["obs"][0]
    with torch.no_grad():
        expected = agent.policy(torch.from_numpy(obs).flatten(0, 1))
    np.testing.assert_allclose(agent._act(obs), expected.reshape(len(agent._act(obs)), -1), rtol=1e-5, atol=1e-5)
    numpy = agent._forward is not None
    assert numpy == (name not in ("ppo", "qrdqn")), "PPO with a normaliser and QR-DQN act by PyTorch"
    assert not np.allclose(agent._act(obs), agent._act(obs * 1.1)), "clipped: this says nothing"


def test_a_replica_acts_by_the_statistics_that_travel_with_the_weights():
    for name in ACTIONS:
        agent, replica = make_agent(name), make_agent(name)
        feed(agent, of_two_runners(agent))
        obs = of_two_runners(agent, 7)["obs"][0]
        before = replica._act(obs)
        replica._update_model(agent.weights())
        assert np.array_equal(replica._act(obs), agent._act(obs))
        assert not np.allclose(replica._act(obs), before)


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_normaliser_is_the_same_function_in_numpy_bit_for_bit(shape, dtype):
    normalizer = ObservationNormalizer(spaces.Box(-np.inf, np.inf, shape, dtype))
    rng = np.random.default_rng(0)
    normalizer.update(torch.from_numpy(rng.normal(100.0, 7.0, (50, *shape)).astype(dtype)))
    obs = rng.normal(100.0, 30.0, (200, *shape)).astype(dtype)
    obs[0] = np.nan
    expected = normalizer(torch.from_numpy(obs)).numpy()
    given = obs.copy()
    found = normalizer.rows(given.reshape(200, -1))
    assert found.dtype == expected.dtype == np.float32
    assert np.array_equal(found, expected.reshape(200, -1), equal_nan=True)
    assert np.array_equal(given, obs, equal_nan=True), "the observation was written to"
    assert np.abs(expected[1:]).max() == 10.0


@pytest.mark.parametrize("name", REPLAY)
def test_targets_critics_and_frozen_views_have_the_very_statistics_of_what_acts(name):
    agent: Any = make_agent(name)
    trained = [getattr(agent, part) for part in ("network", "actor", "critics") if hasattr(agent, part)]
    networks = [network for each in trained for network in (each.online, each.target, each.frozen)]
    assert len(networks) == (6 if name in ("ddpg", "td3") else 3)
    for _ in range(2):
        feed(agent, of_two_runners(agent))
        for network in (agent.policy, *networks):
            (normalizer,) = normalizers(network)
            assert float(normalizer.count) == float(agent.normalizer.count) > 0
            assert normalizer.mean.data_ptr() == agent.normalizer.mean.data_ptr()
    for network in networks:
        assert "normalizer" not in " ".join(name for name, _ in network.named_parameters())


@pytest.mark.parametrize("name", REPLAY)
def test_the_replay_is_raw_and_what_is_learned_from_scaled_by_the_deviation_of_now(name, monkeypatch):
    agent: Any = make_agent(name, n_step=2)
    seen: list[dict[str, Any]] = []
    learn = agent.learn
    monkeypatch.setattr(agent, "learn", lambda batch, rate: seen.append(batch) or learn(batch, rate))
    for seed in range(2):
        seen.clear()
        fragment = of_two_runners(agent, seed)
        fragment["reward"] *= np.float32(1000.0)
        feed(agent, fragment)
        deviation = np.sqrt(agent.return_scale.var)
        assert deviation > 500
        index = np.concatenate([batch["index"] for batch in seen])
        raw = agent.replay._gather(index)
        assert np.abs(raw["reward"]).max() > 500
        learned = np.concatenate([batch["reward"] for batch in seen])
        np.testing.assert_allclose(learned, raw["reward"] / deviation, rtol=1e-4)
        assert raw["obs"].mean() == pytest.approx(102.5, abs=10)


def test_a_sum_of_rewards_is_clipped_to_ten_for_each_of_its_steps():
    agent = make_agent("dqn")
    assert agent.return_scale is not None
    agent.return_scale.var = 4.0
    rewards = np.array([2.0, 19.0, 1e6, -1e6], np.float32)
    np.testing.assert_allclose(agent.return_scale.divide(rewards), [1.0, 9.5, 10.0, -10.0])
    np.testing.assert_allclose(agent.return_scale.divide(rewards, 3), [1.0, 9.5, 30.0, -30.0])


def test_rewards_of_goals_in_hindsight_are_scaled_by_the_returns_of_those_that_the_env_gave(tmp_path):
    options: dict[str, Any] = {
        "hindsight": "future",
        "learning_starts": 32,
        "train_freq": 8,
        "batch_size": 16,
        "hidden_sizes": (8,),
    }
    with wiserl.by_hand("dqn", "wiserl.env.goals:BitFlip", run_dir=tmp_path, total_steps=400, normalize_observation=True,
                        normalize_reward=True, eval_episodes=1, **options) as run:  # fmt: skip
        agent: Any = run.algorithm
        seen: list[torch.Tensor] = []
        learn = agent.learn

        def spy(batch: dict[str, Any], rate: float) -> Any:
            seen.append(batch["reward"] * float(np.sqrt(agent.return_scale.var)))
            return learn(batch, rate)

        agent.learn = spy
        run.run()
        values = {round(float(value), 3) for value in torch.cat(seen)}
    assert values == {-1.0, 0.0}, "hindsight must have made some goals reached"


def test_entries_of_a_dict_are_normalised_apart_and_images_and_choices_are_not():
    space = spaces.Dict(
        {
            "image": spaces.Box(0, 255, (8, 8, 1), np.uint8),
            "pair": spaces.Tuple((spaces.Discrete(3), spaces.Box(-np.inf, np.inf, (2,), np.float32))),
        }
    )
    for name in ACTIONS:
        agent = make_agent(name, space)
        feed(agent, make_fragment(agent.spec, envs=4))
        assert agent.normalizer is not None
        statistics = dict(agent.normalizer.named_buffers())
        assert sorted(key.rsplit(".", 1)[1] for key in statistics) == ["count", "mean", "var"]
        assert {value.shape for key, value in statistics.items() if key.endswith("mean")} == {(2,)}


# ---- what is kept ----


@ALL
def test_the_scale_is_kept_with_the_learner_and_the_statistics_with_the_weights(name):
    agent, other = make_agent(name), make_agent(name)
    for seed in range(2):
        feed(agent, of_two_runners(agent, seed))
    other.policy.load_state_dict(agent.policy.state_dict())
    other.load_learner_state(agent.learner_state())
    assert agent.return_scale is not None
    assert other.return_scale is not None
    assert other.return_scale.state_dict() == agent.return_scale.state_dict()
    assert other.normalizer is not None
    assert all(torch.equal(value, agent._buffers[key]) for key, value in other._buffers.items())
    assert np.abs(agent.return_scale.running).max() > 0


@ALL
def test_without_it_there_is_nothing_to_keep(name):
    agent = make_agent(name, normalize_observation=False, normalize_reward=False)
    assert (agent.normalizer, agent.return_scale, normalizers(agent.policy)) == (None, None, [])
    assert "return_scale" not in agent.learner_state()
    assert not [key for key in agent.policy.state_dict() if "normalizer" in key]


# ---- networks and algorithms of one's own ----


def test_a_network_of_ones_own_is_given_normalised_observations(tmp_path):
    layers = [{"type": "linear", "in_features": 3, "out_features": 8}, {"type": "tanh"}]
    for name in ACTIONS:
        agent = make_agent(name, net=layers)
        feed(agent, of_two_runners(agent))
        obs = of_two_runners(agent, 7)["obs"][0]
        assert not np.allclose(agent._act(obs), agent._act(obs + 10.0))


def test_an_algorithm_that_calls_its_network_itself_sees_normalised_observations_too():
    config = make_config(
        RememberingDQN.config_class, {**SMALL, "normalize_observation": True, "learning_starts": 0}, "own"
    )
    agent = RememberingDQN(spec=make_spec(), config=config, seed=3, num_streams=4, total_steps=1000)
    agent.start_learning()
    fragment = of_two_runners(agent)
    agent.normalizer.update(torch.from_numpy(fragment["obs"]).flatten(0, 2))  # type: ignore[union-attr]
    chosen = agent.choose_action(fragment["obs"][0])
    np.testing.assert_allclose(chosen["value"], agent._act(fragment["obs"][0]).max(1).reshape(4, 1), rtol=1e-5)


def test_an_algorithm_whose_network_normalises_nothing_is_refused_where_that_was_asked_for():
    class Own(OffPolicy):
        config_class = algorithm_class("dqn").config_class

        def _build(self) -> nn.Module:
            return nn.Linear(3, 4)

        def choose_action(self, obs: Any, deterministic: bool = False) -> dict[str, Any]:
            return {}

        def learn(self, batch: Any, rate: float) -> Any:
            return None

    config = make_config(Own.config_class, {"normalize_observation": True}, "own")
    with pytest.raises(
        InputError, match=r"Own with normalize_observation=true: Linear.*make_encoder\(\.\.\., normalizer="
    ):
        Own(spec=make_spec(), config=config)


# ---- a whole run ----


@pytest.mark.parametrize(
    ("algo", "env"), [("sac", "BoxAction"), ("dqn", "DictObs"), ("td3", "BoxAction"), ("sarsa", "BoxObs")]
)
def test_burn_in_saves_and_loads_what_training_sees(algo, env, tmp_path: Path):
    options: dict[str, Any] = {"total_steps": 192, "envs": 2, "hidden_sizes": (8,), "eval_episodes": 1, "device": "cpu"}
    if algo != "sarsa":
        options |= {"learning_starts": 32, "batch_size": 8, "train_freq": 4}
    with wiserl.by_hand(algo, f"tests.envs:{env}", run_dir=tmp_path, normalize_observation=True, normalize_reward=True,
                        vector="inline", **options) as run:  # fmt: skip
        run.burn_in(64)
        replica = run.runner.policy.algorithm
        assert {float(value) for key, value in replica._buffers.items() if key.endswith("count")} == {64.0}
        run.run()
        counts = {float(value) for key, value in run.algorithm._buffers.items() if key.endswith("count")}
        assert counts == {64.0 + run.env_steps}
        rows = run.runner.collect()["obs"]
        obs = {key: leaf[0] for key, leaf in rows.items()} if isinstance(rows, dict) else rows[0]
        expected = run.algorithm.choose_action(obs, deterministic=True)["action"]
    assert np.array_equal(wiserl.load(tmp_path).act(obs), expected)
