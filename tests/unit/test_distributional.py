"""The projection of a return's distribution onto its support: by hand, and against a loop over every atom."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wiserl.ops.distributional import project

SUPPORT = torch.tensor([0.0, 1.0, 2.0])


def test_mass_between_two_atoms_is_shared_by_nearness_computed_by_hand():
    # 0.5 + 0.5 * (0, 1, 2) = (0.5, 1, 1.5): half of what is at 0.5 goes to 0, half to 1, and so on.
    found = project(torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([0.5]), torch.tensor([0.5]), SUPPORT)
    assert found.tolist() == [[0.25, 0.625, 0.125]]


def test_mass_beyond_the_support_goes_to_its_ends():
    probabilities = torch.tensor([[0.5, 0.25, 0.25]] * 2)
    found = project(probabilities, torch.tensor([1.5, -1.5]), torch.ones(2), SUPPORT)
    # The atoms move to 1.5, 2.5 and 3.5, and to -1.5, -0.5 and 0.5.
    assert found.tolist() == [[0.0, 0.25, 0.75], [0.875, 0.125, 0.0]]


def test_without_a_future_all_mass_is_at_the_reward():
    found = project(torch.tensor([[0.2, 0.3, 0.5]]), torch.tensor([0.25]), torch.zeros(1), SUPPORT)
    torch.testing.assert_close(found, torch.tensor([[0.75, 0.25, 0.0]]))


def looped(probabilities: np.ndarray, reward: float, discount: float, support: np.ndarray) -> np.ndarray:
    """Algorithm 1 of Bellemare et al. 2017 as it is written, with a lower and an upper neighbour."""
    step = (support[-1] - support[0]) / (len(support) - 1)
    found = np.zeros(len(support))
    for probability, atom in zip(probabilities, support, strict=True):
        moved = min(max(reward + discount * atom, support[0]), support[-1])
        position = min((moved - support[0]) / step, len(support) - 1)
        lower, upper = math.floor(position), math.ceil(position)
        if lower == upper:
            found[lower] += probability
        else:
            found[lower] += probability * (upper - position)
            found[upper] += probability * (position - lower)
    return found


@given(
    st.integers(2, 9), st.integers(1, 5), st.floats(-20, 20), st.floats(0.1, 30), st.floats(0, 1), st.integers(0, 2**31)
)
def test_it_is_the_papers_loop(atoms, rows, low, width, discount, seed):
    rng = np.random.default_rng(seed)
    support = np.linspace(low, low + width, atoms)
    probabilities = rng.dirichlet(np.ones(atoms), rows)
    reward = rng.normal(low + width * (1 - discount) / 2, width, rows)
    discounts = np.where(rng.random(rows) < 0.3, 0.0, discount)
    arguments = [torch.from_numpy(value) for value in (probabilities, reward, discounts, support)]
    expected = [looped(*row, support) for row in zip(probabilities, reward, discounts, strict=True)]
    np.testing.assert_allclose(project(*arguments).numpy(), expected, atol=1e-9)


@given(st.integers(0, 2**31))
def test_single_precision_keeps_the_mass_and_within_the_support_the_mean(seed):
    rng = np.random.default_rng(seed)
    support = torch.linspace(0.0, 100.0, 51)
    probabilities = torch.from_numpy(rng.dirichlet(np.ones(51), 16)).float()
    reward, discount = torch.from_numpy(rng.uniform(0, 4.9, 16)).float(), torch.full((16,), 0.99**5)
    found = project(probabilities, reward, discount, support)
    assert found.dtype == torch.float32
    assert (found >= 0.0).all()
    torch.testing.assert_close(found.sum(1), torch.ones(16))
    torch.testing.assert_close(found @ support, reward + discount * (probabilities @ support), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("v_max", [7.3, 100.0])
def test_an_atom_that_stays_where_it_is_keeps_its_mass(v_max):
    support = torch.linspace(-3.1, v_max, 51)
    probabilities = torch.eye(51)
    found = project(probabilities, torch.zeros(51), torch.ones(51), support)
    torch.testing.assert_close(found, probabilities, rtol=0.0, atol=1e-4)
