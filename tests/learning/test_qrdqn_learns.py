"""QR-DQN solves something tiny with its switches, on the local backend, in a second or two each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import wiserl

OPTIONS = {
    "total_steps": 3000,
    "envs": 4,
    "learning_starts": 200,
    "batch_size": 32,
    "train_freq": 4,
    "gradient_steps": 2,
    "target_update_interval": 100,
    "learning_rate": 3e-3,
    "gamma": 0.9,
    "exploration_fraction": 0.5,
    "exploration_final_eps": 0.05,
    "hidden_sizes": "32",
    "buffer_size": 3000,
    "n_quantiles": 11,
}


def train(folder: Path, env: str, **options: Any) -> dict[str, Any]:
    """Train on `tests.ENV`; the summary."""
    common = {"backend": "local", "device": "cpu", "vector": "inline", "quiet": True, "run_dir": folder / "run"}
    return wiserl.train("qrdqn", f"tests.{env}", **(OPTIONS | common | options))


@pytest.mark.parametrize(
    "switches",
    [{}, {"double": True}, {"double": True, "dueling": True, "n_step": 3, "prioritized": True, "noisy": True}],
    ids=str,
)
def test_it_finds_the_far_prize_with_each_switch(tmp_path, switches):
    assert train(tmp_path, "learning.envs:Maze", **switches)["eval_return_mean"] == pytest.approx(1.0)


def test_what_is_cut_off_is_worth_what_would_have_followed(tmp_path):
    """Reward 1 a step, cut off every 4 steps: worth 1 / (1 - 0.8) = 5, not the 3 that are seen."""
    train(tmp_path, "learning.envs:Endless", gamma=0.8, target_update_interval=20)
    network = wiserl.load(tmp_path / "run")._algorithm.policy
    assert network(torch.ones(1, 1)).max().item() == pytest.approx(5.0, abs=0.4)


def test_it_learns_from_images(tmp_path):
    assert train(tmp_path, "learning.envs:Image", gamma=0.3)["eval_return_mean"] >= 15.8


@pytest.mark.parametrize("sync", [True, False])
def test_two_runners_learn_together_on_one_thread_at_the_same_ratio_of_updates(tmp_path, sync):
    summary = train(tmp_path, "envs:BoxObs", gamma=0.3, runners=2, envs=2, sync=sync)
    assert summary["eval_return_mean"] >= 15.8
    assert summary["updates"] == (summary["env_steps"] - 200) // 4 * 2
