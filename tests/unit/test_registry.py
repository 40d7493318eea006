"""The public interface in one process: names, classes, runners in turns, and what is refused."""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from wiserl import Agent, Runner, WiseRL
from wiserl.core.runner import construct_runner
from wiserl.transport.handle import AgentHandle
from wiserl.transport.registry import resolve_backend
from wiserl.util.errors import InputError, WaitTimeout


class Counter(Agent):
    """Counts what it learns from; acts with the count it knows of."""

    ship_every: ClassVar[int] = 2

    def __init__(self, sync: bool = True, first: int = 0, **kwargs: Any) -> None:
        super().__init__(sync)
        self.count = first
        self.log: list[Any] = []

    def choose_action(self, obs: int) -> int:
        return obs + self.count

    def update(self, *experience: Any) -> None:
        self.log.append(experience)
        self.count += 1
        self._sync_model()

    def _sync_model(self) -> None:
        self._fire(self.count)

    def _update_model(self, params: int) -> None:
        self.count = params

    def learned(self) -> list[Any]:
        return self.log


class Stepper(Runner):
    """Makes `args[rank]` updates and notes what it acted with."""

    def __init__(self, args: list[int], local_rank: int = 0) -> None:
        super().__init__(args, local_rank)
        self.agent = WiseRL().get_agent("counter")
        self.acted: list[int] = []
        self.closed = 0

    def run(self) -> None:
        for step in range(self.args[self.rank]):
            self.acted.append(self.agent.choose_action(0))
            self.agent.update(self.rank, step)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def wise_rl() -> Iterator[WiseRL]:
    made = WiseRL(backend="local")
    yield made
    made.close()


def run(wise_rl: WiseRL, steps: list[int], sync: bool = True) -> list[Stepper]:
    wise_rl.make_agent("counter", Counter, sync=sync)
    runners = wise_rl.make_runner("runner", Stepper, steps, num=len(steps))
    assert wise_rl.start_all_runners(runners) == 0
    return [member[0] for member in runners.members]


def test_in_sync_mode_each_round_is_learned_in_rank_order_and_all_act_with_one_version(wise_rl):
    steppers = run(wise_rl, [4, 4])
    assert wise_rl.call("counter", "learned") == [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3), (1, 2), (1, 3)]
    assert [stepper.acted for stepper in steppers] == [[0, 0, 4, 4], [0, 0, 4, 4]]
    assert [stepper.closed for stepper in steppers] == [1, 1]


def test_runners_that_end_early_are_not_waited_for_and_lose_nothing(wise_rl):
    run(wise_rl, [1, 6])
    assert sorted(wise_rl.call("counter", "learned")) == [(0, 0)] + [(1, step) for step in range(6)]


def test_in_async_mode_each_shipment_is_learned_at_once(wise_rl):
    steppers = run(wise_rl, [4, 4], sync=False)
    assert wise_rl.call("counter", "learned") == [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3), (1, 2), (1, 3)]
    newest = [[0, 0, 4, 4], [0, 0, 6, 6]]  # each goes on with the newest there is when its turn comes
    assert [stepper.acted for stepper in steppers] == newest


def test_the_script_itself_may_act_and_learn(wise_rl):
    wise_rl.make_agent("counter", Counter, first=5)
    agent = wise_rl.getAgent("counter")
    assert agent.choose_action(1) == 6
    for _ in range(2):
        agent.update("x")
    assert agent.choose_action(1) == 8
    assert agent.call("learned") == [("x",), ("x",)]


def test_runners_that_wait_for_each_other_end_in_an_error_that_says_so(wise_rl):
    class Uneven(Stepper):
        def run(self) -> None:
            other = WiseRL().get_agent("other")
            first, second = (self.agent, other) if self.rank == 0 else (other, self.agent)
            for agent in (first, first, second, second):
                agent.update("x")

    class Both(Uneven):
        def __init__(self, args: Any, local_rank: int = 0) -> None:
            super().__init__(args, local_rank)
            WiseRL().get_agent("other")

    for name in ("counter", "other"):
        wise_rl.make_agent(name, Counter)
    runners = wise_rl.make_runner("runner", Both, [0, 0], num=2)
    with pytest.raises(WaitTimeout, match=r"waits for runners \[\d\], which cannot go on"):
        wise_rl.start_all_runners(runners)


def test_a_runners_own_error_comes_out_as_it_was_raised_and_all_are_closed(wise_rl):
    class Failing(Stepper):
        def run(self) -> None:
            super().run()
            if self.rank == 1:
                raise ZeroDivisionError("mine")

    wise_rl.make_agent("counter", Counter)
    runners = wise_rl.make_runner("runner", Failing, [2, 2], num=2)
    with pytest.raises(ZeroDivisionError, match="mine"):
        wise_rl.start_all_runners(runners)
    assert [member[0].closed for member in runners.members] == [1, 1]


def test_a_runner_knows_its_rank_before_its_constructor_runs():
    class Own(Runner):
        def __init__(self, args: Any, local_rank: int = 0) -> None:  # does not call its parent's
            self.seen = (args, self.rank, self.world_size, local_rank)

        def run(self) -> None:
            pass

    assert construct_runner(Own, "args", 2, 4).seen == ("args", 2, 4, 2)


def test_an_agent_made_by_runner_0_is_there_for_the_others(wise_rl):
    class Maker(Stepper):
        def __init__(self, args: Any, local_rank: int = 0) -> None:
            if self.rank == 0:
                WiseRL().make_agent("counter", Counter, first=3)
            super().__init__(args, local_rank)

    runners = wise_rl.makeRunner("runner", Maker, [2, 2], num=2)
    wise_rl.startAllRunner(runners)
    assert [member[0].acted for member in runners.members] == [[3, 3], [3, 3]]


def test_both_spellings_of_every_name_exist():
    assert WiseRL.getAgent is WiseRL.get_agent
    assert WiseRL.makeRunner is WiseRL.make_runner
    assert WiseRL.startAllRunner is WiseRL.start_all_runners


def test_an_object_made_at_module_level_costs_nothing_and_travels():
    made = WiseRL("local")
    assert pickle.loads(pickle.dumps(made))._backend_name == "local"
    assert made._backend is None


def test_unknown_and_doubled_names_are_refused_with_those_there_are(wise_rl):
    with pytest.raises(InputError, match=r"no agent named 'counter'.*make_agent"):
        wise_rl.get_agent("counter")
    wise_rl.make_agent("counter", Counter)
    with pytest.raises(InputError, match="did you mean 'counter'"):
        wise_rl.get_agent("countr")
    with pytest.raises(InputError, match="an agent named 'counter' exists already"):
        wise_rl.make_agent("counter", Counter)
    assert isinstance(wise_rl.get_agent("counter"), AgentHandle)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: w.make_agent("a", Stepper), "must be a subclass of wiserl.Agent"),
        (lambda w: w.make_agent("a", Counter()), "must be a subclass of wiserl.Agent"),
        (lambda w: w.make_agent("a", Counter, num=2), "num must be 1"),
        (lambda w: w.make_runner("r", Counter), "must be a subclass of wiserl.Runner"),
        (lambda w: w.make_runner("r", Stepper, num=0), "must be at least 1"),
        (lambda w: w.start_all_runners([]), "takes what one make_runner call returned, not 0 groups"),
    ],
)
def test_wrong_classes_and_counts_are_refused(wise_rl, call, message):
    with pytest.raises(InputError, match=message):
        call(wise_rl)


def test_the_backend_is_what_was_asked_else_the_environments_else_ray_where_it_is_installed(monkeypatch):
    monkeypatch.delenv("WISERL_BACKEND", raising=False)
    assert (resolve_backend("auto"), resolve_backend("local")) == ("ray", "local")
    monkeypatch.setenv("WISERL_BACKEND", "local")
    assert (resolve_backend("auto"), resolve_backend("ray")) == ("local", "ray")
    monkeypatch.setenv("WISERL_BACKEND", "lokal")
    with pytest.raises(InputError, match="unknown backend 'lokal': did you mean 'local'"):
        resolve_backend("auto")
    monkeypatch.delenv("WISERL_BACKEND")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert resolve_backend("auto") == "local"
    with pytest.raises(InputError, match="needs the package ray"):
        resolve_backend("ray")
