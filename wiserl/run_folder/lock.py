"""A run folder is trained in by one process at a time. Who that is stands in `run.lock` while it goes on.

    {"pid": 4711, "pids_of": "pid:[4026531836]", "host": "node3", "since": "2025-03-01T12:00:00+00:00"}

On one machine the operating system knows whether the owner lives: it holds a lock on the file, which ends with the process
however that ends. Between machines, where file systems may not tell one another, the owner touches the file every few seconds,
and whoever finds it watches for a while whether it is touched. Clocks are not compared.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import logging
import os
import socket
import threading
import time
import weakref
from io import FileIO
from pathlib import Path
from typing import Any

from wiserl.run_folder.writing import writing
from wiserl.util.errors import InputError

LOCK = "run.lock"
TOUCH_SECONDS = 3.0
WATCH_SECONDS = 4 * TOUCH_SECONDS

log = logging.getLogger("wiserl")


class Lock:
    """Held from its making to `release`, or until nobody refers to it or the process ends.

    Args:
        folder: the run folder.

    Raises:
        InputError: another process holds it, or another run of this process does.
        DiskError: the file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        path = folder.absolute() / LOCK
        with writing("the file", path):
            file = _take(path)
        ended = threading.Event()
        # Neither of them knows this object: it is to end when nobody refers to it.
        self._end = weakref.finalize(self, _release, path, file, ended, os.getpid())
        threading.Thread(target=_touch, args=(path, ended), name="run.lock", daemon=True).start()

    def release(self) -> None:
        """Let others have the folder. May be called again."""
        self._end()


def _take(path: Path) -> FileIO:
    """The lock's file, opened, locked, and with this process as its owner."""
    while True:
        if path.is_symlink():
            raise InputError(f"'{path}' is a link, and what it points to would be written over: remove it")
        file = FileIO(path, "ab", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666))
        try:
            owner = _owner(path)
            if not _lock(file):
                if not _is_dead(owner):
                    raise _in_use(path, owner)
                path.unlink(missing_ok=True)  # held by a fork of its dead owner, which does not train
            elif _is_there(path, file):
                if owner.get("host", _host()) != _host() and _is_touched(path):
                    raise _in_use(path, owner)
                try:
                    _write_owner(file)
                except OSError:
                    path.unlink()
                    raise
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # somebody has taken or removed it meanwhile


def _lock(file: FileIO) -> bool:
    """Ask the operating system for the lock; False if another has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system that has no locks: who owns it is known by its content alone
        owner = _owner(Path(file.name))
        return not owner or owner.get("host") != _host() or _is_dead(owner)
    return True


def _is_there(path: Path, file: FileIO) -> bool:
    """Whether the file that was opened is still the one of that name: an owner removes it when it is done."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _owner(path: Path) -> dict[str, Any]:
    """Who has written the file; empty if that cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_owner(file: FileIO) -> None:
    since = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    owner = {"pid": os.getpid(), "pids_of": _pid_namespace(), "host": _host(), "since": since}
    file.truncate(0)
    file.write(json.dumps(owner).encode())


def _is_dead(owner: dict[str, Any]) -> bool:
    """Whether the owner was a process of this machine, and is no more; one of another container is not known of."""
    if owner.get("host") != _host() or not isinstance(owner.get("pid"), int):
        return False
    if owner.get("pids_of", _pid_namespace()) != _pid_namespace():
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:  # another user's
        return False
    return False


def _is_touched(path: Path) -> bool:
    """Whether the owner, on another machine, lives: watches the file for a while."""
    log.warning("'%s' is of a process on another host: watching for %.0f s whether that lives", path, WATCH_SECONDS)
    before, give_up_at = path.stat().st_mtime_ns, time.monotonic() + WATCH_SECONDS
    while time.monotonic() < give_up_at:
        time.sleep(0.2)
        with path.open("rb") as file:  # opened anew: network file systems remember for a while what they knew of a file
            if os.fstat(file.fileno()).st_mtime_ns != before:
                return True
    return False


def _in_use(path: Path, owner: dict[str, Any]) -> InputError:
    who = f"process {owner.get('pid', 'unknown')} on {owner.get('host', 'an unknown host')}"
    if (owner.get("pid"), owner.get("host"), owner.get("pids_of")) == (os.getpid(), _host(), _pid_namespace()):
        who = "this very process"
    return InputError(
        f"the run in '{path.parent}' is being trained by {who}, since {owner.get('since', 'an unknown time')}: stop or close that first, "
        f"or train in another folder. If you are sure that it has ended, remove '{path}'"
    )


def _pid_namespace() -> str:
    """Within what process ids mean the same: containers have their own. Empty where the system has but one."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _host() -> str:
    return socket.gethostname()


def _touch(path: Path, ended: threading.Event) -> None:
    while not ended.wait(TOUCH_SECONDS):
        with contextlib.suppress(OSError):  # a full disk, or a file that was removed
            os.utime(path)


def _release(path: Path, file: FileIO, ended: threading.Event, pid: int) -> None:
    if os.getpid() != pid:  # a fork of the owner, which ends
        return
    ended.set()
    with contextlib.suppress(OSError):
        if _is_there(path, file):
            path.unlink()
    file.close()
