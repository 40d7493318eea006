"""What travels between runners and learner, and the link that a backend gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from wiserl.transport.weights import Packed

WITHOUT_WEIGHTS = -2
"""The known version of a runner that has no replica and wants no weights."""


class Link(Protocol):
    """A runner's connection to one learner; a backend provides it."""

    def ship(self, shipment: Shipment, wait: bool, max_inflight: int) -> Ack | None:
        """Send a shipment. `wait`: until its round is done. Else: until fewer than `max_inflight` are unanswered."""
        ...

    def drain(self) -> Ack | None:
        """Wait for every answer that is still out."""
        ...

    def fetch(self, known_version: int) -> Ack:
        """Ask for the newest weights."""
        ...

    def act(self, *args: Any, **kwargs: Any) -> Any:
        """Choose an action on the learner."""
        ...

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of the agent on the learner."""
        ...


@dataclass(frozen=True)
class Shipment:
    """Experience a runner sends in one call: the arguments of `len(experiences)` calls of `update`.

    `incarnation` counts the restarts of the runner: what a dead incarnation sent late is not mixed up with the new one.
    """

    rank: int
    incarnation: int
    sequence: int
    experiences: Sequence[tuple[Any, ...]]
    known_version: int


@dataclass(frozen=True)
class Ack:
    """The answer to a shipment: the newest weight version, and the weights unless the runner has them already."""

    version: int
    weights: Packed | None
