"""Replay returns what happened: next observations, n-step windows, truncation; memory, uniformity, refusals."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from wiserl.replay.final_table import FinalTable
from wiserl.replay.uniform import Replay
from wiserl.util.errors import InputError

GAMMA = 0.9


def simple_fragment(num_steps: int, num_envs: int = 1, first: int = 0, **changes: Any) -> dict[str, Any]:
    """Steps first, first+1, ... of an episode that goes on; obs `[T, E, 1, 1]` is the step number + 1000 * env."""
    steps = first + np.arange(num_steps + 1, dtype=np.float32)
    obs = (steps[:, None] + 1000 * np.arange(num_envs, dtype=np.float32))[:, :, None, None]
    shape = (num_steps, num_envs, 1)
    fragment: dict[str, Any] = {
        "obs": obs[:-1],
        "action": np.zeros(shape, np.int64),
        "reward": np.ones(shape, np.float32),
        "terminated": np.zeros(shape, np.bool_),
        "truncated": np.zeros(shape, np.bool_),
        "last_obs": obs[-1],
        "final_obs": np.zeros((0, 1, 1), np.float32),
        "final_at": np.zeros((0, 2), np.int64),
        "version": np.zeros(num_envs, np.int64),
        "rank": np.zeros(num_envs, np.int64),
        "stream": np.arange(num_envs),
        "fresh": np.zeros(num_envs, np.bool_),
    }
    return fragment | changes


def end_at(step: int, final: float, kind: str = "truncated", num_steps: int = 6) -> dict[str, Any]:
    """Changes to a one-env `simple_fragment`: its episode ends at `step` with the observation `final`."""
    flags = np.zeros((num_steps, 1, 1), np.bool_)
    flags[step] = True
    return {kind: flags, "final_at": np.array([[step, 0]]), "final_obs": np.full((1, 1, 1), final, np.float32)}


def by_obs(replay: Replay, draws: int = 400) -> dict[int, dict[str, Any]]:
    """Samples of a replay of scalar observations, by observation."""
    batch = replay.sample(draws)
    return {int(batch["obs"][i, 0]): {name: value[i] for name, value in batch.items()} for i in range(draws)}


def all_arrays_equal(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


def test_the_state_of_a_replay_that_is_hardly_filled_is_small_and_contiguous() -> None:
    replay = Replay(100_000, 1, seed=0)
    replay.add(simple_fragment(6, **end_at(2, final=99.0)))
    arrays = [value for value in replay.state_dict().values() if isinstance(value, np.ndarray)]
    assert all(array.flags.c_contiguous for array in arrays)
    assert sum(array.nbytes for array in arrays) < 500


def test_a_loaded_replay_does_not_share_memory_with_the_state() -> None:
    replay = Replay(10, 1, seed=0, extras=("value",))
    replay.add(simple_fragment(4, value=np.zeros((4, 1, 1), np.float32)))
    restored = Replay(10, 1, seed=0, extras=("value",))
    restored.load_state_dict(replay.state_dict())
    restored.write(np.arange(4), "value", np.ones(4, np.float32))
    assert not replay.sample(20)["value"].any()


def test_truncation_bootstraps_from_the_true_final_observation() -> None:
    replay = Replay(100, 1, seed=0, gamma=GAMMA)
    replay.add(simple_fragment(6, **end_at(2, final=99.0)))
    rows = by_obs(replay)
    assert rows[2]["next_obs"] == 99.0
    assert not rows[2]["terminated"]
    assert rows[2]["discount"] == np.float32(GAMMA)
    assert rows[1]["next_obs"] == 2.0
    assert rows[5]["next_obs"] == 6.0


def test_termination_is_reported_and_keeps_its_final_observation() -> None:
    replay = Replay(100, 1, seed=0)
    replay.add(simple_fragment(6, **end_at(2, 99.0, "terminated")))
    rows = by_obs(replay)
    assert rows[2]["terminated"]
    assert rows[2]["next_obs"] == 99.0
    assert not rows[1]["terminated"]


def test_three_step_windows_match_numbers_computed_by_hand() -> None:
    reward = np.array([1, 2, 4, 8, 16, 32], np.float32)[:, None, None]
    replay = Replay(100, 1, seed=0, n_step=3, gamma=0.5)
    replay.add(simple_fragment(6, reward=reward, **end_at(3, final=99.0)))
    rows = by_obs(replay)
    values = {step: (row["reward"], row["discount"], row["next_obs"][0]) for step, row in rows.items()}
    assert values == {
        0: (1 + 1 + 1, 0.125, 3),
        1: (2 + 2 + 2, 0.125, 99),
        2: (4 + 4, 0.25, 99),
        3: (8, 0.5, 99),
        4: (16 + 16, 0.25, 6),
        5: (32, 0.5, 6),
    }


def test_a_window_grows_when_the_next_fragment_arrives() -> None:
    replay = Replay(100, 1, seed=0, n_step=3, gamma=1.0)
    replay.add(simple_fragment(2))
    assert by_obs(replay)[1]["reward"] == 1
    replay.add(simple_fragment(2, first=2))
    assert by_obs(replay)[1]["reward"] == 3
    assert by_obs(replay)[1]["next_obs"] == 4


def test_a_restarted_stream_is_cut_where_it_stopped() -> None:
    replay = Replay(100, 1, seed=0, n_step=4, gamma=1.0)
    replay.add(simple_fragment(3))
    replay.add(simple_fragment(3, first=500, fresh=np.array([True])))
    rows = by_obs(replay)
    assert rows[1]["reward"] == 2
    assert rows[2]["next_obs"] == 3
    assert not rows[2]["terminated"]
    assert rows[500]["reward"] == 3


def test_sampling_is_uniform_over_streams_of_different_length_with_dead_rows() -> None:
    replay = Replay(3 * 40, 3, seed=1)
    alive = np.random.default_rng(0).random((30, 1, 1)) < 0.6
    replay.add(simple_fragment(30, stream=np.array([2]), alive=alive))
    replay.add(simple_fragment(7, first=100, stream=np.array([0])))
    count = int(alive.sum()) + 7
    assert len(replay) == count
    seen = Counter(replay.sample(200 * count)["obs"][:, 0].tolist())
    assert len(seen) == count
    assert chisquare(list(seen.values())).pvalue > 1e-3


def test_sampling_is_uniform_in_a_ring_that_has_wrapped() -> None:
    replay = Replay(20, 2, seed=2)
    for first in range(0, 42, 7):
        replay.add(simple_fragment(7, num_envs=2, first=first))
    seen = Counter(replay.sample(4000)["obs"][:, 0].tolist())
    assert set(seen) == {float(step + 1000 * env) for step in range(32, 42) for env in range(2)}
    assert chisquare(list(seen.values())).pvalue > 1e-3


def test_the_same_seed_draws_the_same_and_another_seed_does_not() -> None:
    def draw(seed: int) -> np.ndarray:
        replay = Replay(100, 1, seed)
        replay.add(simple_fragment(50))
        return np.asarray(replay.sample(20)["index"])

    assert np.array_equal(draw(3), draw(3))
    assert not np.array_equal(draw(3), draw(4))


def test_observations_are_stored_once() -> None:
    replay = Replay(500, 5, seed=0)
    image = np.zeros((40, 5, 1, 16, 16), np.uint8)
    final = {"final_obs": np.zeros((0, 1, 16, 16), np.uint8)}
    replay.add(simple_fragment(40, num_envs=5, obs=image, last_obs=image[0], **final))
    assert replay.nbytes < 1.2 * 500 * 256
    assert replay.sample(3)["next_obs"].dtype == np.uint8


@pytest.mark.parametrize("capacity", [60, 4])
def test_memory_does_not_grow_however_many_episodes_end(capacity: int) -> None:
    replay = Replay(capacity, 1, seed=0)
    for _ in range(20):
        replay.add(simple_fragment(6, **end_at(1, final=99.0)))
    before = replay.nbytes
    for _ in range(500):
        replay.add(simple_fragment(6, **end_at(1, final=99.0)))
    assert replay.nbytes == before


@given(seed=st.integers(0, 2**32 - 1))
def test_the_table_of_final_observations_keeps_each_until_its_slot_is_released(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = FinalTable(np.zeros((0, 1), np.float32))
    held: dict[int, float] = {}
    slots = np.zeros(0, np.int32)
    for number in range(12):
        if len(slots) and rng.random() < 0.5:
            table.release(slots)
            for slot in slots.tolist():
                del held[slot]
        values = 1000.0 * number + np.arange(rng.integers(0, 200), dtype=np.float32)
        slots = table.put(values[:, None], len(values))
        assert not held.keys() & set(slots.tolist())
        held |= dict(zip(slots.tolist(), values.tolist(), strict=True))
        assert table.used == len(held)
        assert table.take(np.array(list(held), np.int32))[:, 0].tolist() == list(held.values())


def test_slots_that_were_handed_out_do_not_change_afterwards() -> None:
    table = FinalTable(np.zeros((0, 1), np.float32))
    first, second = (table.put(np.zeros((3, 1)), 3) for _ in range(2))
    before = first.tolist()
    table.release(second)
    table.release(first[::-1])
    assert first.tolist() == before


def test_dict_observations_are_stored_per_entry_whatever_the_order_of_their_keys() -> None:
    def nested(values: np.ndarray, swap: bool) -> dict[str, Any]:
        entries = [("position", values), ("deep", {"image": values.astype(np.uint8)})]
        return dict(reversed(entries) if swap else entries)

    replay = Replay(50, 1, seed=0)
    for number in range(2):
        plain = simple_fragment(6, first=6 * number, **end_at(2, final=99.0))
        swap = bool(number)
        plain |= {name: nested(plain[name], swap) for name in ("obs", "last_obs", "final_obs")}
        replay.add(plain)
    restored = Replay(50, 1, seed=0)
    restored.load_state_dict(replay.state_dict())
    for source in (replay, restored):
        batch = source.sample(300)
        position, following = batch["obs"]["position"], batch["next_obs"]["position"]
        truth = np.where(np.isin(position, [2, 8]), 99.0, position + 1)
        np.testing.assert_array_equal(following, truth)
        np.testing.assert_array_equal(batch["obs"]["deep"]["image"], position)
        np.testing.assert_array_equal(batch["next_obs"]["deep"]["image"], truth)
        assert batch["obs"]["deep"]["image"].dtype == np.uint8


def test_an_extra_reaches_the_batch_and_a_written_value_is_what_the_next_sample_returns() -> None:
    hidden = np.arange(12, dtype=np.float32).reshape(6, 1, 1, 2)
    replay = Replay(50, 1, seed=0, extras=("hidden",))
    replay.add(simple_fragment(6, hidden=hidden))
    batch = replay.sample(30)
    np.testing.assert_array_equal(batch["hidden"][:, 0], 2 * batch["obs"][:, 0])
    third = batch["index"][batch["obs"][:, 0] == 3][:1]
    replay.write(third, "hidden", np.full((1, 2), -7, np.float32))
    rows = by_obs(replay)
    assert rows[3]["hidden"].tolist() == [-7, -7]
    assert rows[4]["hidden"].tolist() == [8, 9]


def test_action_masks_come_from_the_first_step_and_next_masks_from_the_last_of_the_window() -> None:
    step = np.arange(6)[:, None, None, None]
    mask = (step == np.arange(7)).astype(np.bool_)
    following = (step + 1 == np.arange(7)).astype(np.bool_)
    replay = Replay(50, 1, seed=0, n_step=3)
    replay.add(simple_fragment(6, action_mask=mask, next_action_mask=following))
    row = by_obs(replay)[1]
    assert row["action_mask"].argmax() == 1
    assert row["next_action_mask"].argmax() == 4


def test_a_batch_is_a_copy() -> None:
    replay = Replay(50, 1, seed=0)
    replay.add(simple_fragment(6))
    batch = replay.sample(20)
    for name in ("obs", "next_obs", "reward", "discount"):
        batch[name][:] = -1
    again = replay.sample(20)
    assert all((again[name] >= 0).all() for name in ("obs", "next_obs", "reward", "discount"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stream": np.array([3])}, "below num_streams = 1"),
        ({"stream": np.array([-1])}, "below num_streams = 1"),
        (end_at(2, 99.0) | {"final_at": np.array([[3, 0]])}, r"\[2, 0\]; expected it in final_at"),
        ({"action": np.zeros((6, 1, 1), np.float32)}, r"action is float32 .*stores int64"),
        ({"obs": np.zeros((6, 1, 1, 2), np.float32)}, r"obs is float32 \[6, 1, 1, 2\].*\[6, 1, 1, 1\]"),
        ({"value": np.zeros((1, 1, 1), np.float32)}, r"value is float32 \[1, 1, 1\]"),
    ],
)
def test_a_fragment_that_does_not_fit_is_refused_and_changes_nothing(changes: dict[str, Any], message: str) -> None:
    replay, untouched = (Replay(8, 1, seed=0, extras=("value",)) for _ in range(2))
    for either in (replay, untouched):
        either.add(simple_fragment(6, value=np.ones((6, 1, 1), np.float32), **end_at(4, 50.0)))
    wrong = simple_fragment(6, value=np.ones((6, 1, 1), np.float32), fresh=np.array([True])) | changes
    with pytest.raises(ValueError, match=message):
        replay.add(wrong)
    assert all_arrays_equal(replay.sample(50), untouched.sample(50))


def test_a_missing_extra_is_named() -> None:
    replay = Replay(50, 1, seed=0, extras=("log_prob",))
    with pytest.raises(ValueError, match="lacks \\['log_prob'\\]"):
        replay.add(simple_fragment(6))
    replay.add(simple_fragment(6, log_prob=np.zeros((6, 1, 1), np.float32)))
    with pytest.raises(ValueError, match="lacks 'log_prob'"):
        replay.add(simple_fragment(6))


def test_a_stream_named_twice_in_a_fragment_is_refused() -> None:
    with pytest.raises(ValueError, match="distinct"):
        Replay(50, 2, seed=0).add(simple_fragment(6, num_envs=2, stream=np.array([1, 1])))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"capacity": 3}, "raise buffer_size"),
        ({"n_step": 0}, "n_step >= 1"),
        ({"gamma": 1.5}, "gamma in"),
        ({"extras": ("weight",)}, "give them other names"),
        ({"extras": ("rank",)}, "give them other names"),
        ({"extras": "value"}, r"expected a tuple of names, \('value',\)"),
    ],
)
def test_wrong_arguments_are_refused_with_what_to_do(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Replay(**({"capacity": 100, "num_streams": 8, "seed": 0} | arguments))


def test_sampling_an_empty_replay_says_so() -> None:
    with pytest.raises(ValueError, match="empty"):
        Replay(50, 1, seed=0).sample(1)


def test_only_declared_extras_can_be_written() -> None:
    replay = Replay(50, 1, seed=0, extras=("value",))
    replay.add(simple_fragment(6, value=np.zeros((6, 1, 1), np.float32)))
    for name in ("reward", "values"):
        with pytest.raises(ValueError, match=f"no extra '{name}' to write to; it has \\['value'\\]"):
            replay.write(np.array([0]), name, np.zeros(1))


def test_loading_the_state_of_an_empty_replay_empties_it() -> None:
    replay = Replay(50, 1, seed=0)
    replay.add(simple_fragment(6))
    replay.load_state_dict(Replay(50, 1, seed=0).state_dict())
    assert len(replay) == 0
    replay.add(simple_fragment(3, obs=np.ones((3, 1, 1, 2), np.int32), last_obs=np.ones((1, 1, 2), np.int32)))
    assert replay.sample(4)["obs"].shape == (4, 2)


def test_a_state_of_another_capacity_or_other_extras_is_refused() -> None:
    state = Replay(50, 1, seed=0).state_dict()
    with pytest.raises(InputError, match="buffer_size"):
        Replay(60, 1, seed=0).load_state_dict(state)
    replay = Replay(50, 1, seed=0)
    replay.add(simple_fragment(6))
    with pytest.raises(InputError, match=r"lacks \['value'\]"):
        Replay(50, 1, seed=0, extras=("value",)).load_state_dict(replay.state_dict())
