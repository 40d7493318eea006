"""Updates per env step in async mode: as configured, whatever the number and the speed of the runners."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wiserl
from tests.contract.harness import tiny
from wiserl.run_folder.metrics import read_metrics

STARTS, TOTAL = 256, 6000


@pytest.mark.parametrize(
    ("backend", "runners", "train_freq", "gradient_steps"),
    [
        ("local", 1, 4, 1),
        ("local", 3, 8, 3),
        pytest.param("ray", 2, 4, 1, marks=[pytest.mark.ray, pytest.mark.slow]),
        pytest.param("ray", 3, 8, 3, marks=pytest.mark.ray),
    ],
)
def test_the_replay_ratio_of_async_runners_of_different_speed_holds_throughout(
    backend: str, runners: int, train_freq: int, gradient_steps: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if backend == "ray":
        request.getfixturevalue("cluster")
    folder = tmp_path / "steps"
    folder.mkdir()
    pace: dict[str, Any] = {"train_freq": train_freq, "gradient_steps": gradient_steps, "learning_starts": STARTS}
    options = tiny("dqn", sync=False, runners=runners, total_steps=TOTAL, backend=backend, hidden_sizes=(8,), **pace)
    kwargs = {"folder": str(folder), "ms": 20.0 if backend == "ray" else 0.1}
    summary = wiserl.train(
        "dqn", "tests.contract.envs:slow", run_dir=tmp_path / "run", env_kwargs=kwargs, quiet=True, **options
    )

    def ratio(env_steps: Any, updates: Any) -> Any:
        return updates / ((env_steps - STARTS) / train_freq * gradient_steps)

    assert summary["env_steps"] >= TOTAL
    assert ratio(summary["env_steps"], summary["updates"]) == pytest.approx(1.0, rel=0.02)
    metrics = read_metrics(tmp_path / "run")
    rows = (metrics["env_steps"] >= STARTS + 500) & np.isfinite(metrics["charts/updates"])
    assert rows.sum() > 5
    assert np.allclose(ratio(metrics["env_steps"][rows], metrics["charts/updates"][rows]), 1.0, rtol=0.02)
    if backend == "ray":
        # One env is slow, and so is the runner that steps it, with its other env: they made fewer steps than any other.
        made = sorted((folder / f"steps-{number}").stat().st_size for number in range(1, 1 + 2 * runners))
        assert 2 * made[1] < made[2], f"runners were to differ in speed: {made}"
