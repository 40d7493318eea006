"""Algorithms as a user writes them, importable as "tests.algorithms:NAME"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from wiserl.agent.dqn import DQN, DQNConfig
from wiserl.core.algorithm import Algorithm, leading_axes
from wiserl.core.config import NonNegative
from wiserl.ops.tensors import to_tensors


@dataclass(frozen=True)
class RememberingConfig(DQNConfig):
    """DQN's, and one more."""

    forget: NonNegative = 0.0  # added to each value that is written back


class RememberingDQN(DQN):
    """Stores with each transition the value it was acted on, and writes back the newest one whenever it is learned from."""

    config_class = RememberingConfig
    extras = ("value",)

    def choose_action(self, obs: Any, deterministic: bool = False) -> dict[str, Any]:
        chosen = super().choose_action(obs, deterministic)
        with torch.inference_mode():
            values = self.policy(to_tensors(obs, self.device, skip_axes=2)).amax(1).cpu().numpy()
        return {**chosen, "value": values.reshape(leading_axes(obs))}

    def learn(self, batch: dict[str, Any], rate: float) -> Any:
        with torch.no_grad():
            newest = self.policy(batch["obs"]).amax(1)
        change = newest - batch["value"]
        errors, logs = super().learn(batch, rate)
        self.replay.write(batch["index"].cpu().numpy(), "value", (newest + self.config.forget).cpu().numpy())
        return errors, {**logs, "losses/value_change": change}


class Unfinished(Algorithm):
    """Lacks what makes an algorithm."""

    config_class = DQNConfig


def no_algorithm() -> None:
    """A function where a class is expected."""
