"""Values that change with training progress."""

from __future__ import annotations


def linear(start: float, end: float, progress: float, fraction: float = 1.0) -> float:
    """From `start` to `end` over the first `fraction` of training, then `end`. `progress`: env steps done / all, 0 to 1."""
    if fraction <= 0:
        return end
    return start + (end - start) * min(progress / fraction, 1.0)


def decayed(value: float, decay: str, progress: float, begun: float = 1.0) -> float:
    """`value`, or what a linear decay to 0 at the end of training leaves of it for a round.

    A round learns at the rate of its end, and the last one, whose end has 0, at the mean over it.

    Args:
        value: at the start of training.
        decay: "linear" or "none".
        progress: of training at the end of the round, 0 to 1.
        begun: the same at its start.
    """
    if decay != "linear":
        return value
    return linear(value, 0.0, progress) if progress < 1.0 else linear(value, 0.0, begun) / 2
