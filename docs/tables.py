"""Writes the tables of the documentation: `python -m docs.tables`, from the root of the repository.

Between `<!-- NAME -->` and `<!-- /NAME -->` stands what the code or a measurement says: hyper-parameters and their defaults
from the config dataclasses, presets, speed and scores from `benchmarks/results/`. What has not been measured stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import chaos, scores, soak, speed
from wiserl.agent.catalogue import algorithm_class, algorithm_names
from wiserl.cli.describe import options, setting_text
from wiserl.experiment.options import presets
from wiserl.net.layers import LAYERS
from wiserl.training.plan import RunConfig

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def field_table(config_class: Any, leave_out: tuple[str, ...] = ()) -> str:
    """Markdown: name, default, valid values and meaning of each field."""
    lines = ["| option | default | valid | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{option.name}` | `{option.default}` | {option.valid} | {option.meaning} |"
        for option in options(config_class, leave_out, quote="`")
    ]
    return "\n".join(lines)


def preset_table(algo: str) -> str:
    """Markdown: the tuned options of an algorithm by env."""
    lines = ["| env | preset |", "|---|---|"]
    for env, tuned in presets()[algo].items():
        lines.append(f"| {env} | {' '.join(f'`{key}={setting_text(value)}`' for key, value in tuned.items())} |")
    return "\n".join(lines)


def score_table(chosen: Callable[[scores.Cell], bool] = lambda cell: True) -> str | None:
    """Markdown: measured scores of the chosen cells, and how to measure them; None where there are none."""
    table_of_all = scores.load_table()
    cells = [cell for cell in table_of_all if chosen(cell)]
    rows = scores.read_rows()
    table = scores.table(cells, rows).strip()
    if len(table.splitlines()) == 2:
        return None
    which = "" if cells == table_of_all else _cell_options(cells)
    score = "The score is the mean return of the final policy over 20 episodes"
    if any(cell.measure == "eval_success_rate" for cell in cells):
        score += ", on envs with goals its rate of success"
    compared = [cell for cell in cells if "| Stable-Baselines3 |" in scores.table([cell], rows)]
    of_peer = (
        f", Stable-Baselines3 with `python -m benchmarks.scores --peer sb3{_cell_options(compared)}`"
        if compared
        else ""
    )
    return f"{table}\n\n{score}. Measured with `python -m benchmarks.scores{which}`{of_peer}."


def _cell_options(cells: list[scores.Cell]) -> str:
    return "".join(f" --cells {cell.name}" for cell in cells)


def speed_table() -> str | None:
    """Markdown: the measured speed; None where there is none."""
    path = speed.RESULTS / "speed.md"
    return path.read_text(encoding="utf-8").strip() if path.exists() else None


def chaos_table() -> str | None:
    """Markdown: runs among faults; None where there are none."""
    rows = chaos.read_rows()
    if not rows:
        return None
    lines = [
        "| run | faults | score, undisturbed | restarts of runners, of the learner | weights | left behind |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        hit, alone = row["disturbed"], row["undisturbed"]
        faults = ", ".join(f"{count} {kind}" for kind, count in sorted(row["hits"].items()))
        score = "failed" if hit["exit_code"] else f"{hit['eval_return_mean']:.0f}, {alone['eval_return_mean']:.0f}"
        lines.append(
            f"| `{row['command']}`: {row['steps']:,} env steps in {row['seconds'] / 60:.1f} min | {faults} | {score} | "
            f"{hit['runner_restarts']}, {hit['learner_restarts']} | {'the same' if row['same_weights'] else 'others'} | "
            f"{', '.join(row['left_behind']) or 'nothing'} |"
        )
    return "\n".join(lines)


def soak_table() -> str | None:
    """Markdown: what grew in an hour of training; None where nothing was measured."""
    rows = soak.read_rows()
    if not rows:
        return None
    lines = ["| run | process | memory, MB in ten minutes | open files | threads |", "|---|---|---:|---:|---:|"]
    for row in rows:
        lines += [
            f"| `{row['command']}` | {name.split()[0].removeprefix('ray::_')} | {found['mb_in_ten_minutes']:+.2f} of "
            f"{found['megabytes']:.0f} | {found['files']:+.0f} | {found['threads']:+.0f} |"
            for name, found in soak.of_wiserl(row["growth"]).items()
        ]
    return "\n".join(lines)


def sections(page: Path) -> dict[str, Callable[[], str | None]]:
    """The tables a page may have, by name."""
    found: dict[str, Callable[[], str | None]] = {
        "run-options": lambda: field_table(RunConfig, ("algo", "env", "env_kwargs")),
        "speed": speed_table,
        "scores": score_table,
        "chaos": chaos_table,
        "soak": soak_table,
    }
    if page.stem in algorithm_names():
        algo = page.stem
        found["hyperparameters"] = lambda: field_table(algorithm_class(algo).config_class)
        found["presets"] = lambda: preset_table(algo)
        found["scores"] = lambda: score_table(lambda cell: cell.algo == algo)
    elif page.stem == "networks":
        found["layers"] = lambda: ", ".join(f"`{name}`" for name in LAYERS)
    elif page.stem == "custom-agent":
        found["scores"] = lambda: score_table(lambda cell: cell.algo == "ddpg (user's own)")
    elif page.stem == "hindsight":
        found["scores"] = lambda: score_table(lambda cell: cell.measure == "eval_success_rate")
    return found


def fill(page: Path) -> str:
    """The text of a page with its tables as they should be.

    Raises:
        KeyError: the page has a marker of an unknown name.
    """
    tables = sections(page)

    def replace(match: re.Match[str]) -> str:
        table = tables[match["name"]]()
        return match[0] if table is None else f"<!-- {match['name']} -->\n{table}\n<!-- /{match['name']} -->"

    pattern = r"<!-- (?P<name>[a-z-]+) -->\n.*?<!-- /(?P=name) -->"
    return re.sub(pattern, replace, page.read_text(encoding="utf-8"), flags=re.DOTALL)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(fill(page), encoding="utf-8")
