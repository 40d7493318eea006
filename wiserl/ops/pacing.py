"""How many updates experience pays for: the replay ratio, independent of how fast anything runs; when targets move."""

from __future__ import annotations


def updates_due(env_steps: int, updates: int, learning_starts: int, train_freq: int, gradient_steps: int) -> int:
    """Updates to do now, so that `gradient_steps` have been done for each `train_freq` env steps since `learning_starts`.

    Args:
        env_steps: env steps learned from so far, over all runners.
        updates: updates done so far.
        learning_starts: env steps before the first update.
        train_freq: env steps over all envs, not steps of the vector of envs.
        gradient_steps: updates per `train_freq` env steps.
    """
    return max((env_steps - learning_starts) // train_freq * gradient_steps - updates, 0)


def target_due(update: int, interval: int, train_freq: int, gradient_steps: int) -> bool:
    """Whether the target network moves after an update: at the first one that reaches each multiple of `interval` env steps.

    An update stands for `train_freq / gradient_steps` env steps. Where these do not divide the interval, the moves are now one
    update more apart and now one less, and keep to it over time; an update moves the target once at most.

    Args:
        update: its number, from 1.
        interval: env steps between moves.
        train_freq: see `updates_due`.
        gradient_steps: see `updates_due`.
    """
    after, before = (number * train_freq // (gradient_steps * interval) for number in (update, update - 1))
    return after > before
