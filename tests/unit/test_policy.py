"""A trained policy, opened for acting: for every space, from a folder alone, with errors that say what does not fit."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wiserl
from tests.envs import (
    BoxAction,
    BoxObs,
    DictObs,
    DiscreteObs,
    DyingAgents,
    MultiBinaryAction,
    MultiDiscreteAction,
    TupleObs,
)
from tests.plans import make_plan
from wiserl.core.tree import tree_map
from wiserl.env.vector.choose import make_vector
from wiserl.policy.policy import load
from wiserl.run_folder.sealed import sealed_text
from wiserl.training.training_agent import TrainingAgent
from wiserl.util.errors import InputError


def save_policy(folder: Path, algo: str, env: Any, **options: Any) -> TrainingAgent:
    agent = TrainingAgent(True, plan=make_plan(folder, algo, env, **options))
    agent.start_learning()
    agent.save()
    return agent


ENVS = [BoxObs, BoxAction, DictObs, DiscreteObs, MultiBinaryAction, MultiDiscreteAction, TupleObs]
CASES = [("ppo", env) for env in ENVS] + [("dqn", env) for env in (BoxObs, DictObs, DiscreteObs, TupleObs)]


@pytest.mark.parametrize(("algo", "env"), CASES)
def test_the_env_takes_what_the_policy_chooses(tmp_path, algo, env):
    save_policy(tmp_path, algo, env)
    policy, made = load(tmp_path), env()
    obs, _ = made.reset(seed=0)
    for deterministic in (True, False, True):
        action = policy.choose_action(obs, deterministic)
        assert made.action_space.contains(
            np.asarray(action, made.action_space.dtype) if made.action_space.shape else action
        )
        assert type(action) in (int, np.ndarray)
        obs, *_ = made.step(action)


def test_a_policy_that_learned_from_replay_draws_from_what_it_learned(tmp_path):
    """Before `learning_starts` such an algorithm acts at random; a loaded one is past it."""
    agent = TrainingAgent(True, plan=make_plan(tmp_path, "dqn", BoxObs, {"exploration_final_eps": 0.0}))
    agent.start_learning()
    agent.algorithm.env_steps = 1000
    agent.save()
    policy, obs = load(tmp_path), BoxObs().reset(seed=0)[0]
    assert {int(policy.choose_action(obs, deterministic=False)) for _ in range(30)} == {policy.choose_action(obs)}


def test_it_acts_as_the_learner_would_on_one_observation_and_on_many(tmp_path):
    agent = save_policy(tmp_path, "ppo", DictObs, config={"normalize_observation": True})
    policy = load(tmp_path)
    with make_vector(DictObs, {}, 4) as envs:
        obs, _ = envs.reset(range(4))
        obs = tree_map(np.copy, obs)
        expected = agent.algorithm.choose_action(obs, deterministic=True)["action"]
        assert np.array_equal(policy.act(obs), expected)
        one = [policy.choose_action(tree_map(lambda leaf, e=e: leaf[e, 0], obs)) for e in range(4)]
    assert one == expected[:, 0].tolist()


def test_a_policy_of_many_agents_acts_for_each(tmp_path):
    save_policy(tmp_path, "ppo", DyingAgents)
    policy = load(tmp_path)
    assert policy.spec.num_agents == 3
    assert policy.act(np.zeros((2, 3, 3), np.float32)).shape == (2, 3)
    assert policy.choose_action(np.zeros(3, np.float32)) in (0, 1)


def test_drawn_actions_repeat_with_the_seed(tmp_path):
    save_policy(tmp_path, "ppo", BoxAction)
    policy, drawn = load(tmp_path), []
    for seed in (3, 3, 4):
        policy.reseed(seed)
        drawn.append([float(policy.choose_action(np.zeros(1, np.float32), deterministic=False)[0]) for _ in range(5)])
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 5


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        (np.zeros(3, np.float32), r"shape \(3,\), its space says \(2,\)"),
        ({"x": 1}, "observation does not fit Box"),
        ("text", "observation does not fit Box"),
        (np.array([0.0, np.inf], np.complex64), "dtype complex64"),
    ],
)
def test_an_observation_that_does_not_fit_is_refused(tmp_path, obs, message):
    save_policy(tmp_path, "ppo", BoxObs)
    with pytest.raises(InputError, match=message):
        load(tmp_path).choose_action(obs)


def test_an_observation_that_lacks_an_entry_is_refused_with_its_name(tmp_path):
    save_policy(tmp_path, "ppo", DictObs)
    with pytest.raises(InputError, match="lacks 'vector'; it has image"):
        load(tmp_path).choose_action({"image": np.zeros((36, 36, 1), np.uint8)})


def change_manifest(folder: Path, **changes: Any) -> None:
    path = next(iter((folder / "checkpoints").glob("step_*"))) / "manifest.json"
    path.write_text(sealed_text(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algo": "pppo"}, "unknown algorithm 'pppo': did you mean 'ppo'"),
        ({"algo": "dqn", "config": {}}, "does not hold a dqn network"),
        ({"config": {"hidden_sizes": [3]}}, "does not hold a ppo network"),
        ({"config": {"hidden_size": [3]}}, "unknown option 'hidden_size' for ppo"),
        ({"spec": {"id": "x"}}, "lacks 'observation_space'"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(tmp_path, changes, message):
    save_policy(tmp_path, "ppo", BoxObs)
    change_manifest(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        load(tmp_path)


def test_it_opens_without_ray_without_the_env_and_without_the_run_that_made_it(tmp_path):
    """In a process of its own, from the checkpoint's folder alone, where neither ray nor the env can be imported."""
    save_policy(tmp_path / "run", "ppo", DictObs)
    checkpoint = next(iter((tmp_path / "run" / "checkpoints").glob("step_*")))
    checkpoint.rename(tmp_path / "elsewhere")
    script = (
        "import sys; sys.modules.update(dict.fromkeys(['ray', 'tests', 'pettingzoo', 'greenlet']))\n"
        "import numpy as np, wiserl\n"
        f"policy = wiserl.load({str(tmp_path / 'elsewhere')!r})\n"
        "obs = {'image': np.zeros((36, 36, 1), np.uint8), 'vector': np.zeros(2, np.float32)}\n"
        "print(policy.choose_action(obs))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("0", "1")


class Masking(torch.nn.Module):
    """Keeps an infinity that is meant."""

    def __init__(self, space: Any) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 4)
        self.register_buffer("mask", torch.tensor([0.0, -math.inf]))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layer(obs))


def test_a_network_that_keeps_an_infinity_opens(tmp_path: Path) -> None:
    options = {"total_steps": 64, "envs": 2, "n_steps": 16, "eval_episodes": 1, "vector": "inline", "quiet": True}
    wiserl.train("ppo", BoxObs, network=Masking, run_dir=tmp_path / "run", **options)
    assert load(tmp_path / "run").choose_action(np.zeros(2, np.float32)) in range(10)
