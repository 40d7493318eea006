"""`compile=True` learns what the plain loss learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from tests.fragments import make_fragment, make_spec
from wiserl.agent.catalogue import algorithm_class
from wiserl.core.config import make_config

BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
REPLAY = {"learning_starts": 0, "batch_size": 16, "buffer_size": 500, "train_freq": 4}
OPTIONS = {
    "ppo": {"n_epochs": 2, "batch_size": 16},
    "sarsa": {"n_epochs": 2, "batch_size": 16},
    "dqn": {**REPLAY, "double": True, "prioritized": True},
    "rainbow": {**REPLAY, "rainbow": True, "num_atoms": 11},
    "qrdqn": {**REPLAY, "n_quantiles": 8},
    "ddpg": REPLAY,
    "td3": REPLAY,
    "sac": REPLAY,
}


@pytest.mark.slow
@pytest.mark.parametrize("algo", OPTIONS)
def test_a_compiled_loss_gives_the_same_updates(algo):
    found = []
    for compiled in (False, True):
        chosen = algorithm_class("dqn" if algo == "rainbow" else algo)
        config = make_config(chosen.config_class, OPTIONS[algo] | {"compile": compiled}, algo)
        spec = make_spec(action=BOX) if algo in ("ddpg", "td3", "sac") else make_spec()
        agent = chosen(spec=spec, config=config, num_streams=2, total_steps=1000)
        agent.start_learning()
        for seed in range(2):
            fragment = make_fragment(spec, 16, 2, seed, end_rate=0.1)
            fragment["log_prob"] = torch.full((16, 2, 1), -1.4).numpy()
            agent.env_steps += 32
            agent.update(fragment)
        found.append(agent.flat.detach())
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)


def test_a_minibatch_of_another_length_is_not_compiled_for(monkeypatch):
    """The last round is shorter, and there may be a rest in each epoch: compiling for a few updates takes seconds."""
    lengths = []

    def counted(loss):
        return lambda policy, batch, *rest: (lengths.append(len(batch["action"])), loss(policy, batch, *rest))[1]

    monkeypatch.setattr(torch, "compile", counted)
    config = make_config(algorithm_class("ppo").config_class, {"n_epochs": 2, "batch_size": 16, "compile": True}, "ppo")
    spec = make_spec()
    agent = algorithm_class("ppo")(spec=spec, config=config, num_streams=2, total_steps=1000)
    agent.start_learning()
    for steps in (20, 3):
        fragment = make_fragment(spec, steps, 2, 0, end_rate=0.1)
        fragment["log_prob"] = torch.full((steps, 2, 1), -1.4).numpy()
        agent.env_steps += 2 * steps
        agent.update(fragment)
    assert agent.updates == 2 * 3 + 2 * 1
    assert lengths == [16, 16] * 2
