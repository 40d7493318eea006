"""The learner's side of the transport: rounds, versions, who is waited for. It knows neither Ray nor algorithms."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch

from wiserl.core.agent import Agent
from wiserl.transport.messages import WITHOUT_WEIGHTS, Ack, Shipment
from wiserl.transport.weights import Packed, pack

log = logging.getLogger("wiserl")


class Learner:
    """Owns the one agent that learns, under a name.

    In sync mode a round begins when every expected rank has shipped, takes the shipments in rank order and publishes one new
    version. In async mode each shipment is a round of its own, on arrival.

    Weights have two names on their way: the learner publishes them, a runner's handle takes them in.
    """

    def __init__(self, name: str, agent: Agent, sync: bool) -> None:
        self.name = name
        self.agent = agent
        self.sync = sync
        self._expected: set[int] = set()
        self._inbox: dict[int, Shipment] = {}  # by rank
        self._settled: dict[int, tuple[int, int]] = {}
        self._weights: Packed | None = None
        self._to_publish: Packed | None = None
        self._told = False
        agent.start_learning()
        agent._publisher = self._pack
        agent._sync_model()
        self._weights, self._to_publish = self._to_publish, None
        if not agent.acts_on_runner():
            log.warning(
                "agent '%s' (%s) has no _sync_model/_update_model, so it acts on the learner: one remote call per step and "
                "runner on Ray (about 1 ms each) instead of none. Override both to act on the runners.",
                name,
                type(agent).__name__,
            )

    @property
    def version(self) -> int:
        """Number of the newest weights published."""
        return self.agent.weights_version

    def _pack(self, params: Any) -> None:
        self._to_publish = pack(params)

    def expect(self, ranks: set[int]) -> None:
        """Set the ranks a sync round waits for."""
        self._expected = set(ranks)
        self._inbox.clear()
        self._settled.clear()  # the runners may be others than those before, whose shipments are counted anew

    def replace(self, rank: int, incarnation: int, wait: bool) -> None:
        """A runner has died, and its successor, of this incarnation, is on its way. It matters in sync mode alone.

        What the dead one shipped, and has not been learned from, is dropped: its successor begins after the last round, and
        samples it again. `wait`: rounds wait for that; else they go ahead until it joins.
        """
        if not self.sync or rank not in self._expected:
            return
        self._inbox.pop(rank, None)
        self._settled[rank] = (incarnation, -1)  # whatever comes late from those before it
        if not wait:
            self._expected.discard(rank)
            self._run_full_round()

    def join(self, rank: int) -> None:
        """The successor of a dead runner is ready: rounds wait for it, if they did not all along."""
        self._expected.add(rank)

    def awaits_successor(self) -> bool:
        """Whether the round waits for a runner that replaces a dead one: it does again what that one did, and may take long."""
        return any(self._settled.get(rank, (0, 0))[1] == -1 for rank in self.missing())

    def leave(self, rank: int) -> None:
        """A runner has finished: rounds wait for it no longer, and one that waited for it alone goes ahead.

        What a runner shipped before it left is still learned from.
        """
        self._expected.discard(rank)
        self._run_full_round()
        if not self._expected:
            self._settled.clear()  # the next runners may ship while they are made, before `expect`

    def missing(self) -> list[int]:
        """Ranks that the current round waits for."""
        return sorted(self._expected - set(self._inbox))

    def offer(self, shipment: Shipment) -> None:
        """Take a shipment in; learn at once if it completes a round.

        What a dead runner sent is dropped if its successor's has been learned from: envs do not go back.
        """
        if shipment.incarnation < self._settled.get(shipment.rank, (-1, -1))[0]:
            return
        if self.sync and shipment.rank in self._expected:
            self._inbox[shipment.rank] = shipment
            self._run_full_round()
        else:
            self._run_round([shipment])

    def is_settled(self, shipment: Shipment) -> bool:
        """Whether the round of this shipment has been learned from."""
        return self._settled.get(shipment.rank, (-1, -1)) >= (shipment.incarnation, shipment.sequence)

    def ack(self, known_version: int) -> Ack:
        """The newest version, with its weights if the asker has an older one."""
        return Ack(self.version, self._weights if known_version not in (self.version, WITHOUT_WEIGHTS) else None)

    def act(self, *args: Any, **kwargs: Any) -> Any:
        """Choose an action here, for agents that do not act on the runners."""
        with torch.inference_mode(False):
            return self.agent.choose_action(*args, **kwargs)

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of the agent by name; the weights it fires are published at once."""
        result = getattr(self.agent, method)(*args)
        self._publish()
        return result

    def _run_full_round(self) -> None:
        if self._inbox and self._expected <= self._inbox.keys():
            shipments = [self._inbox[rank] for rank in sorted(self._inbox)]
            self._inbox.clear()
            self._run_round(shipments)

    def _run_round(self, shipments: Sequence[Shipment]) -> None:
        # A runner may call from inside no_grad or inference mode; learning happens outside of both.
        with torch.inference_mode(False), torch.enable_grad():
            learned = self.agent._update_round([each for shipment in shipments for each in shipment.experiences])
            if learned and self._to_publish is None:
                self.agent._sync_model()
        self._publish()
        if learned and self._weights is None:
            self._tell_nothing_fired()
        for shipment in shipments:
            done = (shipment.incarnation, shipment.sequence)
            self._settled[shipment.rank] = max(done, self._settled.get(shipment.rank, done))

    def _tell_nothing_fired(self) -> None:
        if self._told or not self.agent.acts_on_runner():
            return
        self._told = True
        log.warning(
            "agent '%s' (%s) has learned, but its _sync_model has not fired: runners go on acting with the parameters they began "
            "with. Call self._fire(params) in _sync_model.",
            self.name,
            type(self.agent).__name__,
        )

    def _publish(self) -> None:
        if self._to_publish is not None:
            self.agent.weights_version += 1
            self._weights, self._to_publish = self._to_publish, None
