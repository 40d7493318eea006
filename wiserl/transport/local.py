"""The local backend: everything in this process, on this thread, without Ray. Breakpoints stop, errors keep their stack.

With several runners each has a stack of its own (a greenlet) and they take turns: a runner goes on until it has to wait
for a round, so the same code runs here and on Ray, in the same order each time.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Mapping
from typing import Any

from greenlet import getcurrent, greenlet

from wiserl.core.agent import Agent
from wiserl.core.runner import Runner, construct_runner
from wiserl.transport.backend import RunnerContext, RunnerGroup, current_runner, limit_threads
from wiserl.transport.handle import AgentHandle
from wiserl.transport.learner import Learner
from wiserl.transport.messages import Ack, Shipment
from wiserl.util.cores import available_cores
from wiserl.util.errors import InputError, WaitTimeout, nearest
from wiserl.util.variables import wait_seconds


class _LocalLink:
    """Direct calls to the learner; a runner that has to wait gives way to the next one."""

    def __init__(self, backend: LocalBackend, learner: Learner) -> None:
        self._backend = backend
        self._learner = learner

    def ship(self, shipment: Shipment, wait: bool, max_inflight: int) -> Ack | None:
        self._learner.offer(shipment)
        self._backend.note_progress()
        if not wait:
            self._backend.give_way()
        while wait and not self._learner.is_settled(shipment):
            if not self._backend.give_way(waiting=True):
                raise WaitTimeout(
                    f"agent '{self._learner.name}' waits for runners {self._learner.missing()}, which cannot go on: "
                    "every runner waits for another. Do all of them call update equally often on the same agents?"
                )
        return self._learner.ack(shipment.known_version)

    def drain(self) -> Ack | None:
        return None

    def fetch(self, known_version: int) -> Ack:
        return self._learner.ack(known_version)

    def act(self, *args: Any, **kwargs: Any) -> Any:
        return self._learner.act(*args, **kwargs)

    def call(self, method: str, *args: Any) -> Any:
        return self._learner.call(method, *args)


class LocalBackend:
    """Learners and runners as plain objects of this process."""

    name = "local"

    def __init__(self) -> None:
        limit_threads()
        wait_seconds()  # what is wrong with it is told here as on Ray, though only pools of envs are waited for
        self._learners: dict[str, Learner] = {}
        self._agents: dict[str, tuple[type[Agent], bool, Mapping[str, Any]]] = {}
        self._script = RunnerContext(self)
        self._main: greenlet | None = None
        self._idle_turns = 0
        self._num_live = 0
        self.poll: Callable[[], None] = lambda: None

    def make_agent(self, name: str, agent_class: type[Agent], sync: bool, resource: Mapping[str, Any],
                   kwargs: Mapping[str, Any]) -> None:  # fmt: skip
        """Construct the agent here. `resource` has no meaning in one process."""
        if name in self._learners:
            raise InputError(
                f"an agent named '{name}' exists already; choose another name, or get it with get_agent('{name}')"
            )
        self._learners[name] = Learner(name, agent_class(sync=sync, **kwargs), sync)
        self._agents[name] = (agent_class, sync, kwargs)

    def get_agent(self, name: str, inference: str) -> AgentHandle:
        """A handle with a replica of its own, as on Ray."""
        learner = self._find(name)
        context = current_runner.get() or self._script
        if (handle := context.existing_handle(name, inference)) is not None:
            return handle
        agent_class, sync, kwargs = self._agents[name]
        return context.add_handle(name, inference, _LocalLink(self, learner), agent_class, sync, kwargs)

    def make_runners(
        self, name: str, runner_class: type[Runner], args: Any, num: int, resource: Mapping[str, Any]
    ) -> RunnerGroup:
        """Construct the runners here, rank by rank."""
        members = []
        for rank in range(num):
            context = RunnerContext(self, rank, num)
            scope = contextvars.copy_context()
            scope.run(current_runner.set, context)
            members.append((scope.run(construct_runner, runner_class, args, rank, num), context, scope))
        return RunnerGroup(name, num, members)

    def start_runners(self, group: RunnerGroup, poll: Callable[[], None], max_restarts: int) -> int:
        """Run them to their end, in turns. An error comes out as it was raised."""
        self.poll = poll
        for name, learner in self._learners.items():
            learner.expect({context.rank for _, context, _ in group.members if name in context.agent_names()})
        try:
            if group.num == 1:
                runner, context, scope = group.members[0]
                scope.run(self._run_one, runner, context)
            else:
                self._take_turns(group)
        finally:
            self.poll = lambda: None
            for runner, _, _ in group.members:
                runner.close()
        return 0

    def call(self, name: str, method: str, *args: Any) -> Any:
        """Call a method of a learner's agent."""
        return self._find(name).call(method, *args)

    def cores(self) -> int:
        """Those that this process may use."""
        return available_cores()

    def close(self) -> None:
        """Forget all agents."""
        self._learners.clear()

    def _find(self, name: str) -> Learner:
        if name not in self._learners:
            raise InputError(
                f"no agent named '{name}' (make it first with make_agent). {nearest(name, self._learners)}"
            )
        return self._learners[name]

    def note_progress(self) -> None:
        """Something was learned or gathered: nobody waits in vain yet."""
        self._idle_turns = 0
        self.poll()

    def give_way(self, waiting: bool = False) -> bool:
        """Let the other runners go on. False: all of them wait, so that nobody ever would."""
        if self._main is None or getcurrent() is self._main:
            return not waiting
        self._idle_turns = self._idle_turns + 1 if waiting else 0
        if self._idle_turns > 2 * self._num_live:
            return False
        self._main.switch()
        return True

    def _run_one(self, runner: Runner, context: RunnerContext) -> None:
        context.running = True
        runner.run()
        for handle in context.handles.values():
            handle.flush()
        for name in context.agent_names():
            self._learners[name].leave(context.rank)

    def _take_turns(self, group: RunnerGroup) -> None:
        self._main = getcurrent()
        try:
            stacks = []
            for runner, context, scope in group.members:
                stack = greenlet(self._run_one)
                stack.gr_context = scope
                stacks.append((stack, runner, context))
            while stacks:
                self._num_live = len(stacks)
                for stack, runner, context in stacks:
                    first = not stack
                    stack.switch(runner, context) if first else stack.switch()
                if any(stack.dead for stack, _, _ in stacks):
                    self._idle_turns = 0
                stacks = [entry for entry in stacks if not entry[0].dead]
        finally:
            self._main = None
