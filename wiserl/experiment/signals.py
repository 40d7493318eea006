"""Ctrl-C and SIGTERM: the first one asks training to stop, a second one interrupts it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

from wiserl.util.errors import Interrupted


class StopSignals:
    """Turns the first SIGINT or SIGTERM into a request, so that training ends between two rounds; the second interrupts at once.

    A context manager; outside the main thread, where no handlers can be set, it does nothing.

    Attributes:
        received: number of the last signal, or None.
        orderly: whether a first signal is a request; otherwise it raises `Interrupted` where the program is.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.orderly = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if isinstance(error, KeyboardInterrupt) and self.received is not None:
            # Inside of Ray's calls an `Interrupted` turns into its parent class.
            raise Interrupted(self.received) from None

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        again, self.received = self.received is not None, signum
        if again or not self.orderly:
            raise Interrupted(signum)

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
