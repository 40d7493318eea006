"""What the contract tests share: commands run as a user runs them, watched from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parent.parent.parent
WISERL = Path(sys.executable).with_name("wiserl")
GATED = "tests.contract.envs:gated"
_MARK = "TEST_MARK"

# A run of a second: CartPole, two runners of two envs, rounds of 256 env steps.
TINY_PPO: dict[str, Any] = {"n_steps": 64, "batch_size": 64, "n_epochs": 2}
TINY_DQN: dict[str, Any] = {"learning_starts": 64, "batch_size": 32, "buffer_size": 2000, "train_freq": 8, "n_step": 3}
TINY_RUN: dict[str, Any] = {"runners": 2, "envs": 2, "vector": "inline", "sync": True, "eval_episodes": 1}


def tiny(algo: str, **changes: Any) -> dict[str, Any]:
    """Options of a short run of `algo`."""
    return {**TINY_RUN, **(TINY_PPO if algo == "ppo" else TINY_DQN), **changes}


def train_command(algo: str, env: str, run_dir: Path, options: dict[str, Any], *flags: str) -> list[str]:
    """The command line of a training run."""
    settings = [part for key, value in options.items() for part in ("--set", f"{key}={value}")]
    return [str(WISERL), "train", algo, env, "--run-dir", str(run_dir), "--quiet", *settings, *flags]


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """What `condition` gives, once that is true."""
    give_up_at = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < give_up_at, f"{what}: not after {seconds:.0f} s"
        time.sleep(0.01)
    return value


class Command:
    """A command in a session of its own, as a shell starts it, whose descendants can all be found again."""

    def __init__(self, args: list[str], folder: Path, **variables: str) -> None:
        self.mark = uuid.uuid4().hex
        self.log = folder / f"{self.mark}.log"
        environment = {**os.environ, **variables, _MARK: self.mark}
        environment.pop("PYTHONUNBUFFERED", None)  # what users have not, and hides what is left in a buffer
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                args, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def signal(self, signum: int, whole_group: bool = False) -> None:
        """Send a signal to the process, or to its group as a terminal does."""
        if whole_group:
            os.killpg(self.pid, signum)
        else:
            self.process.send_signal(signum)

    def finish(self, seconds: float = 90.0) -> int:
        """Wait for the end; returns the exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end in {seconds:.0f} s; its output:\n{self.output}") from None

    def left_behind(self, seconds: float = 15.0) -> list[str]:
        """Descendants that are still there, given some seconds to go."""
        give_up_at = time.monotonic() + seconds
        while (left := marked(self.mark)) and time.monotonic() < give_up_at:
            time.sleep(0.1)
        return [" ".join(process.cmdline())[:200] for process in left if process.is_running()]

    def kill(self) -> None:
        """End it and all its descendants."""
        self.process.kill()
        self.process.wait()
        for process in marked(self.mark):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def marked(mark: str) -> list[psutil.Process]:
    """All living processes that inherited the environment of a command, whatever session they moved to."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(_MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def kill_when_there(pid_file: Path, seconds: float = 60.0) -> int:
    """SIGKILL to the process that writes its pid there."""
    wait_for(lambda: pid_file.exists() and pid_file.read_text(), f"{pid_file} with a pid", seconds)
    pid = int(pid_file.read_text())
    os.kill(pid, signal.SIGKILL)
    return pid


def workers_of(cluster_pid_mark: str, title: str) -> list[psutil.Process]:
    """Ray's worker processes of a marked command or cluster whose title begins with `ray::TITLE`."""
    found = []
    for process in marked(cluster_pid_mark):
        with contextlib.suppress(psutil.Error):  # it may have ended since
            if "".join(process.cmdline()[:1]).startswith(f"ray::{title}"):
                found.append(process)
    return found
