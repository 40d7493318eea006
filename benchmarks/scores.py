"""Scores over algorithms, envs, seeds and backends: `python -m benchmarks.scores [--cells NAME] [--seeds 0-4] ...`.

What is run stands in `benchmarks/scores_table.yaml`; each finished run adds a row to `benchmarks/results/scores.csv`.
A run that has its row is not run again, so a sweep that was cut off goes on where it was; delete rows to measure anew.
`--peer sb3` runs the same cells with Stable-Baselines3, on the same hyper-parameters, in the same harness; those that it
cannot do are left out.
`--table` prints what the file holds as markdown, and runs nothing.
"""

from __future__ import annotations

import csv
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import click
import msgspec
from rich.console import Console

from benchmarks.process import ROOT, CaseFailed, exit_on_terminate, run_command, wiserl_command
from benchmarks.report import number, versions

TABLE = Path(__file__).resolve().parent / "scores_table.yaml"
RESULTS = Path(__file__).resolve().parent / "results" / "scores.csv"
TRAIN = (
    "wiserl train {algo} {env} --total-steps {steps} --runners {runners} --backend {backend} --seed {seed} "
    "--quiet --json"
)
Row: TypeAlias = dict[str, str]
Backend: TypeAlias = Literal["local", "ray", "sb3"]
PEER = "python -m benchmarks.sb3_score {algo} {env} --total-steps {steps} --seed {seed}"
PEERS: tuple[Backend, ...] = ("sb3",)
PEER_ALGORITHMS = ("ppo", "dqn", "ddpg", "td3", "sac")
KEY = ("algo", "env", "seed", "backend", "runners", "steps", "args")
FIGURES = ("env_steps", "eval_return_mean", "eval_return_std", "steps_per_second")
COLUMNS = (
    *KEY,
    "score",
    *FIGURES,
    "wall_seconds",
    "command",
    "commit",
    "versions",
    "measured_at",
)


class Cell(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of the table: an algorithm on an env, with the score that is promised.

    Attributes:
        name: what `--cells` calls it.
        steps: env steps of training.
        threshold: lowest score that counts as a pass.
        at_most: the threshold is the highest score that counts instead (what shall not work without something).
        of_peer: instead of each seed against the threshold, the mean over seeds must be at least this share of the peer's.
        measure: key of the summary that is the score.
        seeds: how many seeds, from 0.
        passes: how many of them must reach the threshold.
        backends: each is a column of runs of its own.
        runners: per backend.
        args: further arguments of the command.
        command: replaces `wiserl train`; placeholders as in `TRAIN`.
    """

    name: str
    algo: str
    env: str
    steps: int
    threshold: float = 0.0
    at_most: bool = False
    of_peer: float = 0.0
    measure: str = "eval_return_mean"
    seeds: int = 5
    passes: int = 5
    backends: tuple[Backend, ...] = ("local", "ray")
    runners: dict[Backend, int] = msgspec.field(default_factory=lambda: {"local": 1, "ray": 2})
    args: str = ""
    command: str = ""

    def passes_with(self, score: float) -> bool:
        """Whether a run of that score counts as a pass."""
        return score <= self.threshold if self.at_most else score >= self.threshold

    def no_peer(self) -> str:
        """Why no peer can do it; empty where one can."""
        arguments = shlex.split(self.args)
        if self.command:
            return "it has a command of its own"
        if self.algo not in PEER_ALGORITHMS:
            return f"its algorithm is {self.algo}"
        if "/" in self.env and not self.env.startswith("ALE/"):
            return f"{self.env} is no gymnasium env"
        if self.measure != "eval_return_mean":
            return f"its score is {self.measure}"
        if len(arguments) % 2 or any(option != "--set" for option in arguments[::2]):
            return f"its args are {self.args}, of which a peer knows --set KEY=VALUE alone"
        return ""


class Run(msgspec.Struct, frozen=True):
    """One run of a cell: its seed and backend."""

    cell: Cell
    seed: int
    backend: Backend

    def key(self) -> tuple[str, ...]:
        """What makes it the same run as a row of the results: the values of `KEY`, as text."""
        cell = self.cell
        runners = cell.runners.get(self.backend, 1)
        values = (cell.algo, cell.env, self.seed, self.backend, runners, cell.steps, cell.args)
        return tuple(str(value) for value in values)

    def command(self) -> str:
        """The command line that makes this run, to be typed in the repository's root."""
        cell = self.cell
        template = PEER if self.backend in PEERS else cell.command or TRAIN
        filled = template.format(
            algo=shlex.quote(cell.algo),
            env=shlex.quote(cell.env),
            steps=cell.steps,
            runners=cell.runners.get(self.backend, 1),
            backend=self.backend,
            seed=self.seed,
        )
        return f"{filled} {cell.args}".strip()


def load_table(path: Path = TABLE) -> list[Cell]:
    """The cells of the table.

    Raises:
        msgspec.ValidationError: naming the entry that has a wrong type or an unknown key.
    """
    return msgspec.yaml.decode(path.read_bytes(), type=list[Cell])


def parse_seeds(text: str) -> list[int]:
    """Seeds from "0-4", "3" or "0,2-3".

    Raises:
        ValueError: saying what was given and what is expected.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"seeds '{text}': expected numbers and ranges like 0-4 or 0,2,5-7")
        seeds += range(int(first), int(last or first) + 1)
    return sorted(set(seeds))


def read_rows(path: Path = RESULTS) -> list[Row]:
    """The rows measured so far, oldest first; none if there is no file yet."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def append_row(row: Row, path: Path = RESULTS) -> None:
    """Add one row, and the header first if the file is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def pending(cells: Iterable[Cell], rows: Iterable[Row], seeds: Sequence[int] | None, backend: str | None) -> list[Run]:
    """The runs of `cells` that have no row yet.

    Args:
        cells: of the table.
        rows: measured so far.
        seeds: only these; None: each cell's own.
        backend: only this one; a peer's: of the cells that it can do; None: each cell's own.
    """
    done = {tuple(row[name] for name in KEY) for row in rows}
    runs = [
        Run(cell, seed, name)
        for cell in cells
        for seed in (range(cell.seeds) if seeds is None else seeds)
        for name in (*cell.backends, *(PEERS if backend in PEERS and not cell.no_peer() else ()))
        if backend in (None, name)
    ]
    return [run for run in runs if run.key() not in done]


def commit() -> str:
    """Short name of the commit at hand, with "+" behind it where files differ from it; "none" outside of git."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    return described.stdout.strip() or "none"


def execute(run: Run) -> dict[str, Any]:
    """Make a run in a process of its own; a run folder of `wiserl train` is thrown away. Returns the summary.

    Raises:
        CaseFailed: if the command fails, takes more than two hours, or prints no summary.
    """
    programs = {"wiserl": wiserl_command(), "python": sys.executable}
    command = [programs.get(part, part) for part in shlex.split(run.command())]
    with tempfile.TemporaryDirectory(prefix="wiserl-scores-") as folder:
        if not run.cell.command and run.backend not in PEERS:
            command += ["--run-dir", str(Path(folder) / "run")]
        return run_command(command, timeout=7200)


def make_row(run: Run, summary: dict[str, Any], wall_seconds: float) -> Row:
    """The row of a finished run."""
    values = dict(zip(KEY, run.key(), strict=True))
    figures = {"score": summary[run.cell.measure], **{name: summary[name] for name in FIGURES}}
    values.update({name: f"{value:.6g}" if isinstance(value, float) else str(value) for name, value in figures.items()})
    return {
        **values,
        "wall_seconds": f"{wall_seconds:.1f}",
        "command": run.command(),
        "commit": commit(),
        "versions": " ".join(f"{name}={version}" for name, version in versions().items()),
        "measured_at": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def sweep(
    runs: Sequence[Run], path: Path, say: Callable[[str], None], execute: Callable[[Run], dict[str, Any]] = execute
) -> list[str]:
    """Make the runs one after another; each adds its row as soon as it is done.

    Returns:
        What failed, one message a run; a failed run leaves no row, and does not stop the others.
    """
    failures = []
    for index, run in enumerate(runs):
        say(f"{index + 1}/{len(runs)} {run.command()}")
        started = time.monotonic()
        try:
            row = make_row(run, execute(run), time.monotonic() - started)
        except CaseFailed as error:
            failures.append(str(error))
            say(f"  failed: {error}")
            continue
        append_row(row, path)
        say(f"  score {number(float(row['score']))}, {number(float(row['steps_per_second']))} steps/s")
    return failures


def table(cells: Sequence[Cell], rows: Sequence[Row]) -> str:
    """Markdown: per cell and backend that has rows, the score over seeds, how many passed, and the speed, where it was measured."""
    lines = [
        "| algorithm | env | env steps | backend, runners | score, mean ± std of seeds | passed | steps/s |",
        "|---|---|---:|---|---:|---|---:|",
    ]
    for cell in cells:
        for backend in (*cell.backends, *PEERS):
            mine = _measure(cell, backend, rows)
            if not mine:
                continue
            reached = [float(row["score"]) for row in mine]
            # None of runs that had other work beside them.
            speeds = [float(row["steps_per_second"]) for row in mine if row["steps_per_second"]]
            speed = number(statistics.median(speeds)) if speeds else "-"
            deviation = statistics.stdev(reached) if len(reached) > 1 else 0.0
            digits = 1 if max(map(abs, reached)) > 2 else 2  # rates of success
            where = "Stable-Baselines3" if backend in PEERS else f"{backend}, {cell.runners.get(backend, 1)}"
            lines.append(
                f"| {cell.algo} {cell.args}".rstrip() + f" | {cell.env} | {cell.steps:,} | {where} "
                f"| {statistics.mean(reached):.{digits}f} ± {deviation:.{digits}f} "
                f"| {_verdict(cell, backend, reached, rows)} | {speed} |"
            )
    return "\n".join(lines) + "\n"


def _measure(cell: Cell, backend: Backend, rows: Sequence[Row]) -> list[Row]:
    """The rows of one cell on one backend, the newest of each seed."""
    keys = {Run(cell, int(row["seed"]), backend).key() for row in rows}
    return list({row["seed"]: row for row in rows if tuple(row[name] for name in KEY) in keys}.values())


def _verdict(cell: Cell, backend: Backend, reached: Sequence[float], rows: Sequence[Row]) -> str:
    """How many seeds passed, or what share of the peer's mean was reached."""
    if not cell.of_peer:
        passed = sum(map(cell.passes_with, reached))
        return f"{passed}/{len(reached)} {'≤' if cell.at_most else '≥'} {cell.threshold:g}"
    peers = [float(row["score"]) for peer in PEERS for row in _measure(cell, peer, rows)]
    if backend in PEERS or not peers:
        return ""
    return f"{statistics.mean(reached) / statistics.mean(peers):.2f} ≥ {cell.of_peer:g} of the peer's mean"


@click.command(help=__doc__)
@click.option("--cells", "names", multiple=True, help="Only this cell of the table; may be repeated.")
@click.option("--backend", type=click.Choice(["local", "ray"]), help="Only this backend.")
@click.option("--peer", type=click.Choice(PEERS), help="Run the cells with this framework instead.")
@click.option("--seeds", help="Instead of each cell's own: 0-4, or 0,2.")
@click.option("--table", "show_table", is_flag=True, help="Print the results so far as markdown; run nothing.")
def main(names: tuple[str, ...], backend: str | None, peer: str | None, seeds: str | None, show_table: bool) -> None:
    """Run what is missing, or print the table; exit code 1 if a run failed."""
    cells = load_table()
    unknown = set(names) - {cell.name for cell in cells}
    if unknown:
        raise click.BadParameter(f"no cell {sorted(unknown)}; the table has {[cell.name for cell in cells]}")
    cells = [cell for cell in cells if not names or cell.name in names]
    for cell in cells:
        if peer and names and cell.no_peer():
            raise click.BadParameter(f"{peer} cannot do cell {cell.name}: {cell.no_peer()}")
    if show_table:
        print(table(cells, read_rows()), end="")
        return
    try:
        chosen = None if seeds is None else parse_seeds(seeds)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    exit_on_terminate()
    console = Console(stderr=True)
    runs = pending(cells, read_rows(), chosen, peer or backend)
    console.print(f"{len(runs)} runs to do, the others have their row in {RESULTS}")
    failures = sweep(runs, RESULTS, lambda text: console.print(text, markup=False, highlight=False))
    print(table(cells, read_rows()), end="")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
