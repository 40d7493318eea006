"""Algorithms as a user writes them, importable as "tests.algorithms:NAME"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from wiserl.agent.base.algorithm import Algorithm
from wiserl.agent.dqn import DQN, DQNConfig
from wiserl.core.config import NonNegative, PositiveFloat, option
from wiserl.core.tree import leading_axes
from wiserl.ops.tensors import to_tensors


@dataclass(frozen=True)
class RememberingConfig(DQNConfig):
    """DQN's, and one more."""

    forget: NonNegative = option(0.0, "added to each value that is written back")


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


@dataclass(frozen=True)
class CloningConfig:
    """The least there is."""

    learning_rate: PositiveFloat = option(1e-3, "of plain gradient descent")


class Cloning(Algorithm):
    """An on-policy algorithm of a user's own: it makes what it did more likely."""

    config_class = CloningConfig
    on_policy = True

    def _build(self) -> torch.nn.Module:
        return torch.nn.Linear(2, 2)

    @classmethod
    def steps_per_fragment(cls, config: Any, sync: bool, runners: int, envs: int) -> int:
        return 8

    def choose_action(self, obs: Any, deterministic: bool = False) -> dict[str, Any]:
        return {"action": self._act(obs).argmax(-1).reshape(leading_axes(obs))}

    def update(self, fragment: Any) -> dict[str, float]:
        obs, action = (to_tensors(fragment[name], self.device, skip_axes=3) for name in ("obs", "action"))
        loss = torch.nn.functional.cross_entropy(self.policy(obs), action)
        (gradient,) = torch.autograd.grad(loss, [self.policy.weight])
        with torch.no_grad():
            self.policy.weight.sub_(gradient, alpha=self.config.learning_rate)
        self.updates += 1
        return {"losses/loss": loss.item()}


class Unfinished(Algorithm):
    """Lacks what makes an algorithm."""

    config_class = DQNConfig


def no_algorithm() -> None:
    """A function where a class is expected."""
