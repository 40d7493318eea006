"""What every fuzzer shares: how many inputs, a command run in this process, and what must never happen."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import io
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from wiserl.cli.main import main

SECONDS = 20  # that one input may take; none that is refused takes one

log = logging.getLogger("tests.fuzz")


def inputs(quick: int) -> pytest.MarkDecorator:
    """Runs a test with so many `inputs`, and with `-m slow` once more with WISERL_FUZZ_INPUTS (10,000) of them."""
    many = int(os.environ.get("WISERL_FUZZ_INPUTS", "10000"))
    marks = [pytest.mark.slow, pytest.mark.timeout(max(many, 180))]
    return pytest.mark.parametrize("inputs", [quick, pytest.param(many, marks=marks, id="many")])


def fuzzing(count: int) -> settings:
    """Settings of hypothesis for so many inputs."""
    return settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))


class Hang(BaseException):
    """An input took longer than `SECONDS`."""


class Ran(BaseException):
    """An input made this process do what no input may."""


@dataclass
class Outcome:
    """How a command ended: its exit code, what it printed, and its traceback, if there was one."""

    code: Any
    out: str
    err: str
    trace: str = ""


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Inside, what takes longer than `SECONDS` raises `Hang`."""

    def late(signum: int, frame: FrameType | None) -> None:
        raise Hang("".join(traceback.format_stack(frame, limit=8)))

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


_watching = False
_FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.kill",
    "subprocess.Popen",
    "pty.spawn",
    "socket.connect",
)


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event in _FORBIDDEN:
        raise Ran(f"{event}{arguments!r}"[:500])


sys.addaudithook(_watch)  # it cannot be taken off again, so it is told when to look


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Inside, starting a program, a process or a connection raises `Ran`."""
    global _watching
    _watching = True
    try:
        yield
    finally:
        _watching = False


def wiserl(*arguments: str) -> Outcome:
    """Run a command in this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    before, path = sys.argv, list(sys.path)
    code: Any = 0
    trace = ""
    sys.argv = ["wiserl", *arguments]
    try:
        with limited(), watched(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        code = end.code or 0
    except Exception:
        code, trace = None, traceback.format_exc()
    finally:
        sys.argv, sys.path[:] = before, path
    shown, said = (stream.buffer.getvalue().decode("utf-8", "surrogateescape") for stream in (out, err))
    return Outcome(code, shown, said, trace)


def check(outcome: Outcome) -> None:
    """Fail unless a command ended as one does: 0, 1 or 2, with one line where it failed, and no traceback."""
    assert not outcome.trace, outcome.trace
    assert "Traceback" not in outcome.err, outcome.err
    assert outcome.code in (0, 1, 2), outcome
    if outcome.code == 2:
        assert outcome.out == "", outcome
        assert outcome.err.startswith("wiserl: error: "), outcome
        assert outcome.err.count("\n") == 1, outcome
        assert outcome.err.endswith("\n"), outcome


def stamp(folder: Path) -> dict[str, str]:
    """Every file and folder below one, with its content: what is lost, new or changed shows."""
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        else:
            found[name] = "folder" if path.is_dir() else hashlib.blake2b(path.read_bytes()).hexdigest()
    return found


class Tally:
    """Counts how inputs ended, and says so in the log (`--log-cli-level=INFO`)."""

    def __init__(self, what: str) -> None:
        self._what = what
        self.counts: collections.Counter[str] = collections.Counter()

    def __enter__(self) -> Tally:
        return self

    def __exit__(self, *error: object) -> None:
        counted = ", ".join(f"{name}: {count:,}" for name, count in sorted(self.counts.items()))
        log.info("%s: %s inputs (%s)", self._what, f"{sum(self.counts.values()):,}", counted)
