"""Schedules over training, and how many updates experience pays for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wiserl.ops.pacing import steps_of_round, target_moves, updates_due
from wiserl.ops.schedules import decayed_value, linear


@pytest.mark.parametrize(
    ("progress", "fraction", "expected"),
    [(0.0, 0.5, 1.0), (0.25, 0.5, 0.5), (0.5, 0.5, 0.0), (0.9, 0.5, 0.0), (0.5, 1.0, 0.5), (0.0, 0.0, 0.0)],
)
def test_linear_falls_over_its_share_of_training_and_stays(progress, fraction, expected):
    assert linear(1.0, 0.0, progress, fraction) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("progress", "begun", "expected"),
    [(0.25, 0.0, 0.75), (0.75, 0.5, 0.25), (1.0, 0.0, 0.5), (1.0, 0.75, 0.125), (1.0, 1.0, 0.0), (1.0, 1.5, 0.0)],
)
def test_a_rate_that_decays_is_that_of_the_rounds_end_and_in_the_last_round_the_mean(progress, begun, expected):
    assert decayed_value(1.0, "linear", progress, begun) == pytest.approx(expected)
    assert decayed_value(1.0, "none", progress, begun) == 1.0


@pytest.mark.parametrize(
    ("env_steps", "updates", "expected"),
    [(0, 0, 0), (99, 0, 0), (103, 0, 0), (104, 0, 2), (107, 2, 0), (108, 2, 2), (200, 2, 48), (104, 5, 0)],
)
def test_updates_are_due_for_every_train_freq_steps_after_the_start(env_steps, updates, expected):
    assert updates_due(env_steps, updates, learning_starts=100, train_freq=4, gradient_steps=2) == expected


@pytest.mark.parametrize(
    ("env_steps", "starts", "train_freq", "expected"),
    [
        (1000, 100, 1, 0),
        (1016, 100, 1, 16),
        (1016, 100, 4, 4),
        (1016, 1100, 4, 0),
        (1116, 1100, 4, 4),
        (1016, 1001, 1, 15),
    ],
)
def test_another_pace_counts_from_where_it_began(env_steps, starts, train_freq, expected):
    """500 updates had been done in 1000 env steps, at whatever pace."""
    assert updates_due(env_steps, 500, starts, train_freq, 1, since=(1000, 500)) == expected


@given(
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=30),
    starts=st.integers(0, 100),
    train_freq=st.integers(1, 9),
    gradient_steps=st.integers(1, 4),
)
def test_the_number_of_updates_does_not_depend_on_the_size_of_fragments(sizes, starts, train_freq, gradient_steps):
    steps = updates = 0
    for size in sizes:
        steps += size
        updates += updates_due(steps, updates, starts, train_freq, gradient_steps)
    assert updates == updates_due(steps, 0, starts, train_freq, gradient_steps)


def test_targets_move_where_updates_reach_the_multiples_of_the_interval():
    moves = [update * 4 for update in range(1, 11) if target_moves(update, 10, train_freq=4, gradient_steps=1)]
    assert moves == [12, 20, 32, 40]


def test_updates_that_were_paid_for_together_share_a_target():
    """In Stable-Baselines3 the target moves while env steps are made, and none are between these updates."""
    moves = [target_moves(update, 10, train_freq=256, gradient_steps=128) for update in range(1, 257)]
    assert {update: count for update, count in enumerate(moves, 1) if count} == {128: 25, 256: 26}


@given(st.integers(1, 50), st.integers(1, 20), st.integers(1, 20))
def test_targets_keep_to_their_interval_over_time(interval, train_freq, gradient_steps):
    updates = 10 * interval * gradient_steps
    moves = [target_moves(update, interval, train_freq, gradient_steps) for update in range(1, updates + 1)]
    assert sum(moves) == 10 * train_freq
    assert all(update % gradient_steps == 0 for update, count in enumerate(moves, 1) if count)


@pytest.mark.parametrize(
    ("env_steps", "envs", "longest", "expected"),
    [
        (0, 8, 100, 100),
        (200, 8, 100, 100),
        (201, 8, 100, 100),
        (209, 8, 100, 99),
        (999, 8, 100, 1),
        (1000, 8, 100, 100),
    ],
)
def test_the_last_round_takes_what_is_left(env_steps, envs, longest, expected):
    assert steps_of_round(env_steps, 1000, envs, longest) == expected
