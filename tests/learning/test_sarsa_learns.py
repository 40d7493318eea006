"""SARSA solves something tiny with each of its switches, and learns the values of the policy that explores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import wiserl

OPTIONS = {
    "total_steps": 6000,
    "envs": 4,
    "n_steps": 16,
    "batch_size": 32,
    "n_epochs": 2,
    "learning_rate": 3e-3,
    "gamma": 0.9,
    "exploration_fraction": 0.7,
    "hidden_sizes": "32",
}


def train(folder: Path, env: str, **options: Any) -> dict[str, Any]:
    """Train on `tests.ENV`; the summary."""
    common = {"backend": "local", "device": "cpu", "vector": "inline", "quiet": True, "run_dir": folder / "run"}
    return wiserl.train("sarsa", f"tests.{env}", **(OPTIONS | common | options))


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"expected": False},
        {"td_lambda": 0.8},
        {"td_lambda": 0.8, "expected": False, "learning_rate_decay": "linear"},
        {"n_epochs": 1, "batch_size": 8},
        {"activation": "tanh", "max_grad_norm": "inf"},
    ],
    ids=str,
)
def test_it_finds_the_far_prize_with_each_switch(tmp_path, switches):
    assert train(tmp_path, "learning.envs:Maze", **switches)["eval_return_mean"] == pytest.approx(1.0)


def test_a_small_gamma_takes_the_near_prize(tmp_path):
    assert train(tmp_path, "learning.envs:Maze", gamma=0.5)["eval_return_mean"] == pytest.approx(0.2)


@pytest.mark.parametrize("env", ["envs:BoxObs", "envs:DiscreteObs", "envs:TupleObs", "learning.envs:Image"])
def test_it_learns_from_every_kind_of_observation(tmp_path, env):
    assert train(tmp_path, env, gamma=0.3)["eval_return_mean"] >= 15.8


def test_it_learns_from_an_image_and_a_vector_together(tmp_path):
    summary = train(tmp_path, "envs:DictObs", gamma=0.3, total_steps=10_000, **{"env.size": 8})
    assert summary["eval_return_mean"] >= 15.8


def test_agents_that_end_at_different_times_share_their_parameters(tmp_path):
    assert train(tmp_path, "envs:DyingAgents", gamma=0.3)["eval_return_mean"] >= 18.8  # 4 + 7 + 8


@pytest.mark.parametrize("expected", [True, False])
def test_the_values_are_those_of_the_policy_that_explores_not_of_the_greedy_one(tmp_path, expected):
    """Half of the actions are random, so a right one comes 3 times in 4: the right action is worth 1 + 0.5 * 0.75 / 0.5.

    Q-learning would say 2. The env is cut off every 16 steps, which shall change nothing.
    """
    eps = {"exploration_initial_eps": 0.5, "exploration_final_eps": 0.5, "learning_rate_decay": "linear"}
    train(tmp_path, "envs:BoxObs", gamma=0.5, expected=expected, **eps)
    network = wiserl.load(tmp_path / "run")._algorithm.policy
    values = network(torch.eye(2))
    torch.testing.assert_close(values.diag(), torch.full((2,), 1.75), atol=0.1, rtol=0)
    torch.testing.assert_close(values.flip(1).diag(), torch.full((2,), 0.75), atol=0.1, rtol=0)


@pytest.mark.parametrize("td_lambda", [0.0, 0.8])
@pytest.mark.parametrize("expected", [True, False])
def test_what_is_cut_off_is_worth_what_would_have_followed(tmp_path, expected, td_lambda):
    """Reward 1 a step, cut off every 4 steps: worth 1 / (1 - 0.8) = 5, not the 3 that are seen."""
    train(tmp_path, "learning.envs:Endless", gamma=0.8, expected=expected, td_lambda=td_lambda)
    network = wiserl.load(tmp_path / "run")._algorithm.policy
    assert network(torch.ones(1, 1)).max().item() == pytest.approx(5.0, abs=0.4)


@pytest.mark.parametrize("sync", [True, False])
def test_two_runners_learn_together_on_one_thread(tmp_path, sync):
    summary = train(tmp_path, "envs:BoxObs", gamma=0.3, runners=2, envs=2, sync=sync)
    assert summary["eval_return_mean"] >= 15.8


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path):
    options = {"gamma": 0.3, "td_lambda": 0.8, "checkpoint_every": 640}
    options |= {
        "exploration_initial_eps": 0.3,
        "exploration_final_eps": 0.3,
    }  # no schedule: the parts have other lengths
    train(tmp_path / "whole", "envs:BoxObs", total_steps=1280, **options)
    train(tmp_path / "parts", "envs:BoxObs", total_steps=640, **options)
    run = tmp_path / "parts" / "run"
    summary = wiserl.train("sarsa", "tests.envs:BoxObs", resume=run, total_steps=1280, quiet=True)
    assert summary["env_steps"] == 1280
    weights = [wiserl.load(folder)._algorithm.flat for folder in (tmp_path / "whole" / "run", run)]
    assert torch.equal(*weights)
