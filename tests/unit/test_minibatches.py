"""Minibatches: every row once an epoch, in another order each time, standardised one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from wiserl.ops.minibatches import minibatches, standardize


def test_an_epoch_has_every_row_once_and_the_next_one_another_order():
    data = {"row": torch.arange(10), "nested": {"tens": 10 * torch.arange(10)}}
    rng = np.random.default_rng(0)
    orders = []
    for _ in range(2):
        batches = list(minibatches(data, 4, rng))
        assert [len(batch["row"]) for batch in batches] == [4, 4, 2]
        assert all(torch.equal(batch["nested"]["tens"], 10 * batch["row"]) for batch in batches)
        orders.append(torch.cat([batch["row"] for batch in batches]).tolist())
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(10))
    assert orders[0] != orders[1]


def test_the_entry_asked_for_is_standardised_in_each_minibatch_and_the_data_stay_as_they_are():
    data = {"value": torch.arange(10.0), "other": torch.arange(10.0)}
    for batch in minibatches(data, 5, np.random.default_rng(0), "value"):
        assert float(batch["value"].mean()) == pytest.approx(0, abs=1e-6)
        assert float(batch["value"].std()) == pytest.approx(1)
        torch.testing.assert_close(batch["value"], (batch["other"] - batch["other"].mean()) / batch["other"].std())
    assert data["value"].tolist() == list(range(10))


def test_each_stretch_is_standardised_by_its_own_mean_and_deviation_but_a_single_value_is_not():
    values = torch.tensor([1.0, -1.0, 1.0, -1.0, 0.0, 2.0, 4.0, 6.0, 7.0])
    found = standardize(values, 4).tolist()
    first, second = math.sqrt(4 / 3), math.sqrt(20 / 3)
    expected = [1 / first, -1 / first, 1 / first, -1 / first, -3 / second, -1 / second, 1 / second, 3 / second, 7.0]
    assert found == pytest.approx(expected)
    assert standardize(values[:6], 4).tolist() == pytest.approx([*expected[:4], -(0.5**0.5), 0.5**0.5])
    assert standardize(values[:2], 4).tolist() == pytest.approx([0.5**0.5, -(0.5**0.5)])
