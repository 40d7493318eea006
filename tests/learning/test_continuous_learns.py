"""DDPG, TD3 and SAC solve something tiny, on the local backend, in seconds each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import wiserl

OPTIONS = {
    "total_steps": 1500,
    "envs": 4,
    "learning_starts": 200,
    "batch_size": 64,
    "train_freq": 2,
    "learning_rate": 3e-3,
    "gamma": 0.3,
    "tau": 0.05,
    "hidden_sizes": "32",
    "buffer_size": 3000,
}


class Dock(gym.Env):
    """Three steps to get from one of two far places to the middle; what counts is where one is at the end.

    The best policy returns 1. One that looks no further than the last step comes 0.4 nearer by it.
    """

    observation_space = spaces.Box(-2.0, 2.0, (2,), np.float32)
    action_space = spaces.Box(-0.4, 0.4, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self._steps, self._place = 0, float(self.np_random.choice([-1.0, 1.0]))
        return self._obs(), {}

    def step(self, action: np.ndarray):
        assert self.action_space.contains(action), f"action {action!r} outside {self.action_space}"
        self._steps += 1
        self._place += float(action[0])
        ended = self._steps == 3
        return self._obs(), 1.0 - abs(self._place) if ended else 0.0, ended, False, {}

    def _obs(self) -> np.ndarray:
        return np.array([self._place, self._steps / 3], np.float32)


def train(folder: Path, algo: str, env: Any, **options: Any) -> dict[str, Any]:
    """Train on an env class, or on `tests.ENV`; the summary."""
    common = {"backend": "local", "device": "cpu", "vector": "inline", "quiet": True, "run_dir": folder / "run"}
    return wiserl.train(algo, f"tests.{env}" if isinstance(env, str) else env, **(OPTIONS | common | options))


VARIANTS = [
    ("ddpg", {}),
    ("ddpg", {"action_noise": "ornstein_uhlenbeck", "noise_std": 0.2}),
    ("td3", {}),
    ("td3", {"prioritized": True, "n_step": 3}),
    ("sac", {"ent_coef_init": 0.1}),
    ("sac", {"ent_coef": 0.02}),
    ("sac", {"prioritized": True, "n_step": 3, "ent_coef_init": 0.1}),
]


@pytest.mark.parametrize(("algo", "options"), VARIANTS, ids=str)
def test_it_looks_ahead_to_the_end_of_an_episode(tmp_path, algo, options):
    assert train(tmp_path, algo, Dock, gamma=0.9, **options)["eval_return_mean"] >= 0.88


@pytest.mark.parametrize("algo", ["ddpg", "sac"])
def test_without_looking_ahead_it_does_not(tmp_path, algo):
    assert train(tmp_path, algo, Dock, gamma=0.0)["eval_return_mean"] < 0.85


@pytest.mark.parametrize("algo", ["ddpg", "td3", "sac"])
def test_it_finds_the_action_that_is_shown_whatever_its_bounds(tmp_path, algo):
    assert train(tmp_path, algo, "envs:BoxAction")["eval_return_mean"] >= 15.0  # untrained 12, at best 16


def test_discrete_sac_finds_the_far_prize(tmp_path):
    summary = train(tmp_path, "sac", "learning.envs:Maze", gamma=0.9, total_steps=3000)
    assert summary["eval_return_mean"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("env", "options"), [("envs:BoxObs", {}), ("envs:TupleObs", {}), ("learning.envs:Image", {"total_steps": 600})]
)
def test_discrete_sac_learns_from_every_kind_of_observation(tmp_path, env, options):
    assert train(tmp_path, "sac", env, **options)["eval_return_mean"] >= 15.8


def test_agents_that_end_at_different_times_share_their_parameters(tmp_path):
    assert train(tmp_path, "sac", "envs:DyingAgents")["eval_return_mean"] >= 18.5  # 4 + 7 + 8


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("algo", ["td3", "sac"])
def test_two_runners_learn_together_at_the_same_ratio_of_updates(tmp_path, algo, sync):
    summary = train(tmp_path, algo, "envs:BoxAction", runners=2, envs=2, sync=sync)
    assert summary["eval_return_mean"] >= 15.0
    assert summary["updates"] == (summary["env_steps"] - 200) // 2
