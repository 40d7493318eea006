"""Action noise: its spread, how long it lasts, when it starts anew, and the bounds of the actions."""

from __future__ import annotations

import numpy as np
import pytest

from wiserl.ops.exploration import ActionNoise

ZEROS = np.zeros((1000, 2, 3), np.float32)


def steps(noise: ActionNoise, count: int, seed: int = 0) -> np.ndarray:
    """Noisy zeros, `[count, 1000, 2, 3]`."""
    rng = np.random.default_rng(seed)
    drawn, drift = [], np.zeros_like(ZEROS)
    for _ in range(count):
        if noise.drifts:
            noisy, drift = noise.add_drifting(ZEROS, drift, rng)
        else:
            noisy = noise.add(ZEROS, rng)
        drawn.append(noisy)
    return np.stack(drawn)


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
