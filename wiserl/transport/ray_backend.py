"""The Ray backend: learners and runners as actors. Ray itself comes from `ray_import`.

Who owns what: the script owns every actor. An agent made inside a runner is placed through a small `keeper` actor of the
script's, so that it outlives the runner and still ends with the script, however the script ends.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import cloudpickle

from wiserl.core.agent import Agent
from wiserl.core.runner import Runner
from wiserl.transport.backend import RunnerContext, RunnerGroup, attach_session, limit_threads
from wiserl.transport.cluster import HeadWatch
from wiserl.transport.handle import AgentHandle
from wiserl.transport.ray_connection import CONNECTION
from wiserl.transport.ray_import import ray
from wiserl.transport.ray_places import (
    QUIET,
    RunnerPlace,
    Session,
    cpus_by_node,
    get_answer,
    near_files,
    wait_placed,
)
from wiserl.transport.service import LearnerService, RemoteLink, RunnerService
from wiserl.transport.supervise import supervise
from wiserl.transport.weights import Packed
from wiserl.util.errors import HeadLost, InputError, nearest
from wiserl.util.variables import num_threads, wait_seconds

log = logging.getLogger("wiserl")
GET_AGENT_SECONDS = 120.0
QUIT_SECONDS = 3.0
_KEEPER = "wiserl-keeper"


class _LearnerActor(LearnerService):
    """A learner in a process of its own."""

    def __init__(self, session: Session, name: str, sync: bool, payload: bytes) -> None:
        self._session = session
        self._placed: list[Any] = []
        _enter_actor_process(session)
        super().__init__(name, sync, payload)

    def store(self, weights: Packed) -> Any:
        """Into the object store, once for all runners."""
        return ray.put(weights)

    async def place(self, name: str, sync: bool, payload: bytes, resource: Mapping[str, Any]) -> None:
        """Make another agent, for a runner that must not own it."""
        self._placed.append(_learner_actor(self._session, name, sync, payload, resource))

    async def pid(self) -> int:
        return os.getpid()

    async def quit(self) -> None:
        """End this process, where Ray cannot."""
        os._exit(0)


class _RunnerActor(RunnerService):
    """A runner in a process of its own."""

    def __init__(self, session: Session, payload: bytes, rank: int, world_size: int, incarnation: int) -> None:
        super().__init__(_enter_actor_process(session, (rank, world_size, incarnation)).context, payload)

    def pid(self) -> int:
        return os.getpid()


class _Keeper:
    """Owns the agents that runners make, where there is no learner yet that could."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._placed: list[Any] = []

    def place(self, name: str, sync: bool, payload: bytes, resource: Mapping[str, Any]) -> None:
        self._placed.append(_learner_actor(self._session, name, sync, payload, resource))


def _enter_actor_process(session: Session, place: tuple[int, int, int] = (-1, 0, 0)) -> RayBackend:
    os.environ.update(session.variables)
    limit_threads()
    backend = RayBackend(session, False, place)
    attach_session(backend)
    return backend


def _learner_actor(session: Session, name: str, sync: bool, payload: bytes, resource: Mapping[str, Any]) -> Any:
    options = {"max_concurrency": 1000, **QUIET, **near_files(resource)}
    actor_class = ray.remote(_LearnerActor).options(name=name, namespace=session.namespace, **options)
    return actor_class.remote(session, name, sync, payload)


class RayBackend:
    """What one script, or one of its actors, sees of a Ray cluster."""

    name = "ray"

    def __init__(self, session: Session, joined: bool, place: tuple[int, int, int] = (-1, 0, 0)) -> None:
        self.session = session
        self.context = RunnerContext(self, *place)
        self._joined = joined  # the script; its actors are connected by Ray
        self._actors: dict[str, Any] = {}
        self._keeper: Any = None
        self._group: RunnerGroup | None = None
        self._head_lost = False

    @classmethod
    def start(cls) -> RayBackend:
        """Use the cluster this process is connected to; else join RAY_ADDRESS or what `ray start` began here; else start one.

        Raises:
            InputError: nothing answers at RAY_ADDRESS, or it refuses; a variable that is to be a number is none; or this process
                was forked from one that has used Ray.
        """
        num_threads(), wait_seconds()  # in the actors, which get them, it would be too late to say what is wrong
        CONNECTION.join()
        variables = {key: value for key, value in os.environ.items() if key.startswith("WISERL_")}
        backend = cls(Session(f"wiserl-{uuid.uuid4().hex[:12]}", variables), joined=True)
        atexit.register(backend._end_actors)  # Ray's own handler comes after it, when the last output has been shown
        return backend

    def make_agent(self, name: str, agent_class: type[Agent], sync: bool, resource: Mapping[str, Any],
                   kwargs: Mapping[str, Any]) -> None:  # fmt: skip
        """Place the agent's learner and wait until it is constructed. A restarted runner finds the agent it made."""
        if name in self.agent_names():
            if self.context.incarnation:
                return
            raise InputError(
                f"an agent named '{name}' exists already; choose another name, or get it with get_agent('{name}')"
            )
        payload = cloudpickle.dumps((agent_class, dict(kwargs)))
        if self.context.rank < 0:
            actor = _learner_actor(self.session, name, sync, payload, resource)
        else:
            place = ray.get_actor(self.agent_names(hidden=True)[0], namespace=self.session.namespace).place
            ray.get(place.remote(name, sync, payload, resource), timeout=wait_seconds())
            actor = ray.get_actor(name, namespace=self.session.namespace)
        self._actors[name] = actor
        placed, prepared = actor.pid.remote(), actor.prepare.remote()
        if self.context.rank >= 0 or resource:
            wait_placed(placed, f"the learner of agent '{name}'", resource)
            get_answer(prepared, name, actor)

    def get_agent(self, name: str, inference: str) -> AgentHandle:
        """A handle, waiting until the agent exists."""
        if (handle := self.context.existing_handle(name, inference)) is not None:
            return handle
        actor = self._find(name)
        sync, payload = get_answer(actor.recipe.remote(), name, actor)
        agent_class, kwargs = cloudpickle.loads(payload)
        link = RemoteLink(actor, lambda ref: get_answer(ref, name, actor))
        return self.context.add_handle(name, inference, link, agent_class, sync, kwargs)

    def make_runners(
        self, name: str, runner_class: type[Runner], args: Any, num: int, resource: Mapping[str, Any]
    ) -> RunnerGroup:
        """Place the runners; they construct themselves while the script goes on."""
        if self._keeper is None and not self._actors:
            options = {"name": _KEEPER, "namespace": self.session.namespace, **near_files({})}
            keeper_class: Any = ray.remote(_Keeper)
            self._keeper = keeper_class.options(**options).remote(self.session)
        payload = cloudpickle.dumps((runner_class, args))
        members = [RunnerPlace(_RunnerActor, self.session, payload, rank, num, resource) for rank in range(num)]
        self._group = RunnerGroup(name, num, members)
        return self._group

    def start_runners(self, group: RunnerGroup, poll: Callable[[], None], max_restarts: int) -> int:
        """Supervise: wait for all, restart the dead, re-raise what a runner raised.

        Raises:
            HeadLost: the cluster's head process has died.
        """
        head = HeadWatch(ray.get_runtime_context().gcs_address)

        def look() -> None:
            poll()
            head.check()

        try:
            return supervise(group, self, lambda tasks: ray.wait(list(tasks), timeout=0.1)[0], look, max_restarts)
        except HeadLost:
            self._head_lost = True
            raise

    def runner_pids(self) -> list[int]:
        """Process ids of the runners, by rank."""
        members = self._group.members if self._group else []
        return [ray.get(member.placed, timeout=wait_seconds()) for member in members]

    def call(self, name: str, method: str, *args: Any) -> Any:
        """Call a method of a learner's agent."""
        return self.control(name, "call", method, *args)

    def cores(self) -> int:
        """The CPUs of the nodes that are alive, by which runners are shared out."""
        return int(sum(cpus_by_node().values()))

    def close(self) -> None:
        """End every actor of this session, and leave the cluster if no other run of this process is in it; Ray ends it if it was
        started here.

        It takes seconds, also where a part of Ray hangs.
        """
        atexit.unregister(self._end_actors)
        if self._joined:
            CONNECTION.leave(self._end_actors)
        else:
            self._end_actors()

    def _end_actors(self) -> None:
        if not ray.is_initialized():
            return
        if self._head_lost:  # all below would wait for it
            # Until they have ended they may save: what is last is known then.
            ended = [actor.quit.remote() for actor in self._actors.values()]
            if ended:
                ray.wait(ended, num_returns=len(ended), timeout=QUIT_SECONDS)
            return
        for member in self._group.members if self._group else []:
            member.end()
        for name in self.agent_names():
            with contextlib.suppress(ValueError):  # it has just died
                ray.kill(ray.get_actor(name, namespace=self.session.namespace))
        if self._keeper is not None:
            ray.kill(self._keeper)
        self._actors.clear()
        self._group = self._keeper = None

    def agent_names(self, hidden: bool = False) -> list[str]:
        """Names of the session's agents; `hidden`: the keeper's as well, which is the first if there is one."""
        named = ray.util.list_named_actors(all_namespaces=True)
        names = sorted(entry["name"] for entry in named if entry["namespace"] == self.session.namespace)
        agents = [name for name in names if name != _KEEPER]
        return [_KEEPER, *agents] if hidden and _KEEPER in names else agents

    def _find(self, name: str) -> Any:
        # In the script nobody else could still be making it; in a runner, another runner may be.
        give_up_at = time.monotonic() + (GET_AGENT_SECONDS if self.context.rank >= 0 else 0.0)
        while name not in self._actors:
            with contextlib.suppress(ValueError):
                self._actors[name] = ray.get_actor(name, namespace=self.session.namespace)
                break
            if time.monotonic() >= give_up_at:
                raise InputError(
                    f"no agent named '{name}' (make it first with make_agent). {nearest(name, self.agent_names())}"
                )
            time.sleep(0.02)
        return self._actors[name]

    def control(self, name: str, method: str, *args: Any) -> Any:
        actor = self._find(name)
        return get_answer(actor.control.remote(method, *args), name, actor)
