"""Soft actor-critic (Haarnoja et al. 2018, and 2019, whose equations are cited), for Discrete actions by Christodoulou 2019.

Top to bottom: config, networks, losses, agent. `docs/algorithms/sac.md` explains the method.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from gymnasium import spaces
from torch import Tensor, nn

from wiserl.agent.base.off_policy_actor_critic import OffPolicyActorCritic, OffPolicyActorCriticConfig
from wiserl.core.actions import bounded_action_size
from wiserl.core.config import NonNegative, PositiveFloat, PositiveInt, option
from wiserl.core.spec import EnvSpec
from wiserl.core.tree import Array, Nested, leading_axes
from wiserl.net.acting import Plain
from wiserl.net.choice import make_encoder
from wiserl.net.critic import Critics, DiscreteCritics
from wiserl.net.heads import LOG_STD_MAX, LOG_STD_MIN, Categorical, masked_logits, only_valid, squash
from wiserl.net.normalize import ObservationNormalizer
from wiserl.net.optim import FlatAdam, flatten_parameters
from wiserl.ops.exploration import random_choices
from wiserl.ops.losses import masked_target_entropy, weighted_mean
from wiserl.util.errors import InputError


@dataclass(frozen=True)
class SACConfig(OffPolicyActorCriticConfig):
    """Hyper-parameters of SAC, named as in Stable-Baselines3 where it has them. Steps are env steps over all envs."""

    target_update_interval: PositiveInt = option(1, "updates between those of the targets")
    ent_coef: NonNegative | Literal["auto"] = option("auto", "the temperature: a number, or learned")
    ent_coef_init: PositiveFloat = option(1.0, "where the learned temperature starts")
    target_entropy: float | Literal["auto"] = option("auto", "nats; auto: minus the size of a Box action, or 0.5 log n")


class Actor(nn.Module):
    """A stochastic policy: means and log standard deviations before the tanh, or logits."""

    def __init__(self, spec: EnvSpec, config: SACConfig, num_outputs: int, normalizer: ObservationNormalizer | None = None
                 ) -> None:  # fmt: skip
        super().__init__()
        self.encoder = make_encoder(spec.observation_space, config, normalizer=normalizer)
        self.head = nn.Linear(self.encoder.size, num_outputs)

    def plain(self) -> Plain:
        """What it comes down to."""
        return Plain(self.encoder, self.head)

    def forward(self, obs: Nested) -> Tensor:
        """Outputs `[N, num_outputs]`."""
        outputs: Tensor = self.head(self.encoder(obs))
        return outputs


class Temperature(nn.Module):
    """The learned weight of the entropy, as its logarithm `[1]`."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.tensor([math.log(start)], dtype=torch.float32))


def critic_loss(critics: Critics, target: Critics, actor: Actor, batch: dict[str, Any], alpha: Tensor, noise: Tensor
                ) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Half the squared soft TD errors of both critics, summed (equations 5 and 6).

    Args:
        critics: what is learned.
        target: the smaller of its two values is the bootstrap.
        actor: chooses the next action.
        batch: tensors `[N, ...]`: obs, action, reward (of n steps), next_obs, terminated, discount, weight if prioritised.
        alpha: the temperature `[1]`.
        noise: `[N, size]`, normal: of the next action.

    Returns:
        The loss and the absolute TD errors `[N]`, of the two critics the mean.
    """
    with torch.no_grad():
        action, log_prob = squash(actor(batch["next_obs"]), noise)
        following = target(batch["next_obs"], action).amin(1) - alpha * log_prob
        goal = batch["reward"] + batch["discount"] * ~batch["terminated"] * following
    errors = goal.unsqueeze(1) - critics(batch["obs"], batch["action"])
    return weighted_mean(0.5 * (errors * errors).sum(1), batch), errors.detach().abs().mean(1)


def actor_loss(actor: Actor, critics: Critics, obs: Nested, alpha: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """`alpha log pi(a) - min Q(a)` for the actor's own actions (equation 9), and their `-log pi(a)` `[N]`.

    `critics` are frozen: the gradient goes through them to the actor.
    """
    action, log_prob = squash(actor(obs), noise)
    return (alpha * log_prob - critics(obs, action).amin(1)).mean(), -log_prob.detach()


def discrete_critic_loss(critics: DiscreteCritics, target: DiscreteCritics, actor: Actor, batch: dict[str, Any], alpha: Tensor
                         ) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As `critic_loss`, the next value being the expectation over all valid actions (Christodoulou 2019, equation 10)."""
    with torch.no_grad():
        log_p = F.log_softmax(masked_logits(actor(batch["next_obs"]), batch.get("next_action_mask")), 1)
        following = (log_p.exp() * (target(batch["next_obs"]).amin(2) - alpha * log_p)).sum(1)
        goal = batch["reward"] + batch["discount"] * ~batch["terminated"] * following
    index = batch["action"].view(-1, 1, 1).expand(-1, 1, 2)
    errors = goal.unsqueeze(1) - critics(batch["obs"]).gather(1, index).squeeze(1)
    return weighted_mean(0.5 * (errors * errors).sum(1), batch), errors.detach().abs().mean(1)


def discrete_actor_loss(actor: Actor, critics: DiscreteCritics, obs: Nested, alpha: Tensor, mask: Tensor | None = None
                        ) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As `actor_loss`, in expectation over all actions (Christodoulou 2019, equation 12), and the entropies `[N]`.

    Only actions count that are valid by `mask`, bool `[N, n]`; None: all are.
    """
    log_p = F.log_softmax(masked_logits(actor(obs), mask), 1)
    p = log_p.exp()
    with torch.no_grad():
        values = critics(obs).amin(2)
    return (p * (alpha * log_p - values)).sum(1).mean(), -(p * log_p).detach().sum(1)


def temperature_loss(log_alpha: Tensor, entropy: Tensor, target_entropy: float | Tensor) -> Tensor:
    """Raises the temperature while the entropy `[N]` is below its target (equation 18, of the logarithm)."""
    return (log_alpha * (entropy - target_entropy)).mean()


class SAC(OffPolicyActorCritic):
    """Learns soft Q-values from replay, and a stochastic actor that maximises them and its entropy."""

    config_class = SACConfig
    title = "Soft actor-critic (automatic temperature)"
    spaces_line = "Box (finite bounds), Discrete"
    config: SACConfig
    policy: Actor

    def _build(self) -> nn.Module:
        space = self.spec.action_space
        self.discrete = isinstance(space, spaces.Discrete)
        self.size = int(space.n) if isinstance(space, spaces.Discrete) else bounded_action_size(space, "sac")
        if self.discrete and self.config.action_noise != "none":
            raise InputError(
                f"action_noise={self.config.action_noise}: noise is added to Box actions, but the env's are Discrete; "
                "use action_noise=none (a larger ent_coef explores more)"
            )
        self._categorical = Categorical(self.size)
        return Actor(self.spec, self.config, self.size if self.discrete else 2 * self.size, self._make_normalizer())

    def start_learning(self) -> None:
        super().start_learning()
        config, clip = self.config, self.config.max_grad_norm
        self.actor_optimizer = FlatAdam(self.policy, self.flat, config.learning_rate, max_grad_norm=clip)
        kind: type[Critics | DiscreteCritics] = DiscreteCritics if self.discrete else Critics
        self.critics = self._make_critics(
            lambda: kind(self.spec, 2, config.hidden_sizes, config.activation, config.net, self.normalizer)
        )
        self.temperature = Temperature(config.ent_coef_init).to(self.device)
        self.temperature_optimizer = FlatAdam(
            self.temperature, flatten_parameters(self.temperature), config.learning_rate
        )
        automatic = 0.5 * math.log(self.size) if self.discrete else -float(self.size)
        self.target_entropy = automatic if config.target_entropy == "auto" else config.target_entropy
        self._critic_loss = self._compile_if_asked(discrete_critic_loss if self.discrete else critic_loss)
        self._actor_loss = self._compile_if_asked(discrete_actor_loss if self.discrete else actor_loss)

    @property
    def alpha(self) -> Tensor:
        """The temperature `[1]`: the given one, or what has been learned."""
        given = self.config.ent_coef
        if given == "auto":
            return self.temperature.log_alpha.detach().exp()
        return torch.full((1,), float(given), dtype=torch.float32, device=self.device)

    def choose_action(self, obs: Nested, deterministic: bool = False, memory: Array | None = None,
                      mask: Array | None = None) -> dict[str, Array]:  # fmt: skip
        """Actions drawn from the policy, or its likeliest; uniformly random ones before `learning_starts`."""
        shape = (*leading_axes(obs), *(self.spec.action_space.shape or ()))
        if self.warming_up and not deterministic:
            if self.discrete:
                return {"action": random_choices(self.rng, shape, self.size, mask)}
            return self.without_noise(self.random_actions(shape), memory)
        outputs = self._act(obs)
        if self.discrete:
            head, outputs = self._categorical, only_valid(outputs.reshape(*shape, self.size), mask)
            return {"action": head.mode(outputs) if deterministic else head.sample(outputs, self.rng)}
        mean, log_std = outputs[:, : self.size], outputs[:, self.size :]
        if deterministic:
            return self.without_noise(np.tanh(mean).reshape(shape), memory)
        std = np.exp(np.minimum(np.maximum(log_std, LOG_STD_MIN), LOG_STD_MAX))
        action = np.tanh(mean + std * self.rng.standard_normal(mean.shape, np.float32))
        return self.with_noise(action.reshape(shape), memory)

    def _noise(self, batch: dict[str, Any]) -> tuple[Tensor, ...]:
        """What an action of each transition is drawn with; nothing where the expectation is taken."""
        shape = (len(batch["reward"]), self.size)
        if self.discrete:
            return ()
        return (torch.randn(shape, generator=self.generator, dtype=torch.float32, device=self.device),)

    def learn(self, batch: dict[str, Any], rate: float) -> tuple[Tensor, dict[str, Tensor | float]]:
        """One Adam step on each loss: critics, actor, temperature."""
        config, alpha = self.config, self.alpha
        value_loss, errors = self._critic_loss(
            self.critics.online, self.critics.target, self.policy, batch, alpha, *self._noise(batch)
        )
        self.critics.optimizer.step(value_loss, rate)
        mask = batch.get("action_mask")
        drawn = (mask,) if self.discrete else self._noise(batch)
        policy_loss, entropy = self._actor_loss(self.policy, self.critics.frozen, batch["obs"], alpha, *drawn)
        self.actor_optimizer.step(policy_loss, rate)
        if config.ent_coef == "auto":
            target = self.target_entropy if mask is None else masked_target_entropy(self.target_entropy, mask)
            loss = temperature_loss(self.temperature.log_alpha, entropy, target)
            self.temperature_optimizer.step(loss, rate)
        if (self.updates + 1) % config.target_update_interval == 0:
            self.critics.follow(config.tau)
        losses = {"losses/qf_loss": value_loss.detach(), "losses/actor_loss": policy_loss.detach()}
        return errors, {**losses, "losses/entropy": entropy, "losses/alpha": alpha}

    def learner_state(self) -> dict[str, Any]:
        return {
            **super().learner_state(),
            "actor_optimizer": self.actor_optimizer.state_dict(),
            "critics": self.critics.state_dict(),
            "temperature": self.temperature.log_alpha.detach(),
            "temperature_optimizer": self.temperature_optimizer.state_dict(),
        }

    def load_learner_state(self, state: dict[str, Any]) -> None:
        super().load_learner_state(state)
        self.actor_optimizer.load_state_dict(state["actor_optimizer"])
        self.critics.load_state_dict(state["critics"])
        with torch.no_grad():
            self.temperature.log_alpha.copy_(state["temperature"])
        self.temperature_optimizer.load_state_dict(state["temperature_optimizer"])
