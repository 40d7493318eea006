"""How many updates experience pays for, independent of how fast anything runs; when targets move; how long a round is."""

from __future__ import annotations


def updates_due(env_steps: int, updates: int, learning_starts: int, train_freq: int, gradient_steps: int,
                since: tuple[int, int] = (0, 0)) -> int:  # fmt: skip
    """Updates to do now, so that `gradient_steps` have been done for each `train_freq` env steps since `learning_starts`.

    Args:
        env_steps: env steps learned from so far, over all runners.
        updates: updates done so far.
        learning_starts: env steps before the first update.
        train_freq: env steps over all envs, not steps of the vector of envs.
        gradient_steps: updates per `train_freq` env steps.
        since: env steps and updates at which this pace began. What another one paid for before that is not counted again.
    """
    begun, done = since
    return max((env_steps - max(learning_starts, begun)) // train_freq * gradient_steps - (updates - done), 0)


def target_moves(update: int, interval: int, train_freq: int, gradient_steps: int) -> int:
    """How often the target network moves after an update: after the last one that `train_freq` env steps pay for, once for each
    multiple of `interval` that those steps reached. The updates between share one target, as in Stable-Baselines3.

    Args:
        update: its number, from 1.
        interval: env steps between moves.
        train_freq: see `updates_due`.
        gradient_steps: see `updates_due`.
    """
    paid, rest = divmod(update, gradient_steps)
    return 0 if rest else paid * train_freq // interval - (paid - 1) * train_freq // interval


def steps_of_round(env_steps: int, total_steps: int, envs: int, longest: int) -> int:
    """Steps of each env in the next fragment: the last round takes what is left, to a multiple of the number of envs.

    Args:
        env_steps: env steps learned from so far.
        total_steps: env steps of the whole training.
        envs: over all runners.
        longest: steps of each env in any other fragment; also where nothing is left to be learned from.
    """
    left = total_steps - env_steps
    return min(-(-left // envs), longest) if left > 0 else longest
