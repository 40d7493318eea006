"""A run's folder: found again after any copy, never written over, trained in by one process at a time."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import wiserl
from tests.contract.harness import tiny
from wiserl.run_folder import lock as locks
from wiserl.run_folder.checkpoint import open_checkpoint
from wiserl.run_folder.inventory import is_guessed, named
from wiserl.run_folder.lock import Lock
from wiserl.run_folder.metrics import read_metrics
from wiserl.util.errors import InputError

OPTIONS = tiny("dqn", checkpoint_every=256, eval_every=128, eval_episodes=1, backend="local", device="cpu")


def resume(run: Path, total_steps: int = 768, **options: Any) -> dict[str, Any]:
    return wiserl.train("dqn", "CartPole-v1", resume=run, total_steps=total_steps, quiet=True, **options)


def weights_file(run: Path) -> bytes:
    return (open_checkpoint(run).path / "weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    wiserl.train("dqn", "CartPole-v1", run_dir=run, total_steps=512, quiet=True, **OPTIONS)
    return run


@pytest.fixture(scope="module")
def continued(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights of the run that went on in its own folder."""
    run = tmp_path_factory.mktemp("continued") / "run"
    shutil.copytree(trained, run, symlinks=True)
    resume(run)
    return weights_file(run)


def copy(trained: Path, to: Path, links: str, texts: bool) -> Path:
    """A copy, with its links kept, followed or left out, and with the texts or, as an older version leaves it, without."""

    def left_out(folder: str, names: list[str]) -> list[str]:
        gone = [name for name in names if links == "skipped" and (Path(folder) / name).is_symlink()]
        return gone + [name for name in names if not texts and name in ("last.txt", "best.txt")]

    shutil.copytree(trained, to, symlinks=links == "kept", ignore=left_out)
    return to


@pytest.mark.parametrize("texts", [True, False])
@pytest.mark.parametrize("links", ["kept", "followed", "skipped"])
def test_a_copy_of_a_run_goes_on_where_the_run_would_have(
    trained: Path, continued: bytes, tmp_path: Path, links: str, texts: bool, capsys: Any
) -> None:
    run = copy(trained, tmp_path / "copy", links, texts)
    best = open_checkpoint(trained, "best").manifest["env_steps"]
    assert wiserl.load(run).manifest["env_steps"] == 512
    if texts or links != "skipped":
        assert wiserl.load(run, "best").manifest["env_steps"] == best
    summary = resume(run)
    assert summary["env_steps"] == 768
    assert weights_file(run) == continued
    assert read_metrics(run)["env_steps"].max() == 768
    assert open_checkpoint(run, "last").manifest["env_steps"] == 768
    assert named(run / "checkpoints", "best") is not None
    assert not is_guessed(run / "checkpoints")
    told = capsys.readouterr().err
    assert ("nothing in" in told) == (links == "skipped" and not texts)


def test_the_best_of_a_copy_without_links_is_found_by_its_evaluations(trained: Path, tmp_path: Path) -> None:
    run = copy(trained, tmp_path / "copy", "skipped", texts=False)
    best = open_checkpoint(trained, "best").path.name
    scores = dict(zip(*(read_metrics(run)[name] for name in ("env_steps", "eval/return_mean")), strict=True))
    resume(run, eval_every=0)
    if read_metrics(run)["eval/return_mean"][-1] < scores[int(best[5:])]:
        assert open_checkpoint(run, "best").path.name == best


def test_a_link_that_an_older_version_moved_counts(trained: Path, tmp_path: Path) -> None:
    run = copy(trained, tmp_path / "copy", "kept", texts=True)
    link = run / "checkpoints" / "last"
    link.unlink()
    link.symlink_to("step_256")
    assert open_checkpoint(run).manifest["env_steps"] == 256


def test_a_name_that_is_none_is_one_line_that_names_the_file(trained: Path, tmp_path: Path) -> None:
    run = copy(trained, tmp_path / "copy", "skipped", texts=True)
    (run / "checkpoints" / "last.txt").write_text("step_5\x0212\n")
    with pytest.raises(InputError, match=r"last\.txt' holds .*: expected the name of a checkpoint"):
        resume(run)
    (run / "checkpoints" / "last.txt").write_text("../../elsewhere\n")
    with pytest.raises(InputError, match="expected the name of a checkpoint"):
        wiserl.load(run)


def test_a_trained_run_without_its_checkpoints_is_not_begun_anew(trained: Path, tmp_path: Path) -> None:
    run = copy(trained, tmp_path / "copy", "kept", texts=True)
    shutil.rmtree(run / "checkpoints")
    rows = (run / "metrics.csv").read_bytes()
    with pytest.raises(InputError, match=r"has been trained, as its summary\.json tells, but has no checkpoint"):
        resume(run)
    assert (run / "metrics.csv").read_bytes() == rows


@pytest.mark.parametrize(
    "name", ["checkpoints/step_10/thesis.txt", "summary.json", "metrics.csv", "events.out.tfevents.1"]
)
@pytest.mark.parametrize("begin", [wiserl.train, wiserl.by_hand])
def test_a_folder_with_files_of_others_that_a_run_would_write_over_is_refused(
    tmp_path: Path, name: str, begin: Any
) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    options = {**OPTIONS, "runners": 1, "total_steps": 256}
    with pytest.raises(InputError, match=f"is no run folder, but holds {name.split('/')[0]}, which a run would write"):
        begin("dqn", "CartPole-v1", run_dir=tmp_path, **options)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [path.name]
    assert path.read_text() == "mine"


def test_a_run_removes_no_checkpoint_that_it_did_not_write(trained: Path, tmp_path: Path) -> None:
    run = copy(trained, tmp_path / "copy", "kept", texts=True)
    folder = run / "checkpoints"
    (folder / "step_10").mkdir()
    (folder / "step_10" / "thesis.txt").write_text("mine")
    shutil.copytree(folder / "step_256", folder / "step_20")
    manifest = json.loads((folder / "step_20" / "manifest.json").read_text())
    (folder / "step_20" / "manifest.json").write_text(json.dumps({**manifest, "seed": 77}))
    shutil.copytree(folder / "step_256", folder / "step_30")
    (folder / "step_30" / "notes.txt").write_text("mine")
    (folder / "step_40").write_text("mine")
    (folder / "step_640").mkdir()  # where a checkpoint is going to be
    (folder / "step_640" / "thesis.txt").write_text("mine")
    resume(run, keep_checkpoints=1, checkpoint_every=128)
    assert (folder / "step_10" / "thesis.txt").read_text() == (folder / "step_40").read_text() == "mine"
    assert sorted(path.name for path in (folder / "step_640").iterdir()) == ["thesis.txt"]
    assert (folder / "step_20" / "weights.safetensors").exists()
    assert (folder / "step_30" / "notes.txt").exists()
    assert not (folder / "step_256").exists() or open_checkpoint(run, "best").path.name == "step_256"
    assert open_checkpoint(run).manifest["env_steps"] == 768


# ---- one at a time ----


def _hold(folder: Path, ready: Any) -> None:
    held = Lock(folder)
    ready.set()
    time.sleep(60)
    held.release()


@pytest.fixture
def holder(tmp_path: Path) -> Any:
    """Another process that trains in `tmp_path`, as far as its lock tells."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(tmp_path, ready))
    process.start()
    assert ready.wait(60)
    yield process
    process.kill()
    process.join()


def test_a_folder_in_which_another_process_trains_is_refused_until_that_ends_however_it_ends(
    holder: Any, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=rf"is being trained by process {holder.pid} on .*, since 20") as error:
        Lock(tmp_path)
    assert str(tmp_path / "run.lock") in str(error.value)
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert (tmp_path / "run.lock").exists()
    held = Lock(tmp_path)
    assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()
    held.release()
    held.release()
    assert not (tmp_path / "run.lock").exists()


def test_two_resumes_of_one_run_do_not_go_side_by_side(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with wiserl.by_hand("dqn", "CartPole-v1", run_dir=run, total_steps=512, **{**OPTIONS, "runners": 1}) as first:
        first.step()
        for begin in (wiserl.by_hand, wiserl.train):
            with pytest.raises(InputError, match="is being trained by this very process, since"):
                begin("dqn", "CartPole-v1", resume=run, total_steps=100_000, backend="local")
        assert json.loads((run / "config.json").read_text())["run"]["total_steps"] == 512
        first.step()
    assert not (run / "run.lock").exists()
    assert resume(run)["env_steps"] == 768


def test_a_run_that_nobody_refers_to_any_more_holds_no_folder(tmp_path: Path) -> None:
    Lock(tmp_path)
    assert not (tmp_path / "run.lock").exists()


def test_an_owner_on_another_machine_is_alive_if_it_touches_its_lock(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(locks, "WATCH_SECONDS", 1.0)
    path = tmp_path / "run.lock"
    path.write_text(json.dumps({"pid": 1, "host": "elsewhere", "since": "2025-03-01T12:00:00+00:00"}))
    os.utime(path, (0, 0))
    later = threading.Timer(0.4, os.utime, (path, (9, 9)))
    later.start()
    with pytest.raises(
        InputError, match=r"trained by process 1 on elsewhere, since 2025-03-01T12:00:00\+00:00: stop or close"
    ):
        Lock(tmp_path)
    later.join()
    Lock(tmp_path).release()  # nobody touches it now


def test_the_owner_touches_its_lock(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(locks, "TOUCH_SECONDS", 0.05)
    held = Lock(tmp_path)
    os.utime(tmp_path / "run.lock", (0, 0))
    give_up_at = time.monotonic() + 10
    while (tmp_path / "run.lock").stat().st_mtime == 0:
        assert time.monotonic() < give_up_at
        time.sleep(0.02)
    held.release()


def test_a_broken_lock_of_nobody_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "run.lock").write_bytes(b"\xff{")
    Lock(tmp_path).release()
    assert not (tmp_path / "run.lock").exists()


def test_a_file_system_without_locks_goes_by_what_the_file_says(holder: Any, tmp_path: Path, monkeypatch: Any) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(InputError, match=f"process {holder.pid}"):
        Lock(tmp_path)
    holder.kill()
    holder.join()
    Lock(tmp_path).release()


def test_a_fork_of_the_owner_that_ends_gives_nothing_back(tmp_path: Path) -> None:
    held = Lock(tmp_path)
    pid = os.fork()
    if not pid:
        held.release()
        os._exit(0)
    os.waitpid(pid, 0)
    assert (tmp_path / "run.lock").exists()
    held.release()


def test_a_lock_that_is_a_link_is_not_written_through(trained: Path, tmp_path: Path) -> None:
    run, keys = copy(trained, tmp_path / "run", "kept", texts=True), tmp_path / "keys"
    keys.write_text("mine")
    (run / "run.lock").symlink_to(keys)
    with pytest.raises(InputError, match=r"run\.lock' is a link, and what it points to would be written over"):
        resume(run)
    assert keys.read_text() == "mine"


@pytest.mark.parametrize("what", ["checkpoints", "checkpoints/step_256"])
def test_a_run_whose_checkpoints_are_those_of_another_folder_does_not_go_on(
    trained: Path, tmp_path: Path, what: str
) -> None:
    mine, others = (
        copy(trained, tmp_path / "run", "kept", texts=True),
        copy(trained, tmp_path / "o", "kept", texts=True),
    )
    shutil.rmtree(mine / what)
    (mine / what).symlink_to(others / what)
    before = sorted(others.rglob("*"))
    with pytest.raises(InputError, match=f"{what}' is a link to .*, where a resumed run would remove checkpoints"):
        resume(mine)
    assert sorted(others.rglob("*")) == before


def test_an_owner_in_another_container_is_not_taken_for_dead(holder: Any, tmp_path: Path) -> None:
    """Its process id means nothing here; that it holds the lock does."""
    path = tmp_path / "run.lock"
    owner = json.loads(path.read_text())
    for pids_of, held in (("pid:[1]", True), (owner["pids_of"], False)):
        path.write_text(json.dumps({**owner, "pid": 2**22 + 1, "pids_of": pids_of}))  # no such process
        if held:
            with pytest.raises(InputError, match="is being trained by process"):
                Lock(tmp_path)
        else:
            Lock(tmp_path).release()
