"""What a learner's and a runner's process do when they are called, and how a runner calls, without knowing Ray."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cloudpickle
import numpy as np

from wiserl.core.runner import Runner, construct_runner
from wiserl.transport.backend import RunnerContext
from wiserl.transport.learner import Learner
from wiserl.transport.messages import Ack, Shipment
from wiserl.transport.weights import Packed, walk
from wiserl.util.failure import Failure

INLINE_BYTES = 100_000
"""Weights below this size travel inside each answer; larger ones are stored once per version."""


class LearnerService(ABC):
    """A `Learner` behind calls that may overlap. All methods run on one event loop, so the learner needs no locks.

    What the agent's own code raises comes back as a `Failure`, and so does every later call: nobody waits for a learner that
    has failed. How long an answer may take is up to the caller, who alone can give up.
    """

    def __init__(self, name: str, sync: bool, payload: bytes) -> None:
        self._payload = payload
        self._name, self._sync = name, sync
        self._stored: tuple[int, Any] | None = None
        self._round_done = asyncio.Event()
        self._prepared = asyncio.Event()
        self._learner: Learner | None = None
        self._failure: Failure | None = None

    @abstractmethod
    def store(self, weights: Packed) -> Any:
        """Put weights where each runner's process can read them; returns the reference that travels instead."""

    async def prepare(self) -> Failure | None:
        """Construct the agent; an error in its constructor comes back with its traceback."""
        try:
            agent_class, kwargs = cloudpickle.loads(self._payload)
            self._learner = Learner(self._name, agent_class(sync=self._sync, **kwargs), self._sync)
        except (Exception, SystemExit) as error:
            self._failure = Failure.capture(error)
        self._prepared.set()
        return self._failure

    async def recipe(self) -> tuple[bool, bytes]:
        """What a replica is made from."""
        return self._sync, self._payload

    async def ship(self, shipment: Shipment) -> Any:
        """Take a shipment in and answer when its round is done."""
        learner = await self._ready()
        if learner is None:
            return self._failure
        if learner.agent.ship_every > 1:
            shipment = replace(shipment, experiences=walk(shipment.experiences, _writable))
        try:
            learner.offer(shipment)
        except (Exception, SystemExit) as error:
            self._failure = Failure.capture(error)
        self._wake()
        while self._failure is None and not learner.is_settled(shipment):
            await self._round_done.wait()
        return self._failure or self._answer(learner, shipment.known_version)

    async def fetch(self, known_version: int) -> Any:
        """The newest weights, if they are not the ones that are known."""
        learner = await self._ready()
        return self._failure if learner is None else self._answer(learner, known_version)

    async def act(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Choose an action here, for an agent that replicas cannot follow."""
        return await self._call("act", args, kwargs)

    async def control(self, method: str, *args: Any) -> Any:
        """Call a method of the learner itself: expect, replace, join, leave, missing, call."""
        result = await self._call(method, args, {})
        if method in ("leave", "replace") and isinstance(result, Failure):
            self._failure = result  # it completed a round, which failed: those who wait for the round are told as well
        self._wake()
        return result

    async def _call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        learner = await self._ready()
        if learner is None:
            return self._failure
        try:
            return getattr(learner, method)(*args, **kwargs)
        except (Exception, SystemExit) as error:
            return Failure.capture(error)

    async def _ready(self) -> Learner | None:
        """The learner once it is constructed; None if anything has failed."""
        await self._prepared.wait()
        return None if self._failure is not None else self._learner

    def _wake(self) -> None:
        done, self._round_done = self._round_done, asyncio.Event()
        done.set()

    def _answer(self, learner: Learner, known_version: int) -> Any:
        ack = learner.ack(known_version)
        if ack.weights is None or ack.weights.nbytes < INLINE_BYTES:
            return ack
        if self._stored is None or self._stored[0] != ack.version:
            self._stored = (ack.version, self.store(ack.weights))
        # In a list, since a reference that is an argument or result of its own would be resolved on the way.
        return replace(ack, weights=[self._stored[1]])  # type: ignore[arg-type]


def _writable(value: Any) -> Any:
    """An agent may write into what it is given, as in one process, where the handle copied it; what came through Ray is read-only."""
    return value.copy() if isinstance(value, np.ndarray) and not value.flags.writeable else value


class RunnerService:
    """A `Runner` behind calls, one at a time. What its code raises comes back as a `Failure`."""

    def __init__(self, context: RunnerContext, payload: bytes) -> None:
        self._context = context
        self._payload = payload
        self._runner: Runner | None = None

    def prepare(self) -> Failure | list[str]:
        """Construct the runner; returns the names of the agents it got."""
        context = self._context
        try:
            runner_class, args = cloudpickle.loads(self._payload)
            self._runner = construct_runner(runner_class, args, context.rank, context.world_size, context.incarnation)
        except (Exception, SystemExit) as error:
            return Failure.capture(error)
        return context.agent_names()

    def run(self) -> Failure | None:
        """Run to the end; ship what is left."""
        assert self._runner is not None
        try:
            self._context.running = True
            try:
                self._runner.run()
                for handle in self._context.handles.values():
                    handle.flush()
            finally:
                self._runner.close()
        except (Exception, SystemExit) as error:
            return Failure.capture(error)
        return None


class RemoteLink:
    """A runner's calls to a `LearnerService` in another process.

    Args:
        actor: has the service's methods, each called as `actor.method.remote(...)` and answered by a reference.
        get: waits for what a reference stands for, and raises what went wrong.
    """

    def __init__(self, actor: Any, get: Callable[[Any], Any]) -> None:
        self._actor, self._get = actor, get
        self._inflight: deque[Any] = deque()

    def ship(self, shipment: Shipment, wait: bool, max_inflight: int) -> Ack | None:
        """Send a shipment; then wait for all answers, or until fewer than `max_inflight` are out."""
        self._inflight.append(self._actor.ship.remote(shipment))
        return self._collect(0 if wait else max_inflight - 1)

    def drain(self) -> Ack | None:
        """Wait for every answer that is still out."""
        return self._collect(0)

    def fetch(self, known_version: int) -> Ack:
        """Ask for the newest weights."""
        ack: Ack = self._get(self._actor.fetch.remote(known_version))
        return ack

    def act(self, *args: Any, **kwargs: Any) -> Any:
        """Choose an action on the learner."""
        return self._get(self._actor.act.remote(args, kwargs))

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of the agent on the learner."""
        return self._get(self._actor.control.remote("call", method, *args))

    def _collect(self, leave_out: int) -> Ack | None:
        ack = None
        while len(self._inflight) > leave_out:
            ack = self._get(self._inflight.popleft())
        return ack
