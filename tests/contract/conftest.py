"""One Ray cluster, started as a user starts it, for all contract tests that join one."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.contract.harness import ROOT, Command, marked, workers_of


@dataclass(frozen=True)
class RayCluster:
    """A cluster of `ray start --head`, in a folder of its own: who has RAY_TMPDIR set to `folder` joins it."""

    folder: str
    mark: str
    address: str

    def worker_pids(self, title: str) -> list[int]:
        """Pids of Ray workers whose title begins with `ray::TITLE`."""
        return [process.pid for process in workers_of(self.mark, title)]


@pytest.fixture(scope="session", autouse=True)
def hang_ups_are_heard() -> None:
    """Commands inherit it, and the tests may run under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def short_folder() -> Iterator[str]:
    """A folder whose path leaves room for the names of Ray's sockets (107 bytes in all)."""
    folder = tempfile.mkdtemp(prefix="wr", dir="/tmp")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def own_cluster() -> Iterator[RayCluster]:
    """Started once."""
    with started_cluster() as cluster:
        yield cluster


@contextlib.contextmanager
def started_cluster(**variables: str) -> Iterator[RayCluster]:
    """A cluster, ended by the pids of its processes, since `ray stop` would end everybody's."""
    with short_folder() as folder:
        environment = {**os.environ, "RAY_TMPDIR": folder, "TEST_MARK": folder, "RAY_ADDRESS": "", **variables}
        environment["RAY_worker_niceness"] = "0"  # at Ray's 15 they hardly run beside the tests of another process
        ray, port = Path(sys.executable).with_name("ray"), free_port()
        subprocess.run(
            [ray, "start", "--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false",
             "--disable-usage-stats", "--dashboard-agent-listen-port=0"],
            env=environment, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=60,
        )  # fmt: skip
        try:
            yield RayCluster(folder, folder, f"127.0.0.1:{port}")
        finally:
            processes = marked(folder)
            # Ray's agents give themselves a title, which overwrites the mark, and outlive a raylet that is killed.
            for process in list(processes):
                with contextlib.suppress(psutil.NoSuchProcess):
                    processes += process.children(recursive=True)
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(processes, timeout=10)


@pytest.fixture
def cluster(own_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> RayCluster:
    """The cluster, for this process and its commands to join."""
    monkeypatch.setenv("RAY_TMPDIR", own_cluster.folder)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("WISERL_BACKEND", raising=False)
    return own_cluster


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No cluster to be found: whoever needs one has to start it."""
    with short_folder() as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.delenv("WISERL_BACKEND", raising=False)
        yield


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[type[Command]]:
    """Starts commands, and ends what they left when the test is over."""
    commands: list[Command] = []

    def start(*args: str | Path, **variables: str) -> Command:
        commands.append(Command([str(arg) for arg in args], tmp_path, **variables))
        return commands[-1]

    yield start
    for command in commands:
        command.kill()
