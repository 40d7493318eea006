"""A user's own algorithm with an extra of its own: on every backend, from a script, and from the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import wiserl
from tests.contract.harness import WISERL, tiny, train_command

SCRIPT = Path(__file__).parent / "scripts" / "user_algorithm.py"
NAME = "tests.algorithms:RememberingDQN"


def weights_of(run_dir: Path) -> bytes:
    return (run_dir / "checkpoints" / "last" / "weights.safetensors").read_bytes()


@pytest.mark.parametrize("backend", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_a_class_of_a_script_is_trained_opened_and_resumed_there_and_explained_elsewhere(
    backend: str, launch: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if backend == "ray":
        request.getfixturevalue("cluster")
    command = launch(sys.executable, SCRIPT, backend, tmp_path / "run")
    assert command.finish() == 0, command.output
    for rest in (["eval", tmp_path / "run"], ["train", "__main__:MyDQN", "CartPole-v1", "--resume", tmp_path / "run"]):
        command = launch(WISERL, *rest)
        assert command.finish() == 2
        assert command.output.count("\n") == 1
        assert "algorithm '__main__:MyDQN' cannot be imported" in command.output
        assert "A class of a script (__main__) is known in that script alone: move it to a module" in command.output


@pytest.mark.ray
def test_local_and_ray_give_bit_identical_weights(tmp_path: Path, cluster: Any) -> None:
    """By class and by name, with what is written back in between."""
    from tests.algorithms import RememberingDQN

    for backend, algo in (("local", RememberingDQN), ("ray", RememberingDQN), ("named", NAME)):
        where = backend.replace("named", "ray")
        options = tiny("dqn", total_steps=1024, backend=where, forget=0.5)
        summary = wiserl.train(algo, "CartPole-v1", run_dir=tmp_path / backend, quiet=True, **options)
        assert (summary["algo"], summary["backend"]) == (NAME, where)
        assert "losses/value_change" in (tmp_path / backend / "metrics.csv").read_text().splitlines()[0]
    assert weights_of(tmp_path / "local") == weights_of(tmp_path / "ray") == weights_of(tmp_path / "named")


def test_a_class_of_a_module_is_named_on_the_command_line(launch: Any, tmp_path: Path) -> None:
    """The module is looked for in the current folder as well."""
    (tmp_path / "mine.py").write_text(
        "from tests.algorithms import RememberingDQN\n\nclass Mine(RememberingDQN):\n    pass\n"
    )
    options = tiny("dqn", total_steps=512, runners=1, backend="local", forget=1)
    command = launch(*train_command("mine:Mine", "CartPole-v1", tmp_path / "run", options))
    assert command.finish() == 0, command.output
    for rest in (
        ["eval", "run", "--episodes", "1"],
        ["train", "mine:Mine", "CartPole-v1", "--resume", "run", "--total-steps", "600"],
    ):
        command = launch(WISERL, *rest)
        assert command.finish() == 0, command.output
    (tmp_path / "mine.py").unlink()
    command = launch(WISERL, "eval", "run")
    assert command.finish() == 2
    assert "algorithm 'mine:Mine' cannot be imported (No module named 'mine')" in command.output
