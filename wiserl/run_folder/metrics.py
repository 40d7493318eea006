"""What a run writes down while it trains: `metrics.csv` and TensorBoard events, side by side in the run folder.

Names are CleanRL's where it has one (`charts/episodic_return`, `charts/SPS`, `losses/policy_loss`, `losses/approx_kl`),
so that curves of both can be laid over each other. Rows are keyed by `env_steps`: env steps over all runners.
"""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from wiserl.run_folder.events import EventFile
from wiserl.run_folder.writing import AppendFile, Backlog, write_text, writing
from wiserl.util.errors import DiskError, InputError

METRICS_FILE = "metrics.csv"
STEP_COLUMN = "env_steps"

_Item: TypeAlias = tuple[int, dict[str, float]]  # env steps, and values by name

log = logging.getLogger("wiserl")


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
    written anew with the longer header, under a temporary name first, so that no kill loses a row. Each row is on its way to
    the disk when `write` returns. One that cannot be written, since the disk is full, waits for the next.
    """

    def __init__(self, run_dir: Path, tensorboard: bool = True, warn: Callable[[str], None] = log.warning) -> None:
        """Open or create the metrics of `run_dir` (made if need be).

        Args:
            run_dir: the run folder.
            tensorboard: also write event files; they are opened at the first row.
            warn: told, once, when rows cannot be written.

        Raises:
            InputError: the folder holds a `metrics.csv` that is not wiserl's.
            DiskError: nothing can be written there.
        """
        self._run_dir = run_dir.absolute()
        self._path = self._run_dir / METRICS_FILE
        self._file: AppendFile | None = None
        with writing("metrics", self._path):
            run_dir.mkdir(parents=True, exist_ok=True)
            columns, rows = _read_rows(self._path) if self._path.exists() else ([STEP_COLUMN], [])
            self._rewrite(columns, rows)
        self._events = EventFile(self._run_dir) if tensorboard else None
        self._rows = Backlog(self._append_row, warn)
        self._event_rows = Backlog(self._append_events, warn)

    def write(self, env_steps: int, row: Mapping[str, float]) -> None:
        """Append one row: name to value, at `env_steps` env steps over all runners. Values may be NaN or infinite."""
        item = int(env_steps), dict(row)
        self._rows.add(item)
        if self._events is not None:
            self._event_rows.add(item)

    def truncate_after(self, env_steps: int) -> None:
        """Drop the rows later than `env_steps`: what goes on from there writes them again.

        TensorBoard is told to hide the events it has from there on, which it heeds at the start of a file: the next row
        opens a new one.

        Raises:
            DiskError: `metrics.csv` cannot be written anew.
        """
        for waiting in (self._rows, self._event_rows):
            waiting.keep(lambda item: item[0] <= env_steps)
        columns, rows = _read_rows(self._path)
        with writing("metrics", self._path):
            self._rewrite(columns, [row for row in rows if int(row[STEP_COLUMN]) <= env_steps])
        if self._events is not None:
            self._events.close()
            self._events = EventFile(self._run_dir, purge_from=env_steps + 1)

    def close(self) -> None:
        """Close both files; all that was written is on disk after it.

        Raises:
            DiskError: rows wait that still cannot be written. The files are closed all the same.
        """
        try:
            self._rows.flush()
            self._event_rows.flush()
        finally:
            if self._file is not None:
                self._file.close()
            if self._events is not None:
                self._events.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What ended the run is to be told, and not that rows wait: of them there was a warning.
        with contextlib.suppress(DiskError) if error is not None else contextlib.nullcontext():
            self.close()

    def _append_row(self, item: _Item) -> None:
        env_steps, row = item
        with writing("a row of", self._path):
            new = [name for name in row if name not in self._columns]
            if new:
                self._rewrite(self._columns + new, _read_rows(self._path)[1])
            line = io.StringIO()
            cells: list[str | int] = [f"{float(row[name]):.9g}" if name in row else "" for name in self._columns[1:]]
            csv.writer(line, lineterminator="\n").writerow([env_steps, *cells])
            assert self._file is not None
            self._file.append(line.getvalue().encode())

    def _append_events(self, item: _Item) -> None:
        assert self._events is not None
        with writing("TensorBoard events in", self._run_dir):
            self._events.write(*item)

    def _rewrite(self, columns: list[str], rows: list[dict[str, str]]) -> None:
        """Put a file with this header and these rows in the place of the old one, and open it for appending."""
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self._path, text.getvalue())
        if self._file is not None:
            self._file.close()
        self._file, self._columns = AppendFile(self._path), columns
