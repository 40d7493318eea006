"""Resident memory of every process of a Ray run with two runners, one and five minutes in."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.process import ROOT, CaseFailed, environment
from benchmarks.startup import train_command

MEGABYTE = 1e6


@dataclass(frozen=True)
class Reading:
    """One process at one moment: its role, resident megabytes (10^6 bytes), and those shared with no other."""

    role: str
    resident: float
    own: float


def role_of(command_line: list[str]) -> str:
    """What a process is, from its command line: "driver", the name of a Ray actor, or a part of Ray.

    >>> role_of(["ray::RunnerActor.run"]), role_of(["/x/raylet/raylet"]), role_of(["python", "/bin/wiserl", "train"])
    ('ray::RunnerActor', 'raylet', 'driver')
    """
    if command_line[0].startswith("ray::"):
        return command_line[0].split(".")[0]
    programs = [Path(part).stem for part in command_line if not part.startswith("-")]
    if "wiserl" in programs:
        return "driver"
    # The script, where an interpreter runs one.
    return programs[1] if programs[0].startswith("python") and len(programs) > 1 else programs[0]


def snapshot(root: psutil.Process) -> dict[int, Reading]:
    """Process id to reading, for `root` and all its descendants that live now."""
    readings = {}
    for process in [root, *root.children(recursive=True)]:
        try:
            memory = process.memory_full_info()
            command_line = process.cmdline()
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if command_line:
            readings[process.pid] = Reading(role_of(command_line), memory.rss / MEGABYTE, memory.uss / MEGABYTE)
    return readings


def compare(first: dict[int, Reading], second: dict[int, Reading]) -> dict[str, Any]:
    """Rows of both readings, the largest runner, and the largest growth of a process that was there both times (MB).

    Raises:
        CaseFailed: if no process has a role with "runner" in it.
    """
    rows = [
        {
            "role": after.role,
            "minute_1": first[pid].resident if pid in first else None,
            "minute_5": after.resident,
            "own_minute_1": first[pid].own if pid in first else None,
            "own_minute_5": after.own,
        }
        for pid, after in sorted(second.items(), key=lambda item: -item[1].resident)
    ]
    runners = [reading.resident for reading in second.values() if "runner" in reading.role.lower()]
    if not runners:
        raise CaseFailed(f"no runner among the processes {sorted(reading.role for reading in second.values())}")
    growth = [reading.resident - first[pid].resident for pid, reading in second.items() if pid in first]
    return {"processes": rows, "largest_runner": max(runners), "largest_growth": max(growth)}


def run(first_at: float = 60.0, second_at: float = 300.0) -> dict[str, Any]:
    """Train PPO with two Ray runners and read the memory `first_at` and `second_at` seconds after the command.

    Raises:
        CaseFailed: if training ends before the second reading, or does not end within a minute of Ctrl-C.
    """
    with tempfile.TemporaryDirectory(prefix="wiserl-benchmark-") as folder:
        command = train_command("ray", 2, 1_000_000_000, str(Path(folder) / "run"))
        log = Path(folder) / "stderr"
        with log.open("wb") as stderr:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, cwd=ROOT, env=environment())
        readings = []
        started = time.monotonic()
        try:
            for moment in (first_at, second_at):
                while time.monotonic() - started < moment:
                    if process.poll() is not None:
                        seconds = time.monotonic() - started
                        raise CaseFailed(f"{' '.join(command)}: ended after {seconds:.0f} s\n{log.read_text()[-4000:]}")
                    time.sleep(0.5)
                readings.append(snapshot(psutil.Process(process.pid)))
            process.send_signal(signal.SIGINT)
            process.wait(60)
        except subprocess.TimeoutExpired:
            raise CaseFailed(f"{' '.join(command)}: still there a minute after Ctrl-C") from None
        finally:
            if process.poll() is None:
                print("killing what is left of the run", file=sys.stderr)
                for child in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
                    child.kill()
                process.wait()
    return compare(readings[0], readings[1])
