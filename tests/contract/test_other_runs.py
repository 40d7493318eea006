"""A run is what it is alone, whatever else its process does: other runs, threads, forks, folders, PyTorch's defaults."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wiserl
from tests.contract.harness import tiny
from tests.contract.test_same_results import weights_of
from tests.envs import BoxAction, BoxObs, DictObs


def train(algo: str, env: Any, run_dir: Path, **changes: Any) -> bytes:
    options = {"total_steps": 512, "runners": 1, "backend": "local", "vector": "inline", **changes}
    wiserl.train(algo, env, run_dir=str(run_dir), quiet=True, **tiny(algo, **options))
    return weights_of(run_dir)


class SlowToBuild(torch.nn.Module):
    """Sleeps between two draws of weights, so that another thread would draw from the same generator."""

    def __init__(self, space: Any) -> None:
        super().__init__()
        self.first = torch.nn.Linear(2, 8)
        time.sleep(0.2)
        self.second = torch.nn.Linear(8, 8)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(obs)))


def in_two_threads(of_seed: Any) -> list[Any]:
    results: dict[int, Any] = {}

    def run(seed: int) -> None:
        results[seed] = of_seed(seed)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results.get(seed) for seed in (1, 2)]


def test_two_runs_in_two_threads_end_with_the_weights_of_each_alone(tmp_path: Path) -> None:
    def run(where: str, seed: int) -> bytes:
        return train("ppo", BoxObs, tmp_path / f"{where}-{seed}", seed=seed, network=SlowToBuild)

    alone = [run("alone", seed) for seed in (1, 2)]
    assert in_two_threads(functools.partial(run, "together")) == alone
    assert alone[0] != alone[1]


@pytest.mark.ray
def test_two_runs_on_ray_share_the_connection_and_the_last_one_ends_it(tmp_path: Path, no_cluster: None) -> None:
    lengths = {1: 256, 2: 4096}
    import ray

    def run(where: str, seed: int) -> bytes:
        if where == "ray":
            # The first thread starts Ray, and ends while the other one is still training.
            while seed == 2 and not ray.is_initialized():
                time.sleep(0.01)
        return train("ppo", BoxObs, tmp_path / f"{where}-{seed}", seed=seed, backend=where, total_steps=lengths[seed])

    alone = [run("local", seed) for seed in (1, 2)]
    assert in_two_threads(functools.partial(run, "ray")) == alone
    assert not ray.is_initialized()


@pytest.mark.ray
def test_a_fork_after_a_run_on_ray_trains_here_is_refused_ray_and_ends(tmp_path: Path, no_cluster: None) -> None:
    script = f"""
        import os, signal, wiserl
        from tests.envs import BoxObs
        from wiserl.util.errors import InputError

        def run(name, backend):
            wiserl.train("ppo", BoxObs, total_steps=128, envs=1, backend=backend, quiet=True, run_dir={str(tmp_path)!r} + "/" + name)

        run("before", "ray")
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            run("local", "local")
            try:
                run("ray", "ray")
            except InputError as error:
                print(error)
                raise SystemExit(7)
        print("status", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=150, check=True
    )
    assert "this process was forked from one that has used Ray" in done.stdout
    assert "status 7" in done.stdout
    assert weights_of(tmp_path / "local") == weights_of(tmp_path / "before")


class GoesAway(BoxObs):
    """Changes the process's folder."""

    def __init__(self, when: str, away: str) -> None:
        super().__init__()
        self._when, self._away = when, away
        self._go("init")

    def _go(self, when: str) -> None:
        if when == self._when:
            os.chdir(self._away)

    def reset(self, **options: Any) -> Any:
        self._go("reset")
        return super().reset(**options)

    def step(self, action: Any) -> Any:
        self._go("step")
        return super().step(action)


@pytest.mark.parametrize("when", ["init", "reset", "step"])
def test_an_env_that_changes_the_folder_does_not_move_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    home, away = tmp_path / "home", tmp_path / "away"
    home.mkdir()
    away.mkdir()
    env = functools.partial(GoesAway, when, str(away))
    options = tiny("ppo", runners=1, backend="local", eval_every=128)
    for total_steps in (256, 512):
        monkeypatch.chdir(home)
        where = {"resume": "run"} if total_steps > 256 else {"run_dir": "run", **options}
        summary = wiserl.train("ppo", env, quiet=True, total_steps=total_steps, **where)
        assert Path.cwd() == away
        assert Path(summary["run_dir"]) == home / "run"
    assert not list(away.iterdir())
    assert weights_of(home / "run")


@pytest.mark.parametrize("when", ["init", "step"])
def test_a_data_set_is_read_from_the_folder_that_the_run_began_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    home, away = tmp_path / "home", tmp_path / "away"
    home.mkdir()
    away.mkdir()
    rows = 64
    np.savez(
        home / "mine.npz", observations=np.zeros((rows, 2), np.float32), actions=np.zeros(rows, np.int64),
        rewards=np.zeros(rows), next_observations=np.zeros((rows, 2), np.float32), terminations=np.zeros(rows, bool),
        truncations=np.zeros(rows, bool),
    )  # fmt: skip
    monkeypatch.chdir(home)
    env = functools.partial(GoesAway, when, str(away))
    options = tiny("dqn", runners=1, backend="local", total_steps=256, dataset="mine.npz")
    wiserl.train("dqn", env, run_dir="run", quiet=True, **options)
    assert f'"{home / "mine.npz"}"' in (home / "run" / "config.json").read_text()


@pytest.fixture
def doubles() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("algo", "env", "options"),
    [
        ("ppo", BoxObs, {}),
        ("ppo", BoxObs, {"net": "rnn"}),
        ("ppo", DictObs, {"normalize_observation": True}),
        ("dqn", BoxObs, {"net": [{"type": "linear", "in_features": 2, "out_features": 8}, {"type": "relu"}]}),
        ("dqn", BoxObs, {"categorical": True, "noisy": True, "dueling": True}),
        ("qrdqn", BoxObs, {}),
        ("sac", BoxAction, {}),
        ("sac", BoxObs, {"ent_coef": 0.1}),
        ("td3", BoxAction, {}),
        ("ddpg", BoxAction, {}),
    ],
)
def test_float64_as_the_default_of_pytorch_changes_nothing(
    tmp_path: Path, algo: str, env: Any, options: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    before = train(algo, env, tmp_path / "float32", total_steps=256, **options)
    request.getfixturevalue("doubles")
    assert train(algo, env, tmp_path / "float64", total_steps=256, **options) == before
    assert torch.get_default_dtype() == torch.float64
