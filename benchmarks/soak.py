"""Training for an hour: `python -m benchmarks.soak [--backend local|ray] [--minutes 60]`.

PPO on CartPole with checkpoints and evaluations on the way. Memory, open files and threads of each process are read every ten
seconds. Memory may grow by less than 1 MB in ten minutes, files and threads not at all, once it has run for five minutes. The report
becomes a row of `benchmarks/results/soak.json`, in place of an older one of the same command.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import psutil
from rich.console import Console

from benchmarks.memory import MEGABYTE, role_of
from benchmarks.process import ROOT, environment, wiserl_command
from benchmarks.report import machine, versions
from benchmarks.scores import commit

RESULTS = Path(__file__).resolve().parent / "results" / "soak.json"
EVERY_SECONDS = 10.0
SETTLED_SECONDS = 300.0
MOST_MB = 1.0


class Reading(NamedTuple):
    """One process at one moment: seconds since the start, megabytes (10^6) that no other process has, open files, threads."""

    seconds: float
    megabytes: float
    files: Counter[str]
    threads: int


def open_files(pid: int) -> Counter[str]:
    """How often a process has each file open; sockets, pipes and files of a run or checkpoint by kind, without their numbers."""
    folder = f"/proc/{pid}/fd"
    found: Counter[str] = Counter()
    for entry in os.listdir(folder):
        with contextlib.suppress(OSError):
            found[re.sub(r"\d+", "N", os.readlink(f"{folder}/{entry}"))] += 1
    return found


def read(root: psutil.Process, seconds: float, readings: dict[str, list[Reading]]) -> None:
    """Add a reading of `root` and each of its descendants, by role and pid."""
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.Error, OSError):
            name = f"{role_of(process.cmdline() or ['?'])} {process.pid}"
            memory = process.memory_full_info().uss / MEGABYTE
            reading = Reading(seconds, memory, open_files(process.pid), process.num_threads())
            readings.setdefault(name, []).append(reading)


def growth(readings: list[Reading]) -> dict[str, Any] | None:
    """Slope of memory in MB per ten minutes, and of files and threads the change from the settled start to the end.

    Medians of a minute at both ends: a checkpoint that is being written has files open. `came` and `went` name the files by which
    the last reading differs from the first. None: it did not live that long.
    """
    settled = [reading for reading in readings if reading.seconds >= SETTLED_SECONDS]
    if len(settled) < 12:
        return None
    seconds = np.array([reading.seconds for reading in settled])
    megabytes = np.array([reading.megabytes for reading in settled])
    files = [reading.files.total() for reading in settled]
    threads = [reading.threads for reading in settled]
    ends = [(values[:6], values[-6:]) for values in (files, threads)]
    changes = [float(np.median(last) - np.median(first)) for first, last in ends]
    slope = float(np.polyfit(seconds, megabytes, 1)[0]) * 600.0
    first, last = settled[0].files, settled[-1].files
    return {
        "mb_in_ten_minutes": slope, "megabytes": float(megabytes[-1]), "files": changes[0], "threads": changes[1],
        "came": dict(last - first), "went": dict(first - last),
    }  # fmt: skip


def soak(backend: str, minutes: float, seed: int, console: Console) -> dict[str, Any]:
    """Train for so long; returns growth by process, and what the run said last."""
    readings: dict[str, list[Reading]] = {}
    with tempfile.TemporaryDirectory(prefix="wiserl-soak-") as folder, tempfile.TemporaryFile("w+") as errors:
        command = [
            wiserl_command(), "train", "ppo", "CartPole-v1", "--backend", backend, "--runners", "2", "--seed", str(seed),
            "--total-steps", "200000000", "--checkpoint-every", "200000", "--eval-every", "200000", "--quiet",
            "--run-dir", str(Path(folder) / "run"),
        ]  # fmt: skip
        run = subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
        )
        begun = time.monotonic()
        try:
            while run.poll() is None and (seconds := time.monotonic() - begun) < minutes * 60.0:
                with contextlib.suppress(psutil.NoSuchProcess):
                    read(psutil.Process(run.pid), seconds, readings)
                time.sleep(EVERY_SECONDS)
        finally:
            run.send_signal(signal.SIGINT)
            code = run.wait(120)
        errors.seek(0)
        said = errors.read()[-2000:]
    grown = {name: found for name, of_one in readings.items() if (found := growth(of_one))}
    for name, found in grown.items():
        console.print(f"{name}: {found}")
    return {"backend": backend, "minutes": minutes, "seed": seed, "exit_code": code, "said": said, "growth": grown}


def read_rows() -> list[dict[str, Any]]:
    """What was measured so far."""
    found: list[dict[str, Any]] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    return found


def of_wiserl(growth: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The script, the learner and the runners, without Ray's own processes."""
    return {name: found for name, found in growth.items() if name.startswith(("driver", "ray::_"))}


@click.command(help=__doc__)
@click.option("--backend", type=click.Choice(["local", "ray"]), default="local")
@click.option("--minutes", type=float, default=60.0)
@click.option("--seed", type=int, default=0)
def main(backend: str, minutes: float, seed: int) -> None:
    """Soak; exit code 1 if something of wiserl's grew, or the run ended by itself."""
    console = Console(stderr=True)
    row = soak(backend, minutes, seed, console)
    row |= {
        "command": f"python -m benchmarks.soak --backend {backend} --minutes {minutes:g} --seed {seed}", "commit": commit(),
        "machine": machine(), "versions": versions(), "measured_at": time.strftime("%Y-%m-%d %H:%M:%S"),
    }  # fmt: skip
    others = [other for other in read_rows() if other["command"] != row["command"]]
    RESULTS.write_text(json.dumps([*others, row], indent=1) + "\n", encoding="utf-8")
    ours = of_wiserl(row["growth"])
    grew = [
        name
        for name, found in ours.items()
        if found["mb_in_ten_minutes"] >= MOST_MB or found["files"] > 0 or found["threads"] > 0
    ]
    if not ours or grew or row["exit_code"] != 130:
        console.print(f"grew: {grew}; exit code {row['exit_code']}")
        raise SystemExit(1)


if __name__ == "__main__":
    main()
