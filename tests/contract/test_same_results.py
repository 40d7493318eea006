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
@pytest.mark.parametrize(
    ("algo", "env", "switches"),
    [
        # `test_no_trace` compares these two as well
        pytest.param("ppo", "CartPole-v1", {}, marks=pytest.mark.slow),
        pytest.param("dqn", "CartPole-v1", {}, marks=pytest.mark.slow),
        ("sac", "CartPole-v1", {}),  # layers that go by oneDNN
        ("dqn", "wiserl.env.goals:BitFlip", {"hindsight": "future", "n_step": 1}),
    ],
)
def test_local_and_ray_give_bit_identical_weights(
    algo: str, env: str, switches: dict[str, Any], tmp_path: Path, cluster: Any
) -> None:
    for backend in ("local", "ray"):
        summary = train(algo, env, tmp_path / backend, backend=backend, seed=3, **switches)
        assert (summary["backend"], summary["runners"], summary["policy_lag_max"]) == (backend, 2, 0)
    other = train(algo, env, tmp_path / "other", backend="local", seed=4, **switches)
    assert weights_of(tmp_path / "local") == weights_of(tmp_path / "ray")
    assert weights_of(tmp_path / "local") != weights_of(tmp_path / "other")
    assert other["updates"] > 0


NORMALISED = {"normalize_observation": True, "normalize_reward": True, "learning_rate_decay": "linear"}
PRIORITISED = {"prioritized": True, "dueling": True, "double": True}


@pytest.mark.parametrize(
    ("algo", "backend", "switches"),
    [
        ("ppo", "local", NORMALISED),
        ("dqn", "local", PRIORITISED),
        pytest.param("dqn", "local", {}, marks=pytest.mark.slow),
        ("dqn", "local", NORMALISED),
        ("sac", "local", {}),
        pytest.param("ppo", "ray", {}, marks=pytest.mark.ray),
    ],
)
def test_a_run_killed_in_its_second_half_and_resumed_ends_as_one_that_was_not(
    algo: str, backend: str, switches: dict[str, Any], launch: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if backend == "ray":
        request.getfixturevalue("cluster")
    # The env closes 25 of its steps after the checkpoint at half-time: the process is killed in the midst of a step.
    folder = tmp_path / "gate"
    folder.mkdir()
    gate = {"env.folder": str(folder), "env.after": HALF // 4 + 25}
    options = {"checkpoint_every": HALF, **switches, **gate}
    train(algo, GATED, tmp_path / "whole", backend="local", **options)

    (folder / "closed").touch()
    command = launch(
        *train_command(algo, GATED, tmp_path / "killed", tiny(algo, total_steps=2 * HALF, backend=backend, **options))
    )
    wait_for(lambda: list(folder.glob("waiting-*")), "an env in the midst of a step")
    command.signal(signal.SIGKILL)
    assert command.finish() == -signal.SIGKILL
    manifest = json.loads((tmp_path / "killed" / "checkpoints" / "last" / "manifest.json").read_text())
    assert manifest["env_steps"] == HALF
    (folder / "closed").unlink()

    # Resumed on the other backend: a checkpoint does not know where it was written.
    summary = wiserl.train(algo, GATED, resume=tmp_path / "killed", quiet=True, backend="local")
    assert (summary["env_steps"], summary["backend"]) == (2 * HALF, "local")
    assert weights_of(tmp_path / "killed") == weights_of(tmp_path / "whole")
