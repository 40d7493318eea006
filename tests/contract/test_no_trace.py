"""A checkpoint leaves no trace in training, and a run that was ended and resumed ends as one that was not."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import wiserl
from tests.contract.test_same_results import weights_of
from tests.envs import BoxObs, Drifting
from wiserl.core.batch import Fragment
from wiserl.run_folder.checkpoint import open_checkpoint
from wiserl.run_folder.metrics import read_metrics
from wiserl.util.errors import Interrupted

REPLAY = {
    "round_steps": 16,
    "learning_starts": 64,
    "train_freq": 8,
    "buffer_size": 1000,
    "batch_size": 16,
    "hidden_sizes": (16,),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "ppo": {"n_steps": 16, "batch_size": 32, "n_epochs": 2, "hidden_sizes": (16,), "normalize_reward": True},
    "dqn": {**REPLAY, "prioritized": True, "n_step": 3},
    "recurrent": {
        "n_steps": 16,
        "batch_size": 32,
        "n_epochs": 2,
        "hidden_sizes": (16,),
        "net": "rnn",
        "sequence_length": 8,
    },
    "sac": {**REPLAY, "action_noise": "ornstein_uhlenbeck", "noise_std": 0.3},
    "td3": {**REPLAY, "n_step": 2, "normalize_observation": True, "normalize_reward": True},
}
COMMON = {"runners": 2, "envs": 2, "seed": 5, "device": "cpu", "eval_episodes": 1, "quiet": True, "total_steps": 1152}
CASES = [
    ("ppo", "CartPole-v1", "inline"),
    ("dqn", "CartPole-v1", "process"),
    ("sac", "Pendulum-v1", "inline"),
    ("td3", "Pendulum-v1", "inline"),
    ("ppo", "LunarLander-v3", "process"),
    ("recurrent", "CartPole-v1", "process"),
    ("recurrent", "mpe2/simple_spread_v3", "inline"),
]
ENVS = {
    **dict.fromkeys(("ppo", "recurrent"), ("CartPole-v1", "Pendulum-v1", "LunarLander-v3", "mpe2/simple_spread_v3")),
    "dqn": ("CartPole-v1", "LunarLander-v3", "mpe2/simple_spread_v3"),
    "sac": ("Pendulum-v1",),
}
ALL = [(algo, env, vector) for algo, envs in ENVS.items() for env in envs for vector in ("inline", "process")]
OTHERS = [pytest.param(*case, marks=pytest.mark.slow) for case in ALL if case not in CASES]


class Stop:
    """A transform that sends this process SIGINT at its n-th fragment and changes nothing."""

    def __init__(self, fragments: int) -> None:
        self.left = fragments

    def __call__(self, fragment: Fragment) -> Fragment:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return fragment


@pytest.fixture
def poll_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is seen after the round it came in, however short that was."""
    monkeypatch.setattr("wiserl.experiment.monitor.POLL_SECONDS", 0.0)


@pytest.mark.ray
@pytest.mark.parametrize(("algo", "env", "vector"), [*CASES, *OTHERS])
def test_weights_do_not_depend_on_checkpoints_evaluations_breaks_or_backend(
    algo: str, env: str, vector: str, tmp_path: Path, cluster: Any, poll_at_once: None
) -> None:
    options = {**COMMON, **OPTIONS[algo], "vector": vector}
    algo = "ppo" if algo == "recurrent" else algo
    never = {"checkpoint_every": 10**9, "backend": "local"}
    wiserl.train(algo, env, run_dir=tmp_path / "never", **options, **never)
    often = {"checkpoint_every": 64, "eval_every": 256, "keep_checkpoints": 1}
    wiserl.train(algo, env, run_dir=tmp_path / "often", backend="local", **options, **often)
    wiserl.train(algo, env, run_dir=tmp_path / "ray", **options, **{**never, "backend": "ray"})

    rounds = 1152 // (64 if algo == "ppo" else 16)
    stops = []
    for share, resume in (
        (3, {"run_dir": tmp_path / "parts", **options, **never}),
        (4, {"resume": tmp_path / "parts", "quiet": True}),
    ):
        with pytest.raises(Interrupted):
            wiserl.train(algo, env, transform=Stop(2 * rounds // share), **resume)
        stops.append(open_checkpoint(tmp_path / "parts").manifest["env_steps"])
    assert 0 < stops[0] < stops[1] < 1152
    wiserl.train(algo, env, resume=tmp_path / "parts", transform=Stop(0), quiet=True, backend="local")
    for name in ("often", "parts", "ray"):
        assert weights_of(tmp_path / name) == weights_of(tmp_path / "never"), name


def test_with_many_envs_and_short_rounds_episodes_end(tmp_path: Path) -> None:
    """Each checkpoint used to reset all envs, so that no episode of 200 steps ever ended."""
    options = {"envs": 128, "n_steps": 32, "total_steps": 100_000, "n_epochs": 1, "batch_size": 4096}
    summary = wiserl.train("ppo", "Pendulum-v1", run_dir=tmp_path / "run", vector="inline", eval_episodes=1,
                           quiet=True, **options)  # fmt: skip
    assert summary["episodes"] >= 128 * 3
    lengths = read_metrics(tmp_path / "run")["charts/episodic_length"]
    assert np.nanmax(lengths) == np.nanmin(lengths) == 200


class Forgetful(BoxObs):
    """What it observes after a while depends on the process, and not on its seed."""

    def step(self, action: Any) -> Any:
        obs, *others = super().step(action)
        return (obs + np.float32(os.urandom(1)[0] / 256) if self._steps > 3 else obs), *others


def test_an_env_that_cannot_be_continued_begins_new_episodes_and_the_run_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], poll_at_once: None
) -> None:
    options = {**COMMON, **OPTIONS["ppo"], "runners": 1, "vector": "inline", "env.length": 40, "backend": "local"}
    with pytest.raises(Interrupted):
        wiserl.train("ppo", Forgetful, run_dir=tmp_path / "run", transform=Stop(4), **options)
    capfd.readouterr()
    summary = wiserl.train("ppo", Forgetful, resume=tmp_path / "run", transform=Stop(0), quiet=True)
    assert summary["env_steps"] == 1152
    said = capfd.readouterr().err
    assert "Forgetful' did something else when its seed and actions were repeated: new episodes begin" in said
    assert said.count("bit for bit") == 1


def test_ctrl_c_ends_a_local_run_after_the_round_it_came_in(tmp_path: Path, poll_at_once: None) -> None:
    """It used to sample another whole round, which may take minutes."""
    options = {**COMMON, **OPTIONS["ppo"], "runners": 1, "vector": "inline", "backend": "local"}
    with pytest.raises(Interrupted):
        wiserl.train("ppo", BoxObs, run_dir=tmp_path / "run", transform=Stop(3), **options)
    assert open_checkpoint(tmp_path / "run").manifest["env_steps"] == 3 * 16 * 2


@pytest.mark.parametrize("vector", ["inline", "process"])
def test_an_env_whose_rewards_alone_are_others_begins_new_episodes_and_the_run_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], poll_at_once: None, vector: str
) -> None:
    options = {**COMMON, **OPTIONS["ppo"], "runners": 1, "vector": vector, "backend": "local"}
    with pytest.raises(Interrupted):
        wiserl.train("ppo", Drifting, run_dir=tmp_path / "run", transform=Stop(4), **options)
    capfd.readouterr()
    wiserl.train("ppo", Drifting, resume=tmp_path / "run", transform=Stop(0), quiet=True)
    assert "Drifting' did something else when its seed and actions were repeated" in capfd.readouterr().err


def test_a_native_vector_env_begins_new_episodes_and_the_run_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], poll_at_once: None
) -> None:
    options = {**COMMON, **OPTIONS["ppo"], "vector": "native", "backend": "local"}
    with pytest.raises(Interrupted):
        wiserl.train("ppo", "CartPole-v1", run_dir=tmp_path / "run", transform=Stop(5), **options)
    capfd.readouterr()
    wiserl.train("ppo", "CartPole-v1", resume=tmp_path / "run", transform=Stop(0), quiet=True)
    assert capfd.readouterr().err.count("native vector version of an env cannot be brought back") == 1


class Counted(gym.Wrapper[Any, Any, Any, Any]):
    """Counts the steps it makes in a file, to show what a resumed run does."""

    def __init__(self, file: str) -> None:
        super().__init__(BoxObs(length=50))
        self._file = Path(file)

    def step(self, action: Any) -> Any:
        with self._file.open("a") as file:
            file.write(".")
        return super().step(action)


def test_in_async_mode_episodes_go_on_too(tmp_path: Path, poll_at_once: None) -> None:
    file = tmp_path / "steps"
    options = {**COMMON, **OPTIONS["dqn"], "runners": 1, "sync": False, "vector": "inline", "env.file": str(file)}
    with pytest.raises(Interrupted):
        wiserl.train("dqn", Counted, run_dir=tmp_path / "run", transform=Stop(9), backend="local", **options)
    steps = open_checkpoint(tmp_path / "run").manifest["env_steps"]
    file.unlink()
    summary = wiserl.train("dqn", Counted, resume=tmp_path / "run", transform=Stop(0), quiet=True)
    left = summary["env_steps"] - steps
    repeated = 2 * (steps // 2 % 50)
    assert left + repeated <= len(file.read_text()) <= left + repeated + 50, "the evaluation takes 50 more"
    assert summary["episodes"] == summary["env_steps"] // 2 // 50 * 2
