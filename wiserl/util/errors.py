"""The errors wiserl raises on purpose. Each message says what was given, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class WiserlError(Exception):
    """Base of all errors that wiserl raises on purpose."""


class InputError(WiserlError):
    """Something the user wrote is wrong: a name, a value, a path. The command line exits with 2 and prints one line."""


class EnvError(WiserlError):
    """An env broke its contract while running (a NaN observation, say). The command line exits with 1."""


class Diverged(WiserlError):
    """A loss, gradient or weight is no finite number any more, and nothing is saved of it. The command line exits with 1."""


class DiskError(WiserlError):
    """A file could not be written, since the disk is full, say. The command line exits with 1."""


class WaitTimeout(WiserlError):
    """Something that was waited for did not come; the message says what, how long, and what to do."""


class PlacementError(WiserlError):
    """The cluster has no room for an actor; the message says what was asked and what exists."""


class ActorLost(WiserlError):
    """A process that training needs has died: a learner, an env's worker, or a runner that used up its restarts."""


class LearnerLost(ActorLost):
    """The learner's process has died."""


class HeadLost(WiserlError):
    """The head process of the Ray cluster has died, and with it the cluster."""


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop by a signal, and has saved. `signum` is the signal's number."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def lacks_memory(error: Exception) -> bool:
    """Whether numpy, PyTorch or CUDA raised it because there was no memory left; PyTorch has a type of its own for CUDA alone.

    >>> lacks_memory(MemoryError()), lacks_memory(RuntimeError("CUDA out of memory. Tried ...")), lacks_memory(RuntimeError("broken"))
    (True, True, False)
    """
    said = str(error)
    return isinstance(error, MemoryError) or "can't allocate memory" in said or "out of memory" in said


def nearest(given: str, valid: Iterable[str]) -> str:
    """The tail of a message about an unknown name: the closest valid one, then all of them.

    >>> nearest("ppoo", ["dqn", "ppo"])
    "did you mean 'ppo'? Valid: dqn, ppo"
    """
    names = sorted(valid)
    close = difflib.get_close_matches(given, names, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}Valid: {', '.join(names)}"
