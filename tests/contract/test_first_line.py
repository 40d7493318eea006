"""A run shows what it does at once, however long its first round takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.contract.harness import GATED, tiny, train_command, wait_for


@pytest.mark.parametrize(
    ("backend", "sync", "steps", "envs"),
    [
        ("local", True, 256, 4),
        ("local", False, 128, 2),
        pytest.param("ray", True, 256, 4, marks=[pytest.mark.ray, pytest.mark.slow]),
        pytest.param("ray", False, 128, 2, marks=pytest.mark.ray),
    ],
)
def test_what_is_waited_for_is_shown_within_2_seconds_of_the_first_step(
    backend: str, sync: bool, steps: int, envs: int, launch: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The env stays in the midst of its first step: no runner reports anything."""
    if backend == "ray":
        request.getfixturevalue("cluster")
    folder = tmp_path / "gate"
    folder.mkdir()
    (folder / "closed").touch()
    options = tiny("ppo", total_steps=512, backend=backend, sync=sync, **{"env.folder": str(folder)})
    arguments = train_command("ppo", GATED, tmp_path / "run", options)
    arguments.remove("--quiet")
    command = launch(*arguments)
    wait_for(lambda: list(folder.glob("waiting-*")), "an env in the midst of its first step")
    line = f"sampling the first round of {steps} env steps (64 in each of {envs} envs)"
    wait_for(lambda: line in command.output, "the first line", seconds=2.0)
    (folder / "closed").unlink()
    assert command.finish() == 0, command.output
    if sync:
        assert "512/512 steps (100%)" in command.output
    else:  # what another runner had begun before the last ones were shared out is learned from as well
        last = re.findall(r"(\d+)/512 steps", command.output)[-1]
        assert 512 <= int(last) < 512 + steps, command.output
