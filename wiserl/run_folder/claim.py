"""The folder of a run: claimed, so that two runs started together do not share one, and given back after bad input."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wiserl.run_folder.checkpoint import can_resume, open_checkpoint
from wiserl.util.errors import InputError

CONFIG, SUMMARY = "config.json", "summary.json"
_OURS = (CONFIG, f".{CONFIG}*", "metrics.csv", "events.out.tfevents.*", "checkpoints", SUMMARY)


@dataclass(frozen=True)
class RunFolder:
    """A run's folder, with its `config.json`.

    Attributes:
        path: the folder.
        before: what `config.json` held when the run was resumed; None for a new run.
        checkpoint: the last checkpoint at that time, if there was one.
        made: the folder and those above it, as far as they were not there.
        found: what was in the folder.
    """

    path: Path
    before: dict[str, Any] | None = None
    checkpoint: Path | None = None
    made: tuple[Path, ...] = ()
    found: frozenset[Path] = frozenset()

    @contextlib.contextmanager
    def undo_on_bad_input(self) -> Iterator[None]:
        """After an InputError inside, the folder of a new run is given back, unless something was saved, so that the corrected
        command finds it free. However a resumed run ends, `config.json` is what it was if nothing was saved since: it always
        tells of the checkpoints there are.
        """
        try:
            yield
        except BaseException as error:
            if self.before is not None:
                if _last_checkpoint(self.path) == self.checkpoint:
                    write_json(self.path / CONFIG, self.before)
            elif isinstance(error, InputError) and not can_resume(self.path):
                self._give_back()
            raise

    def _give_back(self) -> None:
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
        InputError: the folder holds a run already, and is not `numbered`; or it cannot be made or written.
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
            created = _create(path / CONFIG, config(path))
        except (OSError, ValueError) as error:
            _remove_empty(made)
            raise InputError(
                f"run folder '{path}' cannot be made: {_reason(path, error)}; choose another --run-dir"
            ) from None
        if created:
            return folder
        if not numbered:
            break
    raise InputError(f"'{path}' holds a run already: go on with it by --resume {path}, or choose another --run-dir")


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
        InputError: the run has another transform.
    """
    before = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    if before.get("transform") != config["transform"]:
        raise InputError(
            f"the run in '{path}' has transform={before.get('transform')}, not {config['transform']}: resume it from Python with "
            "the transform it was begun with"
        )
    checkpoint = _last_checkpoint(path)
    if not finished:
        write_json(path / CONFIG, config)
    return RunFolder(path, before, checkpoint)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Whole or not at all, whenever the program is killed."""
    _write_partial(path, value).replace(path)


def _create(path: Path, value: dict[str, Any]) -> bool:
    """Write a file that is not there yet, whole or not at all; whether it was not there."""
    partial = _write_partial(path, value)
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


def _write_partial(path: Path, value: dict[str, Any]) -> Path:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(value, indent=2), encoding="utf-8")
    return partial


def _last_checkpoint(path: Path) -> Path | None:
    return (path / "checkpoints" / "last").resolve() if can_resume(path) else None
