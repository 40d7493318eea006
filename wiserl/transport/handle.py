"""What `get_agent` returns: the two verbs, with the transport behind them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from wiserl.core.agent import Agent
from wiserl.transport.messages import WITHOUT_WEIGHTS, Ack, Link, Shipment
from wiserl.transport.weights import unpack, walk
from wiserl.util.errors import InputError, nearest


class AgentHandle:
    """An agent as a runner sees it: `choose_action` runs on a local replica, `update` gathers and ships.

    With `inference="learner"`, or for an agent whose replicas cannot follow it, `choose_action` is a call to the learner.
    The handle does not look into the experience: it counts calls of `update` and sends `ship_every` of them in one go.
    """

    def __init__(self, name: str, link: Link, make_replica: Callable[[], Agent], agent_class: type[Agent], sync: bool,
                 rank: int, incarnation: int, inference: str = "runner", sequence: Iterator[int] | None = None) -> None:  # fmt: skip
        """Connect to the agent, and take in its weights.

        `sequence` numbers the shipments: that of another handle which this runner has of the same agent, if any.
        """
        self.name = name
        self._agent_class = agent_class
        self.sequence = itertools.count() if sequence is None else sequence
        on_runner = inference == "runner" and agent_class.acts_on_runner()
        self.replica: Agent | None = make_replica() if on_runner else None
        self.version = -1 if on_runner else WITHOUT_WEIGHTS
        self._link = link
        self._sync = sync
        self._rank = rank
        self._incarnation = incarnation
        self._ship_every = agent_class.ship_every
        self._max_inflight = agent_class.max_inflight if self.replica is None else self.replica.max_inflight
        if self._max_inflight < 1 or self._ship_every < 1:
            raise InputError(
                f"agent '{name}' has max_inflight={self._max_inflight} and ship_every={self._ship_every}: expected 1 or more of both; a "
                "runner with 0 would wait for ever"
            )
        self._pending: list[tuple[Any, ...]] = []
        self.refresh()

    def refresh(self) -> None:
        """Take in the newest weights, if they are not the ones it has."""
        if self.replica is not None:
            self._take_in(self._link.fetch(self.version))

    def choose_action(self, *args: Any, **kwargs: Any) -> Any:
        """The agent's `choose_action`, on the replica here (or on the learner, for an agent that cannot be followed)."""
        if self.replica is None:
            return self._link.act(*args, **kwargs)
        return self.replica.choose_action(*args, **kwargs)

    def update(self, *experience: Any) -> None:
        """Hand one experience to the learner's `update`; it travels with others in one shipment.

        Arrays are copied where they wait, since many envs return the same buffer at each step.
        """
        if self._ship_every > 1:
            experience = walk(experience, _copy)
        self._pending.append(experience)
        if len(self._pending) >= self._ship_every:
            self._ship()

    def flush(self) -> None:
        """Ship what is pending and wait until all of it has been learned from."""
        if self._pending:
            self._ship()
        self._take_in(self._link.drain())

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of the agent on the learner, by name: one remote call."""
        return self._link.call(method, *args)

    if not TYPE_CHECKING:  # where a wrong name is to be an error, as in any class

        def __getattr__(self, name: str) -> Any:
            # Asked by Python itself, or before __init__.
            if name.startswith("__") or "_agent_class" not in self.__dict__:
                raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
            agent, where = self._agent_class.__name__, "call it from `choose_action` or `update`"
            if hasattr(self._agent_class, name):
                advice = (
                    f"{agent} has it where it acts and learns: {where} of {agent}, or on the learner by call('{name}')"
                )
            else:
                own = [item for item in dir(type(self)) if not item.startswith("_")]
                advice = f"{nearest(name, own)}. What belongs to {agent} is not here: {where} of {agent}"
            raise AttributeError(f"the handle of agent '{self.name}' has no '{name}': {advice}")

    def _ship(self) -> None:
        pending, self._pending = self._pending, []
        shipment = Shipment(self._rank, self._incarnation, next(self.sequence), pending, self.version)
        self._take_in(self._link.ship(shipment, self._sync, self._max_inflight))

    def _take_in(self, ack: Ack | None) -> None:
        if ack is None or ack.weights is None or self.replica is None:
            return
        self.version = self.replica.weights_version = ack.version
        self.replica._update_model(unpack(ack.weights))


def _copy(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    return value
