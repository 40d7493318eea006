"""What can be said and done about a Ray cluster without Ray: where it is, how to join it, whether it has room."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wiserl.util.errors import HeadLost, InputError, PlacementError

log = logging.getLogger("wiserl")

CONNECT_SECONDS = 5.0
HEAD_CHECK_SECONDS = 1.0
HEAD_LOST_SECONDS = 4.0
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that ask a run to stop: Ctrl-C, a batch system's, a closed terminal's."""


def find_cluster() -> str | None:
    """Address of the cluster to join: RAY_ADDRESS, else what `ray start` noted on this machine; None: there is none.

    It is tried first, since Ray itself would wait for two minutes where nobody listens.

    Raises:
        InputError: nothing answers at RAY_ADDRESS.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    if address not in ("", "auto"):
        if address != "local" and not _answers(address):
            raise InputError(
                f"RAY_ADDRESS is {address}, but nothing answers there: start a cluster with `ray start --head` and take the "
                "address it prints, or unset RAY_ADDRESS to have one started"
            )
        return None if address == "local" else address
    note = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp", "ray", "ray_current_cluster")
    if not note.is_file():
        return None
    address = note.read_text(encoding="utf-8").strip()
    if _answers(address):
        return address
    log.warning("the cluster that `ray start` began at %s is gone (`ray stop` forgets it): starting another", address)
    return None


def _answers(address: str) -> bool:
    """Whether something listens at host:port, or comes to within seconds. Other kinds of address are left to Ray."""
    host, _, port = address.rpartition(":")
    if "://" in address or not port.isdigit():
        return True
    give_up_at = time.monotonic() + CONNECT_SECONDS
    while not (listens := _listens(host.strip("[]"), int(port))) and time.monotonic() < give_up_at:
        time.sleep(0.25)
    return listens


def _listens(host: str, port: int, seconds: float = CONNECT_SECONDS) -> bool:
    try:
        socket.create_connection((host, port), timeout=seconds).close()
    except OSError:
        return False
    return True


class HeadWatch:
    """Tells when a cluster's head process has died: Ray itself waits for a minute and then aborts this process.

    Args:
        address: host:port of the head process.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._next = self._heard_at = time.monotonic()

    def check(self) -> None:
        """Look once a second, in microseconds while all is well.

        Raises:
            HeadLost: nothing has listened there for some seconds.
        """
        now = time.monotonic()
        if now < self._next:
            return
        if _listens(self._host, self._port, HEAD_CHECK_SECONDS):
            self._heard_at = now
        elif now - self._heard_at > HEAD_LOST_SECONDS:
            raise HeadLost(f"the head process of the Ray cluster, at {self._address}, has died")
        self._next = time.monotonic() + HEAD_CHECK_SECONDS


def check_room(what: str, resource: Mapping[str, Any], nodes: Sequence[Mapping[str, float]], free: Mapping[str, float],
               patient: bool) -> None:  # fmt: skip
    """Judge whether an actor that has no process yet may still get one.

    Args:
        what: the actor, for the message.
        resource: Ray's actor options, as it was asked for.
        nodes: what each living node has in all, by the name of the resource.
        free: what is free on all of them together.
        patient: whether to go on waiting if some node is large enough, but taken.

    Raises:
        PlacementError: it will hardly get one; the message says what was asked and what exists.
    """
    asked = {"CPU": resource.get("num_cpus", 0), "GPU": resource.get("num_gpus", 0), **resource.get("resources", {})}
    asked = {key: value for key, value in asked.items() if value}
    fits = any(all(node.get(key, 0) >= value for key, value in asked.items()) for node in nodes)
    if fits and patient:
        return
    shown = [
        {key: value for key, value in node.items() if not key.startswith(("node:", "object_store"))} for node in nodes
    ]
    left = {key: free.get(key, 0) for key in asked or ["CPU"]}
    raise PlacementError(
        f"{what} cannot be placed: asked {asked or 'nothing'}, the cluster's {len(nodes)} node(s) have {shown} in all, of which "
        f"{left} is free. Ask for less in resource=..., or add a node with `ray start`"
    )


def share_out(num: int, cpus: Sequence[float]) -> list[int]:
    """A node for each of `num` runners, in proportion to the nodes' CPUs; nodes without any get runners only if all are so.

    Returns:
        An index into `cpus` per runner.
    """
    weights = list(cpus) if any(cpus) else [1.0] * len(cpus)
    taken = [0] * len(weights)
    chosen = []
    for _ in range(num):
        node = min((i for i, weight in enumerate(weights) if weight), key=lambda i: (taken[i] + 1) / weights[i])
        taken[node] += 1
        chosen.append(node)
    return chosen


def _exit(signum: int, frame: Any) -> None:
    raise SystemExit(128 + signum)


@contextlib.contextmanager
def signals_later() -> Iterator[None]:
    """Keep SIGINT and SIGTERM until the end: a Ray that is interrupted while it starts crashes, or leaves processes behind.

    What is started within ignores SIGHUP. A closed terminal sends it to all processes at once, and this one decides when Ray's end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def keep(signum: int, frame: Any) -> None:
        received.append(signum)

    before = {signum: signal.signal(signum, keep) for signum in STOPPING}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        # Left to itself, Ray answers SIGTERM with a stack trace and an abort; actors are ended where Python exits.
        if before[signal.SIGTERM] in (signal.SIG_DFL, None):
            before[signal.SIGTERM] = _exit
        for signum, handler in before.items():
            signal.signal(signum, signal.default_int_handler if handler is None else handler)
    if received:
        signal.alarm(
            0
        )  # the C++ of Ray, where it passes a SIGTERM on to Python, would abort the process three seconds later
        signal.raise_signal(received[0])
