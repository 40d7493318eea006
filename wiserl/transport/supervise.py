"""Watching over runners in processes of their own: who is waited for, who is replaced, when all may begin."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from wiserl.transport.backend import RunnerGroup
from wiserl.util.errors import ActorLost, LearnerLost
from wiserl.util.failure import Failure

log = logging.getLogger("wiserl")


class Member(Protocol):
    """A runner's place, filled by one process after another.

    Attributes:
        rank: of the runner.
        incarnation: how often it has been replaced.
        task: what is waited for now: `prepare` of a `RunnerService` at first, then `run`; None: nothing.
    """

    rank: int
    incarnation: int
    task: Any

    def place(self) -> None:
        """Start a process, and let it `prepare`."""
        ...

    def run(self) -> None:
        """Let it `run`."""
        ...

    def result(self) -> Any:
        """What the task gave, which is done. Raises ActorLost if the process died instead."""
        ...

    def end(self) -> None:
        """End the process."""
        ...

    def check_placed(self, what: str) -> None:
        """Raise PlacementError if there is no room for the process."""
        ...


class Learners(Protocol):
    """What the learners of a session have to be told."""

    def agent_names(self) -> list[str]:
        """Names of all agents there are."""
        ...

    def control(self, name: str, method: str, *args: Any) -> Any:
        """Call `expect`, `replace`, `join` or `leave` of an agent's learner."""
        ...


def supervise(group: RunnerGroup, learners: Learners, wait: Callable[[Sequence[Any]], Sequence[Any]], poll: Callable[[], None],
              max_restarts: int) -> int:  # fmt: skip
    """Let all runners of a group prepare, then run to their end; replace those that die.

    Args:
        group: its members are `Member`s.
        learners: told who takes part in their rounds.
        wait: returns those tasks that are done, after a moment at the latest.
        poll: called after each wait.
        max_restarts: how often each runner may be replaced.

    Returns:
        The number of replacements.

    Raises:
        ActorLost: a runner has died once too often.
        PlacementError: there is no room for one.
        Exception: what a runner's own code raised.
    """
    members: Sequence[Member] = group.members
    agents_of: dict[int, list[str]] = {}
    restarts, started = 0, False
    while busy := {member.task: member for member in members if member.task is not None}:
        done = wait(list(busy))
        poll()
        for member in busy.values():
            member.check_placed(f"runner {member.rank} of '{group.name}'")
        for task in done:
            member = busy[task]
            result = _result(member)
            member.task = None
            if isinstance(result, ActorLost):
                restarts += 1
                _end(member, f"runner {member.rank} of '{group.name}'", result, max_restarts)
                # Before the successor begins: it asks the learners where. With several agents, their rounds may have gone on by
                # different numbers: nobody would come to the one that waits for a successor that waits in another.
                patient = len(agents_of.get(member.rank, ())) == 1
                _tell_all(learners, "replace", member.rank, member.incarnation + 1, patient)
                member.place()
            elif result is None:  # it has run to its end
                _tell_all(learners, "leave", member.rank)
            else:
                lost, agents_of[member.rank] = set(agents_of.get(member.rank, ())) - set(result), result
                if started:
                    for name in result:
                        learners.control(name, "join", member.rank)
                    for name in lost:  # its predecessor had it: nobody waits for what this one will not send
                        learners.control(name, "leave", member.rank)
                    member.run()
        if not started and len(agents_of) == group.num:
            started = True
            for name in learners.agent_names():
                learners.control(name, "expect", {rank for rank, names in agents_of.items() if name in names})
            for member in members:
                member.run()
    return restarts


def _result(member: Member) -> Any:
    """What a task gave, or what the runner died of: its own process, or one that steps its envs.

    Raises:
        Exception: what the runner's own code raised.
    """
    try:
        result = member.result()
    except ActorLost as death:
        return death
    if not isinstance(result, Failure):
        return result
    error = result.error()
    if isinstance(error, ActorLost) and not isinstance(error, LearnerLost):
        return error
    raise error


def _tell_all(learners: Learners, method: str, *args: int) -> None:
    for name in learners.agent_names():
        learners.control(name, method, *args)


def _end(member: Member, what: str, death: ActorLost, max_restarts: int) -> None:
    """Make sure that the dead is dead, and say that it is replaced. Raises ActorLost once its restarts are used up."""
    member.end()
    if member.incarnation == max_restarts:
        raise ActorLost(
            f"{what} died and its {max_restarts} restarts are used up: {death}. "
            "A process that dies without an exception was killed, often for want of memory"
        )
    reason = str(death).splitlines()[0]
    log.warning("%s died and is restarted (%d of %d): %s", what, member.incarnation + 1, max_restarts, reason)
