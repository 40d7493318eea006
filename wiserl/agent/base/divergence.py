"""Finds training that has diverged, before the weights are used to act, or saved."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

from wiserl.agent.base.algorithm import Algorithm
from wiserl.core.batch import Fragment
from wiserl.core.tree import Array, Nested, tree_leaves
from wiserl.util.errors import Diverged


class DivergenceWatch:
    """Whether all that an algorithm learns is finite: losses, weights, and what its checkpoints keep besides.

    A sum of each tensor says so, once a round: an entry that is NaN or infinite makes the sum so. Gradients show in the
    optimiser's moments, which are part of what is kept.

    Args:
        algorithm: as it is before it has learned or loaded anything. What is not finite now (a mask of -inf, say) may stay so.
        name: of the algorithm, for the message.
    """

    def __init__(self, algorithm: Algorithm, name: str) -> None:
        self._algorithm, self._name = algorithm, name
        self._meant: set[str] = set()
        self._meant = {path for path, _ in self._wrong()} - {"weights"}

    def update(self, fragment: Fragment) -> dict[str, float]:
        """The algorithm's `update`.

        Raises:
            Diverged: it made something infinite or NaN.
        """
        try:
            logs = self._algorithm.update(fragment)
        except Exception:
            self.check()  # most likely the cause of the error
            raise
        self.check(logs)
        return logs

    def check(self, logs: dict[str, float] | None = None) -> None:
        """Look at what an update gave to log, and at all tensors.

        Raises:
            Diverged: something is infinite or NaN.
        """
        for name, value in (logs or {}).items():
            if name.endswith("loss") and not math.isfinite(value):
                raise _divergence(self._algorithm, self._name, f"its {name.rpartition('/')[2]} is {value}")
        for path, tensor in self._wrong():
            bad = int(tensor.numel() - torch.isfinite(tensor).sum())
            what = f"{bad:,} of {tensor.numel():,} numbers of its {path} are not finite"
            raise _divergence(self._algorithm, self._name, what)

    def _wrong(self) -> Iterator[tuple[str, torch.Tensor]]:
        for path, value in self._tensors():
            if path in self._meant or not value.is_floating_point() or math.isfinite(value.detach().sum().item()):
                continue
            if not torch.isfinite(value).all():  # the sum of large numbers may be too large by itself
                yield path, value

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield "weights", self._algorithm.flat
        yield from self._algorithm._buffers.items()
        for path, leaf in tree_leaves(self._algorithm.learner_state()):
            if isinstance(leaf, torch.Tensor):
                yield path, leaf


def check_actions(algorithm: Algorithm, name: str, action: Array, obs: Nested, axes: int) -> None:
    """Refuse actions that are no numbers, chosen on observations that are: the env is not to blame for what follows of them.

    Args:
        algorithm: what chose them.
        name: of the algorithm, for the message.
        action: `[..., E, A, ...]`, of any dtype.
        obs: what they were chosen on, leaves `[..., E, A, ...]`.
        axes: how many leading axes the two share.

    Raises:
        Diverged: an action is infinite or NaN, and the observation is not.
    """
    if action.dtype.kind != "f" or np.isfinite(action).all():
        return
    where = tuple(int(i) for i in np.argwhere(~np.isfinite(action))[0])
    leaves = [leaf[where[:axes]] for _, leaf in tree_leaves(obs)]
    if all(leaf.dtype.kind != "f" or np.isfinite(leaf).all() for leaf in leaves):
        raise _divergence(algorithm, name, f"on a finite observation it chose {action[where]} as action {list(where)}")


def _divergence(algorithm: Algorithm, name: str, what: str) -> Diverged:
    config = algorithm.config
    advice = [f"a lower {option} (it is {getattr(config, option):g})"
              for option in ("learning_rate", "max_grad_norm") if hasattr(config, option)]  # fmt: skip
    advice.append("normalize_reward=true" if getattr(config, "normalize_reward", None) is False else "smaller rewards")
    return Diverged(
        f"{name} has diverged: {what}, after update {algorithm.updates}, at env step {algorithm.env_steps}. It is neither "
        f"acted with nor saved. Try {', '.join(advice)}, from the start or from the last checkpoint"
    )
