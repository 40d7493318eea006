"""A user's script with an algorithm of its own: trains it on a backend, opens it, goes on with it."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch

import wiserl
from wiserl.agent.dqn import DQN, DQNConfig
from wiserl.core.tree import leading_axes
from wiserl.ops.tensors import to_tensors


@dataclass(frozen=True)
class MyConfig(DQNConfig):
    forget: float = 0.5


class MyDQN(DQN):
    config_class = MyConfig
    extras = ("value",)

    def choose_action(self, obs, deterministic=False):
        chosen = super().choose_action(obs, deterministic)
        with torch.inference_mode():
            values = self.policy(to_tensors(obs, self.device, skip_axes=2)).amax(1).numpy()
        return {**chosen, "value": values.reshape(leading_axes(obs))}

    def learn(self, batch, rate):
        errors, logs = super().learn(batch, rate)
        self.replay.write(batch["index"].numpy(), "value", batch["value"].numpy() * self.config.forget)
        return errors, {**logs, "losses/value": batch["value"]}


if __name__ == "__main__":
    backend, folder = sys.argv[1:]
    options = {"runners": 2, "envs": 2, "vector": "inline", "eval_episodes": 1, "hidden_sizes": (8,), "quiet": True}
    options |= {"learning_starts": 64, "train_freq": 8, "device": "cpu"}
    summary = wiserl.train(MyDQN, "CartPole-v1", backend=backend, run_dir=folder, total_steps=512, **options)
    assert (summary["algo"], summary["updates"]) == ("__main__:MyDQN", (512 - 64) // 8)
    assert wiserl.load(folder).choose_action([0.0, 0.1, 0.0, 0.1]) in (0, 1)
    summary = wiserl.train(MyDQN, "CartPole-v1", resume=folder, total_steps=768, quiet=True)
    assert summary["env_steps"] == 768
