"""The handle: acts on its replica, batches updates, ships them in one go, and keeps what it was handed."""

from __future__ import annotations

from collections import namedtuple
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from wiserl.core.agent import Agent
from wiserl.transport.handle import AgentHandle
from wiserl.transport.messages import WITHOUT_WEIGHTS, Ack, Shipment
from wiserl.transport.weights import pack
from wiserl.util.errors import InputError

Pair = namedtuple("Pair", ["left", "right"])


class Adder(Agent):
    ship_every: ClassVar[int] = 3
    max_inflight: ClassVar[int] = 5
    offset = 0

    def choose_action(self, obs: Any, scale: int = 1) -> Any:
        return scale * obs + self.offset

    def update(self, *experience: Any) -> None:
        pass

    def _sync_model(self) -> None:
        self._fire(self.offset)

    def _update_model(self, params: Any) -> None:
        self.offset = params["offset"]


class OneByOne(Adder):
    ship_every: ClassVar[int] = 1


class OnLearner(Agent):
    def choose_action(self, obs: Any) -> Any:
        raise AssertionError("acted on the replica")

    def update(self, *experience: Any) -> None:
        pass


class FakeLink:
    """A learner that takes everything and publishes a version for each shipment."""

    def __init__(self) -> None:
        self.version = 0
        self.shipments: list[Shipment] = []
        self.waits: list[tuple[bool, int]] = []
        self.drained = 0

    def _ack(self, known: int) -> Ack:
        weights = {"offset": 10 * self.version, "w": torch.zeros(1)}
        return Ack(self.version, pack(weights) if known != self.version else None)

    def ship(self, shipment: Shipment, wait: bool, max_inflight: int) -> Ack:
        self.shipments.append(shipment)
        self.waits.append((wait, max_inflight))
        self.version += 1
        return self._ack(shipment.known_version)

    def drain(self) -> Ack | None:
        self.drained += 1
        return None

    def fetch(self, known_version: int) -> Ack:
        return self._ack(known_version)

    def act(self, *args: Any, **kwargs: Any) -> Any:
        return ("acted on the learner", args, kwargs)

    def call(self, method: str, *args: Any) -> Any:
        return (method, args)


def make_handle(agent_class: type[Agent] = Adder, sync: bool = True) -> tuple[AgentHandle, FakeLink]:
    link = FakeLink()
    return AgentHandle("a", link, agent_class, agent_class, sync, rank=2, incarnation=1), link


def test_acting_runs_on_the_replica_with_the_weights_of_the_newest_version():
    handle, link = make_handle()
    assert (handle.version, handle.choose_action(1), handle.choose_action(1, scale=2)) == (0, 1, 2)
    for _ in range(3):
        handle.update("x")
    assert link.version == 1
    assert (handle.version, handle.choose_action(1)) == (1, 11)
    assert handle.replica.weights_version == 1


def test_updates_travel_together_and_in_order():
    handle, link = make_handle()
    for number in range(7):
        handle.update(number, str(number))
    assert [list(shipment.experiences) for shipment in link.shipments] == [
        [(0, "0"), (1, "1"), (2, "2")],
        [(3, "3"), (4, "4"), (5, "5")],
    ]
    handle.flush()
    assert list(link.shipments[-1].experiences) == [(6, "6")]
    assert link.drained == 1
    handle.flush()
    assert len(link.shipments) == 3, "there was nothing left to ship"
    assert [(s.rank, s.incarnation, s.sequence, s.known_version) for s in link.shipments] == [
        (2, 1, 0, 0),
        (2, 1, 1, 1),
        (2, 1, 2, 2),
    ]


@pytest.mark.parametrize("sync", [True, False])
def test_sync_waits_for_the_round_and_async_for_the_number_in_flight(sync):
    handle, link = make_handle(sync=sync)
    for _ in range(3):
        handle.update("x")
    assert link.waits == [(sync, 5)]


def test_experience_is_kept_as_it_was_although_the_env_uses_its_buffers_again():
    handle, link = make_handle()
    array, tensor = np.zeros(2), torch.zeros(2)
    nested = {"a": array, "b": [array, (tensor, {"c": array})], "pair": Pair(array, tensor)}
    for number in range(3):
        array[:], tensor[:] = number, number
        handle.update(array, tensor, (array, 1), nested, "text")
    for number, (a, t, plain, tree, text) in enumerate(link.shipments[0].experiences):
        found = [a, t, plain[0], tree["a"], tree["b"][0], tree["b"][1][0], tree["b"][1][1]["c"], *tree["pair"]]
        assert [value.tolist() for value in found] == [[number] * 2] * 9
        assert (plain[1], text, type(tree["pair"])) == (1, "text", Pair)


def test_experience_does_not_drag_a_graph_along():
    handle, link = make_handle()
    for _ in range(3):
        handle.update(torch.ones(1, requires_grad=True) * 2)
    assert not link.shipments[0].experiences[0][0].requires_grad


def test_what_is_shipped_at_once_is_not_copied():
    handle, link = make_handle(OneByOne)
    array = np.zeros(2)
    handle.update(array)
    assert link.shipments[0].experiences[0][0] is array


def test_an_agent_that_cannot_be_followed_acts_on_the_learner():
    handle, _ = make_handle(OnLearner)
    assert handle.replica is None
    assert handle.choose_action(5) == ("acted on the learner", (5,), {})
    for _ in range(OnLearner.ship_every):
        handle.update("x")
    assert handle.version == WITHOUT_WEIGHTS  # so that no shipment's answer carries weights


def test_a_handle_can_be_told_to_act_on_the_learner():
    handle = AgentHandle("a", FakeLink(), Adder, Adder, True, rank=0, incarnation=0, inference="learner")
    assert handle.replica is None
    assert handle.choose_action(5) == ("acted on the learner", (5,), {})


def test_a_method_of_the_agent_says_where_it_can_be_called():
    class Model(Adder):
        def predict(self, obs: Any) -> Any:
            return obs

    handle, _ = make_handle(Model)
    with pytest.raises(
        AttributeError, match=r"handle of agent 'a' has no 'predict'.* call it from `choose_action` or `update`"
    ) as told:
        handle.predict(1)
    assert "call('predict')" in str(told.value)
    with pytest.raises(AttributeError, match=r"has no 'network'.* call it from `choose_action` or `update` of Model"):
        handle.network  # noqa: B018
    with pytest.raises(AttributeError, match="has no 'chose_action': did you mean 'choose_action'"):
        handle.chose_action(1)
    assert not hasattr(handle, "predict")
    assert getattr(handle, "weights", None) is None


def test_calls_reach_the_learner():
    handle, _ = make_handle()
    assert handle.call("save", 3) == ("save", (3,))


@pytest.mark.parametrize("zero", ["max_inflight", "ship_every"])
def test_an_agent_to_which_nothing_may_be_sent_is_refused(zero):
    closed = type("Closed", (Adder,), {zero: 0})
    with pytest.raises(InputError, match=f"{zero}=0.*expected 1 or more of both"):
        AgentHandle("a", FakeLink(), closed, closed, sync=False, rank=0, incarnation=0)
