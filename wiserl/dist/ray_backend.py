"""The Ray backend: learners and runners as actors. The only file that imports ray.

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
from dataclasses import replace
from typing import Any, NamedTuple

from wiserl.core import registry
from wiserl.core.agent import Agent
from wiserl.core.handle import AgentHandle
from wiserl.core.learner import Ack
from wiserl.core.runner import Runner
from wiserl.dist.backend import RunnerContext, RunnerGroup, limit_threads
from wiserl.util.failure import Failure
from wiserl.dist.cluster import check_room, find_cluster, share_out, signals_later
from wiserl.dist.service import LearnerService, RemoteLink, RunnerService
from wiserl.dist.supervise import supervise
from wiserl.dist.token import check_token
from wiserl.dist.weights import Packed
from wiserl.util.errors import ActorLost, InputError, LearnerLost, WaitTimeout, nearest
from wiserl.util.variables import num_threads, wait_seconds

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import cloudpickle
import ray
from ray.exceptions import (
    ActorUnschedulableError,
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

log = logging.getLogger("wiserl")

PLACEMENT_GRACE_SECONDS = 5.0
PLACEMENT_SECONDS = 120.0
GET_AGENT_SECONDS = 120.0
_KEEPER = "wiserl-keeper"
# A record per call, kept by the head process for the dashboard, would grow it by megabytes a minute.
_QUIET = {"enable_task_events": False}
_DEATHS = (
    RayActorError,
    ActorUnschedulableError,
    WorkerCrashedError,
    NodeDiedError,
    OutOfMemoryError,
    ObjectLostError,
)


class _Session(NamedTuple):
    """What belongs to one script: the namespace in which its actors have their names, and its settings.

    Processes of a cluster do not inherit a script's environment; what is set there for wiserl has to travel.
    """

    namespace: str
    variables: dict[str, str]


class _LearnerActor(LearnerService):
    """A learner in a process of its own."""

    def __init__(self, session: _Session, name: str, sync: bool, payload: bytes) -> None:
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


class _RunnerActor(RunnerService):
    """A runner in a process of its own."""

    def __init__(self, session: _Session, payload: bytes, rank: int, world_size: int, incarnation: int) -> None:
        super().__init__(_enter_actor_process(session, (rank, world_size, incarnation)).context, payload)

    def pid(self) -> int:
        return os.getpid()


class _Keeper:
    """Owns the agents that runners make, where there is no learner yet that could."""

    def __init__(self, session: _Session) -> None:
        self._session = session
        self._placed: list[Any] = []

    def place(self, name: str, sync: bool, payload: bytes, resource: Mapping[str, Any]) -> None:
        self._placed.append(_learner_actor(self._session, name, sync, payload, resource))


def _enter_actor_process(session: _Session, place: tuple[int, int, int] = (-1, 0, 0)) -> RayBackend:
    os.environ.update(session.variables)
    limit_threads()
    backend = RayBackend(session, False, place)
    registry.attach_session(backend)
    return backend


def _cpus_by_node() -> dict[str, float]:
    return {node["NodeID"]: node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]}


def _asks(resource: Mapping[str, Any]) -> bool:
    """Whether an actor's options ask for anything: Ray heeds soft wishes about the node only then."""
    return any(resource.get(key) for key in ("num_cpus", "num_gpus", "memory", "resources"))


def _near_files(resource: Mapping[str, Any]) -> dict[str, Any]:
    """Options of an actor that belongs on this node, if there is room: run folders are here, and no other node's end matters."""
    here = ray.get_runtime_context().get_node_id()
    strategy = NodeAffinitySchedulingStrategy(here, soft=_asks(resource))
    return {"num_cpus": 0, "scheduling_strategy": strategy, **resource}


def _learner_actor(session: _Session, name: str, sync: bool, payload: bytes, resource: Mapping[str, Any]) -> Any:
    options = {"max_concurrency": 1000, **_QUIET, **_near_files(resource)}
    actor_class = ray.remote(_LearnerActor).options(name=name, namespace=session.namespace, **options)
    return actor_class.remote(session, name, sync, payload)


def _wait_placed(placed: Any, what: str, resource: Mapping[str, Any]) -> None:
    """Wait until an actor's process answers.

    Raises:
        PlacementError: no node is large enough (within seconds), or none became free in time.
    """
    begun = time.monotonic()
    while not ray.wait([placed], timeout=0.25)[0]:
        _check_room(what, resource, time.monotonic() - begun)


def _check_room(what: str, resource: Mapping[str, Any], waited: float) -> None:
    """Raise PlacementError for an actor that has waited for its process so long (seconds) that it will hardly get one."""
    if waited > PLACEMENT_GRACE_SECONDS:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        check_room(what, resource, nodes, ray.available_resources(), patient=waited < PLACEMENT_SECONDS)


def _get(ref: Any, name: str, actor: Any) -> Any:
    try:
        value = ray.get(ref, timeout=wait_seconds())
        if isinstance(value, Failure):
            value.reraise()
        if isinstance(value, Ack) and isinstance(value.weights, list):
            value = replace(value, weights=ray.get(value.weights[0], timeout=wait_seconds()))
        return value
    except GetTimeoutError:
        try:
            missing = ray.get(actor.control.remote("missing"), timeout=5)
        except GetTimeoutError:
            missing = "nobody: it is still in `update`"
        raise WaitTimeout(
            f"no answer from agent '{name}' in {wait_seconds():.0f} s; it waits for runners {missing}. In sync mode every runner that "
            "got the agent has to call update; for a longer wait set WISERL_WAIT_SECONDS"
        ) from None
    except _DEATHS as error:
        raise LearnerLost(f"the learner of agent '{name}' has died: {error}") from None


class _Member:
    """A runner's place, as `supervise` wants it: the actor that fills it now, and the task that is waited for."""

    def __init__(
        self, session: _Session, payload: bytes, rank: int, world_size: int, resource: Mapping[str, Any]
    ) -> None:
        self.rank = rank
        self._world_size = world_size
        self._resource = resource
        self._make = lambda incarnation: (session, payload, rank, world_size, incarnation)
        self.incarnation = -1
        self.place()

    def place(self) -> None:
        """Ask for a process, and construct the runner in it."""
        self.incarnation += 1
        options = {"num_cpus": 0, "scheduling_strategy": self._strategy(), **_QUIET, **self._resource}
        actor_class: Any = ray.remote(_RunnerActor)
        self.actor = actor_class.options(**options).remote(*self._make(self.incarnation))
        self.placed = self.actor.pid.remote()
        self.task = self.actor.prepare.remote()
        self._asked_at: float | None = time.monotonic()

    def _strategy(self) -> Any:
        """Which node to take. Ray spreads what asks for something; runners that do not are shared out here, by CPUs."""
        # After a death the node may be gone, and Ray may not know it yet: the choice is left to Ray.
        if _asks(self._resource) or self.incarnation:
            return "SPREAD"
        cpus = _cpus_by_node()
        node = list(cpus)[share_out(self._world_size, list(cpus.values()))[self.rank]]
        return NodeAffinitySchedulingStrategy(node, soft=False)

    def run(self) -> None:
        """Let the runner, constructed, do its work."""
        self.task = self.actor.run.remote()

    def result(self) -> Any:
        """What the task, which is done, gave."""
        try:
            return ray.get(self.task, timeout=wait_seconds())
        except _DEATHS as error:
            raise ActorLost(str(error)) from None

    def end(self) -> None:
        """Make sure that the process is gone: one that cannot be reached may still be alive."""
        ray.kill(self.actor)

    def check_placed(self, what: str) -> None:
        """Raise PlacementError if it has no process and will hardly get one."""
        if self._asked_at is None:
            return
        if ray.wait([self.placed], timeout=0)[0]:
            self._asked_at = None
        else:
            _check_room(what, self._resource, time.monotonic() - self._asked_at)


def _connect() -> None:
    """Connect this process to a cluster: `RayBackend.start` says to which."""
    address = find_cluster()
    if address:
        check_token(address)
    try:
        with signals_later():
            # address="auto" would also join a Ray that another script started for itself, and end with that script. What
            # `ray start` noted is left to Ray to find: only then does it use the token that `ray start` made.
            ray.init(
                address=None if address else "local",
                logging_level=logging.ERROR,
                namespace="wiserl",
                include_dashboard=False,
            )
    except (ConnectionError, RayError) as error:
        raise InputError(
            f"the Ray cluster at {address} does not let this process join: {error}. Its address has to be the one `ray start` "
            "printed"
        ) from None


class RayBackend:
    """What one script, or one of its actors, sees of a Ray cluster."""

    name = "ray"

    def __init__(self, session: _Session, connected_here: bool, place: tuple[int, int, int] = (-1, 0, 0)) -> None:
        self.session = session
        self.context = RunnerContext(self, *place)
        self._connected_here = connected_here
        self._actors: dict[str, Any] = {}
        self._keeper: Any = None
        self._group: RunnerGroup | None = None

    @classmethod
    def start(cls) -> RayBackend:
        """Use the cluster this process is connected to; else join RAY_ADDRESS or what `ray start` began here; else start one.

        Raises:
            InputError: nothing answers at RAY_ADDRESS, or it refuses; or a variable that is to be a number is none.
        """
        num_threads(), wait_seconds()  # in the actors, which get them, it would be too late to say what is wrong
        connected_here = not ray.is_initialized()
        if connected_here:
            _connect()
        variables = {key: value for key, value in os.environ.items() if key.startswith("WISERL_")}
        backend = cls(_Session(f"wiserl-{uuid.uuid4().hex[:12]}", variables), connected_here)
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
            _wait_placed(placed, f"the learner of agent '{name}'", resource)
            _get(prepared, name, actor)

    def get_agent(self, name: str, inference: str) -> AgentHandle:
        """A handle, waiting until the agent exists."""
        if (handle := self.context.existing_handle(name, inference)) is not None:
            return handle
        actor = self._find(name)
        sync, payload = _get(actor.recipe.remote(), name, actor)
        agent_class, kwargs = cloudpickle.loads(payload)
        link = RemoteLink(actor, lambda ref: _get(ref, name, actor))
        return self.context.add_handle(name, inference, link, agent_class, sync, kwargs)

    def make_runners(
        self, name: str, runner_class: type[Runner], args: Any, num: int, resource: Mapping[str, Any]
    ) -> RunnerGroup:
        """Place the runners; they construct themselves while the script goes on."""
        if self._keeper is None and not self._actors:
            options = {"name": _KEEPER, "namespace": self.session.namespace, **_near_files({})}
            keeper_class: Any = ray.remote(_Keeper)
            self._keeper = keeper_class.options(**options).remote(self.session)
        payload = cloudpickle.dumps((runner_class, args))
        members = [_Member(self.session, payload, rank, num, resource) for rank in range(num)]
        self._group = RunnerGroup(name, num, members)
        return self._group

    def start_runners(self, group: RunnerGroup, poll: Callable[[], None], max_restarts: int) -> int:
        """Supervise: wait for all, restart the dead, re-raise what a runner raised."""
        return supervise(group, self, lambda tasks: ray.wait(list(tasks), timeout=0.1)[0], poll, max_restarts)

    def runner_pids(self) -> list[int]:
        """Process ids of the runners, by rank."""
        members = self._group.members if self._group else []
        return [ray.get(member.placed, timeout=wait_seconds()) for member in members]

    def call(self, name: str, method: str, *args: Any) -> Any:
        """Call a method of a learner's agent."""
        return self.control(name, "call", method, *args)

    def cores(self) -> int:
        """The CPUs of the nodes that are alive, by which runners are shared out."""
        return int(sum(_cpus_by_node().values()))

    def close(self) -> None:
        """End every actor of this session, and leave the cluster; Ray ends it if it was started here."""
        atexit.unregister(self._end_actors)
        self._end_actors()
        if self._connected_here:
            ray.shutdown()

    def _end_actors(self) -> None:
        if not ray.is_initialized():
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
        return _get(actor.control.remote(method, *args), name, actor)
