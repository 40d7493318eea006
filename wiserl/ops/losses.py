"""What losses of several algorithms share."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def weighted_mean(losses: Tensor, batch: dict[str, Any]) -> Tensor:
    """Mean of losses `[N]`, each times its transition's weight if the replay is prioritised."""
    return (losses * batch["weight"] if "weight" in batch else losses).mean()
