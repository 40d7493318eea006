"""Agents and runners of users, for tests that look at what happens between them."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from wiserl import Agent, Runner, WiseRL


class Tally(Agent):
    """Counts its updates, writes into what it is given, and never publishes on its own account."""

    def __init__(self, sync: bool = True, **kwargs: Any) -> None:
        super().__init__(sync)
        self.count = 0

    def choose_action(self, *args: Any) -> tuple[int, int]:
        """Updates as far as it knows, and the process it is asked in."""
        return self.count, os.getpid()

    def update(self, *experience: Any) -> None:
        self.count += 1
        for array in experience:
            array += 1

    def _sync_model(self) -> None:
        self._fire(self.count)

    def _update_model(self, params: int) -> None:
        self.count = params


class Unfollowed(Agent):
    """As `Tally`, without the hooks through which a replica could follow it."""

    def __init__(self, sync: bool = True, **kwargs: Any) -> None:
        self.count = 0

    def choose_action(self, *args: Any) -> tuple[int, int]:
        return self.count, os.getpid()

    def update(self, *experience: Any) -> None:
        self.count += 1


class Failing(Tally):
    """Fails in the update, the constructor or while acting, whichever is asked for."""

    def __init__(self, sync: bool = True, *, where: str) -> None:
        super().__init__(sync)
        self.where = where
        if where == "constructor":
            raise LookupError("no luck in the constructor")

    def choose_action(self, *args: Any) -> tuple[int, int]:
        if self.where == "acting":
            raise LookupError("no luck in acting")
        return super().choose_action()

    def update(self, *experience: Any) -> None:
        super().update(*experience)
        if self.where == "update" and self.count > 100:
            raise LookupError("no luck in update")


class CountedLink:
    """Counts the calls that go through a link to a learner."""

    def __init__(self, link: Any) -> None:
        self.link, self.calls = link, Counter[str]()

    def __getattr__(self, method: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[method] += 1
            return getattr(self.link, method)(*args, **kwargs)

        return call


class Stepper(Runner):
    """Does 320 steps with the agent named "agent", and writes down how they went.

    `args`: a dict of `folder`, and optionally `make`: the class of the agent, for rank 0 to make it; and `wait_at`: the step
    at which the first incarnation of rank 0 writes its pid to `folder/pid` and waits to be killed.
    """

    STEPS = 320

    def __init__(self, args: dict[str, Any], local_rank: int = 0) -> None:
        super().__init__(args, local_rank)
        wise_rl = WiseRL()
        if self.rank == 0 and "make" in args:
            wise_rl.make_agent("agent", args["make"])
        self.agent = wise_rl.get_agent("agent")

    def run(self) -> None:
        folder = Path(self.args["folder"])
        link = self.agent._link = CountedLink(self.agent._link)  # type: ignore[assignment]
        first, _ = self.agent.choose_action()
        for step in range(self.STEPS):
            if step == self.args.get("wait_at") and self.rank == self.incarnation == 0:
                (folder / "pid").write_text(str(os.getpid()))
                time.sleep(60.0)
            seen, acted_in = self.agent.choose_action()
            self.agent.update(np.array([step]))
        calls = dict(link.calls)
        report = {
            "first": first,
            "seen": seen,
            "acted_in": acted_in,
            "pid": os.getpid(),
            "calls": calls,
            "incarnation": self.incarnation,
        }
        (folder / f"report-{self.rank}").write_text(repr(report))


class Batched(Tally):
    """Few experiences make a shipment."""

    ship_every = 16


class Getter(Runner):
    """Gets the `Batched` agent named "agent" anew before each of 100 updates, by turns to act here and there.

    `args`: whether it gets it in `__init__`, too; whether the agent is a sync one.
    """

    def __init__(self, args: tuple[bool, bool], local_rank: int = 0) -> None:
        super().__init__(args, local_rank)
        in_init, self.sync = args
        if in_init:
            WiseRL().get_agent("agent")

    def run(self) -> None:
        for step in range(100):
            agent = WiseRL().get_agent("agent", inference=("runner", "learner")[step % 2])
            agent.update()
            if self.sync and (step + 1) % (2 * Batched.ship_every) == 0:  # both handles have just shipped
                assert agent.choose_action()[0] == (step + 1) * self.world_size


class Placer(Runner):
    """Makes an agent with `args` as its resource."""

    def __init__(self, args: dict[str, Any], local_rank: int = 0) -> None:
        wise_rl = WiseRL()
        if local_rank == 0:
            wise_rl.make_agent("agent", Tally, resource=args)
        self.agent = wise_rl.get_agent("agent")

    def run(self) -> None:
        raise AssertionError("a runner ran that had no agent to feed")
