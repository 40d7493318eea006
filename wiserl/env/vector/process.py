"""Worker processes that each step several envs, for envs that are too slow to step one after the other.

Observations, actions and flags are in memory shared with the workers; per step and worker two single bytes travel. The
workers are started as fresh interpreters, not by `multiprocessing`, so that a script without an `if __name__ ==
"__main__"` is not run again in each of them. Each one ends when its parent does, however that ended.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wiserl.core.tree import Array
from wiserl.env.make import EnvLike, env_id
from wiserl.env.masks import mixed_masks
from wiserl.env.vector.base import VectorEnv, VectorKind, VectorStep, step_result
from wiserl.env.vector.worker import ADVANCE, BEGIN, BIND, DONE, MAKE, QUIT, RESULT, STEP, receive, send, shared_rows
from wiserl.util.cores import available_cores
from wiserl.util.errors import ActorLost, EnvError, InputError, WaitTimeout
from wiserl.util.variables import wait_seconds

_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[3]); from wiserl.env.vector.worker import serve; "
    "serve(int(sys.argv[1]), int(sys.argv[2]))"
)
_CLOSE_SECONDS = 2.0
_WORKER_SECONDS = 60.0


class _Handle:
    """One worker as its parent sees it: process, socket, the envs it steps."""

    def __init__(self, number: int, start: int, stop: int, memory_fd: int, timeout: float) -> None:
        self.start, self.stop = start, stop
        self._number = number
        self._timeout = timeout
        self.sock, remote = socket.socketpair()
        with remote:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, str(remote.fileno()), str(memory_fd), json.dumps(sys.path)],
                stdin=subprocess.DEVNULL,
                pass_fds=(remote.fileno(), memory_fd),
                env={"OMP_NUM_THREADS": "1", **os.environ},
            )
        self.sock.settimeout(timeout)

    def __str__(self) -> str:
        return f"worker {self._number} (pid {self._process.pid}, envs {self.start} to {self.stop - 1})"

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, command: bytes, value: Any = None) -> None:
        try:
            if value is None:
                self.sock.sendall(command)
            else:
                send(self.sock, command, value)
        except ConnectionError as error:
            raise self._death() from error

    def answer(self, doing: str) -> tuple[Any, BaseException | None]:
        """Wait for the answer to the last command: its result, or the exception that the worker raised."""
        try:
            kind = self.sock.recv(1)
            if kind == DONE:
                return None, None
            if not kind:
                raise ConnectionResetError
            value = receive(self.sock)
        except TimeoutError as error:
            raise WaitTimeout(
                f"{self} did not finish {doing} within {self._timeout:g} s: the env hangs, or is slow. "
                "Fix the env, or set WISERL_WAIT_SECONDS to more"
            ) from error
        except ConnectionError as error:
            raise self._death() from error
        if kind == RESULT:
            return value, None
        return None, value.error(f"in {self}:", EnvError)

    def _death(self) -> ActorLost:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_CLOSE_SECONDS)
        code = self._process.returncode
        how = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return ActorLost(f"{self} died ({how}): the env crashed it, or the system ended it for want of memory")

    def ask_to_quit(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.sendall(QUIT)
        self.sock.close()

    def end(self, deadline: float) -> None:
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _shut_down(workers: list[_Handle]) -> None:
    """Ask all workers to quit, then end those that have not within `_CLOSE_SECONDS`."""
    for worker in workers:
        worker.ask_to_quit()
    deadline = time.monotonic() + _CLOSE_SECONDS
    for worker in workers:
        worker.end(deadline)
    workers.clear()


def _new_memory() -> int:
    """A file descriptor of memory without a name, so that nothing is left behind by a process that is killed."""
    if sys.platform == "linux":
        return os.memfd_create("wiserl")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class ProcessVector(VectorEnv):
    """Steps envs in worker processes, each of them several, through shared memory."""

    kind: VectorKind = "process"

    def __init__(
        self,
        env: EnvLike,
        kwargs: Mapping[str, Any] | None,
        num_envs: int,
        num_workers: int | None = None,
        timeout: float | None = None,
    ) -> None:
        """Start the workers and make the envs in them.

        Args:
            env: see `make_env`; a callable must be one that cloudpickle can send.
            kwargs: arguments of the env.
            num_envs: how many envs.
            num_workers: processes; None: as many as this process may use cores, at most `num_envs`.
            timeout: seconds to wait for a worker to make, reset or step its envs; None: what WISERL_WAIT_SECONDS says, else 60.

        Raises:
            InputError: a worker count below 1, or an env that cannot be made.
            WaitTimeout: a worker did not answer in time.
            ActorLost: a worker died.
        """
        if num_workers is not None and num_workers < 1:
            raise InputError(f"number of worker processes is {num_workers}; expected 1 or more")
        self.num_envs = num_envs
        num_workers = min(num_envs, num_workers or available_cores())
        bounds = np.linspace(0, num_envs, num_workers + 1).astype(int).tolist()
        timeout = timeout or wait_seconds(_WORKER_SECONDS)
        memory_fd = _new_memory()
        self._workers: list[_Handle] = []
        self._close = weakref.finalize(self, _shut_down, self._workers)
        try:
            for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
                self._workers.append(_Handle(number, start, stop, memory_fd, timeout))
            made = [(env, dict(kwargs or {}), worker.stop - worker.start) for worker in self._workers]
            self.spec, has_alive = self._ask(MAKE, made, f"making env '{env_id(env)}'")[0]
            self._buffers, self._action = shared_rows(self.spec, num_envs, memory_fd, grow=True)
            places = [(num_envs, worker.start, worker.stop) for worker in self._workers]
            self._ask(BIND, places, "mapping the shared memory")
        except BaseException:
            self.close()
            raise
        finally:
            os.close(memory_fd)
        self._alive = self._buffers.alive if has_alive else None
        self.episodes = self._buffers.episode

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.pid for worker in self._workers]

    def _ask(self, command: bytes, values: Sequence[Any] | None, doing: str) -> list[Any]:
        """Send a command to all workers and wait for their results.

        All are waited for before the first exception is raised, so that no answer is left over for the next command.
        """
        if not self._workers:
            raise ActorLost("the worker processes of this vector env have ended; make a new one")
        results, errors = [], []
        try:
            for number, worker in enumerate(self._workers):
                worker.tell(command, None if values is None else values[number])
            for worker in self._workers:
                result, error = worker.answer(doing)
                results.append(result)
                if error is not None:
                    errors.append(error)
        except BaseException:
            # An answer still to come (after a time-out, or Ctrl-C) would be taken for that to the next command.
            self.close()
            raise
        if errors:
            raise errors[0]
        return results

    def begin(self, episodes: Sequence[int]) -> tuple[Any, Array | None]:
        """See `VectorEnv.begin`; also `WaitTimeout` and `ActorLost`, after which the vector is closed."""
        self._check_episodes(episodes)
        parts = [[int(episode) for episode in episodes[worker.start : worker.stop]] for worker in self._workers]
        given = set(self._ask(BEGIN, parts, "resetting its envs"))
        if len(given) > 1:
            raise mixed_masks(self.spec.id)
        self.mask = self._buffers.mask if True in given else None
        return self._buffers.obs, self._alive

    def advance(self, actions: Sequence[Array]) -> list[list[float]]:
        """See `VectorEnv.advance`; also `WaitTimeout` and `ActorLost`, after which the vector is closed."""
        parts = [list(actions[worker.start : worker.stop]) for worker in self._workers]
        return [rewards for part in self._ask(ADVANCE, parts, "stepping its envs") for rewards in part]

    def step(self, actions: Array) -> VectorStep:
        """See `VectorEnv.step`; also `WaitTimeout` and `ActorLost`, after which the vector is closed."""
        self._action[...] = actions
        results = self._ask(STEP, None, "stepping its envs")
        infos = [
            (worker.start + index, info)
            for worker, result in zip(self._workers, results, strict=True)
            for index, info in result or ()
        ]
        return step_result(self._buffers, self._alive, infos, self.mask)

    def close(self) -> None:
        """End the workers: asked first, killed after 2 s."""
        self._close()
