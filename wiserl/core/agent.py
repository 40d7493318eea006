"""The base class of every agent: two verbs, act and learn, and the hooks through which its weights travel."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from wiserl.util.errors import InputError


class Agent(ABC):
    """What learns. One instance lives on the learner; each runner holds a replica, constructed with the same arguments.

    `choose_action` runs on the runner's replica, `update` on the learner. At the end of `update` a subclass calls
    `self._sync_model()`, which calls `self._fire(params)`: the parameters travel to every replica, which takes them in
    through `_update_model(params)`. A subclass that leaves `_sync_model` or `_update_model` out acts on the learner.

    Attributes:
        sync: whether runners wait for every new set of weights.
        ship_every: calls of `update` that travel to the learner together (in sync mode, one round per runner).
        max_inflight: shipments a runner may have unanswered in async mode before it waits.
        weights_version: number of the newest weights: on the learner those published, on a replica those taken in. The transport
            counts it, from 0 for those before the first round.
    """

    ship_every: ClassVar[int] = 64
    max_inflight: int = 2
    sync: bool = True
    weights_version: int = 0
    _publisher: Callable[[Any], None] | None = None

    def __init__(self, sync: bool = True, **kwargs: Any) -> None:
        self.sync = sync

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if hasattr(cls, "_start_learning"):
            raise InputError(
                f"{cls.__name__} has a method _start_learning, which nothing calls: name it start_learning"
            )

    @abstractmethod
    def choose_action(self, *args: Any, **kwargs: Any) -> Any:
        """The action for an observation. Runs on the runner's replica, without a remote call."""

    @abstractmethod
    def update(self, *experience: Any) -> Any:
        """Learn from one experience. Runs on the learner, once for each call the runners made, in rank order.

        Arrays in it may be written to, except where `ship_every` is 1: these are not copied.
        """

    def start_learning(self) -> None:  # noqa: B027  (an optional hook)
        """Called once, on the learner's instance only: the place for optimisers, targets and buffers."""

    def _sync_model(self) -> None:  # noqa: B027  (an optional hook: agents without it act on the learner)
        """Publish the current parameters by calling `self._fire(params)`."""

    def _update_model(self, params: Any) -> None:  # noqa: B027  (see above)
        """Take in the parameters another instance fired."""

    def _fire(self, params: Any) -> None:
        """Publish `params`: a tree (dict, list, tuple) of tensors, arrays and plain values, copied at once.

        On a replica, or before the agent is registered, nothing happens.
        """
        if self._publisher is not None:
            self._publisher(params)

    def _update_round(self, experiences: Sequence[tuple[Any, ...]]) -> bool:
        """Learn from one round: what all runners shipped, in rank order (async: one of them); each is the arguments of one `update`.

        Returns whether there are new weights. If so, and none were published, the learner calls `_sync_model`.
        """
        for experience in experiences:
            self.update(*experience)
        return True

    @classmethod
    def acts_on_runner(cls) -> bool:
        """Whether replicas can follow the learner: both weight hooks are overridden."""
        return cls._sync_model is not Agent._sync_model and cls._update_model is not Agent._update_model
