"""Batches from several replays have their exact shares, slice by slice, and what is written back reaches its row."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from wiserl.replay.mixed import MixedReplay, share_out
from wiserl.replay.prioritized import PrioritizedReplay
from wiserl.replay.uniform import Replay
from wiserl.util.errors import InputError


def fragment(num_steps: int, first: int = 0, **changes: Any) -> dict[str, Any]:
    """Steps first, first+1, ... of an episode of one env; a Dict observation holds the step number."""
    steps = first + np.arange(num_steps + 1, dtype=np.float32)[:, None, None, None]
    shape = (num_steps, 1, 1)
    return {
        "obs": {"step": steps[:-1], "half": steps[:-1] / 2},
        "action": np.zeros(shape, np.int64),
        "reward": np.ones(shape, np.float32),
        "terminated": np.zeros(shape, np.bool_),
        "truncated": np.zeros(shape, np.bool_),
        "last_obs": {"step": steps[-1], "half": steps[-1] / 2},
        "final_obs": {"step": np.zeros((0, 1, 1), np.float32), "half": np.zeros((0, 1, 1), np.float32)},
        "final_at": np.zeros((0, 2), np.int64),
        "stream": np.zeros(1, np.int64),
        "fresh": np.zeros(1, np.bool_),
    } | changes


def mixed(*shares: float, kinds: tuple[type[Replay], ...] = (Replay, PrioritizedReplay), size: int = 20) -> MixedReplay:
    """Part number i holds the steps 1000 i to 1000 i + size."""
    parts = [kinds[i % len(kinds)](50, 1, seed=i, extras=("note",)) for i in range(len(shares))]
    for number, part in enumerate(parts):
        part.add(fragment(size, 1000 * number, note=np.zeros((size, 1, 1), np.float32)))
    return MixedReplay(list(zip(parts, shares, strict=True)))


@given(total=st.integers(0, 500), shares=st.lists(st.floats(0.01, 100), min_size=1, max_size=6))
def test_counts_sum_to_the_batch_and_stay_within_one_of_the_quota(total: int, shares: list[float]) -> None:
    counts = share_out(total, shares)
    assert sum(counts) == total
    for count, share in zip(counts, shares, strict=True):
        assert abs(count - total * share / sum(shares)) < 1 + 1e-6


def test_the_largest_remainders_get_what_is_left() -> None:
    assert share_out(10, [0.45, 0.45, 0.1]) == [5, 4, 1]
    assert share_out(10, [0.14, 0.17, 0.69]) == [1, 2, 7]
    assert share_out(256, [0.9, 0.1]) == [230, 26]
    assert share_out(3, [0.1, 0.2, 0.7]) == [0, 1, 2]


@given(
    shares=st.lists(st.floats(0.05, 1.0), min_size=1, max_size=4),
    batch_size=st.integers(1, 40),
    batches=st.integers(1, 5),
)
def test_every_slice_of_a_draw_has_the_exact_number_of_rows_of_each_part(
    shares: list[float], batch_size: int, batches: int
) -> None:
    batch = mixed(*shares).sample(batch_size, batches=batches)
    expected = share_out(batch_size, shares)
    source = batch["source"]
    assert source.dtype == np.int64
    assert source.shape == batch["reward"].shape == batch["obs"]["half"].shape[:1] == (batch_size * batches,)
    assert ("weight" in batch) == (len(shares) > 1)
    for start in range(0, batch_size * batches, batch_size):
        assert np.bincount(source[start : start + batch_size], minlength=len(shares)).tolist() == expected
    np.testing.assert_array_equal(batch["obs"]["step"][:, 0] // 1000, source)
    np.testing.assert_array_equal(batch["obs"]["half"], batch["obs"]["step"] / 2)
    np.testing.assert_array_equal(batch["next_obs"]["step"], batch["obs"]["step"] + 1)


@pytest.mark.parametrize("kind", [Replay, PrioritizedReplay])
def test_every_slice_is_drawn_from_all_transitions(kind: type[Replay]) -> None:
    replay = mixed(1.0, kinds=(kind,))
    drawn = np.stack([replay.sample(10, batches=4)["obs"]["step"].reshape(4, 10) for _ in range(100)]).astype(int)
    assert len({tuple(sorted(batch)) for batch in drawn[0].tolist()}) > 1
    for number in range(4):
        assert chisquare(np.bincount(drawn[:, number].ravel(), minlength=20)).pvalue > 1e-4


def test_weights_of_a_slice_are_relative_to_the_largest_in_it() -> None:
    replay = mixed(0.5, 0.5)
    for _ in range(5):
        seen = replay.sample(64)
        replay.update_priorities(seen["index"], 10.0 ** np.random.default_rng(0).uniform(-3, 3, 64))
        batch = replay.sample(6, batches=20)
        weight = np.where(batch["source"] == 1, batch["weight"], 0).reshape(20, 6)
        np.testing.assert_array_equal(weight.max(1), np.ones(20))


def test_weights_are_one_where_a_part_is_uniform_and_come_from_the_other_where_it_is_prioritised() -> None:
    replay = mixed(0.5, 0.5)
    batch = replay.sample(16)
    replay.update_priorities(batch["index"], np.arange(16.0))
    batch = replay.sample(16, 1.0)
    assert batch["weight"].dtype == np.float32
    assert (batch["weight"][batch["source"] == 0] == 1).all()
    weight = batch["weight"][batch["source"] == 1]
    assert weight.max() == 1
    assert weight.min() < 0.9
    assert (replay.sample(16, 0.0)["weight"] == 1).all()


def test_there_is_no_weight_where_no_part_is_prioritised() -> None:
    replay = mixed(0.5, 0.5, kinds=(Replay,))
    assert not replay.has_priorities
    assert "weight" not in replay.sample(4)
    assert mixed(0.5, 0.5).has_priorities


def test_priorities_reach_the_rows_they_were_computed_from() -> None:
    replay = mixed(0.4, 0.3, 0.3, kinds=(PrioritizedReplay, Replay, PrioritizedReplay))
    seen = replay.sample(1000)
    favourites = np.isin(seen["obs"]["step"][:, 0], [3, 2007])
    replay.update_priorities(seen["index"], np.where(favourites, 1e6, 1e-6))
    step = replay.sample(100)["obs"]["step"][:, 0]
    assert step[:40].tolist() == [3] * 40
    assert len(set(step[40:70].tolist())) > 5
    assert step[70:].tolist() == [2007] * 30


def test_values_are_written_to_the_rows_they_belong_to() -> None:
    replay = mixed(0.4, 0.3, 0.3)
    batch = replay.sample(500)
    replay.write(batch["index"], "note", batch["obs"]["step"][:, 0] + 0.5)
    again = replay.sample(500)
    np.testing.assert_array_equal(again["note"], again["obs"]["step"][:, 0] + 0.5)
    with pytest.raises(ValueError, match="no extra 'nothing'"):
        replay.write(batch["index"], "nothing", batch["reward"])


def test_fragments_go_to_the_first_part_and_nothing_is_drawn_before_it_has_any() -> None:
    own, demonstrations = Replay(50, 1, seed=0), Replay(50, 1, seed=1)
    replay = MixedReplay([(own, 0.75), (demonstrations, 0.25)])
    demonstrations.add(fragment(20, 1000))
    assert len(replay) == 0
    with pytest.raises(ValueError, match="part 0 of the mixed replay is empty"):
        replay.sample(8)
    before = replay.nbytes
    replay.add(fragment(10))
    assert (len(own), len(demonstrations), len(replay)) == (10, 20, 30)
    assert replay.nbytes == own.nbytes + demonstrations.nbytes > before


def test_parts_with_different_fields_are_refused_by_name() -> None:
    own, demonstrations = Replay(50, 1, seed=0, extras=("note",)), Replay(50, 1, seed=1)
    own.add(fragment(10, note=np.zeros((10, 1, 1), np.float32)))
    demonstrations.add(fragment(10))
    with pytest.raises(ValueError, match=r"only some have \['note'\]"):
        MixedReplay([(own, 0.5), (demonstrations, 0.5)]).sample(4)


@pytest.mark.parametrize("shares", [(), (1.0, 0.0), (1.0, -1.0), (1.0, float("inf")), (float("nan"),)])
def test_shares_must_be_positive(shares: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="positive number for each of its parts"):
        mixed(*shares)


def test_a_mixed_replay_restored_from_its_state_goes_on_identically() -> None:
    replay, restored = mixed(0.6, 0.4), mixed(0.6, 0.4, size=7)
    replay.update_priorities(replay.sample(32)["index"], np.arange(32.0))
    state = replay.state_dict()
    plain = json.loads(json.dumps({k: v for k, v in state.items() if not isinstance(v, np.ndarray)}))
    restored.load_state_dict(plain | {k: v.copy() for k, v in state.items() if isinstance(v, np.ndarray)})
    for _ in range(3):
        left, right = replay.sample(16, batches=2), restored.sample(16, batches=2)
        assert left["obs"].keys() == right["obs"].keys()
        for name in ("index", "source", "weight", "reward"):
            np.testing.assert_array_equal(left[name], right[name])
        np.testing.assert_array_equal(left["obs"]["step"], right["obs"]["step"])
        for each in (replay, restored):
            each.update_priorities(left["index"], np.arange(32.0))


def test_the_state_of_another_number_of_parts_or_of_a_plain_replay_is_refused() -> None:
    for other in (mixed(0.5, 0.3, 0.2), mixed(1.0), mixed(1.0).parts[0]):
        with pytest.raises(InputError, match="no mixed replay of 2 parts"):
            mixed(0.5, 0.5).load_state_dict(other.state_dict())
