"""Which checkpoints a run folder has, which of them are `last` and `best`, and which may go.

    checkpoints/
      step_50000/
      last.txt              step_50000
      last -> step_50000    the same as a link, for people; a copy of the folder may lack it

The text files count. Folders of older versions have links alone, and copies of those may have neither.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from wiserl.run_folder.writing import write_text
from wiserl.util.errors import InputError

NAMES = ("last", "best")
_CONTENT = {"manifest.json", "weights.safetensors", "state.pt", "replay.safetensors"}
_LEFT_OVER = re.compile(r"\.step_\d+\.\d+\.(partial|old)")
_LEFT_OVER_NAME = re.compile(r"\.last(\.txt)?\.\d+")  # not of `best`, which another process may just be writing


def point_to(folder: Path, name: str, path: Path) -> None:
    """Make `name` name the checkpoint `path`, in one step.

    Raises:
        OSError: it could not be written; `name` is what it was.
    """
    write_text(folder / f"{name}.txt", f"{path.name}\n")
    link = folder / f".{name}.{os.getpid()}"
    # The link is for people: not every file system has links, and a copy made with links followed has a folder there.
    with contextlib.suppress(OSError):
        link.unlink(missing_ok=True)
        link.symlink_to(path.name)
        link.replace(folder / name)
    with contextlib.suppress(OSError):
        link.unlink(missing_ok=True)


def named(folder: Path, name: str) -> Path | None:
    """The checkpoint that `last` or `best` names, there or not; None where nothing says which. Where nothing says which is the
    last, it is the newest.

    Raises:
        InputError: a text file holds no name of a checkpoint.
    """
    text, link = folder / f"{name}.txt", folder / name
    if text.is_file() and not _moved_since(link, text):
        return _read_name(text)
    if link.is_symlink():
        return folder / os.readlink(link)
    if link.is_dir():
        return _original(link)
    if link.is_file():  # some copy links as texts
        return _read_name(link)
    return _newest(folder) if name == "last" else None


def is_guessed(folder: Path) -> bool:
    """Whether nothing says which checkpoint is the last."""
    return not any(os.path.lexists(folder / name) for name in ("last", "last.txt"))


def can_resume(run_dir: Path) -> bool:
    """Whether a run folder names a checkpoint to resume from; a run that was ended before its first one does not.

    One that names what is not there does: that is an error to be told, not a fresh start.
    """
    return named(run_dir / "checkpoints", "last") is not None


def steps(folder: Path) -> list[Path]:
    """The checkpoints in a folder, by rising env steps."""
    found = [path for path in folder.glob("step_*") if path.name[5:].isdecimal() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name[5:]))


def prune(folder: Path, keep: int, needed: Collection[str] = ()) -> None:
    """Remove what killed runs left unfinished, and all but the newest `keep` checkpoints of this run, those that `last` and `best`
    name and those in `needed` (folder names). What another run or somebody else put there stays.
    """
    last = named(folder, "last")
    kept = {path.resolve() for name in NAMES if (path := named(folder, name)) is not None}
    mine = [path for path in steps(folder) if last is not None and is_of_same_run(path, last)]
    for path in mine[: max(len(mine) - keep, 0)]:
        if path.resolve() not in kept and path.name not in needed:
            step_aside(path)
    for path in folder.glob(".step_*"):
        if _LEFT_OVER.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(".last.*"):
        if _LEFT_OVER_NAME.fullmatch(path.name):
            path.unlink(missing_ok=True)


def step_aside(path: Path) -> Path:
    """Rename a checkpoint in one step, so that no half of it is ever seen; `prune` removes it."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.old")
    shutil.rmtree(aside, ignore_errors=True)
    return path.rename(aside)


def is_of_same_run(path: Path, other: Path) -> bool:
    """Whether two checkpoints are of one run, and the first holds nothing else."""
    return is_written_by(path, read_manifest(other))


def is_written_by(path: Path, manifest: dict[str, Any]) -> bool:
    """Whether a folder is a checkpoint of the run that this manifest is of, and holds nothing else."""
    if path.is_symlink() or not path.is_dir():
        return False
    foreign = {entry.name for entry in path.iterdir() if not entry.name.startswith(".")} - _CONTENT
    found = read_manifest(path)
    return not foreign and bool(found) and all(found.get(key) == manifest.get(key) for key in ("algo", "env", "seed"))


def read_manifest(path: Path) -> dict[str, Any]:
    """A checkpoint's manifest, not checked; empty where there is none that can be read."""
    try:
        found = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _moved_since(link: Path, text: Path) -> bool:
    """Whether a link was made after the text: by an older version, which knows only links, or by hand."""
    return link.is_symlink() and link.lstat().st_mtime_ns > text.stat().st_mtime_ns


def _read_name(text: Path) -> Path:
    content = text.read_bytes()[:100].decode("utf-8", "replace").strip()
    if not re.fullmatch(r"step_\d+", content):
        raise InputError(
            f"'{text}' holds {content!r}: expected the name of a checkpoint beside it, as in step_1000; write it there, or choose "
            "a checkpoint by its number of env steps"
        )
    return text.parent / content


def _original(copy: Path) -> Path:
    """The checkpoint of which a folder `last` or `best` is a copy, made with links followed."""
    original = copy.parent / f"step_{read_manifest(copy).get('env_steps')}"
    return original if original.is_dir() else copy


def _newest(folder: Path) -> Path | None:
    """The newest checkpoint, of those with a replay if there are some: a run's last one has it, those only evaluated have not."""

    def rank(path: Path) -> tuple[bool, bool, int]:
        manifest = read_manifest(path)
        return bool(manifest), "replay.safetensors" in manifest.get("files", ()), int(path.name[5:])

    return max(steps(folder), key=rank, default=None)
