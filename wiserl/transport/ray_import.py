"""The one file that imports ray: first it sets the environment variables that ray reads when it is imported."""

from __future__ import annotations

import ctypes
import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
import ray as ray
from ray import exceptions as exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as NodeAffinitySchedulingStrategy


def _skip_destructors() -> None:
    """In a forked child: let its exit end where Ray's C++ destructors would wait for threads that only the parent has."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "on_exit"):  # glibc's
        return
    # In the reverse of this order: buffers are flushed, then the process ends with the status it has.
    libc.on_exit(libc._exit, None)
    libc.__cxa_atexit(libc.fflush, None, None)


os.register_at_fork(after_in_child=_skip_destructors)
