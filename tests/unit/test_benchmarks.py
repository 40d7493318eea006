"""The parts of the benchmarks that measure nothing: ratios, promises, tables, and sweeps that go on where they were."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from click.testing import CliRunner

from benchmarks import ingest, memory, report, scores, speed
from benchmarks.groups import GROUPS, Case, Group
from benchmarks.process import ROOT, CaseFailed, measure, run_command
from benchmarks.settings import PROMISES, Promise
from wiserl.core.batch import check_fragment

GROUP = Group(
    "Title",
    "env steps/s",
    (Case("peers:a", {"A": "steps_per_second"}), Case("ours:b", {"B": "steps_per_second"})),
    baseline="A",
)


def test_ratio_is_taken_repetition_by_repetition_and_skips_failed_ones() -> None:
    values = {"A": [1.0, 10.0, 5.0, None], "B": [3.0, 20.0, 20.0, 9.0]}
    assert report.figure(values, "B / A") == 3.0
    assert report.figure(values, "A") == 5.0
    assert report.figure(values, "C / A") is None
    assert report.figure({"A": [None]}, "A") is None


@pytest.mark.parametrize(("sign", "value", "kept"), [(">=", 2.0, True), (">=", 1.9, False), ("<=", 2.1, False)])
def test_promise_is_judged_by_its_sign(sign: str, value: float, kept: bool) -> None:
    judged = report.judge({"A": [value]}, [Promise("A", sign, 2.0, "words")])
    assert (judged[0]["value"], judged[0]["kept"]) == (value, kept)


def test_promise_of_a_figure_that_was_not_measured_is_neither_kept_nor_missed() -> None:
    assert report.judge({}, [Promise("A", ">=", 2.0, "words")])[0]["kept"] is None


def test_every_promise_names_figures_that_its_group_measures() -> None:
    for name, promises in PROMISES.items():
        labels = {label for case in GROUPS[name].cases for label in case.figures}
        for promise in promises:
            assert set(promise.figure.split(" / ")) <= labels, promise


def test_group_runs_its_cases_in_turns_and_survives_a_failed_one() -> None:
    calls: list[tuple[str, int]] = []

    def fake(function: str, seed: int) -> dict[str, Any]:
        calls.append((function, seed))
        if calls[-1] == ("ours:b", 1):
            raise CaseFailed("broken")
        return {"steps_per_second": 100.0 * (seed + 1), "return_mean": 500.0}

    result, failures = speed.run_group("name", GROUP, False, lambda label: None, fake)
    assert calls == [(function, seed) for seed in range(3) for function in ("peers:a", "ours:b")]
    assert result["values"] == {"A": [100.0, 200.0, 300.0], "B": [100.0, None, 300.0]}
    assert failures == ["name: B: broken"]


def test_store_keeps_groups_that_were_not_measured_again(tmp_path: Path) -> None:
    def result(rate: float) -> dict[str, Any]:
        return speed.run_group(
            "ppo", GROUPS["ppo"], True, lambda label: None, lambda function, **_: {"steps_per_second": rate}
        )[0]

    speed.store(tmp_path, {"ppo": result(1000.0), "dqn": result(2000.0)})
    speed.store(tmp_path, {"ppo": result(3000.0)})
    stored = json.loads((tmp_path / "speed.json").read_text())
    assert stored["ppo"]["values"]["floor"] == [3000.0]
    assert stored["dqn"]["values"]["floor"] == [2000.0]
    assert "| floor | 3,000 | 1.00 |" in (tmp_path / "speed.md").read_text()


def test_markdown_shows_median_range_ratio_and_return() -> None:
    reports = [{"return_mean": 480.0}, {"return_mean": 500.0}]
    result = {
        "values": {"A": [1000.0, 3000.0], "B": [4000.0, 9000.0]},
        "details": {"A": reports, "B": [{}, {}]},
        "machine": "m",
        "versions": {"torch": "2"},
    }
    lines = report.markdown({"name": GROUP, "other": GROUP}, {"name": result}).splitlines()
    assert lines[2] == "|  | env steps/s | range | × A | return |"
    assert lines[4:6] == ["| A | 2,000 | 1,000 to 3,000 | 1.00 | 490 |", "| B | 6,500 | 4,000 to 9,000 | 3.50 |  |"]
    assert "m; torch 2" in lines[-1]


def test_recorded_fragments_follow_the_schema() -> None:
    fragment = ingest.record(40, 3, 2, seed=0)[1]
    check_fragment(fragment)
    over = fragment["terminated"] | fragment["truncated"]
    assert over.sum() == len(fragment["final_at"]) > 0
    assert all(over[t, e, 0] for t, e in fragment["final_at"])
    assert np.abs(fragment["obs"]).max() > 0


def test_memory_growth_is_of_processes_present_both_times() -> None:
    first = {1: memory.Reading("driver", 300, 200), 2: memory.Reading("ray::Runner", 250, 90)}
    second = {
        1: memory.Reading("driver", 304, 200),
        2: memory.Reading("ray::Runner", 251, 90),
        3: memory.Reading("ray::Runner", 260, 90),
    }
    compared = memory.compare(first, second)
    assert (compared["largest_runner"], compared["largest_growth"]) == (260, 4)
    assert [row["minute_1"] for row in compared["processes"]] == [300, None, 250]
    with pytest.raises(CaseFailed, match=r"no runner among.*driver"):
        memory.compare(first, {1: second[1]})


@pytest.mark.parametrize(
    ("command_line", "role"),
    [
        (["ray::_RunnerActor.run()"], "ray::_RunnerActor"),
        (["ray::IDLE"], "ray::IDLE"),
        (["/site-packages/ray/core/src/ray/raylet/raylet", "--x=1"], "raylet"),
        (["/usr/bin/python", "/ray/dashboard/dashboard.py", "--log-dir=/tmp/session/raylet"], "dashboard"),
        (["/usr/bin/python", "-u", "/ray/_private/log_monitor.py"], "log_monitor"),
        (["/venv/bin/python", "/venv/bin/wiserl", "train", "ppo"], "driver"),
    ],
)
def test_role_of_a_process(command_line: list[str], role: str) -> None:
    assert memory.role_of(command_line) == role


def test_case_runs_in_a_process_of_its_own_and_reports_its_last_line(tmp_path: Path) -> None:
    told = measure("process:last_json", text='noise\n{"answer": 42}\n')
    assert told == {"answer": 42}


def test_failed_process_is_told_with_its_stderr() -> None:
    with pytest.raises(CaseFailed, match=r"exit code 3\n(?s:.*)went wrong"):
        run_command([sys.executable, "-c", "import sys; sys.stderr.write('went wrong'); sys.exit(3)"], timeout=30)
    with pytest.raises(CaseFailed, match="expected a JSON object"):
        run_command([sys.executable, "-c", "print('hello')"], timeout=30)
    with pytest.raises(CaseFailed, match="not finished after"):
        run_command([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.5)


def test_measured_process_does_not_outlive_the_one_that_was_terminated(tmp_path: Path) -> None:
    began = tmp_path / "began"
    case = f"import pathlib, time; pathlib.Path({str(began)!r}).touch(); time.sleep(60)"
    code = (
        "import sys; from benchmarks import process; process.exit_on_terminate(); print('ready', flush=True); "
        f"process.run_command([sys.executable, '-c', {case!r}], 60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    deadline = time.monotonic() + 20
    while not began.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    children = psutil.Process(parent.pid).children()
    time.sleep(0.2)  # the parent has to come from starting the child to waiting for it
    parent.terminate()
    assert parent.wait(20) == 128 + signal.SIGTERM
    assert len(children) == 1
    assert not children[0].is_running()


CELL = scores.Cell("cell", "ppo", "CartPole-v1", 1000, threshold=475, seeds=3, passes=2)
SUMMARY = {"env_steps": 1024, "eval_return_mean": 480.0, "eval_return_std": 5.0, "steps_per_second": 9000.0}


@pytest.mark.parametrize(("text", "seeds"), [("0-4", [0, 1, 2, 3, 4]), ("3", [3]), ("0,2-3,2", [0, 2, 3])])
def test_seeds_are_read(text: str, seeds: list[int]) -> None:
    assert scores.parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "1-", "-3", "0;1"])
def test_bad_seeds_are_refused_with_the_form_expected(text: str) -> None:
    with pytest.raises(ValueError, match="expected numbers and ranges like 0-4"):
        scores.parse_seeds(text)


def test_table_in_the_repository_is_valid_and_its_cells_differ() -> None:
    cells = scores.load_table()
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names) > 0
    runs = scores.pending(cells, [], None, None)
    assert len({run.key() for run in runs}) == len(runs)
    assert all(cell.passes <= cell.seeds for cell in cells)


def test_sweep_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "results" / "scores.csv"
    made: list[tuple[int, str]] = []

    def execute(run: scores.Run) -> dict[str, Any]:
        if len(made) == 4:
            raise KeyboardInterrupt
        made.append((run.seed, run.backend))
        return SUMMARY

    runs = scores.pending([CELL], scores.read_rows(path), None, None)
    assert len(runs) == 6
    with pytest.raises(KeyboardInterrupt):
        scores.sweep(runs, path, lambda text: None, execute)
    left = scores.pending([CELL], scores.read_rows(path), None, None)
    assert [(run.seed, run.backend) for run in left] == [(run.seed, run.backend) for run in runs[4:]]
    scores.sweep(left, path, lambda text: None, lambda run: SUMMARY)
    assert scores.pending([CELL], scores.read_rows(path), None, None) == []
    assert len(scores.read_rows(path)) == 6


def test_other_steps_or_arguments_make_another_run(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    scores.sweep(scores.pending([CELL], [], [0], "local"), path, lambda text: None, lambda run: SUMMARY)
    rows = scores.read_rows(path)
    assert len(scores.pending([CELL], rows, [0], None)) == 1
    for changed in ({"steps": 2000}, {"args": "--no-sync"}, {"runners": {"local": 2, "ray": 2}}):
        cell = scores.msgspec.structs.replace(CELL, **changed)
        assert len(scores.pending([cell], rows, [0], "local")) == 1


def test_failed_run_leaves_no_row_and_does_not_stop_the_others(tmp_path: Path) -> None:
    def execute(run: scores.Run) -> dict[str, Any]:
        if run.seed == 1:
            raise CaseFailed("broken")
        return SUMMARY

    path = tmp_path / "scores.csv"
    runs = scores.pending([CELL], [], None, "local")
    assert scores.sweep(runs, path, lambda text: None, execute) == ["broken"]
    assert [row["seed"] for row in scores.read_rows(path)] == ["0", "2"]


def test_row_has_the_command_to_repeat_it() -> None:
    row = scores.make_row(scores.Run(CELL, 2, "ray"), SUMMARY, 12.3)
    assert list(row) == list(scores.COLUMNS)
    assert row["command"] == (
        "wiserl train ppo CartPole-v1 --total-steps 1000 --runners 2 --backend ray --seed 2 --quiet --json"
    )
    assert row["wall_seconds"] == "12.3"


def test_a_peer_runs_the_cells_that_it_can_do() -> None:
    cells = scores.load_table()
    runs = {run.cell.name: run for run in scores.pending(cells, [], [0], "sb3")}
    assert {"ppo-cartpole", "dqn-cartpole", "sac-halfcheetah"} <= set(runs)
    assert not {"ddpg-pendulum", "sarsa-cartpole", "ppo-spread", "bitflip", "dqn-cartpole-async"} & set(runs)
    changed = scores.msgspec.structs.replace(CELL, args="--set gamma=0.9 --set n_steps=64")
    assert [run.command() for run in scores.pending([changed], [], [0], "sb3")] == [
        "python -m benchmarks.sb3_score ppo CartPole-v1 --total-steps 1000 --seed 0 --set gamma=0.9 --set n_steps=64"
    ]


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("ddpg-pendulum", "it has a command of its own"),
        ("sarsa-cartpole", "its algorithm is sarsa"),
        ("ppo-spread", "mpe2/simple_spread_v3 is no gymnasium env"),
        ("bitflip", "its score is eval_success_rate"),
        ("dqn-cartpole-async", "its args are --no-sync"),
    ],
)
def test_a_cell_that_a_peer_cannot_do_is_refused_by_name(cell: str, said: str) -> None:
    done = CliRunner().invoke(scores.main, ["--peer", "sb3", "--cells", cell])
    assert done.exit_code == 2
    assert f"sb3 cannot do cell {cell}: {said}" in " ".join(done.output.replace("│", " ").split())


def test_names_are_quoted_in_the_command() -> None:
    cell = scores.msgspec.structs.replace(CELL, algo="mine (new)", env="my envs:make")
    words = shlex.split(scores.Run(cell, 0, "local").command())
    assert words[2:4] == ["mine (new)", "my envs:make"]


def test_score_table_counts_passes_per_backend(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    returns = {0: 500.0, 1: 470.0, 2: 475.0}
    runs = scores.pending([CELL], [], None, "local") + scores.pending([CELL], [], [0], "ray")
    scores.sweep(runs, path, lambda text: None, lambda run: {**SUMMARY, "eval_return_mean": returns[run.seed]})
    lines = scores.table([CELL], scores.read_rows(path)).splitlines()
    assert lines[2:] == [
        "| ppo | CartPole-v1 | 1,000 | local, 1 | 481.7 ± 16.1 | 2/3 ≥ 475 | 9,000 |",
        "| ppo | CartPole-v1 | 1,000 | ray, 2 | 500.0 ± 0.0 | 1/1 ≥ 475 | 9,000 |",
    ]


def test_score_table_compares_the_mean_with_the_peers_where_that_is_the_promise(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    cell = scores.msgspec.structs.replace(CELL, of_peer=0.9, backends=("local",))
    returns = {("local", 0): 90.0, ("local", 1): 100.0, ("sb3", 0): 80.0, ("sb3", 1): 120.0}

    def execute(run: scores.Run) -> dict[str, Any]:
        return {**SUMMARY, "eval_return_mean": returns[run.backend, run.seed]}

    def verdicts() -> list[str]:
        return [line.split(" | ")[5] for line in scores.table([cell], scores.read_rows(path)).splitlines()[2:]]

    scores.sweep(scores.pending([cell], [], [0, 1], "local"), path, lambda text: None, execute)
    assert verdicts() == [""]
    scores.sweep(scores.pending([cell], [], [0, 1], "sb3"), path, lambda text: None, execute)
    assert verdicts() == ["0.95 ≥ 0.9 of the peer's mean", ""]
