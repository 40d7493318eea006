"""The learner on a GPU: runners act on the CPU, weights travel as CPU copies, checkpoints open anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wiserl
from tests.envs import BoxObs
from tests.learning.test_continuous_learns import Dock
from tests.learning.test_continuous_learns import train as train_on
from tests.plans import make_plan, start
from wiserl.run_folder.checkpoint import open_checkpoint
from wiserl.transport.weights import unpack

pytestmark = pytest.mark.gpu

REPLAY: dict[str, Any] = {"learning_starts": 200, "train_freq": 2, "gamma": 0.3}
OPTIONS: dict[str, dict[str, Any]] = {
    "sac": {**REPLAY, "batch_size": 64, "hidden_sizes": (32, 32), "ent_coef": 0.05},
    "qrdqn": {**REPLAY, "tau": 0.02, "target_update_interval": 2, "n_quantiles": 10},
    "sarsa": {"gamma": 0.3, "n_epochs": 2},
    "ppo": {"n_steps": 64, "batch_size": 64, "n_epochs": 4, "gamma": 0.5, "normalize_observation": True},
    "dqn": {
        "learning_starts": 200,
        "gradient_steps": 2,
        "target_update_interval": 100,
        "gamma": 0.3,
        "prioritized": True,
    },
}


def train(folder: Path, algo: str, env: str, **options: Any) -> dict[str, Any]:
    common = {
        "total_steps": 4000,
        "envs": 4,
        "learning_rate": 3e-3,
        "vector": "inline",
        "quiet": True,
        "backend": "local",
    }
    return wiserl.train(algo, f"tests.{env}", **(common | OPTIONS[algo] | {"run_dir": folder / "run"} | options))


@pytest.mark.parametrize("env", ["envs:BoxObs", "learning.envs:Image"])
@pytest.mark.parametrize("algo", OPTIONS)
def test_it_learns_on_the_gpu_and_its_checkpoint_acts_on_the_cpu_and_on_the_gpu(tmp_path, algo, env):
    summary = train(tmp_path, algo, env, device="cuda")
    assert summary["eval_return_mean"] >= 15.0
    checkpoint = open_checkpoint(tmp_path / "run")
    assert {tensor.device.type for tensor in checkpoint.weights().values()} == {"cpu"}
    space = wiserl.load(tmp_path / "run").spec.observation_space
    space.seed(0)
    for obs in (space.sample() for _ in range(5)):
        actions = [wiserl.load(tmp_path / "run", device=device).choose_action(obs) for device in ("cpu", "cuda")]
        assert actions[0] == actions[1]


@pytest.mark.parametrize(
    ("algo", "options"),
    [("ddpg", {}), ("td3", {}), ("sac", {"ent_coef_init": 0.1}), ("td3", {"prioritized": True, "n_step": 3})],
    ids=str,
)
def test_box_actions_are_learned_on_the_gpu(tmp_path, algo, options):
    assert train_on(tmp_path, algo, Dock, gamma=0.9, device="cuda", **options)["eval_return_mean"] >= 0.88


def test_rainbow_is_learned_on_the_gpu(tmp_path):
    summary = train(tmp_path, "dqn", "envs:BoxObs", device="cuda", rainbow=True, v_min=0.0, v_max=2.0)
    assert summary["eval_return_mean"] >= 15.0


def test_a_gaussian_policy_is_learned_on_the_gpu(tmp_path):
    assert train(tmp_path, "ppo", "envs:BoxAction", device="cuda")["eval_return_mean"] >= 13.0


@pytest.mark.parametrize("algo", OPTIONS)
def test_the_learner_is_on_the_gpu_runners_and_what_travels_are_on_the_cpu(tmp_path, algo):
    plan = make_plan(tmp_path, algo, BoxObs, device="cuda", total_steps=64)
    wise_rl, group = start(plan, BoxObs, 8)
    runner = group.members[0][0]
    learner = wise_rl.backend._learners["learner"]
    algorithm = learner.agent.algorithm
    for _ in range(2):
        assert algorithm.flat.device.type == "cuda"
        assert all(parameter.device.type == "cuda" for parameter in algorithm.policy.parameters())
        replica = runner.policy.algorithm
        assert replica.flat.device.type == "cpu"
        packed = learner.ack(-1).weights
        assert all(isinstance(buffer, np.ndarray) for buffer in packed.buffers.values())
        tensor = unpack(packed)["weights"]["parameters"]
        assert tensor.device.type == "cpu"
        assert torch.equal(tensor, algorithm.flat.detach().cpu())
        assert torch.equal(replica.flat, tensor)
        runner.step()


@pytest.mark.parametrize("algo", OPTIONS)
def test_a_run_goes_on_from_a_gpus_checkpoint_on_either_device(tmp_path, algo):
    for device in ("cuda", "cpu"):
        train(tmp_path / device, algo, "envs:BoxObs", device="cuda", total_steps=1000, eval_episodes=1)
        run_dir = tmp_path / device / "run"
        summary = wiserl.train(algo, "tests.envs:BoxObs", resume=run_dir, total_steps=2000, device=device, quiet=True)
        assert summary["env_steps"] >= 2000


@pytest.mark.ray
def test_a_learner_with_a_gpu_of_its_own_on_ray(tmp_path, ray_here):
    summary = train(tmp_path, "ppo", "envs:BoxObs", backend="ray", runners=2, envs=2)
    assert summary["eval_return_mean"] >= 15.0
    assert (tmp_path / "run" / "config.json").read_text().count('"device": "cuda"') == 1
