"""Distributions of returns on a fixed support (Bellemare et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor


def project(probabilities: Tensor, reward: Tensor, discount: Tensor, support: Tensor) -> Tensor:
    """The distribution of `reward + discount * Z`, its mass shared out to the atoms it falls between.

    This is the projection of Bellemare et al. 2017, algorithm 1 and equation 7: what falls beyond the support goes to its
    end, what falls between two atoms goes to both, in proportion to its nearness. On a GPU the order of the sums, and so the
    last bit of a result, may differ from call to call.

    Args:
        probabilities: of Z at each atom, `[N, K]`.
        reward: `[N]`.
        discount: `[N]`; 0 where the episode terminated.
        support: the atoms `[K]`, K ≥ 2, evenly spaced and increasing.

    Returns:
        Probabilities at the atoms, `[N, K]`.
    """
    last = len(support) - 1
    step = (support[-1] - support[0]) / last
    moved = reward.unsqueeze(1) + discount.unsqueeze(1) * support
    position = ((moved - support[0]) / step).clamp(0, last)
    below = position.long()
    share = position - below
    projected = torch.zeros_like(probabilities).scatter_add_(1, below, probabilities * (1.0 - share))
    # The last atom has none above it, but a share of 0 to give away.
    return projected.scatter_add_(1, (below + 1).clamp(max=last), probabilities * share)
