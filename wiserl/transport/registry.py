"""`WiseRL`: the registry of named agents and the start of runners. The public interface, on either backend."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wiserl.core.agent import Agent
from wiserl.core.runner import Runner
from wiserl.transport.backend import Backend, RunnerGroup, current_runner, current_session
from wiserl.transport.handle import AgentHandle
from wiserl.util.errors import InputError, nearest

BACKENDS = ("auto", "local", "ray")


def resolve_backend(backend: str) -> str:
    """`local` or `ray` for a backend's name; `auto` is WISERL_BACKEND if set, else ray where it is installed, else local.

    Raises:
        InputError: an unknown name, or `ray` where it is not installed.
    """
    chosen = os.environ.get("WISERL_BACKEND", "auto") if backend == "auto" else backend
    if chosen not in BACKENDS:
        raise InputError(f"unknown backend '{chosen}': {nearest(chosen, BACKENDS)}")
    has_ray = importlib.util.find_spec("ray") is not None
    if chosen == "auto":
        return "ray" if has_ray else "local"
    if chosen == "ray" and not has_ray:
        raise InputError(
            "backend 'ray' needs the package ray, which is not installed: `pip install ray`, or backend 'local'"
        )
    return chosen


class WiseRL:
    """Names agents, places them on learners, starts runners.

    Nothing is started before the first agent or runner is made, so that one made at module level costs nothing. Inside a
    runner on another machine, the same object (or one made anew by importing the module) speaks to the session it is in.

    Args:
        backend: `auto`, `local` or `ray`. The environment variable WISERL_BACKEND decides for `auto`.
    """

    def __init__(self, backend: str = "auto") -> None:
        self._backend_name = backend
        self._backend: Backend | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return (WiseRL, (self._backend_name,))

    @property
    def backend(self) -> Backend:
        """The backend: that of the runner this is called in, or this object's own, started on first use."""
        context = current_runner.get()
        if context is not None:
            return context.backend
        session = current_session()
        if session is not None:
            return session
        if self._backend is None:
            if resolve_backend(self._backend_name) == "ray":
                from wiserl.transport.ray_backend import RayBackend

                self._backend = RayBackend.start()
            else:
                from wiserl.transport.local import LocalBackend

                self._backend = LocalBackend()
        return self._backend

    def start(self) -> None:
        """Start the backend now; else the first agent or runner that is made does."""
        _ = self.backend

    def make_agent(self, name: str, agent_class: type[Agent], sync: bool = True, num: int = 1,
                   resource: Mapping[str, Any] | None = None, **kwargs: Any) -> None:  # fmt: skip
        """Construct `agent_class(sync=sync, **kwargs)` on a learner, under `name`.

        Args:
            name: what `get_agent` is asked for.
            agent_class: a subclass of `Agent`.
            sync: whether runners wait for every new set of weights.
            num: number of learners; one is supported.
            resource: Ray's actor options, `{"num_gpus": 1}` say.
            kwargs: go to the agent's constructor, on the learner and on every replica.

        Raises:
            InputError: a name that is taken, a class that is no `Agent`, `num` other than 1.
            PlacementError: the cluster has no such resource.
        """
        if not (isinstance(agent_class, type) and issubclass(agent_class, Agent)):
            raise InputError(f"agent_class must be a subclass of wiserl.Agent, not {agent_class!r}")
        if num != 1:
            raise InputError(f"make_agent('{name}', num={num}): one learner per agent is supported, so num must be 1")
        self.backend.make_agent(name, agent_class, sync, dict(resource or {}), kwargs)

    def get_agent(self, name: str, inference: str = "runner") -> AgentHandle:
        """The agent's handle, waiting until it exists (on Ray, where another runner may be making it).

        Each runner has one: a second call gives the same, with the newest weights.

        Args:
            name: as given to `make_agent`.
            inference: `runner`: act on a replica here, without a remote call; `learner`: act there, one call per action.

        Raises:
            InputError: it does not exist; the message names the agents that do. Or it is a sync agent, and the runner, which
                runs already, did not get it in its `__init__`.
        """
        if inference not in ("runner", "learner"):
            raise InputError(f"get_agent('{name}', inference='{inference}'): expected 'runner' or 'learner'")
        return self.backend.get_agent(name, inference)

    def make_runner(self, name: str, runner_class: type[Runner], args: Any = None, num: int = 1,
                    resource: Mapping[str, Any] | None = None) -> RunnerGroup:  # fmt: skip
        """Place `num` runners `runner_class(args, local_rank=rank)`.

        Raises:
            InputError: a class that is no `Runner`, a count below 1.
        """
        if not (isinstance(runner_class, type) and issubclass(runner_class, Runner)):
            raise InputError(f"runner_class must be a subclass of wiserl.Runner, not {runner_class!r}")
        if num < 1:
            raise InputError(f"make_runner('{name}', num={num}): the number of runners must be at least 1")
        return self.backend.make_runners(name, runner_class, args, num, dict(resource or {}))

    def start_all_runners(self, runners: RunnerGroup | Sequence[RunnerGroup], poll: Callable[[], None] = lambda: None,
                          max_restarts: int = 3) -> int:  # fmt: skip
        """Run all runners to their end and re-raise a runner's own error with its traceback.

        Args:
            runners: what `make_runner` returned.
            poll: called in this process several times a second.
            max_restarts: how often each runner whose process died is restarted before that is an error.

        Returns:
            The number of restarts.

        Raises:
            InputError: they were started before.
        """
        groups = [runners] if isinstance(runners, RunnerGroup) else list(runners)
        if len(groups) != 1:
            raise InputError(f"start_all_runners takes what one make_runner call returned, not {len(groups)} groups")
        group = groups[0]
        if group.started:
            raise InputError(
                f"the runners '{group.name}' were started before, and are closed when they have run: make new ones with "
                f"make_runner('{group.name}', ...); the agents go on from what they have learned"
            )
        group.started = True
        return self.backend.start_runners(group, poll, max_restarts)

    def call(self, name: str, method: str, *args: Any) -> Any:
        """Call `method(*args)` of the named agent where it learns, and return what it returns.

        Raises:
            InputError: it does not exist; the message names the agents that do.
        """
        return self.backend.call(name, method, *args)

    def close(self) -> None:
        """End the agents and runners made here, and the Ray cluster if it was started here."""
        if self._backend is not None:
            self._backend.close()
            self._backend = None

    getAgent = get_agent  # noqa: N815
    makeRunner = make_runner  # noqa: N815
    startAllRunner = start_all_runners  # noqa: N815
