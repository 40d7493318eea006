"""Action noise: its spread, how long it lasts, when it starts anew, and the bounds of the actions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wiserl.ops.noise import ActionNoise

ZEROS = np.zeros((1000, 2, 3), np.float32)


def steps(noise: ActionNoise, count: int, seed: int = 0) -> np.ndarray:
    """Noisy zeros, `[count, 1000, 2, 3]`."""
    rng = np.random.default_rng(seed)
    return np.stack([noise.add(ZEROS, rng) for _ in range(count)])


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_gaussian_noise_has_its_spread_at_every_step_and_forgets():
    drawn = steps(ActionNoise("gaussian", 0.1, 0.15), 3)
    assert drawn.dtype == np.float32
    np.testing.assert_allclose(drawn.std(axis=(1, 2, 3)), 0.1, rtol=0.05)
    assert abs(correlation(drawn[0], drawn[1])) < 0.05


@pytest.mark.parametrize("theta", [0.15, 0.5])
def test_ornstein_uhlenbeck_noise_grows_from_one_draw_to_its_stationary_variance(theta):
    drawn = steps(ActionNoise("ornstein_uhlenbeck", 0.05, theta), 60)
    kept = 1 - theta
    variances = drawn.var(axis=(1, 2, 3))
    expected = [0.05**2 * sum(kept ** (2 * i) for i in range(step + 1)) for step in range(60)]
    np.testing.assert_allclose(variances, expected, rtol=0.1)
    assert variances[30:].mean() == pytest.approx(0.05**2 / (1 - kept**2), rel=0.03)
    assert correlation(drawn[58], drawn[59]) == pytest.approx(kept, abs=0.03)


def test_each_entry_of_each_row_drifts_on_its_own():
    drawn = steps(ActionNoise("ornstein_uhlenbeck", 0.05, 0.1), 40)[-1]
    assert abs(correlation(drawn[:500], drawn[500:])) < 0.06
    assert abs(correlation(drawn[:, 0], drawn[:, 1])) < 0.06
    assert abs(correlation(drawn[..., 0], drawn[..., 1])) < 0.06


def test_after_a_reset_the_drift_is_forgotten():
    noise = ActionNoise("ornstein_uhlenbeck", 0.1, 0.0)
    first = steps(noise, 5)
    noise.reset()
    assert np.array_equal(steps(noise, 5), first)
    assert not np.array_equal(steps(noise, 5), first)


def test_at_the_end_of_an_episode_the_drift_of_that_row_alone_is_forgotten():
    noise, other = (ActionNoise("ornstein_uhlenbeck", 0.1, 0.1) for _ in range(2))
    noise.end_episode(3)  # nothing to forget yet
    steps(noise, 5)
    steps(other, 5)
    noise.end_episode(3)
    fresh = ActionNoise("ornstein_uhlenbeck", 0.1, 0.1)
    found, drifting, anew = (one.add(ZEROS, np.random.default_rng(1)) for one in (noise, other, fresh))
    assert np.array_equal(found[3], anew[3])
    kept = np.arange(len(found)) != 3
    assert np.array_equal(found[kept], drifting[kept])
    assert not np.array_equal(found[kept], anew[kept])


def test_the_drift_starts_anew_where_the_number_of_rows_changes():
    noise = ActionNoise("ornstein_uhlenbeck", 0.1, 0.1)
    steps(noise, 5)
    fresh = ActionNoise("ornstein_uhlenbeck", 0.1, 0.1)
    rngs = [np.random.default_rng(1) for _ in range(2)]
    assert np.array_equal(noise.add(ZEROS[:7], rngs[0]), fresh.add(ZEROS[:7], rngs[1]))


def test_theta_of_one_is_gaussian_noise():
    assert np.array_equal(
        steps(ActionNoise("ornstein_uhlenbeck", 0.1, 1.0), 3), steps(ActionNoise("gaussian", 0.1, 0.0), 3)
    )


@pytest.mark.parametrize(("kind", "std"), [("none", 0.1), ("gaussian", 0.0), ("ornstein_uhlenbeck", 0.0)])
def test_no_noise_leaves_actions_and_generator_alone(kind, std):
    rng = np.random.default_rng(0)
    action = np.linspace(-1, 1, 6, dtype=np.float32).reshape(3, 1, 2)
    assert np.array_equal(ActionNoise(kind, std, 0.15).add(action, rng), action)
    assert rng.random() == np.random.default_rng(0).random()


@given(
    kind=st.sampled_from(["gaussian", "ornstein_uhlenbeck", "none"]),
    std=st.floats(0, 100),
    theta=st.floats(0, 1),
    value=st.floats(-1, 1, width=32),
)
def test_actions_stay_within_their_bounds_and_the_given_ones_as_they_were(kind, std, theta, value):
    noise, rng = ActionNoise(kind, std, theta), np.random.default_rng(0)
    action = np.full((4, 1, 2), value, np.float32)
    for _ in range(3):
        noisy = noise.add(action, rng)
        assert noisy.dtype == np.float32
        assert np.abs(noisy).max() <= 1.0
    assert (action == np.float32(value)).all()
