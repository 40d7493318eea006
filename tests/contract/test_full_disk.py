"""A disk that is full, for a moment or for good, and a clock that jumps: what can go on goes on, and nothing saved is lost."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wiserl
from tests.contract.harness import ROOT
from tests.unit.test_metrics import events_of
from wiserl.experiment import monitor
from wiserl.run_folder.checkpoint import open_checkpoint
from wiserl.run_folder.inventory import named
from wiserl.run_folder.metrics import read_metrics
from wiserl.training import saving
from wiserl.util.errors import DiskError

ENV = "CartPole-v1"
PPO: dict[str, Any] = {"n_steps": 16, "batch_size": 32, "n_epochs": 1, "hidden_sizes": (8,), "total_steps": 1280}
OPTIONS: dict[str, Any] = {
    **PPO, "envs": 4, "vector": "inline", "backend": "local", "device": "cpu", "eval_episodes": 1, "checkpoint_every": 256,
    "keep_checkpoints": 100, "quiet": True,
}  # fmt: skip
"""Twenty rounds of 64 env steps; a row of metrics for each, a checkpoint for every fourth."""


class Disk:
    """A disk that fills up before some round, and is free again before another: a transform, which is called once a round."""

    def __init__(self, fill: Callable[[], None], free: Callable[[], None]) -> None:
        self.fill, self.free = fill, free
        self.full_from, self.free_from, self.rounds = 0, 0, 0

    def __call__(self, fragment: Any) -> Any:
        self.rounds += 1
        if self.rounds == self.full_from:
            self.fill()
        if self.rounds == self.free_from:
            self.free()
        return fragment


def watch(fragment: Any, disk: list[Disk] = []) -> Any:  # noqa: B006
    """A transform is known by its name: that of a run stays the same when it is resumed."""
    return disk[0](fragment) if disk else fragment


@pytest.fixture(params=["no file grows", "tmpfs"])
def disk(request: Any, tmp_path: Path, monkeypatch: Any) -> Iterator[tuple[Path, Disk]]:
    """A folder, and the disk it is on."""
    if request.param == "no file grows":
        monkeypatch.setattr("sys.dont_write_bytecode", True)  # importlib would take half a file for a whole one
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        limit = lambda size: lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))  # noqa: E731
        yield tmp_path, Disk(limit(300), limit(soft))
        limit(soft)()
        return
    folder = tmp_path / "mounted"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting needs rights that are not had here; the other kind of full disk is tested")
    filler = folder / "filler"

    def fill() -> None:
        with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
            for size in (65536, 4096, 1):  # to the last byte
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)):
                        pass

    yield folder, Disk(fill, lambda: filler.unlink(missing_ok=True))
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def installed(disk: tuple[Path, Disk], monkeypatch: Any) -> tuple[Path, Disk]:
    """The disk, in the transform's place."""
    watching = watch.__defaults__
    assert watching is not None
    monkeypatch.setattr(watch, "__defaults__", ([disk[1]],))
    monkeypatch.setattr(saving, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(monitor, "POLL_SECONDS", 0.0)  # a row is written as soon as there is one
    return disk


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    wiserl.train("ppo", ENV, run_dir=run, transform=watch, **OPTIONS)
    return run


def weights_file(run: Path) -> bytes:
    return (open_checkpoint(run).path / "weights.safetensors").read_bytes()


def assert_same_metrics(run: Path, other: Path) -> None:
    mine, theirs = read_metrics(run), read_metrics(other)
    for name in ("env_steps", "losses/value_loss", "charts/episodic_return", "eval/return_mean"):
        np.testing.assert_array_equal(mine[name], theirs[name], name)
    in_steps = sorted(event[:2] for event in events_of(run))
    assert in_steps == sorted(event[:2] for event in events_of(other))


def warnings(text: str) -> list[str]:
    return re.findall("warning: (.*)", text)


def test_a_disk_that_is_full_for_a_moment_costs_nothing(
    installed: tuple[Path, Disk], undisturbed: Path, capsys: Any
) -> None:
    """Long enough for one checkpoint and more rows than a queue would hold."""
    folder, disk = installed
    disk.full_from, disk.free_from = 6, 15
    run = folder / "run"
    summary = wiserl.train("ppo", ENV, run_dir=run, transform=watch, **OPTIONS)
    assert summary["env_steps"] == 1280
    assert weights_file(run) == weights_file(undisturbed)
    assert_same_metrics(run, undisturbed)
    told = warnings(capsys.readouterr().err)
    why = r"cannot be written: (File too large|No space left on device) \([\d,.]+ MB free\); training goes on"
    found = [
        [line for line in told if re.match(rf"{what} {why}", line)]
        for what in (r"checkpoint '\S+step_512'", r"a row of '\S+metrics\.csv'", r"TensorBoard events in '\S+run'")
    ]
    counts = [len(lines) for lines in found]
    assert counts[0] == 1
    assert max(counts) == 1, told
    assert sum(counts) == len(told), told
    assert folder.name == "mounted" or counts == [1, 1, 1], "in a page that is begun there is room for some rows"
    saved = [int(path.name[5:]) for path in (run / "checkpoints").glob("step_*")]
    assert min(step for step in saved if step > 256) == 14 * 64 + 64, "saved as soon as there was room"
    for step in saved:
        assert open_checkpoint(run, str(step)).weights()
    assert not list(run.rglob(".*"))


def test_a_disk_that_stays_full_is_one_error_and_the_checkpoint_before_goes_on(
    installed: tuple[Path, Disk], undisturbed: Path
) -> None:
    folder, disk = installed
    disk.full_from = 6
    run = folder / "run"
    with pytest.raises(
        DiskError,
        match=r"checkpoint '\S+step_1280' cannot be written: .* MB free\); the checkpoint of env step 256 stays",
    ) as error:
        wiserl.train("ppo", ENV, run_dir=run, transform=watch, **OPTIONS)
    assert f"free some room and go on with `wiserl train ppo CartPole-v1 --resume {run}`" in str(error.value)
    assert open_checkpoint(run).manifest["env_steps"] == 256
    disk.free()
    wiserl.train("ppo", ENV, resume=run, transform=watch, quiet=True)
    assert weights_file(run) == weights_file(undisturbed)


def test_an_evaluation_on_a_full_disk_is_left_out_and_the_best_is_whole(
    installed: tuple[Path, Disk], capsys: Any
) -> None:
    folder, disk = installed
    disk.full_from, disk.free_from = 6, 15
    run = folder / "run"
    wiserl.train("ppo", ENV, run_dir=run, transform=watch, **{**OPTIONS, "eval_every": 128})
    best = named(run / "checkpoints", "best")
    assert best is not None
    assert open_checkpoint(run, "best").path == best.resolve()
    assert 1 <= len(warnings(capsys.readouterr().err)) <= 3, "one of each kind at most"


def test_a_summary_that_cannot_be_written_is_one_error(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "run").mkdir()

    def refuse(path: Path, text: str, write: Any = saving.Path.write_text) -> Any:
        raise OSError(28, "No space left on device")

    def only_the_summary(path: Path, text: str, original: Any = Path.write_text, **options: Any) -> Any:
        return refuse(path, text) if "summary" in path.name else original(path, text, **options)

    monkeypatch.setattr(Path, "write_text", only_the_summary)
    with pytest.raises(DiskError, match=r"summary\.json' cannot be written: No space left on device"):
        wiserl.train("ppo", ENV, run_dir=tmp_path / "run", **OPTIONS)
    assert open_checkpoint(tmp_path / "run").manifest["env_steps"] == 1280
    assert not (tmp_path / "run" / "run.lock").exists()


@pytest.mark.parametrize(("size", "said"), [(300, "cannot be written"), (8000, "cannot be written")])
def test_the_command_tells_of_a_full_disk_in_one_line_and_exits_with_1(tmp_path: Path, size: int, said: str) -> None:
    """With no room even for `config.json`, and with room for that alone."""
    arguments = [
        "train",
        "ppo",
        "CartPole-v1",
        "--run-dir",
        "run",
        "--quiet",
        "--total-steps",
        "512",
        "--backend",
        "local",
        "--no-preset",
    ]
    settings = ["n_steps=16", "envs=4", "vector=inline", "device=cpu", "eval_episodes=1", "checkpoint_every=128"]
    command = [sys.executable, "-m", "wiserl", *arguments, *(part for each in settings for part in ("--set", each))]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )
    assert done.returncode == 1, done.stderr
    lines = done.stderr.splitlines()
    assert lines[-1].startswith("wiserl: error: ")
    assert said in lines[-1]
    assert "Traceback" not in done.stderr
    assert all(line.startswith("wiserl: warning: ") for line in lines[:-1])
    assert len(lines) <= 4


class JumpingClock:
    """The time of day, which somebody sets a year forth and back."""

    YEAR = 365 * 86400.0

    def __init__(self) -> None:
        self.calls, self.time, self.time_ns = 0, time.time, time.time_ns

    def offset(self) -> float:
        self.calls += 1
        return (0.0, self.YEAR, -self.YEAR)[self.calls % 3]


@pytest.mark.timeout(100)
def test_a_clock_that_jumps_by_a_year_hangs_nothing_and_measures_nothing_wrong(
    tmp_path: Path, undisturbed: Path, monkeypatch: Any
) -> None:
    clock = JumpingClock()
    monkeypatch.setattr("time.time", lambda: clock.time() + clock.offset())
    monkeypatch.setattr("time.time_ns", lambda: clock.time_ns() + int(clock.offset() * 1e9))
    summary = wiserl.train("ppo", ENV, run_dir=tmp_path / "run", transform=watch, **{**OPTIONS, "vector": "process"})
    monkeypatch.undo()
    assert clock.calls
    assert weights_file(tmp_path / "run") == weights_file(undisturbed)
    assert 0 < summary["first_update_seconds"] < summary["wall_seconds"] < 100
    assert summary["steps_per_second"] > 0
    assert_same_metrics(tmp_path / "run", undisturbed)


def test_the_time_of_day_is_read_for_time_stamps_alone() -> None:
    found = {
        path.name
        for path in (ROOT / "wiserl").rglob("*.py")
        if re.search(
            r"time\.time(_ns)?\(|import time\b.*as|from time import.*\btime\b|datetime\.now\(", path.read_text()
        )
    }
    assert found == {"events.py", "progress.py", "lock.py"}
