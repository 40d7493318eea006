"""Running normalisation of observations: the moments of what was seen, entry by entry, of float entries alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from wiserl.net.normalize import ObservationNormalizer
from wiserl.ops.tensors import to_tensors

BOX = spaces.Box(-np.inf, np.inf, (2,), np.float32)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=4), st.integers(0, 999))
def test_after_updates_observations_have_the_moments_of_all_that_was_seen(sizes, seed):
    rng = np.random.default_rng(seed)
    normalizer = ObservationNormalizer(BOX)
    parts = [torch.from_numpy(rng.normal(5, 3, (size, 2)).astype(np.float32)) for size in sizes]
    for part in parts:
        normalizer.update(part)
    seen = torch.cat(parts).double()
    torch.testing.assert_close(normalizer.mean, seen.mean(0))
    torch.testing.assert_close(normalizer.var, seen.var(0, unbiased=False))
    normalizer.update(torch.zeros(0, 2))
    torch.testing.assert_close(normalizer.mean, seen.mean(0))


def test_before_any_update_observations_pass_unchanged_and_extremes_are_clipped():
    normalizer = ObservationNormalizer(BOX)
    torch.testing.assert_close(normalizer(torch.tensor([[1.0, -2.0]])), torch.tensor([[1.0, -2.0]]))
    assert normalizer(torch.tensor([[1e6, -1e6]])).tolist() == [[10.0, -10.0]]
    assert normalizer(torch.tensor([[1.0, -2.0]])).dtype == torch.float32


def test_large_offsets_do_not_lose_the_variance():
    normalizer = ObservationNormalizer(BOX)
    values = torch.tensor([[1e6, 0.0], [1e6 + 1, 1.0]], dtype=torch.float32)
    for _ in range(100):
        normalizer.update(values)
    torch.testing.assert_close(normalizer(values), torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), rtol=0.01, atol=0.01)


def test_nested_entries_are_normalised_apart_and_only_the_float_ones():
    space = spaces.Dict(
        {
            "x": BOX,
            "image": spaces.Box(0, 255, (2, 2, 1), np.uint8),
            "pair": spaces.Tuple((spaces.Discrete(3), BOX)),
            "values": BOX,
            "arm.left": BOX,
        }
    )
    normalizer = ObservationNormalizer(space)
    rng = np.random.default_rng(0)
    batch = {
        "x": rng.normal(3, 1, (50, 2)).astype(np.float32),
        "image": rng.integers(0, 256, (50, 2, 2, 1)).astype(np.uint8),
        "pair": {"0": rng.integers(0, 3, 50), "1": rng.normal(-7, 2, (50, 2)).astype(np.float32)},
        "values": rng.normal(0, 9, (50, 2)).astype(np.float32),
        "arm.left": np.zeros((50, 2), np.float32),
    }
    obs = to_tensors(batch, torch.device("cpu"))
    normalizer.update(obs)
    found = normalizer(obs)
    assert found.keys() == obs.keys()
    for entry in (found["x"], found["pair"]["1"], found["values"]):
        torch.testing.assert_close(entry.mean(0), torch.zeros(2), atol=1e-3, rtol=0)
        torch.testing.assert_close(entry.std(0, unbiased=False), torch.ones(2), atol=1e-3, rtol=0)
    assert torch.equal(found["image"], obs["image"])
    assert torch.equal(found["pair"]["0"], obs["pair"]["0"])


def test_statistics_are_buffers_so_that_they_travel_and_are_saved_with_the_weights():
    one, other = ObservationNormalizer(BOX), ObservationNormalizer(BOX)
    one.update(torch.randn(9, 2))
    assert {name for name, _ in one.named_buffers()} == {"mean", "var", "count"}
    other.load_state_dict(one.state_dict())
    values = torch.randn(3, 2)
    assert torch.equal(one(values), other(values))


@pytest.mark.parametrize("skip", [0, 1, 3])
def test_to_tensors_joins_leading_axes_of_every_leaf(skip):
    tree = {"a": np.zeros((2, 3, 4, 5), np.float32), "b": {"c": np.zeros((2, 3, 4), np.int64)}}
    found = to_tensors(tree, torch.device("cpu"), skip_axes=skip)
    joined = int(np.prod((2, 3, 4)[:skip]))
    assert found["a"].shape == ((joined, *(2, 3, 4, 5)[skip:]) if skip else (2, 3, 4, 5))
    assert found["b"]["c"].shape == ((joined, *(2, 3, 4)[skip:]) if skip else (2, 3, 4))
    assert found["b"]["c"].dtype == torch.int64
