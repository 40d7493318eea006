"""The peer of the score table gets wiserl's hyper-parameters, and what it cannot take does not vanish."""

from __future__ import annotations

import click
import numpy as np
import pytest

from benchmarks.sb3_score import hyperparameters
from wiserl.ops.exploration import ActionNoise


@pytest.mark.parametrize("algo", ["dqn", "sac", "td3", "ddpg"])
def test_the_steps_of_a_return_are_the_peers_too(algo: str) -> None:
    env = "CartPole-v1" if algo == "dqn" else "Pendulum-v1"
    assert hyperparameters(algo, env, {"n_step": "3"})[0]["n_steps"] == 3


def test_a_preset_reaches_the_peer() -> None:
    given, envs = hyperparameters("dqn", "CartPole-v1", {"gamma": "0.9"})
    assert (given["n_steps"], given["batch_size"], given["gamma"], envs) == (10, 128, 0.9, 1)
    assert given["policy_kwargs"]["net_arch"] == [256, 256]
    assert given["learning_rate"](0.5) == 0.0005
    assert hyperparameters("ppo", "CartPole-v1", {})[1] == 8


def test_noise_that_drifts_is_that_of_wiserl(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"action_noise": "ornstein_uhlenbeck", "noise_std": "0.25", "noise_theta": "0.125"}
    theirs = hyperparameters("sac", "Pendulum-v1", settings)[0]["action_noise"]
    mine = ActionNoise("ornstein_uhlenbeck", 0.25, 0.125)
    rng, draws = np.random.default_rng(0), np.random.default_rng(0)
    monkeypatch.setattr(np.random, "normal", lambda size: draws.standard_normal(size, np.float32))
    drift = np.zeros((1, 1), np.float32)
    for _ in range(3):
        noisy, drift = mine.add_drifting(np.zeros((1, 1), np.float32), drift, rng)
        assert theirs() == pytest.approx(noisy[0])


def test_gaussian_noise_is_that_of_wiserl() -> None:
    noise = hyperparameters("td3", "Pendulum-v1", {"noise_std": "0.25"})[0]["action_noise"]
    assert repr(noise) == "NormalActionNoise(mu=[0.], sigma=[0.25])"
    assert "action_noise" not in hyperparameters("td3", "Pendulum-v1", {"action_noise": "none"})[0]


@pytest.mark.parametrize(
    ("algo", "env", "setting"),
    [
        ("dqn", "CartPole-v1", {"rainbow": "true"}),
        ("dqn", "CartPole-v1", {"round_steps": "32"}),
        ("ppo", "CartPole-v1", {"normalize_reward": "true"}),
        ("sac", "Pendulum-v1", {"max_grad_norm": "1"}),
        ("sac", "Pendulum-v1", {"seed": "3"}),
        ("sac", "Pendulum-v1", {"env.g": "9"}),
        ("sac", "Pendulum-v1", {"envs": "2"}),
    ],
)
def test_what_it_cannot_take_is_refused_where_it_was_asked_for(algo: str, env: str, setting: dict[str, str]) -> None:
    with pytest.raises(click.BadParameter, match=next(iter(setting)).removeprefix("env.")):
        hyperparameters(algo, env, setting)


def test_a_setting_that_is_what_the_peer_does_anyway_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    hyperparameters("sac", "Pendulum-v1", {"round_steps": "1", "prioritized": "false", "compile": "true"})
    assert capsys.readouterr().err == ""


def test_what_it_lacks_of_a_preset_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    hyperparameters("dqn", "LunarLander-v3", {})
    assert capsys.readouterr().err == "Stable-Baselines3's dqn has nothing for the preset's double=True: left out\n"
    hyperparameters("td3", "Pendulum-v1", {})
    assert capsys.readouterr().err == ""
