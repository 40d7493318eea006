"""Runs that earlier versions saved open, act, are evaluated, played and resumed. `tests/past` keeps one of each format."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gymnasium as gym
import pytest
from click.testing import CliRunner

import wiserl
from wiserl.cli.main import cli
from wiserl.run_folder.checkpoint import FORMAT, open_checkpoint

PAST = Path(__file__).parents[1] / "past"
RUNS = sorted(path.parent.relative_to(PAST).as_posix() for path in PAST.glob("*/*/config.json"))


@pytest.fixture(params=RUNS)
def past(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a run, for a user who has no key."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    shutil.copytree(PAST / request.param, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def test_a_run_of_each_format_is_kept() -> None:
    assert {open_checkpoint(PAST / run).manifest["format"] for run in RUNS} == set(range(1, FORMAT + 1))
    assert {run.split("/")[1] for run in RUNS if run.startswith(f"format_{FORMAT}/")} == {"dqn", "ppo", "sac"}


def test_it_loads_and_acts(past: Path) -> None:
    policy = wiserl.load(past)
    env = gym.make(policy.manifest["env"])
    obs, _ = env.reset(seed=0)
    for _ in range(5):
        action = policy.choose_action(obs)
        assert env.action_space.contains(action)
        obs = env.step(action)[0]


def test_eval_and_play_open_it_without_a_question(past: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wiserl.policy.play.MAX_STEPS", 5)
    for command in (
        ["eval", str(past), "--episodes", "1", "--json"],
        ["play", str(past), "--video", str(tmp_path / "v.gif")],
    ):
        result = CliRunner().invoke(cli, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert "trust" not in result.output
    assert not (tmp_path / "config").exists(), "a key was made that nothing needs"


def test_it_resumes_and_is_saved_in_the_format_of_today(past: Path) -> None:
    names = json.loads((past / "config.json").read_text())
    before = open_checkpoint(past).manifest["updates"]
    summary = wiserl.train(names["algo"], names["env"], resume=past, total_steps=128, quiet=True)
    assert summary["env_steps"] == 128
    manifest = open_checkpoint(past).manifest
    assert manifest["format"] == FORMAT
    assert manifest["updates"] > before
    assert wiserl.train(names["algo"], names["env"], resume=past, total_steps=192, quiet=True)["env_steps"] == 192
