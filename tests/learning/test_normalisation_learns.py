"""With normalisation every algorithm solves what is 1,000 times too large and far from zero, in seconds each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import wiserl
from tests.learning.envs import FarOff, far_maze
from tests.learning.test_continuous_learns import OPTIONS as CONTINUOUS
from tests.learning.test_continuous_learns import Dock
from tests.learning.test_dqn_learns import OPTIONS as DQN
from tests.learning.test_ppo_learns import OPTIONS as PPO
from tests.learning.test_qrdqn_learns import OPTIONS as QRDQN
from tests.learning.test_sarsa_learns import OPTIONS as SARSA

NORMALISED = {"normalize_observation": True, "normalize_reward": True}


def far_dock() -> gym.Env:
    return FarOff(Dock())


def train(folder: Path, algo: str, env: Any, **options: Any) -> dict[str, Any]:
    common = {"backend": "local", "device": "cpu", "vector": "inline", "quiet": True, "run_dir": folder / "run"}
    return wiserl.train(algo, env, **(common | options))


MAZE: list[tuple[str, dict[str, Any]]] = [
    ("ppo", {**PPO, "gamma": 0.9, "ent_coef": 0.01}),
    ("sarsa", SARSA),
    ("dqn", DQN),
    ("dqn", {**DQN, "double": True, "dueling": True, "n_step": 3, "prioritized": True}),
    ("qrdqn", QRDQN),
]


@pytest.mark.parametrize(("algo", "options"), MAZE, ids=lambda each: each if isinstance(each, str) else "")
def test_it_finds_the_far_prize_of_a_maze_far_off(tmp_path, algo, options):
    summary = train(tmp_path, algo, far_maze, **options, **NORMALISED)
    assert summary["eval_return_mean"] == pytest.approx(1000.0)
    policy = wiserl.load(tmp_path / "run")
    env = far_maze()
    obs, _ = env.reset()
    for onward in (1, 1, 0, 1, 0, 0):
        action = policy.choose_action(obs)
        assert action == onward, "what is loaded does not see what training saw"
        obs, *_ = env.step(action)


@pytest.mark.parametrize(
    ("algo", "options"),
    [("ddpg", {}), ("td3", {}), ("td3", {"prioritized": True, "n_step": 3}), ("sac", {"ent_coef_init": 0.1})],
    ids=str,
)
def test_it_docks_far_off(tmp_path, algo, options):
    summary = train(
        tmp_path, algo, far_dock, **{**CONTINUOUS, "gamma": 0.9, "total_steps": 2500, **options}, **NORMALISED
    )
    assert summary["eval_return_mean"] >= 880.0


@pytest.mark.parametrize("algo", ["ddpg", "td3"])
def test_without_it_docking_far_off_is_not_learned(tmp_path, algo):
    """Or the test above would say nothing."""
    summary = train(tmp_path, algo, far_dock, **{**CONTINUOUS, "gamma": 0.9, "total_steps": 2500})
    assert summary["eval_return_mean"] < 500.0
