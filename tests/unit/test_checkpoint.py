"""Checkpoints: what is read is what was saved, whole or not at all, and each kind of damage is named."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from wiserl.run_folder.checkpoint import drop_replay, open_checkpoint, save_checkpoint
from wiserl.run_folder.inventory import point_to, prune
from wiserl.run_folder.sealed import sealed_text
from wiserl.util.errors import InputError

WEIGHTS = {
    "layer.weight": torch.arange(6.0).reshape(2, 3),
    "mean": torch.tensor(2.5, dtype=torch.float64),
    "none": torch.zeros(0),
}
STATE = {
    "optimizer": {"step": torch.tensor(3.0), "lr": 0.1, "betas": (0.9, 0.99)},
    "rng": "text",
    "list": [1, None, True],
}
REPLAY = {
    "obs": np.arange(6, dtype=np.uint8).reshape(2, 3)[:, ::-1],
    "kind": np.zeros(0, np.bool_),
    "rng": {"state": 2**127 + 1, "inner": [1, "two"]},
    "capacity": 10,
}


def save(folder: Path, steps: int = 100, replay: dict | None = None, **manifest) -> Path:
    return save_checkpoint(folder, {"env_steps": steps, "algo": "ppo", **manifest}, WEIGHTS, STATE, replay)


@pytest.fixture
def run(tmp_path) -> Path:
    """A run folder with checkpoints of 50 and 100 steps, the latter with replay and named last."""
    folder = tmp_path / "run" / "checkpoints"
    save(folder, 50)
    point_to(folder, "best", folder / "step_50")
    point_to(folder, "last", save(folder, 100, REPLAY))
    return tmp_path / "run"


def test_everything_comes_back_as_it_was(run):
    checkpoint = open_checkpoint(run)
    assert checkpoint.path.name == "step_100"
    assert (checkpoint.manifest["algo"], checkpoint.manifest["env_steps"]) == ("ppo", 100)
    for name, tensor in checkpoint.weights().items():
        assert torch.equal(tensor, WEIGHTS[name])
        assert tensor.dtype == WEIGHTS[name].dtype
    assert checkpoint.weights().keys() == WEIGHTS.keys()
    assert checkpoint.state() == STATE
    replay = checkpoint.replay()
    assert replay.keys() == REPLAY.keys()
    assert np.array_equal(replay["obs"], REPLAY["obs"])
    assert (replay["obs"].dtype, replay["kind"].dtype) == (np.uint8, np.bool_)
    assert (replay["rng"], replay["capacity"]) == (REPLAY["rng"], 10)


def test_a_checkpoint_is_found_by_name_by_steps_and_by_its_own_folder(run):
    assert open_checkpoint(run, "best").path.name == "step_50"
    assert open_checkpoint(run, "50").path.name == "step_50"
    assert open_checkpoint(run / "checkpoints" / "last").manifest["env_steps"] == 100
    assert open_checkpoint(str(run)).replay() is not None
    assert open_checkpoint(run, "best").replay() is None


def test_a_run_folder_opens_after_it_was_moved(run, tmp_path):
    run.rename(tmp_path / "moved")
    assert open_checkpoint(tmp_path / "moved").manifest["env_steps"] == 100


def test_what_a_gpu_saved_opens_without_one(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    path = save(tmp_path)
    monkeypatch.undo()
    assert open_checkpoint(path).state()["optimizer"]["step"].device.type == "cpu"


@pytest.mark.parametrize("shared", ["views of one tensor", "two names of one tensor"])
def test_weights_that_share_memory_are_saved_by_value(tmp_path, shared):
    flat = torch.arange(6.0)
    weights = {"a": flat[:2], "b": flat[2:]} if shared.startswith("views") else {"a": flat, "b": flat}
    path = save_checkpoint(tmp_path, {"env_steps": 1}, weights, {}, None)
    found = open_checkpoint(path).weights()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert (path / "weights.safetensors").stat().st_size < 500


def test_saving_the_same_step_again_replaces_it_and_leaves_nothing_behind(run):
    folder = run / "checkpoints"
    save(folder, 100, updates=7)
    assert open_checkpoint(run).manifest["updates"] == 7
    assert sorted(path.name for path in folder.iterdir()) == [
        *("best", "best.txt", "last", "last.txt", "step_100", "step_50")
    ]


def test_a_kill_at_any_moment_leaves_the_checkpoint_before_whole(run, monkeypatch):
    """Whatever file operation fails, `last` opens, and the next save cleans up."""
    folder = run / "checkpoints"

    class Killed(BaseException):
        pass

    def die(*args, **kwargs):
        raise Killed

    for target in ("torch.save", "safetensors.torch.save_file", "pathlib.Path.write_text", "pathlib.Path.rename"):
        with monkeypatch.context() as patch:
            patch.setattr(target, die)
            with pytest.raises(Killed):
                save(folder, 150)
        checkpoint = open_checkpoint(run)
        assert checkpoint.manifest["env_steps"] == 100
        assert not (folder / "step_150").exists()
    path = save(folder, 150)
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", die)
        with pytest.raises(Killed):
            point_to(folder, "last", path)
    assert open_checkpoint(run).manifest["env_steps"] == 100
    point_to(folder, "last", save(folder, 150))
    prune(folder, keep=5)
    assert sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] == ".") == []


def test_pruning_keeps_the_newest_and_what_last_and_best_name(tmp_path):
    for steps in (10, 20, 30, 100, 200):
        save(tmp_path, steps)
    point_to(tmp_path, "best", tmp_path / "step_20")
    point_to(tmp_path, "last", tmp_path / "step_200")
    prune(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.glob("step_*")) == ["step_100", "step_20", "step_200"]


def test_a_checkpoint_without_its_replay_still_opens(run):
    path = run / "checkpoints" / "step_100"
    before = sum(file.stat().st_size for file in path.iterdir())
    drop_replay(path)
    assert open_checkpoint(path).replay() is None
    assert sum(file.stat().st_size for file in path.iterdir()) < before
    drop_replay(path)
    assert torch.equal(open_checkpoint(path).weights()["layer.weight"], WEIGHTS["layer.weight"])


@pytest.mark.parametrize("name", ["weights.safetensors", "state.pt", "replay.safetensors"])
def test_damage_to_any_file_is_noticed_and_named(run, name):
    file = run / "checkpoints" / "step_100" / name
    whole = file.read_bytes()
    for damaged, message in [
        (whole[:-1], f"is incomplete: {name} has {len(whole) - 1} bytes of {len(whole)}"),
        (whole[:-1] + bytes([whole[-1] ^ 1]), f"is corrupt: the content of {name}"),
        (None, f"is incomplete: {name} has no bytes"),
    ]:
        file.unlink(missing_ok=True) if damaged is None else file.write_bytes(damaged)
        with pytest.raises(InputError, match=message):
            open_checkpoint(run)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "incomplete: it has no manifest.json"),
        ("{", "manifest.json' is corrupt: it cannot be read"),
        ("[]", "manifest.json' is corrupt: it cannot be read"),
        ("[" * 100_000, "manifest.json' is corrupt: it cannot be read"),
        ('{"format": 99, "wiserl": "7.0", "files": {}}', "format 99, this wiserl reads formats 1, 2: use wiserl 7.0"),
    ],
)
def test_a_broken_manifest_is_named(run, text, message):
    manifest = run / "checkpoints" / "step_100" / "manifest.json"
    manifest.unlink() if text is None else manifest.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        open_checkpoint(run)
    assert "\n" not in str(error.value)


def test_a_checkpoint_that_is_not_there_is_refused_with_those_that_are(run, tmp_path):
    with pytest.raises(InputError, match=r"no checkpoint '70' in .* Valid: 100, 50, best, last"):
        open_checkpoint(run, "70")
    with pytest.raises(InputError, match="did you mean 'best'"):
        open_checkpoint(run, "bst")
    with pytest.raises(InputError, match="is neither a run folder nor a checkpoint"):
        open_checkpoint(tmp_path / "nothing")


def test_opening_runs_no_code_of_the_file(run):
    """A state file with pickled code is refused, not executed."""

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(run / "exploded"),)

    path = run / "checkpoints" / "step_100"
    torch.save({"x": Bomb()}, path / "state.pt")
    manifest = json.loads((path / "manifest.json").read_text())
    data = (path / "state.pt").read_bytes()
    manifest["files"]["state.pt"] = {"bytes": len(data), "blake2b": hashlib.blake2b(data).hexdigest()}
    (path / "manifest.json").write_text(sealed_text(manifest))
    with pytest.raises(InputError, match=r"state\.pt' cannot be read \(UnpicklingError"):
        open_checkpoint(path).state()
    assert not (run / "exploded").exists()
