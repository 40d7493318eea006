"""What is decided before a run begins: backend, device, how often is saved, what its files hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.envs import Chain
from wiserl.experiment.options import resolve
from wiserl.experiment.prepare import backend_for, learner_device, prepare, with_defaults
from wiserl.training.plan import RunConfig
from wiserl.util.device import check_device
from wiserl.util.errors import InputError


def options(**given: Any) -> tuple[RunConfig, Any]:
    return resolve("ppo", "tests.envs:Chain", given)


def test_auto_is_local_for_one_runner_and_ray_for_more_where_it_is_installed(monkeypatch):
    monkeypatch.delenv("WISERL_BACKEND", raising=False)
    one, two = options(runners=1)[0], options(runners=2)[0]
    assert (backend_for(one), backend_for(two)) == ("local", "ray")
    assert backend_for(options(runners=2, backend="local")[0]) == "local"
    monkeypatch.setenv("WISERL_BACKEND", "local")
    assert backend_for(two) == "local"
    monkeypatch.delenv("WISERL_BACKEND")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert backend_for(two) == "local"
    with pytest.raises(InputError, match="needs the package ray"):
        backend_for(options(backend="ray")[0])


def test_checkpoints_come_five_in_a_run_unless_said_otherwise():
    run = options(total_steps=1000)[0]
    assert with_defaults(run, 10, True).checkpoint_every == 200
    assert with_defaults(run, 500, True).checkpoint_every == 500, "not oftener than there are rounds"
    assert with_defaults(options(checkpoint_every=7)[0], 10, True).checkpoint_every == 7


@pytest.mark.parametrize(
    ("device", "gpus", "has_cuda", "backend", "expected"),
    [
        ("auto", 0, False, "local", ("cpu", 0.0)),
        ("auto", 0, True, "local", ("cuda", 0.0)),
        ("cpu", 0, True, "local", ("cpu", 0.0)),
        ("cuda:1", 0, True, "local", ("cuda:1", 0.0)),
        ("auto", 0, False, "ray", ("cpu", 0.0)),
        ("auto", 0, True, "ray", ("cuda", 1.0)),
        ("auto", 0.5, False, "ray", ("cuda", 0.5)),
        ("cuda", 0, False, "ray", ("cuda", 1.0)),
        ("cpu", 0, True, "ray", ("cpu", 0.0)),
    ],
)
def test_the_learner_uses_a_gpu_where_there_is_one(monkeypatch, device, gpus, has_cuda, backend, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert learner_device(options(device=device, learner_gpus=gpus)[0], backend) == expected


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="device 'cuda' was asked for, but PyTorch finds no GPU here; use cpu"):
        learner_device(options(device="cuda")[0], "local")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="device 'cuda:2' was asked for, but PyTorch finds GPUs 0 to 1; use cpu"):
        learner_device(options(device="cuda:2")[0], "local")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "auto", ""])
def test_what_is_no_device_is_refused(name):
    with pytest.raises(InputError, match=f"unknown device '{name}': expected cpu, cuda or cuda:INDEX"):
        check_device(name)


def test_fragments_under_way_are_fewer_where_only_new_ones_are_learned_from():
    run = options()[0]
    assert [with_defaults(run, 10, on_policy).max_inflight for on_policy in (True, False)] == [1, 2]
    assert with_defaults(options(max_inflight=5)[0], 10, True).max_inflight == 5


def test_config_json_and_manifest_name_algorithm_and_env_as_ever():
    """Run folders of earlier versions have these keys, and resume."""
    run, config = resolve("ppo", Chain, {"device": "cpu", "vector": "inline", "env.length": 4})
    prepared = prepare(run, config)
    settings, manifest = prepared.settings(Path("runs/x")), prepared.manifest()
    assert list(settings) == ["format", "run", "hyperparameters", "algo", "env", "backend", "transform", "signature"]
    assert list(manifest) == ["algo", "env", "env_kwargs", "spec", "config", "seed", "signature"]
    for named in (settings, settings["run"], manifest):
        assert (named["algo"], named["env"]) == ("ppo", "tests.envs:Chain")
    assert list(settings["run"]) == [
        "algo", "env", "total_steps", "runners", "envs", "vector", "backend", "device", "sync", "seed", "run_dir",
        "eval_every", "eval_episodes", "checkpoint_every", "keep_checkpoints", "save_replay", "max_inflight",
        "max_restarts", "learner_gpus", "preset", "env_kwargs",
    ]  # fmt: skip
    assert settings["run"]["run_dir"] == "runs/x"
    assert settings["hyperparameters"] == manifest["config"]
