"""Every algorithm on each backend with each kind of observation: it runs, saves, opens, and gives the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wiserl
from wiserl.agent.catalogue import algorithm_names
from wiserl.run_folder.checkpoint import open_checkpoint

REPLAY = {"learning_starts": 16, "train_freq": 4, "buffer_size": 500, "batch_size": 8}
OPTIONS: dict[str, dict[str, Any]] = {
    "ppo": {"n_steps": 8, "batch_size": 16, "n_epochs": 2, "normalize_observation": True},
    "sarsa": {"n_steps": 8, "batch_size": 16},
    "dqn": {**REPLAY, "prioritized": True, "n_step": 2},
    "rainbow": {**REPLAY, "rainbow": True, "num_atoms": 5},
    "qrdqn": {**REPLAY, "n_quantiles": 5},
    "sac": REPLAY,
    "ddpg": REPLAY,
    "td3": {**REPLAY, "prioritized": True, "n_step": 2},
}
SWITCHES = {"rainbow": "dqn"}  # names of settings -> the algorithm they are of
CONTINUOUS = ("ddpg", "td3", "sac")
DISCRETE_ENVS = ("envs:BoxObs", "envs:DiscreteObs", "learning.envs:Everything")
BOX_ENVS = ("learning.envs:steered_box", "learning.envs:steered_discrete", "learning.envs:steered_everything")
CASES = [(name, env) for name in OPTIONS for env in DISCRETE_ENVS if name not in ("ddpg", "td3")]
CASES += [(name, env) for name in CONTINUOUS for env in BOX_ENVS]
CASES += [(name, "envs:DyingAgents") for name in ("ppo", "dqn", "sac")]
# What no contract test compares: layers with noise, each kind of observation, and agents that leave.
QUICK = {
    ("rainbow", "envs:DiscreteObs"), ("sarsa", "learning.envs:Everything"), ("sac", "learning.envs:steered_everything"),
    ("ppo", "envs:DyingAgents"), ("dqn", "envs:DyingAgents"),
}  # fmt: skip


def train(folder: Path, algo: str, env: str, backend: str, **options: Any) -> dict[str, Any]:
    common = {
        "total_steps": 128,
        "runners": 2,
        "envs": 2,
        "eval_episodes": 2,
        "vector": "inline",
        "device": "cpu",
        "quiet": True,
    }
    options = common | OPTIONS[algo] | {"hidden_sizes": "8", "run_dir": folder} | options
    return wiserl.train(SWITCHES.get(algo, algo), f"tests.{env}", backend=backend, **options)


def check_run(folder: Path, summary: dict[str, Any], algo: str, backend: str) -> None:
    """A run folder has what is promised, and its policy acts."""
    assert json.loads((folder / "summary.json").read_text()) == summary
    asked = (
        "algo env seed backend runners envs_per_runner env_steps updates wall_seconds steps_per_second eval_return_mean"
    )
    asked += " eval_return_std train_return_mean policy_lag_mean policy_lag_max runner_restarts fragments_dropped"
    assert set(asked.split()) <= summary.keys()
    assert (summary["algo"], summary["backend"], summary["runners"], summary["envs_per_runner"]) == (
        SWITCHES.get(algo, algo),
        backend,
        2,
        2,
    )
    assert summary["env_steps"] >= 128
    assert summary["updates"] > 0
    assert summary["runner_restarts"] == summary["fragments_dropped"] == 0
    config = json.loads((folder / "config.json").read_text())
    assert config["hyperparameters"]["hidden_sizes"] == [8]
    assert len((folder / "metrics.csv").read_text().splitlines()) > 1
    assert list(folder.glob("events.out.tfevents.*"))
    for which in ("last", "best"):
        policy = wiserl.load(folder, which)
        space = policy.spec.observation_space
        space.seed(0)
        action = policy.choose_action(space.sample())
        assert policy.spec.action_space.contains(np.int64(action) if np.ndim(action) == 0 else action)


def weights_file(folder: Path) -> bytes:
    return (open_checkpoint(folder).path / "weights.safetensors").read_bytes()


def test_no_algorithm_is_left_out() -> None:
    assert {SWITCHES.get(name, name) for name, _ in CASES} == set(algorithm_names())


@pytest.mark.ray
@pytest.mark.parametrize(
    ("algo", "env"), [case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in CASES]
)
def test_the_same_seed_gives_the_same_weights_on_both_backends(ray_here, tmp_path, algo, env):
    """Two runners; `tests/contract` does the same with Box observations, and with a kill on the way."""
    for backend in ("local", "ray"):
        summary = train(tmp_path / backend, algo, env, backend)
        check_run(tmp_path / backend, summary, algo, backend)
        assert summary["policy_lag_max"] == 0
    assert weights_file(tmp_path / "local") == weights_file(tmp_path / "ray")


@pytest.mark.parametrize("backend", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_runners_that_do_not_wait_for_updates_are_paced_by_env_steps(tmp_path, request, backend):
    if backend == "ray":
        request.getfixturevalue("ray_here")
    summary = train(tmp_path / "run", "dqn", "envs:BoxObs", backend, sync=False, total_steps=512)
    check_run(tmp_path / "run", summary, "dqn", backend)
    assert summary["updates"] == (summary["env_steps"] - 16) // 4


@pytest.mark.parametrize(("algo", "env"), [*CASES, ("ppo", "envs:TupleObs"), ("dqn", "envs:TupleObs")])
def test_another_seed_gives_other_weights(tmp_path, algo, env):
    for seed in (0, 1):
        summary = train(tmp_path / str(seed), algo, env, "local", seed=seed)
        check_run(tmp_path / str(seed), summary, algo, "local")
    assert weights_file(tmp_path / "0") != weights_file(tmp_path / "1")


@pytest.mark.parametrize("vector", ["inline", "process", "native"])
@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_each_way_to_step_the_envs_goes_down_the_same_path(tmp_path, algo, vector):
    common = {
        "total_steps": 128,
        "runners": 1,
        "envs": 4,
        "eval_episodes": 1,
        "device": "cpu",
        "quiet": True,
        "backend": "local",
    }
    options = common | OPTIONS[algo] | {"hidden_sizes": "8", "vector": vector, "run_dir": tmp_path / "run"}
    summary = wiserl.train(algo, "CartPole-v1", **options)
    assert summary["vector"] == vector
    assert summary["env_steps"] >= 128
    assert summary["updates"] > 0


@pytest.mark.parametrize("algo", OPTIONS)
def test_a_run_that_broke_and_was_resumed_ends_as_one_that_did_not(tmp_path, algo):
    """In one process; `tests/contract` does the same with SIGKILL."""
    file, env = tmp_path / "broken", "steered" if algo in ("ddpg", "td3") else "plain"
    options: dict[str, Any] = {"env.env": env, "env.file": str(file), "env.after": 20, "checkpoint_every": 64}
    whole = train(tmp_path / "whole", algo, "learning.envs:Fragile", "local", **options)
    file.touch()
    with pytest.raises(RuntimeError, match="the env broke"):
        train(tmp_path / "broke", algo, "learning.envs:Fragile", "local", **options)
    file.unlink()
    assert open_checkpoint(tmp_path / "broke").manifest["env_steps"] == 64
    name, resume = SWITCHES.get(algo, algo), tmp_path / "broke"
    summary = wiserl.train(name, "tests.learning.envs:Fragile", resume=resume, quiet=True)
    assert (summary["env_steps"], summary["updates"]) == (whole["env_steps"], whole["updates"])
    assert weights_file(tmp_path / "broke") == weights_file(tmp_path / "whole")
