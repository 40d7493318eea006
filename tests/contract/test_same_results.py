"""The same seed gives the same weights: on either backend, and whether or not a run was killed on the way."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

import wiserl
from tests.contract.harness import GATED, tiny, train_command, wait_for

HALF = 1024


def weights_of(run_dir: Path) -> bytes:
    return (run_dir / "checkpoints" / "last" / "weights.safetensors").read_bytes()


def train(algo: str, env: str, run_dir: Path, **changes: Any) -> dict[str, Any]:
    """A short run in this process, from the first step to the last."""
    return wiserl.train(algo, env, run_dir=str(run_dir), quiet=True, **tiny(algo, total_steps=2 * HALF, **changes))


@pytest.mark.ray
@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_local_and_ray_give_bit_identical_weights(algo: str, tmp_path: Path, cluster: Any) -> None:
    for backend in ("local", "ray"):
        summary = train(algo, "CartPole-v1", tmp_path / backend, backend=backend, seed=3)
        assert (summary["backend"], summary["runners"], summary["policy_lag_max"]) == (backend, 2, 0)
    other = train(algo, "CartPole-v1", tmp_path / "other", backend="local", seed=4)
    assert weights_of(tmp_path / "local") == weights_of(tmp_path / "ray")
    assert weights_of(tmp_path / "local") != weights_of(tmp_path / "other")
    assert other["updates"] > 0


@pytest.mark.parametrize(
    ("algo", "backend"),
    [("ppo", "local"), ("dqn", "local"), pytest.param("ppo", "ray", marks=pytest.mark.ray), pytest.param("dqn", "ray", marks=pytest.mark.ray)],
)
def test_a_run_killed_in_its_second_half_and_resumed_ends_as_one_that_was_not(
    algo: str, backend: str, launch: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if backend == "ray":
        request.getfixturevalue("cluster")
    # The env closes 100 steps after the checkpoint at half-time: the process is killed in the midst of a step.
    folder = tmp_path / "gate"
    folder.mkdir()
    settings = {"env_kwargs": {"folder": str(folder), "after": HALF // 4 + 25}, "checkpoint_every": HALF, "backend": "local"}
    train(algo, GATED, tmp_path / "whole", **settings)

    (folder / "closed").touch()
    options = tiny(algo, total_steps=2 * HALF, checkpoint_every=HALF, backend=backend, **{"env.folder": folder, "env.after": HALF // 4 + 25})
    command = launch(*train_command(algo, GATED, tmp_path / "killed", options))
    wait_for(lambda: list(folder.glob("waiting-*")), "an env in the midst of a step")
    command.signal(signal.SIGKILL)
    assert command.finish() == -signal.SIGKILL
    manifest = json.loads((tmp_path / "killed" / "checkpoints" / "last" / "manifest.json").read_text())
    assert manifest["env_steps"] == HALF
    (folder / "closed").unlink()

    summary = wiserl.train(algo, GATED, resume=tmp_path / "killed", quiet=True)
    assert (summary["env_steps"], summary["backend"]) == (2 * HALF, backend)
    assert weights_of(tmp_path / "killed") == weights_of(tmp_path / "whole")
