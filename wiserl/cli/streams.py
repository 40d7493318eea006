"""Stdout and stderr of a command: readers that leave, disks that are full, terminals that know few characters."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

_SPELLED = {"±": "+/-", "≥": ">=", "≤": "<=", "×": "x", "·": "*", "→": "->", "–": "-", "…": "..."}


def _spell(error: UnicodeError) -> tuple[str | bytes, int]:
    """Characters that the encoding lacks, in others."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_SPELLED.get(char) or ascii(char)[1:-1] for char in lacking), error.end


codecs.register_error("wiserl.spell", _spell)


class Output:
    """Stdout that cannot fail: a reader that has gone (`| head -1`) has what it wanted, and what follows goes nowhere.

    Attributes:
        lost: why something could not be written though it was wanted (a full disk); None as long as all could be.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """Write text, as a stream does."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._to_nowhere(error)
            return len(text)

    def flush(self) -> None:
        """Flush, as a stream does."""
        try:
            self._stream.flush()
        except OSError as error:
            self._to_nowhere(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _to_nowhere(self, error: OSError) -> None:
        if not isinstance(error, BrokenPipeError):
            self.lost = self.lost or error
        # The stream still holds what it could not write, and tries again whenever it is flushed, at exit too.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        with contextlib.suppress(OSError):
            self._stream.flush()


@contextlib.contextmanager
def safe_output() -> Iterator[Output | None]:
    """Inside, `sys.stdout` is an `Output`, and what its encoding and that of stderr lack is spelled. None: there is no stdout."""
    before = sys.stdout
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="wiserl.spell")
    output = None if before is None else Output(before)
    if output is not None:
        sys.stdout = cast(TextIO, output)
    try:
        yield output
    finally:
        if output is not None:
            output.flush()
            sys.stdout = before
