"""Prioritised replay draws by priority, corrects by importance weights, and forgets what was overwritten."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from wiserl.replay.prioritized import PrioritizedReplay
from wiserl.replay.sum_tree import SumTree
from wiserl.replay.uniform import Replay
from wiserl.util.errors import InputError

EPSILON = 1e-6


def fragment(num_steps: int, num_envs: int = 1, first: int = 0, **changes: Any) -> dict[str, Any]:
    """Steps first, first+1, ... of an episode that goes on; obs `[T, E, 1, 1]` is the step number + 1000 * env."""
    steps = first + np.arange(num_steps + 1, dtype=np.float32)
    obs = (steps[:, None] + 1000 * np.arange(num_envs, dtype=np.float32))[:, :, None, None]
    shape = (num_steps, num_envs, 1)
    return {
        "obs": obs[:-1],
        "action": np.zeros(shape, np.int64),
        "reward": np.ones(shape, np.float32),
        "terminated": np.zeros(shape, np.bool_),
        "truncated": np.zeros(shape, np.bool_),
        "last_obs": obs[-1],
        "final_obs": np.zeros((0, 1, 1), np.float32),
        "final_at": np.zeros((0, 2), np.int64),
        "stream": np.arange(num_envs),
        "fresh": np.zeros(num_envs, np.bool_),
    } | changes


def rows_by_obs(replay: Replay, draws: int = 2000) -> dict[int, int]:
    """Row index of each observation that is drawn."""
    batch = replay.sample(draws)
    return {int(obs): int(row) for obs, row in zip(batch["obs"][:, 0], batch["index"], strict=True)}


@given(
    numbers=st.lists(st.one_of(st.just(0.0), st.floats(1e-9, 1e9)), min_size=1, max_size=700).filter(any),
    fractions=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20),
)
def test_the_sum_tree_finds_what_a_running_sum_finds(numbers: list[float], fractions: list[float]) -> None:
    tree = SumTree(len(numbers))
    tree.update(np.arange(len(numbers)), np.array(numbers))
    running = np.cumsum(numbers)
    assert tree.total == pytest.approx(running[-1])
    values = np.array(fractions) * tree.total
    found = tree.find(values)
    for value, index in zip(values, found.tolist(), strict=True):
        assert numbers[index] > 0
        slack = 1e-9 * running[-1]
        assert running[index] - numbers[index] - slack <= value <= running[index] + slack


def test_the_total_itself_finds_the_last_number_above_zero_however_sums_are_rounded() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        tree = SumTree(40)
        tree.update(np.arange(11), rng.exponential(size=11))
        assert tree.find(np.array([tree.total])).tolist() == [10]


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 5000))
def test_a_sum_tree_after_many_updates_equals_one_filled_at_once(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    numbers, tree, fresh = np.zeros(size), SumTree(size), SumTree(size)
    for _ in range(10):
        indices = rng.integers(0, size, 20)
        values = rng.random(20)
        tree.update(indices, values)
        for index, value in zip(indices.tolist(), values.tolist(), strict=True):
            numbers[index] = value
    fresh.update(np.arange(size), numbers)
    np.testing.assert_array_equal(tree.get(np.arange(size)), numbers)
    assert tree.total == fresh.total == pytest.approx(numbers.sum())
    values = rng.random(50) * tree.total
    np.testing.assert_array_equal(tree.find(values), fresh.find(values))


def test_the_sum_tree_holds_a_million_numbers() -> None:
    size = 1_000_000
    tree = SumTree(size)
    numbers = np.arange(1, size + 1, dtype=np.float64)
    tree.update(np.arange(size), numbers)
    assert tree.total == numbers.sum()
    indices = np.random.default_rng(0).integers(0, size, 1000)
    below = numbers.cumsum()[indices] - numbers[indices]
    np.testing.assert_array_equal(tree.find(below), indices)
    np.testing.assert_array_equal(tree.find(below + numbers[indices] - 1), indices)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_draws_follow_the_priorities(alpha: float) -> None:
    replay = PrioritizedReplay(100, 2, seed=0, alpha=alpha)
    replay.add(fragment(20, num_envs=2))
    rows = rows_by_obs(replay)
    errors = np.random.default_rng(1).random(40) + 0.05
    replay.update_priorities(np.array(list(rows.values())), errors)
    # Single draws: a stratified batch has too even counts for the test.
    seen = Counter(int(replay.sample(1)["index"][0]) for _ in range(8000))
    probability = (errors + EPSILON) ** alpha
    expected = 8000 * probability / probability.sum()
    assert chisquare([seen[row] for row in rows.values()], expected).pvalue > 1e-3


def test_a_batch_draws_once_from_each_equal_part_of_the_total() -> None:
    replay = PrioritizedReplay(64, 1, seed=0)
    replay.add(fragment(64))
    for _ in range(10):
        assert sorted(replay.sample(64)["obs"][:, 0].tolist()) == list(range(64))


def test_weights_correct_the_bias_and_are_at_most_one() -> None:
    replay = PrioritizedReplay(100, 1, seed=0, alpha=0.7, beta=0.5)
    replay.add(fragment(30))
    rows = np.array(list(rows_by_obs(replay).values()))
    errors = np.random.default_rng(1).random(30) + 0.01
    replay.update_priorities(rows, errors)
    probability = np.zeros(1000)
    probability[rows] = (errors + EPSILON) ** 0.7
    probability /= probability.sum()
    for beta in (None, 0.0, 1.0):
        batch = replay.sample(16) if beta is None else replay.sample(16, beta)
        weight = (len(replay) * probability[batch["index"]]) ** -(0.5 if beta is None else beta)
        np.testing.assert_allclose(batch["weight"], weight / weight.max(), rtol=1e-5)
        assert batch["weight"].dtype == np.float32


def test_batches_drawn_in_one_go_are_each_spread_over_the_priorities_and_weighted_by_themselves() -> None:
    replay = PrioritizedReplay(64, 1, seed=0, alpha=1.0, beta=0.5)
    replay.add(fragment(64))
    rows = rows_by_obs(replay)
    errors = 10.0 ** (np.arange(64) % 3 - 1)
    replay.update_priorities(np.array([rows[step] for step in range(64)]), errors)
    batch = replay.sample(80, batches=20)
    steps = batch["obs"][:, 0].astype(int).reshape(20, 80)
    priority = errors[steps] + EPSILON
    np.testing.assert_allclose(
        batch["weight"].reshape(20, 80), (priority / priority.min(1)[:, None]) ** -0.5, rtol=1e-5
    )
    assert len({tuple(batch) for batch in steps.tolist()}) > 1
    # An 80th of the total is 2.9: each step of error 10 spans two whole parts at least, and so is in every batch.
    assert all(set(range(2, 64, 3)) <= set(batch) for batch in steps.tolist())


def test_new_transitions_get_the_largest_priority_seen() -> None:
    replay = PrioritizedReplay(1000, 1, seed=0, alpha=1.0)
    replay.add(fragment(10))
    index = np.array(list(rows_by_obs(replay).values()))
    replay.update_priorities(index[:1], np.array([50.0]))
    replay.update_priorities(index, np.full(len(index), 5.0))
    replay.add(fragment(10, first=10))
    seen = replay.sample(5500)["obs"][:, 0]
    # Ten of 5 and ten of 50: old ones have 1/11 of the total.
    assert (seen < 10).sum() == pytest.approx(500, abs=2)


def test_nothing_overwritten_dead_or_written_ahead_is_drawn() -> None:
    replay = PrioritizedReplay(40, 2, seed=0)
    rng = np.random.default_rng(0)
    truth: list[set[float]] = [set(), set()]
    history: list[list[float | None]] = [[], []]
    first = 0
    for size in (7, 3, 11, 5, 16, 30, 2):
        env = int(rng.integers(2))
        envs = [0, 1] if rng.random() < 0.6 else [env]
        alive = rng.random((size, len(envs), 1)) < 0.7
        replay.add(fragment(size, len(envs), first, stream=np.array(envs), alive=alive))
        for column, stream in enumerate(envs):
            steps = [first + step + 1000.0 * column for step in range(size)]
            history[stream] += [step if alive[i, column, 0] else None for i, step in enumerate(steps)]
            truth[stream] = {step for step in history[stream][-20:] if step is not None}
        first += size
        drawn = replay.sample(1000)
        assert len(replay) == len(truth[0]) + len(truth[1])
        assert set(drawn["obs"][:, 0].tolist()) == truth[0] | truth[1]
        replay.update_priorities(drawn["index"], rng.random(1000))


def test_priorities_of_rows_that_hold_nothing_any_more_are_left_alone() -> None:
    replay = PrioritizedReplay(10, 1, seed=0)
    replay.add(fragment(10))
    index = replay.sample(200)["index"]
    replay.add(fragment(4, first=10, alive=np.zeros((4, 1, 1), np.bool_)))
    replay.update_priorities(index, np.full(200, 1e6))
    assert set(replay.sample(500)["obs"][:, 0].tolist()) == {4, 5, 6, 7, 8, 9}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_a_td_error_that_is_no_priority_is_refused_and_changes_nothing(bad: float) -> None:
    replay = PrioritizedReplay(10, 1, seed=0)
    replay.add(fragment(5))
    with pytest.raises(ValueError, match=f"td_error_abs has {bad}"):
        replay.update_priorities(np.array([0, 1]), np.array([9.0, bad]))
    assert (replay.sample(5)["weight"] == 1.0).all()


@given(seed=st.integers(0, 2**32 - 1))
def test_a_prioritised_replay_restored_from_its_state_goes_on_identically(seed: int) -> None:
    rng = np.random.default_rng(seed)
    replay, restored = (PrioritizedReplay(100, 2, seed=number, n_step=2) for number in (seed, seed + 1))

    def train(replays: list[PrioritizedReplay], rounds: int) -> None:
        for _ in range(rounds):
            size, errors = int(rng.integers(1, 40)), rng.random(8) * 3
            batches = []
            for each in replays:
                each.add(fragment(size, num_envs=2))
                batches.append(each.sample(8))
                each.update_priorities(batches[-1]["index"], errors)
            for name, value in batches[0].items():
                np.testing.assert_array_equal(value, batches[-1][name])

    train([replay], int(rng.integers(0, 5)))
    restored.load_state_dict(replay.state_dict())
    train([replay, restored], 4)


def test_the_state_of_a_uniform_replay_is_refused() -> None:
    with pytest.raises(InputError, match="no priorities"):
        PrioritizedReplay(10, 1, seed=0).load_state_dict(Replay(10, 1, seed=0).state_dict())


def test_wrong_arguments_are_refused() -> None:
    for wrong in ({"alpha": -0.1}, {"beta": 1.1}):
        with pytest.raises(InputError, match="alpha >= 0, beta in"):
            PrioritizedReplay(10, 1, seed=0, **wrong)


def test_sampling_an_empty_prioritised_replay_says_so() -> None:
    with pytest.raises(ValueError, match="empty"):
        PrioritizedReplay(10, 1, seed=0).sample(1)


def test_the_tree_counts_as_memory() -> None:
    plain, prioritised = Replay(1000, 1, seed=0), PrioritizedReplay(1000, 1, seed=0)
    for replay in (plain, prioritised):
        replay.add(fragment(10))
    assert 8 * 1000 <= prioritised.nbytes - plain.nbytes < 10 * 1000
