"""A checkpoint is whole, or its reader says in one line what is wrong with it."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import wiserl
from tests.contract.harness import tiny
from tests.contract.test_bad_input import told
from tests.fragments import make_fragment
from tests.plans import make_plan
from wiserl.run_folder.checkpoint import open_checkpoint
from wiserl.run_folder.sealed import sealed_text
from wiserl.training.training_agent import TrainingAgent
from wiserl.transport.learner import Learner


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of DQN, since it has every kind of file, and one of PPO beside it."""
    folder = tmp_path_factory.mktemp("trained")
    for algo in ("dqn", "ppo"):
        options = tiny(algo, total_steps=512, checkpoint_every=256, backend="local")
        wiserl.train(algo, "CartPole-v1", run_dir=str(folder / algo), quiet=True, **options)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy, to be broken."""
    shutil.copytree(trained, tmp_path / "runs", symlinks=True)
    return tmp_path / "runs" / "dqn"


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGES = [truncate, empty, flip, Path.unlink]
FILES = ["weights.safetensors", "state.pt", "replay.safetensors", "manifest.json"]


@pytest.mark.parametrize(
    "command", ["eval {run}", "play {run} --video v.gif", "train dqn CartPole-v1 --resume {run} --total-steps 1024"]
)
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_checkpoint_is_refused_in_one_line_that_names_it(
    run: Path, file: str, damage: Callable[[Path], None], command: str, monkeypatch: Any, capsys: Any
) -> None:
    damage(run / "checkpoints" / "step_512" / file)
    line = told(command.format(run=run).split(), run.parent, monkeypatch, capsys)
    assert "step_512" in line
    assert file in line
    # The one before it is whole, and can be had by its name.
    assert open_checkpoint(run, "256").manifest["env_steps"] == 256


def change_manifest(run: Path, **changes: Any) -> None:
    path = run / "checkpoints" / "last" / "manifest.json"
    path.write_text(sealed_text({**json.loads(path.read_text()), **changes}))


def test_a_checkpoint_of_another_format_says_which_wiserl_reads_it(run: Path, monkeypatch: Any, capsys: Any) -> None:
    change_manifest(run, format=99, wiserl="9.0.0")
    line = told(["eval", str(run)], run.parent, monkeypatch, capsys)
    assert "format 99" in line
    assert "use wiserl 9.0.0" in line


def test_a_checkpoint_of_an_algorithm_that_does_not_exist_is_refused(run: Path, monkeypatch: Any, capsys: Any) -> None:
    change_manifest(run, algo="reinforce")
    assert "unknown algorithm 'reinforce'" in told(["eval", str(run)], run.parent, monkeypatch, capsys)


@pytest.mark.parametrize(
    "forge",
    [
        lambda state: {},
        lambda state: {**state, "algorithm": None},
        lambda state: {**state, "training": None},
        lambda state: {**state, "training": {**state["training"], "positions": 3}},
    ],
    ids=["empty", "algorithm", "training", "positions"],
)
def test_a_state_that_is_none_of_a_training_is_refused_in_one_line(
    run: Path, forge: Callable[[dict[str, Any]], Any], monkeypatch: Any, capsys: Any
) -> None:
    checkpoint = open_checkpoint(run)
    file = checkpoint.path / "state.pt"
    torch.save(forge(checkpoint.state()), file)
    entry = {"bytes": file.stat().st_size, "blake2b": hashlib.blake2b(file.read_bytes()).hexdigest()}
    change_manifest(run, files={**checkpoint.manifest["files"], "state.pt": entry})
    command = ["train", "dqn", "CartPole-v1", "--resume", str(run), "--total-steps", "1024"]
    line = told(command, run.parent, monkeypatch, capsys)
    assert "step_512' holds " in line


def test_weights_of_another_algorithm_are_refused(run: Path, monkeypatch: Any, capsys: Any) -> None:
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(run.parent / "ppo" / "checkpoints", run / "checkpoints", symlinks=True)
    change_manifest(run, algo="dqn", config={})
    assert "does not hold a dqn network" in told(["eval", str(run)], run.parent, monkeypatch, capsys)


@pytest.mark.parametrize(
    "arguments",
    ["train ppo CartPole-v1 --resume {run}", "train dqn Acrobot-v1 --resume {run}"],
    ids=["algorithm", "env"],
)
def test_a_run_is_not_resumed_as_another(run: Path, arguments: str, monkeypatch: Any, capsys: Any) -> None:
    line = told(arguments.format(run=run).split(), run.parent, monkeypatch, capsys)
    assert "trains dqn on CartPole-v1" in line


def test_a_checkpoint_of_another_algorithm_in_the_run_folder_is_not_resumed(
    run: Path, monkeypatch: Any, capsys: Any
) -> None:
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(run.parent / "ppo" / "checkpoints", run / "checkpoints", symlinks=True)
    arguments = ["train", "dqn", "CartPole-v1", "--resume", str(run), "--total-steps", "1024"]
    line = told(arguments, run.parent, monkeypatch, capsys)
    assert "ppo" in line
    assert "dqn" in line


def test_options_a_checkpoint_refuses_do_not_spoil_the_run(run: Path, monkeypatch: Any, capsys: Any) -> None:
    arguments = [
        "train",
        "dqn",
        "CartPole-v1",
        "--resume",
        str(run),
        "--total-steps",
        "1024",
        "--set",
        "hidden_sizes=8",
    ]
    assert "another network" in told(arguments, run.parent, monkeypatch, capsys)
    assert wiserl.train("dqn", "CartPole-v1", resume=run, total_steps=1024, quiet=True)["env_steps"] == 1024


def test_a_last_that_names_nothing_is_an_error_and_not_a_fresh_start(run: Path, monkeypatch: Any, capsys: Any) -> None:
    shutil.rmtree(run / "checkpoints" / "step_512")
    arguments = ["train", "dqn", "CartPole-v1", "--resume", str(run), "--total-steps", "1024"]
    line = told(arguments, run.parent, monkeypatch, capsys)
    assert "no checkpoint 'last'" in line
    assert "256" in line


@pytest.mark.parametrize(
    ("which", "said"), [("foo", "Valid: 256, 512, best, last"), ("300", "Valid: 256, 512, best, last")]
)
def test_a_checkpoint_that_is_not_there_is_refused_with_those_that_are(
    run: Path, which: str, said: str, monkeypatch: Any, capsys: Any
) -> None:
    assert said in told(["eval", str(run), "--checkpoint", which], run.parent, monkeypatch, capsys)


class KilledError(BaseException):
    """In place of SIGKILL: nothing in the program may catch it."""


class Killer:
    """Ends the program at its n-th operation on files, of those that Python tells an audit hook about."""

    def __init__(self) -> None:
        self.left: int | None = None
        sys.addaudithook(self.hook)

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.left is None or not event.startswith(("open", "os.", "shutil.")):
            return
        if self.left == 0:
            self.left = None
            raise KilledError
        self.left -= 1


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    killer = Killer()  # a hook cannot be taken away again: it sleeps when this is done
    yield killer
    killer.left = None


def test_a_kill_at_any_moment_of_saving_leaves_the_checkpoint_before_whole_or_the_new_one(
    tmp_path: Path, killer: Killer
) -> None:
    plan = make_plan(tmp_path, "dqn", "CartPole-v1", keep_checkpoints=1)
    agent = Learner("learner", TrainingAgent(True, plan=plan), True).agent
    agent.save()
    found: list[int] = []
    for operations in range(10_000):
        agent.update(make_fragment(plan.spec, 4, plan.envs, seed=operations))
        before, now = open_checkpoint(tmp_path).manifest["env_steps"], agent.algorithm.env_steps
        killer.left = operations
        try:
            agent.save()
        except KilledError:
            found.append(open_checkpoint(tmp_path).manifest["env_steps"])
            assert found[-1] in (before, now)
            checkpoint = open_checkpoint(tmp_path)
            assert checkpoint.weights()
            assert checkpoint.state()
            assert checkpoint.replay()
            continue
        break
    killer.left = None
    assert len(set(found)) > 1, "the kills came before anything was saved"
    assert len(found) > 10
    # What the killed left lying about is gone after the next save that went through.
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["last", "last.txt", f"step_{now}"]
