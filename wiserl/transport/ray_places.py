"""Where Ray puts actors, how long that may take, and what becomes of calls to those that have died."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from wiserl.transport.cluster import check_room, find_cluster, share_out, signals_later
from wiserl.transport.messages import Ack
from wiserl.transport.ray_import import NodeAffinitySchedulingStrategy, exceptions, ray
from wiserl.transport.token import check_token
from wiserl.util.errors import ActorLost, InputError, LearnerLost, WaitTimeout
from wiserl.util.failure import Failure
from wiserl.util.variables import wait_seconds

log = logging.getLogger("wiserl")

LEAVE_SECONDS = 10.0
PLACEMENT_GRACE_SECONDS = 5.0
PLACEMENT_SECONDS = 120.0
SUCCESSOR_PATIENCE = 6
# A record per call, kept by the head process for the dashboard, would grow it by megabytes a minute.
QUIET = {"enable_task_events": False}
DEATHS = (
    exceptions.RayActorError,
    exceptions.ActorUnschedulableError,
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.OutOfMemoryError,
    exceptions.ObjectLostError,
)


class Session(NamedTuple):
    """What belongs to one script: the namespace in which its actors have their names, and its settings.

    Processes of a cluster do not inherit a script's environment; what is set there for wiserl has to travel.
    """

    namespace: str
    variables: dict[str, str]


def cpus_by_node() -> dict[str, float]:
    """CPUs of each node that is alive."""
    return {node["NodeID"]: node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]}


def _asks(resource: Mapping[str, Any]) -> bool:
    """Whether an actor's options ask for anything: only then does Ray follow soft wishes about the node."""
    return any(resource.get(key) for key in ("num_cpus", "num_gpus", "memory", "resources"))


def near_files(resource: Mapping[str, Any]) -> dict[str, Any]:
    """Options of an actor that belongs on this node, if there is room: run folders are here, and no other node's end matters."""
    here = ray.get_runtime_context().get_node_id()
    strategy = NodeAffinitySchedulingStrategy(here, soft=_asks(resource))
    return {"num_cpus": 0, "scheduling_strategy": strategy, **resource}


def wait_placed(placed: Any, what: str, resource: Mapping[str, Any]) -> None:
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


def get_answer(ref: Any, name: str, actor: Any) -> Any:
    """What a call of the learner of agent `name` gave.

    Raises:
        WaitTimeout: no answer came in time; the message names the runners that it waits for.
        LearnerLost: its process has died.
    """
    try:
        value = _get_patiently(ref, actor)
        if isinstance(value, Failure):
            value.reraise()
        if isinstance(value, Ack) and isinstance(value.weights, list):
            value = replace(value, weights=ray.get(value.weights[0], timeout=wait_seconds()))
        return value
    except exceptions.GetTimeoutError:
        try:
            missing = ray.get(actor.control.remote("missing"), timeout=5)
        except exceptions.GetTimeoutError:
            missing = "nobody: it is still in `update`"
        raise WaitTimeout(
            f"no answer from agent '{name}' in {wait_seconds():.0f} s; it waits for runners {missing}. In sync mode every runner that "
            "got the agent has to call update; for a longer wait set WISERL_WAIT_SECONDS"
        ) from None
    except DEATHS as error:
        raise LearnerLost(f"the learner of agent '{name}' has died: {error}") from None


def _get_patiently(ref: Any, actor: Any) -> Any:
    """What a call of a learner gave. Where its round waits for the successor of a dead runner, that is given time of its own."""
    for _ in range(SUCCESSOR_PATIENCE):
        with contextlib.suppress(exceptions.GetTimeoutError):
            return ray.get(ref, timeout=wait_seconds())
        if ray.get(actor.control.remote("awaits_successor"), timeout=5) is not True:
            break
    return ray.get(ref, timeout=0)


class RunnerPlace:
    """A runner's place, as `supervise` wants it: the actor that fills it now, and the task that is waited for."""

    def __init__(
        self,
        actor_class: type,
        session: Session,
        payload: bytes,
        rank: int,
        world_size: int,
        resource: Mapping[str, Any],
    ) -> None:
        self.rank = rank
        self._actor_class = actor_class
        self._world_size = world_size
        self._resource = resource
        self._make = lambda incarnation: (session, payload, rank, world_size, incarnation)
        self.incarnation = -1
        self.place()

    def place(self) -> None:
        """Ask for a process, and construct the runner in it."""
        self.incarnation += 1
        options = {"num_cpus": 0, "scheduling_strategy": self._strategy(), **QUIET, **self._resource}
        actor_class: Any = ray.remote(self._actor_class)
        self.actor = actor_class.options(**options).remote(*self._make(self.incarnation))
        self.placed = self.actor.pid.remote()
        self.task = self.actor.prepare.remote()
        self._asked_at: float | None = time.monotonic()

    def _strategy(self) -> Any:
        """Which node to take. Ray spreads what asks for something; runners that do not are shared out here, by CPUs."""
        # After a death the node may be gone, and Ray may not know it yet: the choice is left to Ray.
        if _asks(self._resource) or self.incarnation:
            return "SPREAD"
        cpus = cpus_by_node()
        node = list(cpus)[share_out(self._world_size, list(cpus.values()))[self.rank]]
        return NodeAffinitySchedulingStrategy(node, soft=False)

    def run(self) -> None:
        """Let the runner, constructed, do its work."""
        self.task = self.actor.run.remote()

    def result(self) -> Any:
        """What the task, which is done, gave."""
        try:
            return ray.get(self.task, timeout=wait_seconds())
        except DEATHS as error:
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


@contextlib.contextmanager
def _no_handler_of_rays() -> Iterator[None]:
    """Ray's own handler exits on SIGTERM, wherever `ray.init` is; interrupted while it connects, it crashes at the process's end."""
    utils = ray._private.utils
    before, utils.set_sigterm_handler = utils.set_sigterm_handler, lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = before


def _settings_of_own_cluster() -> dict[str, int]:
    """Ray's settings of a cluster that is begun here, where the environment does not say otherwise.

    Ray gives its workers a low priority (nice 15). With three busy processes on two cores a run took 100 seconds to its first step,
    and 20 with the priority of this process. Workers are what the run is for.
    """
    return {} if "RAY_worker_niceness" in os.environ else {"worker_niceness": 0}


def connect() -> None:
    """Connect this process to a cluster: `RayBackend.start` says to which."""
    address = find_cluster()
    if address:
        check_token(address)
    try:
        with signals_later(), _no_handler_of_rays():
            # address="auto" would also join a Ray that another script started for itself, and end with that script. What
            # `ray start` noted is left to Ray to find: only then does it use the token that `ray start` made.
            ray.init(
                address=None if address else "local",
                logging_level=logging.ERROR,
                namespace="wiserl",
                include_dashboard=False,
                _system_config=None if address else _settings_of_own_cluster(),
            )
    except (ConnectionError, exceptions.RayError) as error:
        raise InputError(
            f"the Ray cluster at {address} does not let this process join: {error}. Its address has to be the one `ray start` "
            "printed"
        ) from None


def leave_in_time(end_actors: Callable[[], None]) -> None:
    """End this session's actors, then leave the cluster, and end it if it was started here; within some seconds.

    A raylet that is stopped answers nobody, and Ray would wait for it for ever.
    """

    def leave() -> None:
        try:
            end_actors()
            ray.shutdown()
        except Exception as error:  # what was learned is saved by now: no reason for a run to fail
            log.warning("Ray did not end in good order: %s: %s", type(error).__name__, str(error).partition("\n")[0])

    node: Any = ray._private.worker._global_node
    leaving = threading.Thread(target=leave, daemon=True)
    leaving.start()
    leaving.join(LEAVE_SECONDS)
    if not leaving.is_alive():
        return
    own = node is not None and node.head
    if own:
        for infos in node.all_processes.values():
            for info in infos:
                info.process.kill()
        leaving.join(LEAVE_SECONDS)
    else:
        atexit.unregister(ray.shutdown)  # it would wait as well
    log.warning(
        "Ray did not answer in %.0f s: %s", LEAVE_SECONDS,
        "its processes were killed" if own else "what this run began there may be left; `ray stop` ends it",
    )  # fmt: skip
