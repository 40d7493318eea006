"""PPO solves something tiny of every kind, on the local backend, in about a second each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wiserl

OPTIONS = {
    "total_steps": 6000,
    "envs": 4,
    "n_steps": 64,
    "batch_size": 64,
    "n_epochs": 4,
    "learning_rate": 3e-3,
    "gamma": 0.5,
    "gae_lambda": 0.9,
}


def train(folder: Path, env: str, **options: Any) -> dict[str, Any]:
    """Train on `tests.ENV`; the summary."""
    common = {"backend": "local", "device": "cpu", "vector": "inline", "quiet": True, "run_dir": folder / "run"}
    return wiserl.train("ppo", f"tests.{env}", **(OPTIONS | common | options))


@pytest.mark.parametrize(
    ("env", "solved"),
    [
        ("envs:BoxObs", 16.0),
        ("envs:BoxAction", 14.0),  # untrained 12: the best policy errs by nothing, a constant one by 2 of 8
        ("envs:MultiDiscreteAction", 15.8),
        ("envs:MultiBinaryAction", 15.8),
        ("envs:DiscreteObs", 16.0),
        ("envs:TupleObs", 16.0),
        ("learning.envs:Image", 16.0),
    ],
)
def test_it_learns_every_kind_of_action_and_observation(tmp_path, env, solved):
    assert train(tmp_path, env)["eval_return_mean"] >= solved


def test_it_learns_from_an_image_and_a_vector_together(tmp_path):
    """One part of the action is to be seen in the image alone, the other in the vector alone."""
    summary = train(tmp_path, "learning.envs:ImageAndVector", learning_rate=1e-3, ent_coef=0.01)
    assert summary["eval_return_mean"] >= 15.8


def test_agents_that_end_at_different_times_share_their_parameters(tmp_path):
    summary = train(tmp_path, "envs:DyingAgents")
    assert summary["eval_return_mean"] >= 18.8  # 4 + 7 + 8
    assert summary["train_return_mean"] >= 18.0
    assert summary["episodes"] == pytest.approx(summary["env_steps"] / 10, abs=summary["envs_per_runner"])


@pytest.mark.parametrize(("gamma", "prize"), [(0.9, 1.0), (0.5, 0.2)])
def test_it_looks_as_far_ahead_as_gamma_says(tmp_path, gamma, prize):
    summary = train(tmp_path, "learning.envs:Maze", gamma=gamma, ent_coef=0.01)
    assert summary["eval_return_mean"] == pytest.approx(prize)


@pytest.mark.parametrize(
    "switch",
    [
        {"clip_range_vf": 0.2},
        {"target_kl": 0.05},
        {"learning_rate_decay": "linear"},
        {"activation": "relu"},
        {"normalize_advantage": False},
        {"ortho_init": False},
        {"max_grad_norm": "inf"},
        {"normalize_reward": True},
        {"normalize_observation": True},
    ],
    ids=str,
)
def test_it_learns_with_each_switch(tmp_path, switch):
    assert train(tmp_path, "envs:BoxAction", **switch)["eval_return_mean"] >= 13.7


def test_it_learns_with_all_switches_together(tmp_path):
    switches = {"clip_range_vf": 0.2, "target_kl": 0.1, "learning_rate_decay": "linear", "activation": "relu"}
    switches |= {"normalize_reward": True, "normalize_observation": True, "ent_coef": 0.001, "hidden_sizes": "32,32"}
    summary = train(tmp_path, "envs:BoxAction", total_steps=10_000, **switches)
    assert summary["eval_return_mean"] >= 14.0


def test_normalisation_makes_visible_what_is_not_without(tmp_path):
    """A difference of 0.01 around 100, rewards of 100: solved with normalisation, chance without."""
    found = [
        train(tmp_path / str(switch), "learning.envs:Shifted", normalize_observation=switch, normalize_reward=switch)
        for switch in (True, False)
    ]
    assert found[0]["eval_return_mean"] == 1600.0
    assert found[1]["eval_return_mean"] < 1300.0


def test_what_is_cut_off_is_worth_what_would_have_followed(tmp_path):
    """Reward 1 a step, cut off every 4 steps: worth 1 / (1 - 0.9) = 10, not the 3.4 that are seen."""
    train(tmp_path, "learning.envs:Endless", gamma=0.9, gae_lambda=0.9, total_steps=8000)
    network = wiserl.load(tmp_path / "run")._algorithm.policy
    assert network.value(torch.ones(1, 1)).item() == pytest.approx(10.0, abs=0.7)


@pytest.mark.parametrize("sync", [True, False])
def test_two_runners_learn_together_on_one_thread(tmp_path, sync):
    summary = train(tmp_path, "envs:BoxObs", runners=2, envs=2, sync=sync)
    assert summary["eval_return_mean"] == 16.0
    assert summary["env_steps"] >= 6000


def test_it_learns_on_a_native_vector_env_whose_reset_rows_do_not_count(tmp_path):
    options = {
        "total_steps": 15_000,
        "n_steps": 32,
        "batch_size": 256,
        "n_epochs": 20,
        "learning_rate": 1e-3,
        "envs": 8,
    }
    common = {"backend": "local", "device": "cpu", "quiet": True, "run_dir": tmp_path / "run", "eval_episodes": 10}
    summary = wiserl.train("ppo", "CartPole-v1", vector="native", gamma=0.98, gae_lambda=0.8, **options, **common)
    assert summary["eval_return_mean"] > 100
    evaluated = wiserl.load(tmp_path / "run").act(np.zeros((1, 1, 4), np.float32))
    assert evaluated.shape == (1, 1)
