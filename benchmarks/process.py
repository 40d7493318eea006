"""Runs one measured thing at a time, each in a process of its own with one thread, and brings back what it reports."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
STARTED = "WISERL_BENCHMARK_STARTED"  # holds the parent's monotonic clock at the start of the process, seconds
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}


class CaseFailed(RuntimeError):
    """A measured process ended badly; the message has its command and the end of its stderr."""


def environment() -> dict[str, str]:
    """Environment variables of a measured process: one thread, no chatter, the repository importable."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    quiet = {"PYTHONWARNINGS": "ignore", "RAY_DEDUP_LOGS": "1", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    return {**os.environ, **ONE_THREAD, **quiet, "PYTHONPATH": path, STARTED: repr(time.monotonic())}


def wiserl_command() -> str:
    """Path of the `wiserl` command beside the running interpreter."""
    return str(Path(sys.executable).parent / "wiserl")


def last_json(text: str) -> dict[str, Any]:
    """The JSON object on the last non-empty line of `text`.

    Raises:
        CaseFailed: if there is none.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    try:
        found = json.loads(lines[-1])
    except (IndexError, ValueError):
        raise CaseFailed(f"expected a JSON object as the last line of stdout, got {lines[-1:]}") from None
    if not isinstance(found, dict):
        raise CaseFailed(f"expected a JSON object as the last line of stdout, got {lines[-1]!r}")
    return found


def run_command(command: Sequence[str], timeout: float) -> dict[str, Any]:
    """Run a command whose last line of stdout is a JSON object, and return that object.

    Args:
        command: program and arguments.
        timeout: seconds after which it and all it started are killed.

    Raises:
        CaseFailed: on an exit code other than 0, on time-out, or when the last line is no JSON object.
    """
    shown = " ".join(command)
    with tempfile.TemporaryFile("w+") as stderr:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=ROOT,
            env=environment(),
            start_new_session=True,
        )
        try:
            stdout, _ = process.communicate(timeout=timeout)
        except BaseException as error:
            _stop(process)
            if isinstance(error, subprocess.TimeoutExpired):
                raise CaseFailed(f"{shown}: not finished after {timeout:.0f} s, killed") from None
            raise
        stderr.seek(0)
        if process.returncode != 0:
            raise CaseFailed(f"{shown}: exit code {process.returncode}\n{stderr.read()[-4000:]}")
    return last_json(stdout)


def _stop(process: subprocess.Popen[str]) -> None:
    """End a process that leads a group: it may end what it started itself, then the group is killed."""
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def exit_on_terminate() -> None:
    """Make SIGTERM end this process the way Ctrl-C does, so that a measured process does not outlive it."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def measure(case: str, timeout: float = 1800, **arguments: Any) -> dict[str, Any]:
    """Call `module:function` of this package with JSON-able `arguments` in a process of its own; returns its report.

    Raises:
        CaseFailed: as `run_command`.
    """
    return run_command([sys.executable, "-m", "benchmarks.process", case, json.dumps(arguments)], timeout)


def since_start() -> float:
    """Seconds since the command of this process was given (for processes begun by `run_command`)."""
    return time.monotonic() - float(os.environ[STARTED])


def main(case: str, arguments: str) -> None:
    """Entry of a measured process: prints the function's report as the last line of stdout."""
    exit_on_terminate()
    module, _, function = case.partition(":")
    report = getattr(importlib.import_module(f"benchmarks.{module}"), function)(**json.loads(arguments))
    print("\n" + json.dumps(report), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
