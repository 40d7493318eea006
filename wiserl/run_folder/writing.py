"""Writing files so that a full disk costs no more than what could not be written, and that is told in one line."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from wiserl.util.errors import DiskError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
QUIET_SECONDS = 60.0

Item = TypeVar("Item")


@contextlib.contextmanager
def writing(what: str, path: Path) -> Iterator[None]:
    """Within the block an OSError becomes a DiskError that says what could not be written and where, why, and how much is free."""
    try:
        yield
    except OSError as error:
        raise DiskError(f"{what} '{path}' cannot be written: {error.strerror or error}{_free(path)}") from error


def _free(path: Path) -> str:
    """What to say of the free space of the file system that `path` is on, or would be."""
    there = next((folder for folder in (path, *path.absolute().parents) if folder.exists()), Path.cwd())
    try:
        return f" ({shutil.disk_usage(there).free / 1e6:,.1f} MB free)"
    except OSError:
        return ""


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all, whenever the program is killed and however full the disk is."""
    partial = partial_text(path, text)
    try:
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def partial_text(path: Path, text: str) -> Path:
    """Write a file beside `path`, to be put in its place; nothing is left of one that cannot be written."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    return partial


class AppendFile:
    """A file that grows at its end by pieces, each there in whole or not at all. Nothing is buffered."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._size = self._file.seek(0, os.SEEK_END)
        self._torn = False

    def append(self, piece: bytes) -> None:
        """Write `piece` at the end.

        Raises:
            OSError: it could not be written; the file is as it was.
        """
        if self._torn:
            self._file.truncate(self._size)
            self._torn = False
        done = 0
        try:
            while done < len(piece):
                done += self._file.write(piece[done:])
        except OSError:
            self._torn = True
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)
            raise
        self._size += done

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Backlog(Generic[Item]):
    """Items to be written in order. One that cannot be waits, with those after it, and is tried again with the next.

    Args:
        write: writes one item, or raises DiskError.
        warn: told when it begins to fail; not again before it has gone well for a minute.
    """

    def __init__(self, write: Callable[[Item], None], warn: Callable[[str], None]) -> None:
        self._write, self._warn = write, warn
        self._items: list[Item] = []
        self._failed_at = -math.inf

    def add(self, item: Item) -> None:
        """Write an item, and what waits."""
        self._items.append(item)
        try:
            self.flush()
        except DiskError as error:
            before, self._failed_at = self._failed_at, time.monotonic()
            if self._failed_at - before > QUIET_SECONDS:
                self._warn(f"{error}; training goes on, and it is tried again with each row that follows")

    def flush(self) -> None:
        """Write what waits.

        Raises:
            DiskError: it still cannot be written.
        """
        while self._items:
            self._write(self._items[0])
            del self._items[0]

    def keep(self, wanted: Callable[[Item], bool]) -> None:
        """Forget what waits and is not wanted any more."""
        self._items = [item for item in self._items if wanted(item)]
