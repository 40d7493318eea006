"""A worker process of `ProcessVector`, and what both sides share: the messages and the layout of the shared memory."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import fields
from mmap import mmap
from typing import Any

import cloudpickle
import numpy as np

from wiserl.core.actions import ActionCodec
from wiserl.core.spec import EnvSpec
from wiserl.core.tree import Array, tree_map
from wiserl.env.row_buffers import RowBuffers
from wiserl.env.vector.inline import InlineVector
from wiserl.util.failure import Failure

MAKE, BIND, BEGIN, ADVANCE, STEP, QUIT = b"m", b"b", b"r", b"a", b"s", b"q"
DONE, RESULT, RAISED = b"o", b"p", b"x"
_ALIGN = 64


def send(sock: socket.socket, kind: bytes, value: Any) -> None:
    """Send a command or answer of one byte, and a value with it; `receive` reads the value after the byte."""
    data = cloudpickle.dumps(value)
    sock.sendall(kind + len(data).to_bytes(8, "little") + data)


def _receive_exactly(sock: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = sock.recv(min(size, 1 << 20))
        if not part:
            raise ConnectionResetError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def receive(sock: socket.socket) -> Any:
    """The value that `send` sent after the byte.

    Raises:
        ConnectionResetError: the other side is gone.
    """
    return pickle.loads(_receive_exactly(sock, int.from_bytes(_receive_exactly(sock, 8), "little")))


def shared_rows(spec: EnvSpec, num_envs: int, memory_fd: int, grow: bool) -> tuple[RowBuffers, Array]:
    """Buffers and policy actions `[E, A, ...]` laid out in shared memory, the same way on both sides.

    The arrays keep the mapping alive. `grow` gives the memory its size, which must be done before anyone else maps it.
    """
    template: dict[str, Any] = {item.name: getattr(RowBuffers.zeros(spec, 1), item.name) for item in fields(RowBuffers)}
    codec = ActionCodec(spec.action_space)
    template["action"] = np.zeros((1, spec.num_agents, *codec.shape), codec.dtype)
    size = 0

    def place(leaf: Array) -> int:
        nonlocal size
        offset = size
        size += -(-leaf.nbytes * num_envs // _ALIGN) * _ALIGN
        return offset

    offsets = tree_map(place, template)
    if grow:
        os.ftruncate(memory_fd, size)
    memory = mmap(memory_fd, size)
    arrays = tree_map(
        lambda leaf, offset: np.ndarray((num_envs, *leaf.shape[1:]), leaf.dtype, memory, offset), template, offsets
    )
    action = arrays.pop("action")
    return RowBuffers(**arrays), action


def _rows_between(buffers: RowBuffers, start: int, stop: int) -> RowBuffers:
    views = {
        item.name: tree_map(lambda leaf: leaf[start:stop], getattr(buffers, item.name)) for item in fields(RowBuffers)
    }
    return RowBuffers(**views)


def serve(sock_fd: int, memory_fd: int) -> None:
    """Main function of a worker process: make envs, step them on request, until told to quit or the parent is gone."""
    # Ctrl-C goes to the whole process group, as SIGTERM and SIGHUP may; the parent decides when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Handled, not ignored: programs that an env starts would inherit that, and the env could not terminate them.
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, lambda signum, frame: None)
    threading.Thread(target=_exit_with, args=(os.getppid(),), daemon=True).start()
    sock = socket.socket(fileno=sock_fd)
    worker = _Worker(memory_fd)
    with contextlib.suppress(ConnectionError):
        while (command := sock.recv(1)) not in (b"", QUIT):
            try:
                result = worker.run(command, sock)
            except (Exception, SystemExit) as error:  # an env that exits is an error of the env
                send(sock, RAISED, Failure.capture(error))
                continue
            if result is None:
                sock.sendall(DONE)
            else:
                send(sock, RESULT, result)
    worker.close()


def _exit_with(parent: int) -> None:
    """End this process when its parent has died; a worker stuck in an env's step does not see the closed socket."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


class _Worker:
    def __init__(self, memory_fd: int) -> None:
        self._memory_fd = memory_fd
        self._vector: InlineVector | None = None
        self._action: Array = np.zeros(0)

    def run(self, command: bytes, sock: socket.socket) -> Any:
        if command == MAKE:
            self._vector = InlineVector(*receive(sock))
            return self._vector.spec, self._vector.has_alive
        assert self._vector is not None
        if command == STEP:
            infos = self._vector.step(self._action).infos
            return [(index, _portable_info(info)) for index, info in infos] if infos else None
        if command == ADVANCE:
            return self._vector.advance(receive(sock))
        if command == BEGIN:
            self._vector.begin(receive(sock))
            return None if self._vector.mask is None else True
        if command == BIND:
            num_envs, start, stop = receive(sock)
            buffers, action = shared_rows(self._vector.spec, num_envs, self._memory_fd, grow=False)
            self._vector.bind(_rows_between(buffers, start, stop), first=start)
            self._action = action[start:stop]
        return None

    def close(self) -> None:
        if self._vector is not None:
            self._vector.close()


def _portable_info(info: Mapping[str, Any]) -> Mapping[str, Any]:
    """The entries of an info that can be pickled."""

    def fits(value: Any) -> bool:
        try:
            cloudpickle.dumps(value)
        except Exception:
            return False
        return True

    return info if fits(info) else {key: value for key, value in info.items() if fits(value)}
