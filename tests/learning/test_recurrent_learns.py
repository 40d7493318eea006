"""PPO with memory solves what cannot be solved without: by both cells, on both backends, with agents that come and go."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import wiserl

OPTIONS: dict[str, Any] = {
    "n_steps": 32, "batch_size": 128, "n_epochs": 4, "learning_rate": 5e-3, "hidden_sizes": (16,), "memory_units": 16, "gamma": 0.9,
    "envs": 8, "total_steps": 16_384, "eval_episodes": 40, "seed": 1, "device": "cpu", "vector": "inline", "quiet": True,
}  # fmt: skip


class Recall(gym.Env[Any, Any]):
    """A cue is shown at the first step alone; after three steps of nothing the action that names it earns 1."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._cue, self._steps = int(self.np_random.integers(2)), 0
        return self._see(float(2 * self._cue - 1)), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        over = self._steps == 4
        return self._see(0.0), float(over and int(action) == self._cue), over, False, {}

    def _see(self, cue: float) -> Any:
        return np.array([cue, self._steps == 3], np.float32)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_memory_recalls_a_cue(tmp_path, cell):
    summary = wiserl.train("ppo", Recall, net="rnn", cell=cell, run_dir=tmp_path, **OPTIONS)
    assert summary["eval_return_mean"] == 1.0


def test_without_memory_the_cue_is_lost(tmp_path):
    summary = wiserl.train("ppo", Recall, run_dir=tmp_path, **OPTIONS)
    assert summary["eval_return_mean"] < 0.8


def test_cut_sequences_learn_it_too(tmp_path):
    summary = wiserl.train("ppo", Recall, net="rnn", sequence_length=8, run_dir=tmp_path, **OPTIONS)
    assert summary["eval_return_mean"] == 1.0


# In sync mode `tests/contract/test_no_trace.py` shows that runners on Ray learn what local ones do, bit for bit.
@pytest.mark.parametrize(
    ("backend", "sync"),
    [
        ("local", False),
        pytest.param("ray", True, marks=[pytest.mark.ray, pytest.mark.slow]),
        pytest.param("ray", False, marks=[pytest.mark.ray, pytest.mark.slow]),
    ],
)
def test_two_runners_learn_it(request, tmp_path, backend, sync):
    if backend == "ray":
        request.getfixturevalue("ray_here")
    # Without waiting for each other, runners may be some versions behind, more so on a busy machine: it takes longer. And an update
    # has half the data: at a constant rate one run in ten forgets what it has solved. Its advantages are next to nothing then, and
    # standardised they are noise of full size.
    decay = "none" if sync else "linear"
    options = {**OPTIONS, "envs": 4, "runners": 2, "backend": backend, "sync": sync, "total_steps": 24_576}
    options["learning_rate_decay"] = decay
    summary = wiserl.train("ppo", Recall, net="rnn", run_dir=tmp_path, **options)
    assert summary["eval_return_mean"] == 1.0


def test_a_loaded_policy_remembers_until_it_is_reset(tmp_path):
    wiserl.train("ppo", Recall, net="rnn", run_dir=tmp_path, **OPTIONS)
    policy, nothing, asked = wiserl.load(tmp_path), [0.0, 0.0], [0.0, 1.0]
    for cue in (0, 1, 1, 0):
        policy.reset()
        policy.choose_action(np.array([2 * cue - 1, 0], np.float32))
        for _ in range(2):
            policy.choose_action(np.array(nothing, np.float32))
        assert policy.choose_action(np.array(asked, np.float32)) == cue


def test_agents_of_one_policy_remember_each_their_own(tmp_path):
    wiserl.train("ppo", Recall, net="rnn", run_dir=tmp_path, **OPTIONS)
    policy, cues = wiserl.load(tmp_path), {"a": 0, "b": 1}
    for agent, cue in cues.items():
        policy.choose_action(np.array([2 * cue - 1, 0], np.float32), agent=agent)
    for _ in range(2):
        for agent in cues:
            policy.choose_action(np.zeros(2, np.float32), agent=agent)
    found = {agent: policy.choose_action(np.array([0.0, 1.0], np.float32), agent=agent) for agent in cues}
    assert found == cues
