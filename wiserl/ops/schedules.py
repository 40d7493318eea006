"""Values that change with training progress."""

from __future__ import annotations


def linear(start: float, end: float, progress: float, fraction: float = 1.0) -> float:
    """From `start` to `end` over the first `fraction` of training, then `end`. `progress`: env steps done / all, 0 to 1."""
    if fraction <= 0:
        return end
    return start + (end - start) * min(progress / fraction, 1.0)


def decayed(value: float, decay: str, progress: float) -> float:
    """`value`, or what a linear decay to 0 at the end of training leaves of it."""
    return linear(value, 0.0, progress) if decay == "linear" else value
