"""Who is waited for and who is replaced, without any process: what `supervise` and its like decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wiserl.transport.backend import RunnerGroup
from wiserl.transport.cluster import check_room, share_out
from wiserl.transport.supervise import supervise
from wiserl.util.errors import ActorLost, LearnerLost, PlacementError
from wiserl.util.failure import Failure

PREPARED = ["agent"]


class Script:
    """A member whose tasks end as a list says, one entry per task: what `prepare` or `run` gives, or "dies"."""

    def __init__(self, rank: int, *outcomes: Any) -> None:
        self.rank, self.incarnation, self.outcomes, self.ended = rank, -1, list(outcomes), 0
        self.place()

    def place(self) -> None:
        self.incarnation += 1
        self.task: Any = (self.rank, "prepare", self.incarnation)

    def run(self) -> None:
        self.task = (self.rank, "run", self.incarnation)

    def result(self) -> Any:
        if (outcome := self.outcomes.pop(0)) == "dies":
            raise ActorLost("killed")
        return outcome

    def end(self) -> None:
        self.ended += 1

    def check_placed(self, what: str) -> None:
        pass


class Told:
    """Writes down what the learner of one agent is told."""

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []

    def agent_names(self) -> list[str]:
        return ["agent"]

    def control(self, name: str, method: str, *args: Any) -> None:
        self.log.append((method, *args))


def watch(*members: Script, max_restarts: int = 3) -> tuple[int, list[tuple[Any, ...]]]:
    """Supervise scripted members, whose tasks end in the order of their ranks; returns restarts and what learners heard."""
    told = Told()
    group = RunnerGroup("runner", len(members), list(members))

    def wait(tasks: Sequence[Any]) -> Sequence[Any]:
        return tasks[:1]

    return supervise(group, told, wait, lambda: None, max_restarts), told.log


def test_no_runner_runs_before_all_are_prepared_and_learners_know_them() -> None:
    first, second = Script(0, PREPARED, None), Script(1, PREPARED, None)
    assert watch(first, second) == (0, [("expect", {0, 1}), ("leave", 0), ("leave", 1)])


def test_a_runner_that_got_no_agent_is_not_waited_for() -> None:
    assert watch(Script(0, PREPARED, None), Script(1, [], None))[1][0] == ("expect", {0})


def test_a_runner_that_dies_is_replaced_and_waited_for() -> None:
    dying = Script(0, PREPARED, "dies", PREPARED, None)
    restarts, log = watch(dying, Script(1, PREPARED, None))
    assert restarts == 1
    assert log == [("expect", {0, 1}), ("replace", 0, 1, True), ("join", 0), ("leave", 0), ("leave", 1)]
    assert dying.ended == 1, "a process that cannot be reached may still be alive"


def test_a_successor_that_does_not_get_the_agent_again_is_not_waited_for() -> None:
    log = watch(Script(0, PREPARED, "dies", [], None), Script(1, PREPARED, None))[1]
    assert log == [("expect", {0, 1}), ("replace", 0, 1, True), ("leave", 0), ("leave", 0), ("leave", 1)]


def test_rounds_of_several_agents_do_not_wait_for_a_successor() -> None:
    """It may wait in one agent's round for a runner that waits for it in another's."""
    both = ["one", "two"]
    log = watch(Script(0, both, "dies", both, None), Script(1, both, None))[1]
    assert ("replace", 0, 1, False) in log
    assert log.index(("join", 0)) > log.index(("replace", 0, 1, False))


def test_a_runner_that_dies_while_it_is_prepared_is_replaced_before_any_runs() -> None:
    restarts, log = watch(Script(0, "dies", PREPARED, None), Script(1, PREPARED, "dies", PREPARED, None))
    assert restarts == 2
    assert log.count(("expect", {0, 1})) == 1
    assert log[0] == ("replace", 0, 1, False), "it had no agent yet"
    assert ("replace", 1, 1, True) in log


def test_each_runner_has_its_own_restarts() -> None:
    members = [Script(rank, PREPARED, "dies", PREPARED, None) for rank in range(5)]
    assert watch(*members, max_restarts=1)[0] == 5
    with pytest.raises(ActorLost, match=r"runner 0 of 'runner' died and its 1 restarts are used up: killed"):
        watch(Script(0, PREPARED, "dies", "dies"), max_restarts=1)


def test_a_runner_whose_envs_process_died_is_replaced_as_if_it_had_died_itself() -> None:
    lost = Failure.capture(ActorLost("worker 1 died"))
    crashing = Script(0, PREPARED, lost, PREPARED, None)
    assert watch(crashing)[0] == crashing.ended == 1
    with pytest.raises(ActorLost, match=r"its 1 restarts are used up: worker 1 died"):
        watch(Script(0, PREPARED, lost, PREPARED, lost), max_restarts=1)
    with pytest.raises(LearnerLost):
        watch(Script(0, PREPARED, Failure.capture(LearnerLost("killed"))))


def test_what_a_runner_raised_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        watch(Script(0, PREPARED, Failure.capture(ZeroDivisionError())), Script(1, PREPARED, None))


@given(num=st.integers(1, 40), cpus=st.lists(st.integers(0, 64), min_size=1, max_size=5))
def test_runners_are_shared_out_in_proportion_to_the_nodes_cpus(num: int, cpus: list[int]) -> None:
    chosen = share_out(num, cpus)
    assert len(chosen) == num
    if any(cpus):
        for node, weight in enumerate(cpus):
            assert abs(chosen.count(node) - num * weight / sum(cpus)) <= len(cpus)
            assert weight or node not in chosen


NODES = [{"CPU": 2.0, "node:1.2.3.4": 1.0}, {"CPU": 1.0, "GPU": 1.0}]


@pytest.mark.parametrize(
    ("resource", "patient"),
    [
        ({"num_gpus": 2}, True),
        ({"resources": {"simulator": 1}}, True),
        ({"num_cpus": 2, "num_gpus": 1}, True),
        ({"num_gpus": 1}, False),
    ],
)
def test_what_no_node_has_or_nobody_frees_is_told_with_what_there_is(resource: dict[str, Any], patient: bool) -> None:
    with pytest.raises(PlacementError, match=r"2 node\(s\) have \[\{'CPU': 2\.0\}, \{'CPU': 1\.0, 'GPU': 1\.0\}\]"):
        check_room("the learner", resource, NODES, {"CPU": 3.0}, patient)


def test_what_is_only_taken_is_waited_for() -> None:
    check_room("the learner", {"num_gpus": 1}, NODES, {"CPU": 3.0, "GPU": 0.0}, patient=True)
