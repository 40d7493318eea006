"""From measured values to medians, ratios, tables and promises kept or broken. Nothing here measures."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from typing import Any

from rich.table import Table

from benchmarks.groups import Group
from benchmarks.settings import Promise

Values = Mapping[str, Sequence[float | None]]  # None where a process failed; one entry per repetition
PACKAGES = ("wiserl", "torch", "gymnasium", "numpy", "ray", "stable-baselines3")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter; those not installed are left out."""
    found = {package: _version(package) for package in PACKAGES}
    return {"python": platform.python_version(), **{package: version for package, version in found.items() if version}}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def machine() -> str:
    """One line: the processor's name, as far as the system tells it, and the number of cores."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {os.cpu_count()} cores"


def figure(values: Values, name: str) -> float | None:
    """The median of a figure, or for "a / b" the median of the ratios taken repetition by repetition.

    Returns:
        None where a figure was not measured.
    """
    above, _, below = name.partition(" / ")
    numerators = values.get(above, ())
    denominators = values.get(below, ()) if below else [1.0] * len(numerators)
    pairs = zip(numerators, denominators, strict=False)
    measured = [a / b for a, b in pairs if a is not None and b is not None]
    return statistics.median(measured) if measured else None


def judge(values: Values, promises: Sequence[Promise]) -> list[dict[str, Any]]:
    """The fields of each promise, with `value` (as measured) and `kept`; both None where it was not measured."""
    judged = []
    for promise in promises:
        value = figure(values, promise.figure)
        judged.append({**asdict(promise), "value": value, "kept": None if value is None else promise.is_kept(value)})
    return judged


def number(value: float | None) -> str:
    """A figure as a person writes it: thousands with commas, smaller ones with three digits."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def rows(group: Group, values: Values, details: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[list[str]]:
    """Table rows of a group: label, median, range, ratio over the baseline, return (empty where there is none)."""
    lines = []
    for case in group.cases:
        for label in case.figures:
            measured = [value for value in values.get(label, ()) if value is not None]
            spread = f"{number(min(measured))} to {number(max(measured))}" if len(measured) > 1 else ""
            ratio = figure(values, f"{label} / {group.baseline}") if group.baseline else None
            reports = details.get(label, ()) if group.unit == "env steps/s" else ()
            returns = [report["return_mean"] for report in reports if "return_mean" in report]
            lines.append(
                [
                    label,
                    number(figure(values, label)),
                    spread,
                    f"{ratio:.2f}" if ratio is not None else "",
                    number(statistics.median(returns)) if returns else "",
                ]
            )
    return lines


def header(group: Group) -> list[str]:
    """Column titles that go with `rows`."""
    return ["", group.unit, "range", f"× {group.baseline}" if group.baseline else "", "return"]


def _used_columns(titles: list[str], lines: list[list[str]]) -> list[int]:
    return [column for column in range(len(titles)) if column < 2 or any(line[column] for line in lines)]


def rich_table(group: Group, result: Mapping[str, Any]) -> Table:
    """A group's result for the terminal."""
    titles, lines = header(group), rows(group, result["values"], result["details"])
    used = _used_columns(titles, lines)
    table = Table(title=group.title, title_justify="left")
    for column in used:
        table.add_column(titles[column], justify="left" if column == 0 else "right")
    for line in lines:
        table.add_row(*(line[column] for column in used))
    return table


def rich_promises(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """All promises of the groups measured, for the terminal."""
    table = Table(title="Promises", title_justify="left")
    for title in ("", "measured", "promised", ""):
        table.add_column(title, justify="left" if not title else "right")
    for result in results.values():
        for row in result["promises"]:
            kept = {True: "[green]kept[/]", False: "[red]missed[/]", None: "not measured"}[row["kept"]]
            table.add_row(row["what"], number(row["value"]), f"{row['sign']} {number(row['bound'])}", kept)
    return table


def markdown(groups: Mapping[str, Group], results: Mapping[str, Mapping[str, Any]]) -> str:
    """The README's fragment: a table for each group measured, then the machine, versions and command.

    Results are those of `speed.json`; groups without a result are left out.
    """
    parts = []
    for name, group in groups.items():
        if name not in results:
            continue
        titles, lines = header(group), rows(group, results[name]["values"], results[name]["details"])
        used = _used_columns(titles, lines)
        parts.append(f"**{group.title}**\n")
        parts.append(_markdown_row([titles[column] for column in used]))
        parts.append(_markdown_row(["---" if column == 0 else "---:" for column in used]))
        parts += [_markdown_row([line[column] for column in used]) for line in lines]
        parts.append("")
    for context in sorted({_context(result) for result in results.values()}):
        parts.append(context)
    return "\n".join(parts) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _context(result: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return (
        "Medians of processes that ran one at a time with one thread each, interleaved; steps/s leave start-up and "
        f"evaluation out. {result['machine']}; {packages}. `python -m benchmarks.speed` measures it anew."
    )
