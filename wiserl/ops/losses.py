"""What losses of several algorithms share."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor


def weighted_mean(losses: Tensor, batch: dict[str, Any]) -> Tensor:
    """Mean of losses `[N]`, each times its transition's weight if the replay is prioritised."""
    return (losses * batch["weight"] if "weight" in batch else losses).mean()


def masked_target_entropy(target: float, mask: Tensor) -> Tensor:
    """Target entropies `[N]` where only some of n actions are valid, by `mask` bool `[N, n]`, in nats.

    `target` is for n actions; with k valid ones it is `target * log k / log n`, the same share of the largest entropy there is.
    One that cannot be reached would raise a learned temperature for ever.
    """
    return target * mask.sum(1).log() / math.log(max(mask.shape[1], 2))
