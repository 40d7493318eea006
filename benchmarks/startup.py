"""Seconds from the command to the first gradient step of PPO, through wiserl's command line."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from benchmarks import settings
from benchmarks.process import run_command, wiserl_command


def train_command(backend: str, runners: int, total_steps: int, run_dir: str, seed: int = 0) -> list[str]:
    """`wiserl train` on PPO's settings, as a list of arguments; the envs are shared out over the runners."""
    options = {
        "--backend": backend,
        "--runners": str(runners),
        "--envs": str(settings.PPO_ENVS // runners),
        "--total-steps": str(total_steps),
        "--eval-episodes": "1",
        "--seed": str(seed),
        "--device": "cpu",
        "--run-dir": run_dir,
    }
    flags = [part for name, value in options.items() for part in (name, value)]
    sets = [part for name, value in settings.PPO.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    return [wiserl_command(), "train", "ppo", settings.ENV, *flags, *sets, "--quiet", "--json"]


def wiserl(backend: str, runners: int) -> dict[str, float]:
    """Run the command once, for three rollouts; `first_update_seconds` counts from the moment it was given.

    Raises:
        CaseFailed: if the command fails.
    """
    with tempfile.TemporaryDirectory(prefix="wiserl-benchmark-") as folder:
        command = train_command(backend, runners, 3 * settings.PPO_ROLLOUT, str(Path(folder) / "run"))
        given = time.time()
        summary = run_command(command, timeout=300)
    return {"first_update_seconds": summary["first_update_at"] - given}
