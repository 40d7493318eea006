"""Speed of wiserl beside Stable-Baselines3, RLlib and the floor: `python -m benchmarks.speed [--only NAME] [--quick]`.

Every case runs in a process of its own, one at a time, one thread per process; the cases of a group take turns, so that
whatever slows the machine down for a while slows all of them. Results go to `benchmarks/results/speed.json` (groups not
asked for keep what they had) and, as a fragment for the README, to `speed.md` beside it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.groups import GROUPS, Group
from benchmarks.process import CaseFailed, exit_on_terminate, measure
from benchmarks.report import judge, machine, markdown, rich_promises, rich_table, versions
from benchmarks.settings import PROMISES

RESULTS = Path(__file__).resolve().parent / "results"

Measure = Callable[..., dict[str, Any]]


def run_group(
    name: str, group: Group, quick: bool, advance: Callable[[str], None], measure: Measure = measure
) -> tuple[dict[str, Any], list[str]]:
    """Measure a group, its cases in turns.

    Args:
        name: of the group, to find its promises.
        group: what to measure.
        quick: one repetition with the cases' quick arguments.
        advance: called with a case's labels before it runs.
        measure: runs one case, see `benchmarks.process.measure`.

    Returns:
        The result as in `speed.json`, and what went wrong, one message per failed process.
    """
    values: dict[str, list[float | None]] = {label: [] for case in group.cases for label in case.figures}
    details: dict[str, list[dict[str, Any]]] = {label: [] for label in values}
    failures: list[str] = []
    for repetition in range(1 if quick else group.repetitions):
        for case in group.cases:
            advance(f"{name}: {', '.join(case.figures)}")
            seed = {"seed": repetition} if case.seeded else {}
            arguments = {**case.arguments, **(case.quick if quick else {}), **seed}
            try:
                report = measure(case.function, **arguments)
            except CaseFailed as error:
                failures.append(f"{name}: {', '.join(case.figures)}: {error}")
                report = {}
            for label, key in case.figures.items():
                values[label].append(report.get(key))
                details[label].append(report)
    result = {
        "title": group.title,
        "unit": group.unit,
        "measured_at": time.strftime("%Y-%m-%d %H:%M:%S"),
        "machine": machine(),
        "versions": versions(),
        "values": values,
        "promises": judge(values, PROMISES.get(name, ())),
        "details": details,
    }
    return result, failures


def store(folder: Path, results: dict[str, Any]) -> None:
    """Write `results` over those of the same groups in `speed.json`, and the markdown of all of them to `speed.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "speed.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    merged = {name: {**kept, **results}[name] for name in GROUPS if name in kept or name in results}
    path.write_text(json.dumps(merged, indent=1) + "\n", encoding="utf-8")
    (folder / "speed.md").write_text(markdown(GROUPS, merged), encoding="utf-8")


@click.command(help=__doc__)
@click.option(
    "--only", multiple=True, type=click.Choice(list(GROUPS)), help="Measure this group only; may be repeated."
)
@click.option("--quick", is_flag=True, help="One short repetition of each, to see that it works; nothing is written.")
def main(only: tuple[str, ...], quick: bool) -> None:
    """Measure, print, store; exit code 1 if a case failed."""
    exit_on_terminate()
    console = Console(stderr=True)
    chosen = {name: group for name, group in GROUPS.items() if not only or name in only}
    results: dict[str, Any] = {}
    failures: list[str] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        total = sum(len(group.cases) * (1 if quick else group.repetitions) for group in chosen.values())
        task = progress.add_task("", total=total, completed=-1)

        def advance(label: str) -> None:
            progress.update(task, description=label, advance=1)

        for name, group in chosen.items():
            results[name], failed = run_group(name, group, quick, advance)
            failures += failed
            if not quick:
                store(RESULTS, {name: results[name]})
        progress.update(task, description="done", advance=1)
    output = Console()
    for name, group in chosen.items():
        output.print(rich_table(group, results[name]))
    output.print(rich_promises(results))
    for failure in failures:
        console.print(f"failed: {failure}", style="red", markup=False)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
