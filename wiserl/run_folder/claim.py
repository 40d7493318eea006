"""The folder of a run: claimed, so that two runs started together do not share one, and given back after bad input."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from wiserl.run_folder.checkpoint import open_checkpoint
from wiserl.run_folder.inventory import can_resume, named, point_to
from wiserl.run_folder.lock import Lock
from wiserl.run_folder.sealed import UNSEALED, read_sealed, sealed_text
from wiserl.run_folder.writing import DISK_FULL, partial_text, write_text, writing
from wiserl.util.errors import InputError

CONFIG, SUMMARY = "config.json", "summary.json"
_OURS = (CONFIG, f".{CONFIG}*", "metrics.csv", "events.out.tfevents.*", "checkpoints", SUMMARY)


class _Run(msgspec.Struct):
    algo: str
    env: str
    env_kwargs: dict[str, Any]
    total_steps: int


class _Config(msgspec.Struct):
    """What is needed of a `config.json`; options of all kinds stand beside it."""

    run: _Run
    hyperparameters: dict[str, Any]


@dataclass(frozen=True)
class RunFolder:
    """A run's folder, with its `config.json`.

    Attributes:
        path: the folder.
        before: what `config.json` held when the run was resumed; None for a new run.
        checkpoint: the last checkpoint at that time, if there was one.
        made: the folder and those above it, as far as they were not there.
        found: what was in the folder.
        lock: keeps others from training in the folder.
    """

    path: Path
    before: dict[str, Any] | None = None
    checkpoint: Path | None = None
    made: tuple[Path, ...] = ()
    found: frozenset[Path] = frozenset()
    lock: Lock | None = None

    @contextlib.contextmanager
    def undo_on_bad_input(self) -> Iterator[None]:
        """After an InputError inside, the folder of a new run is given back, unless something was saved, so that the corrected
        command finds it free. However a resumed run ends, `config.json` is what it was if nothing was saved since: it always
        tells of the checkpoints there are. After any error others may train in the folder.
        """
        try:
            yield
        except BaseException as error:
            if self.before is not None:
                if _last_checkpoint(self.path) == self.checkpoint:
                    write_json(self.path / CONFIG, self.before)
            elif isinstance(error, InputError) and not can_resume(self.path):
                self._give_back()
            self.release()
            raise

    def release(self) -> None:
        """Let others train in the folder."""
        if self.lock is not None:
            self.lock.release()

    def _give_back(self) -> None:
        self.release()
        for path in {path for name in _OURS for path in self.path.glob(name)} - self.found:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        _remove_empty(self.made)


def claim(name: str, numbered: bool, config: Callable[[Path], dict[str, Any]]) -> RunFolder:
    """A folder for a new run, nobody else's: the one who creates `config.json` has it.

    Args:
        name: its path.
        numbered: where that holds a run already, take the first free one of `name-2`, `name-3`, ...
        config: what `config.json` is to hold, given the folder.

    Raises:
        InputError: the folder holds a run already, and is not `numbered`; it holds something that a run would write over; or it
            cannot be made or written.
        DiskError: the disk is full.
    """
    for number in itertools.count(1):
        path = Path(name if number == 1 else f"{name}-{number}")
        if number > 1 and path.exists():
            continue
        made: tuple[Path, ...] = ()
        try:
            made = tuple(folder for folder in (path, *path.parents) if not folder.exists())
            path.mkdir(parents=True, exist_ok=True)
            folder = RunFolder(path, made=made, found=frozenset(path.iterdir()))
            if numbered and foreign_files(path):
                continue
            refuse_foreign(path)
            taken = None if (path / CONFIG).exists() else _take(folder, config)
        except (OSError, ValueError) as error:
            _remove_empty(made)
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                with writing("run folder", path):
                    raise
            raise InputError(
                f"run folder '{path}' cannot be made: {_reason(path, error)}; choose another --run-dir"
            ) from None
        if taken is not None:
            return taken
        if not numbered:
            break
    raise InputError(f"'{path}' holds a run already: go on with it by --resume {path}, or choose another --run-dir")


def _take(folder: RunFolder, config: Callable[[Path], dict[str, Any]]) -> RunFolder | None:
    """The folder, locked, with its `config.json`; None if somebody else has just made one."""
    locked = replace(folder, lock=Lock(folder.path))
    try:
        created = _create(folder.path / CONFIG, config(folder.path))
    except BaseException:
        locked.release()
        raise
    if created:
        return locked
    locked.release()
    return None


def foreign_files(path: Path) -> list[str]:
    """What a folder that holds no run has under the names of a run's files."""
    taken = sorted({found.name for name in _OURS for found in path.glob(name)})
    return [] if CONFIG in taken else taken


def refuse_foreign(path: Path) -> None:
    """Raise InputError if a folder holds no run, but something that a run would write over or remove."""
    if taken := foreign_files(path):
        raise InputError(
            f"'{path}' is no run folder, but holds {', '.join(taken)}, which a run would write over: choose another --run-dir, or "
            "move that away"
        )


def _remove_empty(folders: tuple[Path, ...]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError, ValueError):  # somebody else has put something there
            folder.rmdir()


def _reason(path: Path, error: OSError | ValueError) -> str:
    for part in (path, *path.parents) if isinstance(error, FileExistsError | NotADirectoryError) else ():
        if part.is_symlink() and not part.exists():
            return f"'{part}' is a link to nothing"
        if part.exists() and not part.is_dir():
            return f"'{part}' is a file"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def finished_summary(path: Path, total_steps: int) -> dict[str, Any] | None:
    """What `summary.json` holds, if it tells of the last checkpoint and that has all these env steps; else None."""
    try:
        summary: dict[str, Any] = json.loads((path / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not can_resume(path):
        return None
    done = open_checkpoint(path, "last").manifest["env_steps"]
    return summary if done >= total_steps and summary.get("env_steps") == done else None


def reopen(path: Path, config: dict[str, Any], finished: bool = False) -> RunFolder:
    """The folder of a run that goes on, with a new `config.json`, or as it is if there is nothing left to do.

    Raises:
        InputError: the run has another transform, or is being trained by another process; or its checkpoints are gone.
    """
    lock = Lock(path)
    try:
        before = read_config(path)
        _refuse_links(path)
        _check_resumable(path, before, config)
        checkpoint = _last_checkpoint(path)
        if not finished:
            write_json(path / CONFIG, config)
    except BaseException:
        lock.release()
        raise
    return RunFolder(path, before, checkpoint, lock=lock)


def _refuse_links(path: Path) -> None:
    """Raise InputError where a run would remove or replace what is in another folder."""
    for found in (path / "checkpoints", *(path / "checkpoints").glob("step_*")):
        if found.is_symlink():
            raise InputError(
                f"'{found}' is a link to '{found.resolve()}', where a resumed run would remove checkpoints: put a copy in its place, as "
                "`cp -rL` makes one (the run folder itself may be a link)"
            )


def _check_resumable(path: Path, before: dict[str, Any], config: dict[str, Any]) -> None:
    if before.get("transform") != config["transform"]:
        raise InputError(
            f"the run in '{path}' has transform={before.get('transform')}, not {config['transform']}: resume it from Python with "
            "the transform it was begun with"
        )
    if not can_resume(path) and (path / SUMMARY).exists():
        raise InputError(
            f"the run in '{path}' has been trained, as its {SUMMARY} tells, but has no checkpoint: put its checkpoints/ back, or "
            "train anew with another --run-dir"
        )


def copy_run(path: Path, checkpoint: Path, to: Path) -> Path:
    """A new run folder `to` with one checkpoint of the run in `path`; returns that of the copy.

    Raises:
        InputError: the folder holds a run already, or something that a run would write over.
        DiskError: it could not be written.
    """
    if (to / CONFIG).exists():
        raise InputError(f"'{to}' holds a run already: choose another folder to save to")
    refuse_foreign(to)
    copy = to / "checkpoints" / checkpoint.name
    with writing("checkpoint", copy):
        shutil.copytree(checkpoint, copy)
        point_to(copy.parent, "last", copy)
        shutil.copy(path / CONFIG, to)
    return copy


def read_config(folder: Path) -> dict[str, Any]:
    """What `config.json` of a run folder holds.

    Raises:
        InputError: there is none, or it is not what was saved.
    """
    if not (folder / CONFIG).is_file():
        raise InputError(f"'{folder}' is not a run folder: it has no {CONFIG}")
    config = read_sealed(folder / CONFIG, "restore it from a copy; options of a resumed run are given with --resume")
    try:
        msgspec.convert(config, _Config)
    except msgspec.ValidationError as error:
        raise InputError(f"'{folder / CONFIG}' is not what a run saves: {error}; restore it from a copy") from None
    return config


def _text(value: dict[str, Any]) -> str:
    return sealed_text(value) if value.get("format", UNSEALED) != UNSEALED else json.dumps(value, indent=2)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Whole or not at all, whenever the program is killed.

    Raises:
        DiskError: it cannot be written.
    """
    with writing("the file", path):
        write_text(path, _text(value))


def _create(path: Path, value: dict[str, Any]) -> bool:
    """Write a file that is not there yet, whole or not at all; whether it was not there."""
    partial = partial_text(path, _text(value))
    try:
        os.link(partial, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links: two who come at the same instant cannot be told apart
        if path.exists():
            return False
        path.write_bytes(partial.read_bytes())
    finally:
        partial.unlink()
    return True


def _last_checkpoint(path: Path) -> Path | None:
    last = named(path / "checkpoints", "last")
    return last.resolve() if last is not None else None
