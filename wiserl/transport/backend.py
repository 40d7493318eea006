"""What a backend provides. Two exist: `local` (one process, no Ray) and `ray`; the code above them is the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from wiserl.core.agent import Agent
from wiserl.core.runner import Runner
from wiserl.transport.handle import AgentHandle
from wiserl.transport.messages import Link
from wiserl.util.errors import InputError
from wiserl.util.variables import num_threads

_session: Backend | None = None


def limit_threads() -> None:
    """Set PyTorch's threads in this process: one, or what the environment variable WISERL_THREADS says.

    Small networks are fastest so, and results stay the same on both backends.
    """
    import torch

    torch.set_num_threads(num_threads())


@dataclass
class RunnerContext:
    """Which runner the calling code belongs to, and the handles it got; `rank` -1 is the script itself.

    Attributes:
        handles: one per agent and kind of inference, by both.
        running: whether the runner's `run` has begun.
    """

    backend: Backend
    rank: int = -1
    world_size: int = 0
    incarnation: int = 0
    handles: dict[tuple[str, str], AgentHandle] = field(default_factory=dict)
    running: bool = False

    def agent_names(self) -> list[str]:
        """Names of the agents it got."""
        return sorted({name for name, _ in self.handles})

    def existing_handle(self, name: str, inference: str) -> AgentHandle | None:
        """The handle it got before, with the newest weights; None: it got none."""
        handle = self.handles.get((name, inference))
        if handle is not None:
            handle.refresh()
        return handle

    def add_handle(self, name: str, inference: str, link: Link, agent_class: type[Agent], sync: bool,
                   kwargs: Mapping[str, Any]) -> AgentHandle:  # fmt: skip
        """Make its handle of an agent.

        Raises:
            InputError: it runs already, and rounds of a sync agent wait for those who held it before that.
        """
        others = [handle for (other, _), handle in self.handles.items() if other == name]
        if self.running and sync and not others:
            raise InputError(
                f"runner {self.rank} got agent '{name}' in run for the first time: get it in __init__, since the rounds of an "
                "agent with sync=True wait for the runners that hold it when run begins; or make it with sync=False"
            )
        handle = AgentHandle(
            name,
            link,
            lambda: agent_class(sync=sync, **kwargs),
            agent_class,
            sync,
            self.rank,
            self.incarnation,
            inference,
            others[0].sequence if others else None,
        )
        self.handles[name, inference] = handle
        return handle


current_runner: ContextVar[RunnerContext | None] = ContextVar("current_runner", default=None)


@dataclass
class RunnerGroup:
    """What `make_runner` returns: `num` runners of one class. They run once, since they are closed when they have run."""

    name: str
    num: int
    members: list[Any]
    started: bool = False

    def __len__(self) -> int:
        return self.num


class Backend(Protocol):
    """Where agents and runners live and how they reach each other."""

    name: str

    def make_agent(self, name: str, agent_class: type[Agent], sync: bool, resource: Mapping[str, Any],
                   kwargs: Mapping[str, Any]) -> None:  # fmt: skip
        """Put an agent on a learner, under a name."""
        ...

    def get_agent(self, name: str, inference: str) -> AgentHandle:
        """A handle for the calling runner (or the script)."""
        ...

    def make_runners(
        self, name: str, runner_class: type[Runner], args: Any, num: int, resource: Mapping[str, Any]
    ) -> RunnerGroup:
        """Place runners."""
        ...

    def start_runners(self, group: RunnerGroup, poll: Callable[[], None], max_restarts: int) -> int:
        """Run them all to their end, calling `poll` now and then; returns the number of restarts."""
        ...

    def call(self, name: str, method: str, *args: Any) -> Any:
        """Call a method of a learner's agent."""
        ...

    def cores(self) -> int:
        """Cores that runners may use, over all machines."""
        ...

    def close(self) -> None:
        """End everything this backend started."""
        ...


def attach_session(backend: Backend) -> None:
    """Make every `WiseRL` of this process speak to `backend`: called where a runner lives, before user code is loaded."""
    global _session
    _session = backend


def current_session() -> Backend | None:
    """The backend that `attach_session` was given, if any."""
    return _session
