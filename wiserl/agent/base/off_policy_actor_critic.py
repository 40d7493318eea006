"""What DDPG, TD3 and SAC share beyond replay: critics with targets that follow slowly, noise on actions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias, TypeVar

import numpy as np
from torch import nn

from wiserl.agent.base.off_policy import OffPolicy, OffPolicyConfig
from wiserl.core.config import Fraction, NonNegative, PositiveFloat, option
from wiserl.core.tree import Array
from wiserl.net.optim import TrainedNetwork, flatten_parameters
from wiserl.ops.exploration import ActionNoise

ModuleT = TypeVar("ModuleT", bound=nn.Module)
NoiseKind: TypeAlias = Literal["gaussian", "ornstein_uhlenbeck", "none"]


@dataclass(frozen=True)
class OffPolicyActorCriticConfig(OffPolicyConfig):
    """Hyper-parameters of actor and critics, named as in Stable-Baselines3 where it has them. Steps are env steps."""

    tau: Fraction = option(0.005, "share of the networks that their targets take over each time")
    action_noise: NoiseKind = option("none", "added to Box actions while training")
    noise_std: NonNegative = option(0.1, "standard deviation of what each env step adds to it; actions are in [-1, 1]")
    noise_theta: Fraction = option(0.15, "Ornstein-Uhlenbeck: share of the noise that each env step takes away")
    max_grad_norm: PositiveFloat = option(float("inf"), "bound on each gradient's L2 norm; inf: none")


class OffPolicyActorCritic(OffPolicy):
    """An off-policy algorithm whose actor chooses Box actions in [-1, 1] and whose critics value them."""

    config: OffPolicyActorCriticConfig

    @cached_property
    def noise(self) -> ActionNoise:
        """Added to Box actions while training."""
        return ActionNoise(self.config.action_noise, self.config.noise_std, self.config.noise_theta)

    @property
    def memory_size(self) -> int:
        return math.prod(self.spec.action_space.shape or ()) if self.noise.drifts else 0

    def with_noise(self, action: Array, memory: Array | None) -> dict[str, Array]:
        """What `choose_action` returns for actions `[E, A, ...]` in [-1, 1] while training; `memory`: the noise before."""
        if memory is None:
            return {"action": self.noise.add(action, self.rng)}
        noisy, drift = self.noise.add_drifting(action, memory.reshape(action.shape), self.rng)
        return {"action": noisy, "memory": drift.reshape(memory.shape)}

    def without_noise(self, action: Array, memory: Array | None) -> dict[str, Array]:
        """The same for actions that are to stay as they are."""
        return {"action": action} if memory is None else {"action": action, "memory": memory}

    def random_actions(self, shape: tuple[int, ...]) -> Array:
        """Uniform ones in [-1, 1], float32, for the time before learning starts."""
        return self.rng.uniform(-1.0, 1.0, shape).astype(np.float32)

    def _make_critics(self, build: Callable[[], ModuleT]) -> TrainedNetwork[ModuleT]:
        """What `build` makes, initialised from the seed, with its target and its optimiser."""
        critics = self._initialise("critics", build).to(self.device)
        return TrainedNetwork(
            critics, flatten_parameters(critics), self.config.learning_rate, self.config.max_grad_norm
        )
