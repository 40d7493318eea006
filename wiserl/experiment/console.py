"""What a person sees while wiserl works: a live table and progress bar on stderr, plain lines where it is no terminal.

Stdout is left to results: the summary at the end, as a table or (`json=True`) as one line of JSON, always the last one.
"""

from __future__ import annotations

import contextlib
import json as jsonlib
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, TextIO, cast

from rich.console import Console as RichConsole
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from wiserl.run_folder.writing import DISK_FULL

STDERR = 2
FIRST_SECONDS = 2.0
PLAIN_SECONDS = 5.0
LIVE_SECONDS = 0.5

# Shown first, and alone in a plain line. All else that is in a row follows in the live table under its own name.
HEADLINES = {
    "charts/SPS": "steps/s",
    "charts/episodic_return": "return",
    "eval/return_mean": "eval return",
    "charts/policy_lag_mean": "policy lag",
}
SUMMARY_KEYS = (
    *("algo", "env", "seed", "backend", "runners", "env_steps", "updates", "wall_seconds", "steps_per_second"),
    *(
        "train_return_mean",
        "eval_return_mean",
        "eval_return_std",
        "eval_success_rate",
        "policy_lag_mean",
        "runner_restarts",
    ),
)


def format_value(value: Any) -> str:
    """A value as people read it: thousands separated, 3-4 digits, `-` for what is not known (NaN, None)."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{round(value):,}"
    if abs(value) >= 1:
        return f"{value:.2f}"
    return f"{value:.3g}"


def format_seconds(seconds: float) -> str:
    """A duration as `h:mm:ss`, or `-` where it is not known."""
    if not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def json_line(values: Mapping[str, Any]) -> str:
    """One line of JSON any parser takes: NaN and infinities become null, numpy scalars numbers, paths strings."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        if isinstance(value, Path):
            return str(value)
        if hasattr(value, "item"):
            value = value.item()
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return jsonlib.dumps(plain(values))


def _on_terminal(console: RichConsole) -> bool:
    return console.is_terminal and not console.is_dumb_terminal


class _Stderr:
    """Stderr as it is at each moment, until nobody reads it any more: then it says so, once, and drops what is written."""

    def __init__(self, closed: Callable[[], None]) -> None:
        self._closed: Callable[[], None] | None = closed

    def write(self, text: str) -> int:
        self._try(lambda: sys.stderr.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(lambda: sys.stderr.flush())

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)

    def _try(self, action: Callable[[], Any]) -> None:
        if self._closed is None:
            return
        try:
            action()
        except OSError as error:  # a pipe whose reader has ended, a terminal that is closed
            if error.errno in DISK_FULL:  # a log that nobody waits for
                return
            closed, self._closed = self._closed, None
            _drop_stderr()
            closed()


def _drop_stderr() -> None:
    """Let what is written to stderr go nowhere, so also what it has buffered: Python would exit with 120 where it cannot be written."""
    with contextlib.suppress(OSError, ValueError):  # it may be no file
        if sys.stderr.fileno() == STDERR:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, STDERR)
            os.close(null)


class Console:
    """Progress of a training run; a context manager. It draws inside `update` only: a breakpoint is left in peace.

    On a terminal the table is redrawn at most twice a second; elsewhere a plain line is printed after 2 s, then at most every
    5 s, and the last state once more at the end.
    """

    def __init__(self, total_steps: int, quiet: bool = False, json: bool = False,
                 closed: Callable[[], None] = lambda: None) -> None:  # fmt: skip
        """Start nothing yet; the display opens with the `with` block.

        Args:
            total_steps: env steps at which the run is done.
            quiet: show warnings only; `summary` prints nothing unless `json`.
            json: `summary` prints one line of JSON on stdout instead of a table.
            closed: called when nobody reads stderr any more.
        """
        self._total_steps = total_steps
        self._quiet = quiet
        self._json = json
        self._err = RichConsole(file=cast(TextIO, _Stderr(closed)), highlight=False, soft_wrap=True)
        self._first = (monotonic(), 0)
        self._drawn_at = self._first[0]
        self._plain_seconds = FIRST_SECONDS
        self._env_steps = 0
        self._printed_steps = 0
        self._latest: dict[str, float] = {}
        self._live: Live | None = None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=40),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]} left"),
            console=self._err,
            auto_refresh=False,
        )
        self._task = self._bar.add_task("", total=max(total_steps, 1), left="-")

    def __enter__(self) -> Console:
        self._first = (monotonic(), self._first[1])
        if not self._quiet and _on_terminal(self._err):
            # No refresh thread: it would take time from the training thread, and draw over a debugger's prompt.
            # Stdout is caught (to keep a user's prints above the table) only where it would reach the same screen.
            self._live = Live(
                self._render(), console=self._err, auto_refresh=False, redirect_stdout=sys.stdout.isatty()
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.update(self._render(), refresh=True)
            self._live.stop()
            self._live = None
        elif not self._quiet and self._env_steps > self._printed_steps:
            self._print_line()

    def begin_at(self, env_steps: int) -> None:
        """Training goes on from a checkpoint of so many env steps: they and the time until now tell nothing of the time left."""
        self._first = (monotonic(), env_steps)
        self._env_steps = self._printed_steps = env_steps

    def update(self, env_steps: int, row: Mapping[str, float]) -> None:
        """Show progress: env steps over all runners so far, and the newest values by metric name (`charts/SPS`, ...).

        Names a row lacks keep the value shown before. Cheap enough to be called at every update.
        """
        self._env_steps = env_steps
        self._latest.update(row)
        if self._quiet:
            return
        now = monotonic()
        if self._live is not None:
            if now - self._drawn_at >= LIVE_SECONDS:
                self._drawn_at = now
                self._live.update(self._render(), refresh=True)
        elif now - self._drawn_at >= self._plain_seconds:
            self._drawn_at, self._plain_seconds = now, PLAIN_SECONDS
            self._print_line()

    def message(self, text: str) -> None:
        """Print a line of its own, above the live table; nothing when quiet."""
        if not self._quiet:
            self._err.print(text, markup=False)

    def warning(self, text: str) -> None:
        """Print a line that the user should not miss (a runner restarted, say), also when quiet."""
        self._err.print(f"wiserl: warning: {text}", markup=False, style="yellow")

    def summary(self, values: Mapping[str, Any], run_dir: Path | None = None) -> None:
        """Print how the run went on stdout, and what to do next with its folder. Call it after the `with` block.

        Args:
            values: what `summary.json` holds; all of it goes into the JSON line, the well-known names into the table.
            run_dir: folder of the run, for the commands to go on with.
        """
        if self._json:
            print(json_line(values), flush=True)
            return
        if self._quiet:
            return
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for name in SUMMARY_KEYS:
            if name in values:
                table.add_row(name.replace("_", " "), format_value(values[name]))
        out = RichConsole(file=sys.stdout, highlight=False, soft_wrap=True)
        out.print(table)
        if run_dir is not None:
            out.print(f"\nRun folder: {run_dir}\nNext:\n  wiserl play {run_dir}\n  wiserl plot {run_dir}", markup=False)

    def _seconds_left(self) -> float:
        started, first_steps = self._first
        done = self._env_steps - first_steps
        if done <= 0:
            return math.inf
        return (self._total_steps - self._env_steps) * (monotonic() - started) / done

    def _print_line(self) -> None:
        self._printed_steps = self._env_steps
        share = self._env_steps / max(self._total_steps, 1)
        parts = [f"{self._env_steps:,}/{self._total_steps:,} steps ({share:.0%})"]
        parts += [
            f"{label} {format_value(self._latest[key])}" for key, label in HEADLINES.items() if key in self._latest
        ]
        parts.append(f"{format_seconds(self._seconds_left())} left")
        self._err.print("  ".join(parts), markup=False)

    def _render(self) -> Group:
        self._bar.update(
            self._task,
            completed=self._env_steps,
            description=f"{self._env_steps:,}/{self._total_steps:,} steps",
            left=format_seconds(self._seconds_left()),
        )
        others = {key: key.rsplit("/", 1)[-1].replace("_", " ") for key in sorted(self._latest) if key not in HEADLINES}
        labels = {key: label for key, label in HEADLINES.items() if key in self._latest} | others
        cells = [
            Text(text, style)
            for key, label in labels.items()
            for text, style in ((label, "dim"), (format_value(self._latest[key]), ""))
        ]
        table = Table.grid(padding=(0, 2))
        for start in range(0, len(cells), 6):
            table.add_row(*cells[start : start + 6])
        return Group(table, self._bar)
