"""The replay benchmark fills replays with what it says, and reports each figure and promise on a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import replay as benchmark
from benchmarks.process import CaseFailed
from benchmarks.report import judge
from wiserl.replay.uniform import Replay


def test_both_kinds_of_transitions_fill_a_replay() -> None:
    for make, frames in ((benchmark.vectors, 0), (benchmark.stacks, 4)):
        replay = Replay(800, benchmark.STREAMS, seed=0, frame_stack=frames)
        benchmark.fill(replay, 800, make)
        assert len(replay) == 800
    batch = replay.sample(50)
    assert batch["obs"].shape == batch["next_obs"].shape == (50, 4, 84, 84)
    np.testing.assert_array_equal(batch["obs"][:, 1:], batch["next_obs"][:, :-1])
    assert replay.nbytes < 1.1 * 84 * 84 * (800 + 8 * 5)


def test_cases_report_what_the_lines_are_made_of() -> None:
    report = benchmark.priorities(batch_size=8, entries=400, rounds=2)
    whats, kinds = ("draw", "drawn_together", "update"), ("uniform", "prioritised")
    assert set(report) == {f"{what}_{kind}" for what in whats for kind in kinds}
    assert all(value > 0 for value in report.values())
    assert set(benchmark.images(entries=80, samples=2)) == {"gibibytes", "milliseconds"}


def fake(function: str, **arguments: Any) -> dict[str, float]:
    if function == "replay:images":
        return {"gibibytes": 6.6, "milliseconds": 1.2}
    size = arguments["batch_size"]
    return {
        "draw_uniform": size,
        "draw_prioritised": 4 * size,
        "update_uniform": 10,
        "update_prioritised": 12,
        "drawn_together_uniform": 2,
        "drawn_together_prioritised": 3,
    }


def test_every_figure_and_every_promise_has_its_line(tmp_path: Path) -> None:
    values = benchmark.measure_all(quick=False, measure=fake)
    assert values["draw, uniform, batch 256"] == [256] * benchmark.REPETITIONS
    promises = judge(values, benchmark.PROMISES)
    assert [row["kept"] for row in promises] == [True, True, True, False]
    benchmark.store(tmp_path, values, promises)
    saved = json.loads((tmp_path / "replay.json").read_text())
    assert saved["values"] == values
    assert saved["promises"] == promises
    text = (tmp_path / "replay.md").read_text()
    for line in (
        "- DQN update, prioritised, batch 32: 12 µs",
        "- stacked images: 6.6 GiB",
        "- draw, batch 32, prioritised over uniform: 4",
        "- draw of 16 together, batch 32, prioritised over uniform: 1.5",
        "a million entries: 1.2 (promised <= 1.25: kept)",
        "- ms for a batch of 32 of them: 1.2 (promised <= 1: missed)",
    ):
        assert line in text


def test_only_a_full_run_is_kept_and_a_failed_one_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = benchmark.measure_all(quick=True, measure=fake)
    monkeypatch.setattr(benchmark, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(benchmark, "exit_on_terminate", lambda: None)
    monkeypatch.setattr(benchmark, "measure_all", lambda quick: values)
    quick = CliRunner().invoke(benchmark.main, ["--quick"])
    assert (quick.exit_code, "- stacked images: 6.6 GiB" in quick.output) == (0, True)
    assert not (tmp_path / "results").exists()
    assert CliRunner().invoke(benchmark.main, []).exit_code == 0
    assert (tmp_path / "results" / "replay.md").exists()

    def fail(quick: bool) -> None:
        raise CaseFailed("out of memory")

    monkeypatch.setattr(benchmark, "measure_all", fail)
    failed = CliRunner().invoke(benchmark.main, [])
    assert (failed.exit_code, "out of memory" in failed.output) == (1, True)
