"""The learner's side of the transport: whom a round waits for, in which order it is learned, what is published."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

from wiserl.core.agent import Agent
from wiserl.transport.learner import Learner
from wiserl.transport.messages import Shipment
from wiserl.transport.weights import unpack
from wiserl.util.errors import InputError


class Recorder(Agent):
    """Notes what it learns from; publishes the number of updates, unless told not to."""

    def __init__(self, sync: bool = True, publishes: bool = True) -> None:
        super().__init__(sync)
        self.publishes = publishes
        self.seen: list[Any] = []
        self.rounds: list[int] = []
        self.syncs = 0
        self.started = 0

    def start_learning(self) -> None:
        self.started += 1

    def choose_action(self, obs: Any) -> Any:
        return obs + len(self.seen)

    def update(self, *experience: Any) -> None:
        self.seen.append(experience)
        if self.publishes:
            self._sync_model()

    def _update_round(self, experiences: Any) -> bool:
        self.rounds.append(len(experiences))
        return super()._update_round(experiences)

    def _sync_model(self) -> None:
        self.syncs += 1
        self._fire({"count": len(self.seen), "w": np.full(2, len(self.seen))})

    def _update_model(self, params: Any) -> None:
        self.seen = [None] * params["count"]

    def reset_all(self) -> str:
        self.seen.clear()
        self._sync_model()
        return "done"


def ship(rank: int, sequence: int, *experiences: Any, incarnation: int = 0) -> Shipment:
    return Shipment(rank, incarnation, sequence, [(experience,) for experience in experiences], 0)


def seen(learner: Learner) -> list[Any]:
    return [experience for (experience,) in learner.agent.seen]


def test_the_first_weights_are_published_before_anything_is_learned():
    learner = Learner("a", Recorder(), sync=True)
    assert learner.agent.started == 1
    ack = learner.ack(-1)
    assert ack.version == 0
    assert unpack(ack.weights)["count"] == 0


def test_an_agent_with_the_hook_by_its_old_name_is_refused_where_it_is_defined():
    class Mixin:
        def _start_learning(self) -> None: ...

    with pytest.raises(
        InputError, match="Old has a method _start_learning, which nothing calls: name it start_learning"
    ):

        class Old(Mixin, Recorder): ...


def test_a_sync_round_waits_for_all_ranks_and_learns_in_rank_order_whatever_the_order_of_arrival():
    learner = Learner("a", Recorder(), sync=True)
    learner.expect({0, 1, 2})
    second, first, third = ship(1, 0, "1a", "1b"), ship(2, 0, "2a"), ship(0, 0, "0a")
    for shipment, missing in [(first, [0, 1]), (second, [0])]:
        learner.offer(shipment)
        assert learner.missing() == missing
        assert not learner.is_settled(shipment)
    assert seen(learner) == []
    assert learner.version == 0
    learner.offer(third)
    assert seen(learner) == ["0a", "1a", "1b", "2a"]
    assert learner.version == 1, "one round is one version, however many updates published"
    assert learner.agent.rounds == [4]
    assert all(learner.is_settled(shipment) for shipment in (first, second, third))
    assert not learner.is_settled(ship(0, 1))


def test_async_each_shipment_is_learned_on_arrival():
    learner = Learner("a", Recorder(), sync=False)
    learner.expect({0, 1})
    for version, rank in enumerate([1, 1, 0], 1):
        learner.offer(ship(rank, version, f"{rank}"))
        assert learner.version == version
    assert seen(learner) == ["1", "1", "0"]


def test_a_round_that_waited_for_a_leaving_runner_alone_goes_ahead():
    learner = Learner("a", Recorder(), sync=True)
    learner.expect({0, 1})
    learner.offer(ship(0, 0, "x"))
    learner.leave(1)
    assert seen(learner) == ["x"]
    learner.offer(ship(0, 1, "y"))
    assert seen(learner) == ["x", "y"], "the next rounds do not wait for it either"


def test_what_a_runner_shipped_before_it_left_is_learned_with_the_round():
    learner = Learner("a", Recorder(), sync=True)
    learner.expect({0, 1})
    learner.offer(ship(1, 0, "left behind"))
    learner.leave(1)
    assert seen(learner) == []
    learner.offer(ship(0, 0, "x"))
    assert seen(learner) == ["x", "left behind"]
    assert learner.agent.rounds == [2]


@pytest.mark.parametrize("late", [False, True])
def test_a_round_waits_for_the_successor_of_a_dead_runner_which_samples_anew(late):
    """`late`: what the dead one sent arrives when it is known to be dead."""
    learner = Learner("a", Recorder(), sync=True)
    learner.expect({0, 1})
    dead, reborn = ship(1, 5, "of the dead"), ship(1, 0, "anew", incarnation=1)
    if not late:
        learner.offer(dead)
    learner.replace(1, 1, wait=True)
    learner.offer(ship(0, 0, "x"))
    assert learner.awaits_successor()
    if late:
        learner.offer(dead)
    assert seen(learner) == []
    assert learner.missing() == [1]
    assert learner.is_settled(dead), "nobody waits for its answer"
    learner.offer(reborn)
    assert seen(learner) == ["x", "anew"]
    assert learner.is_settled(reborn)
    assert not learner.is_settled(ship(1, 1, incarnation=1))
    assert not learner.awaits_successor()


def test_a_round_goes_ahead_where_it_is_not_to_wait_for_a_successor_until_that_joins():
    learner = Learner("a", Recorder(), sync=True)
    learner.expect({0, 1})
    learner.offer(ship(1, 5, "of the dead"))
    learner.offer(ship(0, 0, "x"))
    learner.offer(ship(0, 1, "y"))
    learner.replace(1, 1, wait=False)
    assert seen(learner) == ["x", "of the dead", "y"]
    learner.join(1)
    learner.offer(ship(0, 2, "z"))
    assert learner.missing() == [1]
    learner.offer(ship(1, 0, "anew", incarnation=1))
    assert seen(learner)[3:] == ["z", "anew"]


def test_async_nobody_waits_and_what_a_dead_runner_sent_is_learned_from():
    learner = Learner("a", Recorder(), sync=False)
    learner.expect({0, 1})
    learner.replace(1, 1, wait=True)
    learner.offer(ship(1, 5, "of the dead"))
    learner.offer(ship(0, 0, "x"))
    assert seen(learner) == ["of the dead", "x"]


@pytest.mark.parametrize("sync", [True, False])
def test_what_a_dead_runner_sent_is_dropped_once_its_successors_is_learned(sync):
    learner = Learner("a", Recorder(), sync)
    learner.expect({1})
    learner.offer(ship(1, 0, "anew", incarnation=1))
    late = ship(1, 5, "of the dead")
    learner.offer(late)
    assert seen(learner) == ["anew"]
    assert learner.is_settled(late)


def test_a_second_group_of_runners_waits_for_its_own_rounds():
    learner = Learner("a", Recorder(), sync=True)
    learner.expect({0})
    learner.offer(ship(0, 0, "first group"))
    learner.expect({0, 1})
    shipment = ship(0, 0, "second group")
    learner.offer(shipment)
    assert not learner.is_settled(shipment)


def test_what_a_second_group_ships_while_it_is_made_is_learned_from():
    learner = Learner("a", Recorder(), sync=True)
    learner.expect({0})
    learner.offer(ship(0, 0, "first", incarnation=1))  # of a runner that was restarted
    learner.leave(0)
    learner.offer(ship(0, 0, "second"))
    assert seen(learner) == ["first", "second"]


def test_expecting_ranks_anew_forgets_half_a_round():
    learner = Learner("a", Recorder(), sync=True)
    learner.expect({0, 1})
    learner.offer(ship(0, 0, "before"))
    learner.expect({0})
    learner.offer(ship(0, 0, "after"))
    assert seen(learner) == ["after"]


def test_a_script_that_is_no_runner_is_not_waited_for():
    learner = Learner("a", Recorder(), sync=True)
    learner.expect({0, 1})
    learner.offer(ship(-1, 0, "from the script"))
    assert seen(learner) == ["from the script"]


def test_weights_are_sent_only_to_those_who_have_older_ones():
    learner = Learner("a", Recorder(), sync=False)
    learner.offer(ship(0, 0, "x"))
    assert learner.ack(1).weights is None
    assert unpack(learner.ack(0).weights)["count"] == 1


def test_where_update_publishes_nothing_the_framework_does_once_per_round():
    learner = Learner("a", Recorder(publishes=False), sync=True)
    learner.expect({0, 1})
    assert learner.agent.syncs == 1
    for shipment in (ship(0, 0, "x", "y"), ship(1, 0, "z")):
        learner.offer(shipment)
    assert (learner.agent.syncs, learner.version) == (2, 1)
    assert unpack(learner.ack(0).weights)["count"] == 3
    publishing = Learner("b", Recorder(), sync=False)
    publishing.offer(ship(0, 0, "x"))
    assert publishing.agent.syncs == 2, "an agent that published is not asked again"


def test_what_a_call_publishes_is_there_at_once():
    learner = Learner("a", Recorder(), sync=False)
    learner.offer(ship(0, 0, "x"))
    assert learner.call("reset_all") == "done"
    ack = learner.ack(1)
    assert ack.version == 2
    assert unpack(ack.weights)["count"] == 0


def test_published_weights_are_a_copy():
    class Shared(Recorder):
        def _sync_model(self) -> None:
            self.tensor = getattr(self, "tensor", torch.zeros(2))
            self._fire({"count": 0, "w": self.tensor})

    learner = Learner("a", Shared(), sync=False)
    learner.agent.tensor += 1
    assert unpack(learner.ack(-1).weights)["w"].tolist() == [0.0, 0.0]


def test_learning_has_gradients_whatever_the_caller_switched_off():
    class Grad(Recorder):
        def update(self, *experience: Any) -> None:
            weight = torch.ones(1, requires_grad=True)
            (weight * 2).sum().backward()
            self.seen.append(weight.grad.item())

    learner = Learner("a", Grad(), sync=False)
    with torch.inference_mode():
        learner.offer(ship(0, 0, "x"))
    with torch.no_grad():
        learner.offer(ship(0, 1, "x"))
    assert learner.agent.seen == [2.0, 2.0]


class WithoutHooks(Agent):
    def choose_action(self, obs: Any) -> Any:
        return obs

    def update(self, *experience: Any) -> None:
        pass


def test_an_agent_without_weight_hooks_acts_on_the_learner_and_the_log_says_what_that_costs(caplog):
    with caplog.at_level(logging.WARNING, "wiserl"):
        learner = Learner("mine", WithoutHooks(), sync=True)
    assert "agent 'mine' (WithoutHooks) has no _sync_model/_update_model" in caplog.text
    assert "1 ms" in caplog.text
    assert learner.act(5) == 5
    assert learner.ack(-1).weights is None
    learner.offer(ship(0, 0, "x"))


def test_an_agent_with_weight_hooks_says_nothing(caplog):
    Learner("a", Recorder(), sync=True)
    assert caplog.text == ""


def test_an_error_in_update_comes_through_and_publishes_nothing():
    class Failing(Recorder):
        def update(self, *experience: Any) -> None:
            self._sync_model()
            raise RuntimeError("no")

    learner = Learner("a", Failing(), sync=False)
    with pytest.raises(RuntimeError, match="no"):
        learner.offer(ship(0, 0, "x"))
    assert learner.version == 0
