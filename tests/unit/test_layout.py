"""The house as docs/architecture.md shows it is the one that stands."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def shown() -> set[str]:
    """Files in the layout of docs/architecture.md, below wiserl/."""
    section = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("## Layout\n")[1]
    lines = section.split("```text\n")[1].split("```")[0].splitlines()
    files, rooms = set(), []
    assert lines[0] == "wiserl/"
    for line in lines[1 : lines.index(next(line for line in lines[1:] if not line.startswith(" ")))]:
        name, depth = line.split()[0], (len(line) - len(line.lstrip())) // 2
        rooms = rooms[: depth - 1]
        if name.endswith("/"):
            rooms.append(name)
        else:
            files.add("".join([*rooms, name]))
        assert re.search(r"\S  +\S", line), f"nothing is said of {name}"
    return files


def test_the_layout_in_the_documentation_is_the_tree() -> None:
    package = ROOT / "wiserl"
    files = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if path.read_text(encoding="utf-8")}
    assert shown() == files


def test_no_file_is_longer_than_300_lines() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "wiserl").rglob("*.py")}
    assert {str(path): length for path, length in lengths.items() if length > 300} == {}
