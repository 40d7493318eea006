"""What a run writes down while it trains: `metrics.csv` and TensorBoard events, side by side in the run folder.

Names are CleanRL's where it has one (`charts/episodic_return`, `charts/SPS`, `losses/policy_loss`, `losses/approx_kl`),
so that curves of both can be laid over each other. Rows are keyed by `env_steps`: env steps over all runners.
"""

from __future__ import annotations

import csv
import math
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

import numpy as np
from numpy.typing import NDArray

from wiserl.util.errors import InputError

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

METRICS_FILE = "metrics.csv"
STEP_COLUMN = "env_steps"


_WHOLE = re.compile("[0-9]{1,18}")


def _foreign(path: Path, found: str) -> InputError:
    return InputError(
        f"{path} is no metrics file of wiserl: expected a column '{STEP_COLUMN}' of whole numbers, found {found}; move it away, or "
        "name another run folder"
    )


def _read_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Header and rows of a metrics file. A last line without its newline was cut short by a kill, and is left out.

    Raises:
        InputError: it cannot be read, or is none.
    """
    try:
        text = path.read_text(encoding="utf-8")
        lines = text[: text.rfind("\n") + 1].splitlines()
        if not lines:
            return [STEP_COLUMN], []
        columns = next(csv.reader(lines[:1]))
        rows = [dict(zip(columns, cells, strict=False)) for cells in csv.reader(lines[1:])]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise _foreign(path, f"none of this ({error})") from None
    if STEP_COLUMN not in columns or not all(_WHOLE.fullmatch(row.get(STEP_COLUMN, "")) for row in rows):
        raise _foreign(path, f"the columns {', '.join(columns)[:200]}")
    return columns, rows


def read_metrics(run_dir: Path) -> dict[str, NDArray[np.float64]]:
    """Read the metrics of a run.

    Returns:
        Column name to values `[rows]`, float64, NaN where a row has no value for the column; `env_steps` among them.

    Raises:
        InputError: the folder does not exist, or holds no (or a foreign) `metrics.csv`.
    """
    path = run_dir / METRICS_FILE
    if not path.is_file():
        what = f"has no {METRICS_FILE}" if run_dir.is_dir() else "does not exist"
        raise InputError(f"run folder '{run_dir}' {what}; expected a folder that `wiserl train` wrote (--run-dir)")
    columns, rows = _read_rows(path)
    try:
        return {
            name: np.array([float(row.get(name) or math.nan) for row in rows], dtype=np.float64)
            for name in columns
            if name
        }
    except ValueError as error:
        raise _foreign(path, f"a value that is no number ({error})") from None


class MetricsWriter:
    """Appends rows of metrics to `metrics.csv` and to TensorBoard events of a run folder; a context manager.

    Opening a folder that has metrics already goes on where they end. Columns may appear at any row: the file is then
    written anew with the longer header, under a temporary name first, so that no kill loses a row. Each row is flushed.
    """

    def __init__(self, run_dir: Path, tensorboard: bool = True) -> None:
        """Open or create the metrics of `run_dir` (made if need be).

        Args:
            run_dir: the run folder.
            tensorboard: also write event files; they are opened at the first row.

        Raises:
            InputError: the folder holds a `metrics.csv` that is not wiserl's.
        """
        run_dir.mkdir(parents=True, exist_ok=True)
        self._run_dir = run_dir
        self._path = run_dir / METRICS_FILE
        self._columns, rows = _read_rows(self._path) if self._path.exists() else ([STEP_COLUMN], [])
        self._file: TextIO = self._rewrite(rows)
        self._tensorboard = tensorboard
        self._events: SummaryWriter | None = None
        self._purge_step: int | None = None

    def write(self, env_steps: int, row: Mapping[str, float]) -> None:
        """Append one row: name to value, at `env_steps` env steps over all runners. Values may be NaN or infinite."""
        new = [name for name in row if name not in self._columns]
        if new:
            self._file.close()
            _, rows = _read_rows(self._path)
            self._columns = self._columns + new
            self._file = self._rewrite(rows)
        cells: list[str | int] = [f"{float(row[name]):.9g}" if name in row else "" for name in self._columns[1:]]
        csv.writer(self._file, lineterminator="\n").writerow([int(env_steps), *cells])
        self._file.flush()
        if self._tensorboard:
            events = self._open_events()
            for name, value in row.items():
                if math.isfinite(value):  # it warns of all others
                    events.add_scalar(name, float(value), int(env_steps))

    def truncate_after(self, env_steps: int) -> None:
        """Drop the rows later than `env_steps`: what goes on from there writes them again.

        TensorBoard is told to hide the events it has from there on, which it heeds at the start of a file: the next row
        opens a new one.
        """
        self.close()
        _, rows = _read_rows(self._path)
        self._file = self._rewrite([row for row in rows if int(row[STEP_COLUMN]) <= env_steps])
        self._purge_step = env_steps + 1

    def close(self) -> None:
        """Close both files; all that was written is on disk after it."""
        self._file.close()
        if self._events is not None:
            self._events.close()
            self._events = None

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _rewrite(self, rows: list[dict[str, str]]) -> TextIO:
        """Write header and rows to a temporary file, put it in place, and return it opened for appending."""
        temporary = self._path.with_suffix(".csv.tmp")
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self._columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        os.replace(temporary, self._path)
        return self._path.open("a", encoding="utf-8", newline="")

    def _open_events(self) -> SummaryWriter:
        if self._events is None:
            # Imported here since it imports torch, which `import wiserl` and the command line's help must not pay for.
            from tensorboardX import SummaryWriter

            # Its own file names count whole seconds: a quick resume would write over the events it continues.
            suffix = f".{time.time_ns()}"
            self._events = SummaryWriter(
                str(self._run_dir), purge_step=self._purge_step, flush_secs=10, filename_suffix=suffix
            )
        return self._events
