"""Ray is needed where Ray is asked for, and nowhere else."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.contract.harness import tiny

# What Python runs before a program: Ray is not to be found, as if it were not installed.
NO_RAY = """
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec
PathFinder.find_spec = staticmethod(
    lambda name, path=None, target=None: None if name.split(".")[0] == "ray" else find_spec(name, path, target)
)
"""
PROGRAM = f"""
import sys
import wiserl
assert "torch" not in sys.modules, "import wiserl costs an import of torch"
summary = wiserl.train("ppo", "CartPole-v1", run_dir="run", quiet=True, total_steps=512, **{tiny("ppo")!r}, **BACKEND)
assert summary["backend"] == "local", summary
assert wiserl.load("run").choose_action([0.0, 0.0, 0.0, 0.0]) in (0, 1)
assert not [name for name in sys.modules if name.split(".")[0] == "ray"], "ray was imported"
print("done")
"""


@pytest.fixture
def no_ray(tmp_path: Path) -> dict[str, str]:
    """Environment of a Python without Ray."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NO_RAY)
    from tests.contract.harness import ROOT

    return {"PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}"}


def test_import_and_a_run_of_two_runners_work_with_ray_uninstalled(
    launch: Any, tmp_path: Path, no_ray: dict[str, str]
) -> None:
    command = launch(sys.executable, "-c", PROGRAM.replace("BACKEND", "{}"), **no_ray)
    assert command.finish() == 0, command.output
    assert command.output.strip() == "done"


def test_a_local_run_does_not_import_ray_where_it_is_installed(launch: Any, tmp_path: Path) -> None:
    command = launch(sys.executable, "-c", PROGRAM.replace("BACKEND", "{'backend': 'local'}"))
    assert command.finish() == 0, command.output


def test_a_users_script_runs_with_ray_uninstalled(launch: Any, tmp_path: Path, no_ray: dict[str, str]) -> None:
    script = Path(__file__).parent / "scripts" / "user_ddpg.py"
    command = launch(sys.executable, script, "--episodes", "1", **no_ray)
    assert command.finish() == 0, command.output


def test_asking_for_ray_where_it_is_not_installed_says_what_to_do(
    launch: Any, tmp_path: Path, no_ray: dict[str, str]
) -> None:
    command = launch(sys.executable, "-m", "wiserl", "train", "ppo", "CartPole-v1", "--backend", "ray", **no_ray)
    assert command.finish() == 2
    assert command.output.startswith("wiserl: error: backend 'ray' needs the package ray")
