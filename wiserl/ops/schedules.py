"""Values that change with training progress."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def progress(env_steps: int, total_steps: int, since: tuple[int, float] = (0, 0.0)) -> float:
    """Share of training done, 0 to 1.

    Args:
        env_steps: env steps done, over all runners.
        total_steps: env steps of the whole training.
        since: env steps and share at which a resumed training got this `total_steps`. The share that was left then is spread
            over the steps that were left, so that no schedule goes back, and one that had ended stays at its end.
    """
    begun, share = since
    if share >= 1.0 or env_steps >= total_steps:
        return 1.0
    return min(share + (1.0 - share) * ((env_steps - begun) / (total_steps - begun)), 1.0)


def linear(start: float, end: float, progress: float, fraction: float = 1.0) -> float:
    """From `start` to `end` over the first `fraction` of training, then `end`. `progress`: share of training done, 0 to 1."""
    if fraction <= 0:
        return end
    return start + (end - start) * min(progress / fraction, 1.0)


def exploration(config: Any, progress: float) -> float:
    """Epsilon by the options `exploration_initial_eps`, `exploration_final_eps` and `exploration_fraction`."""
    return linear(config.exploration_initial_eps, config.exploration_final_eps, progress, config.exploration_fraction)


def resume_notice(now: Mapping[str, float], end: Mapping[str, float]) -> str:
    """How schedules go on, for a user: their values now and at the end, by name."""
    ended = [f"{name} has ended and stays {end[name]:.3g}" for name in now if now[name] == end[name]]
    going = [f"{name} goes on from {now[name]:.3g} to {end[name]:.3g}" for name in now if now[name] != end[name]]
    return ", ".join(going + ended)


def decayed_value(value: float, decay: str, progress: float, begun: float = 1.0) -> float:
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
