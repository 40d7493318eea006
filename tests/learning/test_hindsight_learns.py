"""Goals put in hindsight teach what rare rewards do not: bit flipping with DQN, a point to be reached with DDPG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import wiserl

FLIP = {"total_steps": 5000, "envs": 4, "learning_starts": 400, "batch_size": 64, "train_freq": 4, "gradient_steps": 2,
        "target_update_interval": 100, "learning_rate": 2e-3, "gamma": 0.9, "hidden_sizes": "128",
        "exploration_fraction": 0.5, "buffer_size": 5000, "tau": 1.0, "double": False}  # fmt: skip
REACH = {"total_steps": 3000, "envs": 1, "learning_starts": 500, "batch_size": 64, "gamma": 0.9,
         "learning_rate": 1e-3, "noise_std": 0.2, "hidden_sizes": "64,64", "buffer_size": 3000,
         "env.max_steps": 20, "env.speed": 0.2, "env.radius": 0.1}  # fmt: skip
STEADY = FLIP | {"exploration_initial_eps": 0.2, "exploration_final_eps": 0.2}  # whatever total_steps is
SOFT = {name: value for name, value in REACH.items() if name != "noise_std"}


def train(folder: Path, algo: str, env: str, options: dict[str, Any]) -> dict[str, Any]:
    """Train on `wiserl.env.goals:ENV`; the summary."""
    common: dict[str, Any] = {
        "backend": "local",
        "device": "cpu",
        "vector": "inline",
        "quiet": True,
        "eval_episodes": 100,
    }
    if "resume" not in options:
        common["run_dir"] = folder / "run"
    return wiserl.train(algo, f"wiserl.env.goals:{env}", **common, **options)


@pytest.mark.parametrize(("strategy", "bits", "steps"), [("future", 8, 4000), ("final", 8, 5000), ("episode", 6, 3000)])
def test_bits_are_flipped_with_goals_of_each_strategy(tmp_path, strategy, bits, steps):
    options = {**FLIP, "env.bits": bits, "hindsight": strategy, "total_steps": steps}
    summary = train(tmp_path, "dqn", "BitFlip", options)
    assert summary["eval_success_rate"] >= 0.95
    assert summary["eval_return_mean"] > -5.0


def test_more_bits_are_not_learned_without_hindsight(tmp_path):
    summary = train(tmp_path, "dqn", "BitFlip", {**FLIP, "env.bits": 13, "hindsight": "none"})
    assert summary["eval_success_rate"] < 0.1


def test_a_point_is_reached(tmp_path):
    assert train(tmp_path, "ddpg", "ReachGoal", {**REACH, "hindsight": "future"})["eval_success_rate"] >= 0.95


@pytest.mark.parametrize(("algo", "env", "options"), [("dqn", "BitFlip", STEADY), ("sac", "ReachGoal", SOFT)])
def test_a_resumed_run_ends_with_the_very_weights_of_one_that_was_not_stopped(tmp_path, algo, env, options):
    # Whole rounds: the last one of a training is cut short where they do not fit.
    options = {**options, "hindsight": "future", "checkpoint_every": 832}
    train(tmp_path / "whole", algo, env, {**options, "total_steps": 1664})
    train(tmp_path / "half", algo, env, {**options, "total_steps": 832})
    train(tmp_path / "half", algo, env, {"resume": tmp_path / "half" / "run", "total_steps": 1664})
    whole, resumed = (wiserl.load(tmp_path / name / "run")._algorithm.flat for name in ("whole", "half"))
    assert torch.equal(whole, resumed)
