"""A cluster of two nodes: runners on both, weights and fragments cross, and one node may go."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.contract.harness import GATED, tiny, train_command, wait_for

# Above what travels inside an answer (100 kB), so that weights go through both nodes' object stores.
LARGE = {"hidden_sizes": "128,128"}


@pytest.mark.ray
def test_runners_land_on_both_nodes_and_the_run_finishes_when_one_is_removed(
    launch: Any, tmp_path: Path, no_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # all on loopback; the token is not what is tested
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        raylets = [process.pid for process in psutil.process_iter() if is_raylet_of(process, os.environ["RAY_TMPDIR"])]
        assert len(raylets) == 2
        (tmp_path / "closed").touch()
        options = tiny("ppo", total_steps=4096, backend="ray", **LARGE, **{"env.folder": tmp_path, "env.after": 600})
        command = launch(*train_command("ppo", GATED, tmp_path / "run", options, "--json"), RAY_ADDRESS=cluster.address)

        waiting = wait_for(lambda: two(list(tmp_path.glob("waiting-*"))), "both runners in the midst of a step")
        runner_pids = [int(path.name.split("-")[1]) for path in waiting]
        assert sorted(raylet_above(pid, raylets) for pid in runner_pids) == sorted(raylets)

        cluster.remove_node(second)
        (tmp_path / "closed").unlink()
        assert command.finish() == 0, command.output
    finally:
        cluster.shutdown()
    assert '"env_steps": 4096' in command.output
    assert '"runner_restarts": 1' in command.output
    assert '"learner_restarts": 0' in command.output


def two(found: list[Path]) -> list[Path]:
    return found if len(found) == 2 else []


def is_raylet_of(process: psutil.Process, folder: str) -> bool:
    try:
        return process.name() == "raylet" and any(folder in argument for argument in process.cmdline())
    except psutil.Error:
        return False


def raylet_above(pid: int, raylets: list[int]) -> int:
    """The raylet, of these, that a worker process descends from."""
    return next(parent.pid for parent in psutil.Process(pid).parents() if parent.pid in raylets)
