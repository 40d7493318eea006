"""Deep deterministic policy gradient (Lillicrap et al. 2016): Q-learning for continuous actions.

Top to bottom: config, networks, losses, agent. `docs/algorithms/ddpg.md` explains the method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from wiserl.agent.base.off_policy_actor_critic import NoiseKind, OffPolicyActorCritic, OffPolicyActorCriticConfig
from wiserl.core.actions import bounded_action_size
from wiserl.core.config import PositiveFloat, option
from wiserl.core.spec import EnvSpec
from wiserl.core.tree import Array, Nested, leading_axes
from wiserl.net.acting import Plain
from wiserl.net.choice import make_encoder
from wiserl.net.critic import Critics
from wiserl.net.normalize import ObservationNormalizer
from wiserl.net.optim import TrainedNetwork
from wiserl.ops.losses import weighted_mean


@dataclass(frozen=True)
class DDPGConfig(OffPolicyActorCriticConfig):
    """Hyper-parameters of DDPG, named as in Stable-Baselines3 where it has them. Steps are env steps over all envs."""

    learning_rate: PositiveFloat = option(1e-3, "Adam's step size at the start, of actor and critic")
    action_noise: NoiseKind = option("gaussian", "added to actions while training")


class Actor(nn.Module):
    """A deterministic policy."""

    def __init__(self, spec: EnvSpec, config: DDPGConfig, size: int, normalizer: ObservationNormalizer | None = None
                 ) -> None:  # fmt: skip
        super().__init__()
        self.encoder = make_encoder(spec.observation_space, config, normalizer=normalizer)
        self.mean = nn.Linear(self.encoder.size, size)

    def plain(self) -> Plain:
        """What it comes down to."""
        return Plain(self.encoder, self.mean, np.tanh)

    def forward(self, obs: Nested) -> Tensor:
        """Actions `[N, size]` in [-1, 1]."""
        return torch.tanh(self.mean(self.encoder(obs)))


def critic_loss(critics: Critics, target: Critics, target_actor: Actor, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Squared TD error (Lillicrap et al. 2016, algorithm 1), the next action being the target actor's.

    Args:
        critics: what is learned.
        target: what the bootstrap is taken from.
        target_actor: chooses the next action.
        batch: tensors `[N, ...]`: obs, action, reward (of n steps), next_obs, terminated, discount, weight if prioritised.

    Returns:
        The loss and the TD errors `[N]`.
    """
    with torch.no_grad():
        following = target(batch["next_obs"], target_actor(batch["next_obs"])).squeeze(1)
        goal = batch["reward"] + batch["discount"] * ~batch["terminated"] * following
    errors = goal - critics(batch["obs"], batch["action"]).squeeze(1)
    return weighted_mean(errors * errors, batch), errors.detach()


def actor_loss(actor: Actor, critics: Critics, obs: Nested) -> Tensor:
    """Minus the (first) critic's value of the actor's own actions: the deterministic policy gradient.

    `critics` are frozen: the gradient goes through them to the actor.
    """
    return -critics.first(obs, actor(obs)).mean()


class DDPG(OffPolicyActorCritic):
    """Learns Q-values of continuous actions from replay, and an actor that maximises them; acts with noise."""

    config_class: ClassVar[type] = DDPGConfig
    title = "Deep deterministic policy gradient (Gaussian or Ornstein-Uhlenbeck noise)"
    spaces_line = "Box (finite bounds)"
    num_critics = 1
    config: DDPGConfig
    policy: Actor

    def _build(self) -> nn.Module:
        self.size = bounded_action_size(self.spec.action_space, type(self).__name__.lower())
        return Actor(self.spec, self.config, self.size, self._make_normalizer())

    def start_learning(self) -> None:
        super().start_learning()
        config = self.config
        self.actor = TrainedNetwork(self.policy, self.flat, config.learning_rate, config.max_grad_norm)
        self.critics = self._make_critics(
            lambda: Critics(
                self.spec, self.num_critics, config.hidden_sizes, config.activation, config.net, self.normalizer
            )
        )
        self._critic_loss = self._compile_if_asked(critic_loss)
        self._actor_loss = self._compile_if_asked(actor_loss)

    def choose_action(self, obs: Nested, deterministic: bool = False, memory: Array | None = None) -> dict[str, Array]:
        """The actor's actions, with noise while training; uniformly random ones before `learning_starts`."""
        shape = (*leading_axes(obs), *(self.spec.action_space.shape or ()))
        if self.warming_up and not deterministic:
            return self.without_noise(self.random_actions(shape), memory)
        action = self._act(obs).reshape(shape)
        return self.without_noise(action, memory) if deterministic else self.with_noise(action, memory)

    def learn(self, batch: dict[str, Any], rate: float) -> tuple[Tensor, dict[str, Tensor | float]]:
        """One Adam step on each loss, the critic's first; then the targets follow."""
        value_loss, errors = self._critic_loss(self.critics.online, self.critics.target, self.actor.target, batch)
        self.critics.optimizer.step(value_loss, rate)
        policy_loss = self._actor_loss(self.policy, self.critics.frozen, batch["obs"])
        self.actor.optimizer.step(policy_loss, rate)
        self.critics.follow(self.config.tau)
        self.actor.follow(self.config.tau)
        return errors, {"losses/qf_loss": value_loss.detach(), "losses/actor_loss": policy_loss.detach()}

    def learner_state(self) -> dict[str, Any]:
        return {**super().learner_state(), "actor": self.actor.state_dict(), "critics": self.critics.state_dict()}

    def load_learner_state(self, state: dict[str, Any]) -> None:
        super().load_learner_state(state)
        self.actor.load_state_dict(state["actor"])
        self.critics.load_state_dict(state["critics"])
