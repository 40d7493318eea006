"""This process's one connection to Ray, which all runs in it share, also those in several threads."""

from __future__ import annotations

import os
import threading

from wiserl.transport.ray_import import ray
from wiserl.transport.ray_places import connect
from wiserl.util.errors import InputError


class Connection:
    """Made by the first run that needs it, ended by the last one, unless it was there before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._is_ours = False
        self._process = os.getpid()

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
                self._is_ours = not ray.is_initialized()
                if self._is_ours:
                    connect()
                self._users = 0
            self._users += 1

    def leave(self) -> bool:
        """Note that a run has ended; whether the connection is to be ended with it."""
        with self._lock:
            self._users -= 1
            return self._is_ours and self._users == 0


CONNECTION = Connection()
