"""Ctrl-C, SIGTERM, SIGHUP: the first one asks training to stop, a second one interrupts it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

from wiserl.transport.cluster import STOPPING
from wiserl.util.errors import Interrupted


class StopSignals:
    """Turns the first SIGINT, SIGTERM or SIGHUP into a request, so that training ends between two rounds; the second interrupts
    at once, and those after it wait until all is closed.

    A context manager; outside the main thread, where no handlers can be set, it does nothing. A SIGHUP that is ignored when it
    begins, as under `nohup`, stays ignored.

    Attributes:
        received: number of the last signal, or None.
        orderly: whether a first signal is a request; otherwise it raises `Interrupted` where the program is.
        interrupting: whether an `Interrupted` is on its way. Until it is dealt with, no other is raised: what closes processes
            would be interrupted as well, and leave them.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.orderly = False
        self.interrupting = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            hung_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
            heard = [number for number in STOPPING if hung_up or number != signal.SIGHUP]
            self._before = {number: signal.signal(number, self._handle) for number in heard}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if isinstance(error, KeyboardInterrupt) and self.received is not None:
            # Inside of Ray's calls an `Interrupted` turns into its parent class.
            raise Interrupted(self.received) from None

    def request(self, signum: int) -> None:
        """Ask training to stop, as if by that signal, if none has come."""
        if self.received is None:
            self.received = signum

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        again, self.received = self.received is not None, signum
        if not self.interrupting and (again or not self.orderly):
            self.interrupting = True
            raise Interrupted(signum)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Within the block, which has to end soon, signals are noted and interrupt nothing."""
        before, self.interrupting = self.interrupting, True
        try:
            yield
        finally:
            self.interrupting = before

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within the block, signals interrupt at once, whatever they do outside."""
        before, self.orderly = self.orderly, False
        try:
            if self.received is not None:
                raise Interrupted(self.received)
            yield
        finally:
            self.orderly = before
