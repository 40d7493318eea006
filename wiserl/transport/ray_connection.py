"""This process's one connection to Ray, which all runs in it share, also those in several threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from wiserl.transport.ray_import import ray
from wiserl.transport.ray_places import connect, leave_in_time
from wiserl.util.errors import InputError


class Connection:
    """Made by the first run that needs it, ended by the last one, unless it was there before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._is_ours = False
        self._process = os.getpid()
        self._end = threading.Event()

    def join(self) -> None:
        """Connect to Ray, if this process is not connected already.

        Raises:
            InputError: see `connect`; or this process was forked from one that has used Ray.
        """
        if self._process != os.getpid():
            raise InputError(
                f"this process was forked from one that has used Ray (pid {self._process}), whose threads it does not have: use "
                "backend='local' here, or start a new process (multiprocessing's 'spawn', subprocess)"
            )
        with self._lock:
            if not (self._users and ray.is_initialized()):
                self._is_ours, self._users = not ray.is_initialized(), 0
                if self._is_ours:
                    self._connect()
            self._users += 1

    def leave(self, end_actors: Callable[[], None]) -> None:
        """End a run's actors. With those of the last run the connection ends, and Ray itself if it was started here."""
        with self._lock:
            self._users -= 1
            if self._is_ours and not self._users:
                leave_in_time(end_actors)
                self._end.set()
            else:
                end_actors()

    def _connect(self) -> None:
        if threading.current_thread() is threading.main_thread():
            connect()
            return
        # Linux kills the processes that Ray starts when the thread that started them ends; other runs may go on by then.
        self._end, connected, errors = threading.Event(), threading.Event(), list[Exception]()

        def hold(end: threading.Event) -> None:
            try:
                connect()
            except Exception as error:
                errors.append(error)
                return
            finally:
                connected.set()
            end.wait()

        threading.Thread(target=hold, args=(self._end,), name="wiserl-ray", daemon=True).start()
        connected.wait()
        if errors:
            raise errors[0]


CONNECTION = Connection()
