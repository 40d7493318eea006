"""Writes the tables of the documentation: `python -m docs.tables`, from the root of the repository.

Between `<!-- NAME -->` and `<!-- /NAME -->` stands what the code or a measurement says: hyper-parameters and their defaults
from the config dataclasses, presets, speed and scores from `benchmarks/results/`. What has not been measured stays as it is.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import re
import textwrap
import tokenize
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import scores, speed
from wiserl.agent import algorithm_class, algorithm_names
from wiserl.core.run_config import RunConfig, presets

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def comments(config_class: type) -> dict[str, str]:
    """The comment behind each field of a dataclass or its bases; fields without one are left out."""
    found = {}
    for base in reversed(config_class.__mro__[:-1]):
        found.update(_own_comments(base))
    return found


def _own_comments(config_class: type) -> dict[str, str]:
    source = textwrap.dedent(inspect.getsource(config_class))
    body = typing.cast(ast.ClassDef, ast.parse(source).body[0]).body
    fields = [node for node in body if isinstance(node, ast.AnnAssign)]
    at = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            at[token.start[0]] = token.string.lstrip("# ")
    found = {}
    for node in fields:
        lines = [at[line] for line in range(node.lineno, (node.end_lineno or node.lineno) + 1) if line in at]
        if lines:
            found[typing.cast(ast.Name, node.target).id] = " ".join(lines)
    return found


def valid(hint: Any) -> str:
    """What values a field may have, as a person writes it."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if typing.get_origin(hint) is typing.Annotated:
        limits = arguments[1]
        signs = {"> ": limits.gt, "≥ ": limits.ge, "≤ ": limits.le, "< ": limits.lt}
        bounds = [f"{sign}{bound:g}" for sign, bound in signs.items() if bound is not None]
        return f"{valid(arguments[0])} {' and '.join(bounds)}"
    if typing.get_origin(hint) is tuple:
        return f"list of {valid(arguments[0])}"
    if arguments:  # a union with None
        return " or ".join(valid(argument) for argument in arguments)
    names = {int: "integer", float: "number", bool: "true, false", str: "text", type(None): "none"}
    return names.get(hint, "mapping")


def written(value: Any) -> str:
    """A default as `--set` takes it."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(str(entry) for entry in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def field_table(config_class: Any, leave_out: tuple[str, ...] = ()) -> str:
    """Markdown: name, default, valid values and meaning of each field."""
    meaning = comments(config_class)
    hints = typing.get_type_hints(config_class, include_extras=True)
    lines = ["| option | default | valid | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(config_class):
        if field.name not in leave_out:
            cells = [f"`{field.name}`", f"`{written(field.default)}`", valid(hints[field.name])]
            lines.append(f"| {' | '.join([*cells, meaning.get(field.name, '')])} |")
    return "\n".join(lines)


def preset_table(algo: str) -> str:
    """Markdown: the tuned options of an algorithm by env."""
    lines = ["| env | preset |", "|---|---|"]
    for env, options in presets()[algo].items():
        lines.append(f"| {env} | {' '.join(f'`{key}={written(value)}`' for key, value in options.items())} |")
    return "\n".join(lines)


def score_table(chosen: Callable[[scores.Cell], bool] = lambda cell: True) -> str | None:
    """Markdown: measured scores of the chosen cells, and how to measure them; None where there are none."""
    table_of_all = scores.load_table()
    cells = [cell for cell in table_of_all if chosen(cell)]
    table = scores.table(cells, scores.read_rows()).strip()
    if len(table.splitlines()) == 2:
        return None
    options = "".join(f" --cells {cell.name}" for cell in cells) if cells != table_of_all else ""
    score = "The score is the mean return of the final policy over 20 episodes"
    if any(cell.measure == "eval_success_rate" for cell in cells):
        score += ", on envs with goals its rate of success"
    return f"{table}\n\n{score}. Measured with `python -m benchmarks.scores{options}`."


def speed_table() -> str | None:
    """Markdown: the measured speed; None where there is none."""
    path = speed.RESULTS / "speed.md"
    return path.read_text(encoding="utf-8").strip() if path.exists() else None


def sections(page: Path) -> dict[str, Callable[[], str | None]]:
    """The tables a page may have, by name."""
    found: dict[str, Callable[[], str | None]] = {
        "run-options": lambda: field_table(RunConfig, ("algo", "env", "env_kwargs")),
        "speed": speed_table,
        "scores": score_table,
    }
    if page.stem in algorithm_names():
        algo = page.stem
        found["hyperparameters"] = lambda: field_table(algorithm_class(algo).config_class)
        found["presets"] = lambda: preset_table(algo)
        found["scores"] = lambda: score_table(lambda cell: cell.algo == algo)
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
