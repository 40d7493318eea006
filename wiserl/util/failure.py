"""Exceptions on their way to another process."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import NoReturn

import cloudpickle


class RemoteTraceback(Exception):
    """Shown as the cause of an error that was raised in another process: its text is the traceback there."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


@dataclass(frozen=True)
class Failure:
    """An exception from elsewhere: itself, pickled, if that works; what it said; its traceback."""

    said: str
    text: str
    pickled: bytes | None

    @classmethod
    def capture(cls, error: BaseException) -> Failure:
        """Wrap an exception."""
        text = "".join(traceback.format_exception(error))
        try:
            pickled = cloudpickle.dumps(error)
            cloudpickle.loads(pickled)
        except Exception:  # whatever a user's exception class does when pickled; its text travels in any case
            pickled = None
        return cls(f"{type(error).__qualname__}: {error}", text, pickled)

    def error(self, where: str = "", instead: type[Exception] = RuntimeError) -> BaseException:
        """The exception, with the traceback of where it happened.

        Args:
            where: put before that traceback.
            instead: of what class it is if it cannot be pickled.
        """
        error: BaseException
        if self.pickled is None:
            error = instead(f"{self.said} (the exception itself cannot be pickled)")
        else:
            error = cloudpickle.loads(self.pickled)
        error.__cause__ = RemoteTraceback(f"{where}\n{self.text}" if where else self.text)
        return error

    def reraise(self) -> NoReturn:
        """Raise it here."""
        raise self.error()
