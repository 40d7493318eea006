"""Proximal policy optimisation, the clipped variant (Schulman et al. 2017, https://arxiv.org/abs/1707.06347).

Top to bottom: config, networks, loss, agent. `docs/algorithms/ppo.md` explains the method.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from wiserl.core.algorithm import Algorithm, leading_axes
from wiserl.core.batch import Array, Fragment, Nested, tree_map
from wiserl.core.config import Fraction, NonNegative, PositiveFloat, PositiveInt
from wiserl.net.acting import numpy_forward
from wiserl.net.choice import NetworkConfig, make_encoder
from wiserl.net.encoder import orthogonal_
from wiserl.net.heads import DiagonalGaussian, make_head
from wiserl.net.images import is_image
from wiserl.ops.minibatches import minibatches
from wiserl.ops.normalize import ObservationNormalizer
from wiserl.ops.optim import FlatAdam
from wiserl.ops.returns import ReturnScale, gae, next_values
from wiserl.ops.schedules import decayed
from wiserl.ops.tensors import to_tensors


@dataclass(frozen=True)
class PPOConfig(NetworkConfig):
    """Hyper-parameters of PPO, named as in Stable-Baselines3 where it has them."""

    learning_rate: PositiveFloat = 3e-4  # Adam's step size at the start
    learning_rate_decay: Literal["none", "linear"] = "none"  # linear: to 0 at the last env step
    gamma: Fraction = 0.99  # discount per step
    gae_lambda: Fraction = 0.95  # weight of longer advantage sums
    n_steps: PositiveInt = 2048  # steps of each env per update round
    batch_size: PositiveInt = 64  # rows per minibatch
    n_epochs: PositiveInt = 10  # passes over a round's data
    clip_range: PositiveFloat = 0.2  # bound on the change of the probability ratio
    clip_range_vf: PositiveFloat | None = None  # the same for values, in units of return; none: no bound
    ent_coef: NonNegative = 0.0  # weight of the entropy bonus
    vf_coef: NonNegative = 0.5  # weight of the value loss
    max_grad_norm: PositiveFloat = 0.5  # bound on the gradient's L2 norm; inf: none
    target_kl: PositiveFloat | None = (
        None  # stop a round's epochs when the policy moved 1.5 times this (nats); none: never
    )
    normalize_advantage: bool = True  # per minibatch: zero mean, unit variance
    normalize_observation: bool = False  # running mean and variance, part of the weights
    normalize_reward: bool = False  # divide by the running deviation of discounted returns
    ortho_init: bool = True  # orthogonal initial weights; gain 0.01 for the policy's outputs
    adam_eps: PositiveFloat = 1e-5  # Adam's epsilon
    activation: Literal["tanh", "relu", "elu", "gelu", "silu"] = "tanh"  # after each hidden layer
    hidden_sizes: tuple[PositiveInt, ...] = (64, 64)  # widths of policy and value network (on top of a CNN: none)
    log_std_init: float = 0.0  # initial log standard deviation for Box actions (bounds are -1 to 1)
    max_policy_lag: PositiveInt = 4  # async: drop fragments older than this many weight versions per runner
    compile: bool = False  # compile the loss with torch.compile: some 20 s at the start, faster updates


class ActorCritic(nn.Module):
    """Policy and value networks: apart for vectors, on one shared CNN for images."""

    def __init__(self, agent: PPO) -> None:
        super().__init__()
        config, space = agent.config, agent.spec.observation_space
        self.head = make_head(agent.spec.action_space, "ppo")
        self.normalizer = ObservationNormalizer(space) if config.normalize_observation else None
        self.actor_encoder = make_encoder(space, config)
        self.critic_encoder = self.actor_encoder if is_image(space) else copy.deepcopy(self.actor_encoder)
        gaussian = isinstance(self.head, DiagonalGaussian)
        self.actor = nn.Linear(self.actor_encoder.size, self.head.num_outputs // (2 if gaussian else 1))
        self.critic = nn.Linear(self.actor_encoder.size, 1)
        self.log_std = nn.Parameter(torch.full((self.actor.out_features,), config.log_std_init)) if gaussian else None
        if config.ortho_init:
            for part, gain in ((self.actor_encoder, 2**0.5), (self.critic_encoder, 2**0.5), (self.actor, 0.01)):
                orthogonal_(part, gain)
            orthogonal_(self.critic, 1.0)
        elif self.critic_encoder is not self.actor_encoder:
            self.critic_encoder = make_encoder(space, config)  # not the actor's weights

    def normalize(self, obs: Nested) -> Nested:
        """Observations as the networks want them."""
        return obs if self.normalizer is None else self.normalizer(obs)

    def forward(self, obs: Nested) -> Tensor:
        """Outputs of the policy for observations as the env gives them."""
        return self.outputs(self.normalize(obs))

    def outputs(self, obs: Nested) -> Tensor:
        """Outputs of the policy `[N, num_outputs]` for normalised observations; their meaning is the head's."""
        out: Tensor = self.actor(self.actor_encoder(obs))
        return out if self.log_std is None else torch.cat([out, self.log_std.expand_as(out)], -1)

    def value(self, obs: Nested) -> Tensor:
        """Values `[N]` for normalised observations."""
        value: Tensor = self.critic(self.critic_encoder(obs))
        return value.squeeze(-1)


def loss(policy: ActorCritic, batch: dict[str, Any], config: PPOConfig,
         log: bool = True) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """The clipped surrogate (Schulman et al. 2017, equation 9).

    Args:
        policy: the networks.
        batch: tensors `[N, ...]`: obs and advantage (both normalised), action, log_prob, value, target (of the value).
        config: clip_range, clip_range_vf, vf_coef, ent_coef are read.
        log: whether the figures are wanted: a dozen operations more.

    Returns:
        The loss, and the figures to log in the order of `LOGGED`, `[6]`, or None.
    """
    outputs = policy.outputs(batch["obs"])
    log_ratio = policy.head.log_prob(outputs, batch["action"]) - batch["log_prob"]
    ratio = log_ratio.exp()
    # min(A r, A clip(r)) is A r up to a bound that depends on A alone: (1 + clip_range) A above 0, (1 - clip_range) A below.
    advantage = batch["advantage"]
    bound = torch.add(advantage, advantage.abs(), alpha=config.clip_range)
    policy_loss = -torch.min(advantage * ratio, bound).mean()
    value = policy.value(batch["obs"])
    if config.clip_range_vf is not None:
        value = batch["value"] + (value - batch["value"]).clamp(-config.clip_range_vf, config.clip_range_vf)
    value_loss = F.mse_loss(value, batch["target"])
    total = policy_loss + config.vf_coef * value_loss
    if config.ent_coef:
        total = total - config.ent_coef * policy.head.entropy(outputs).mean()
    if not log:
        return total, None
    with torch.no_grad():
        entropy = policy.head.entropy(outputs).mean()
        # Schulman's low-variance estimate of the divergence, http://joschu.net/blog/kl-approx.html
        approx_kl = (ratio - 1 - log_ratio).mean()
        clipfrac = ((ratio - 1).abs() > config.clip_range).float().mean()
        logs = torch.stack([total, policy_loss, value_loss, entropy, approx_kl, clipfrac])
    return total, logs


LOGGED = ("loss", "policy_loss", "value_loss", "entropy", "approx_kl", "clipfrac")


class PPO(Algorithm):
    """Learns from each round's data for some epochs, then throws it away."""

    config_class = PPOConfig
    on_policy = True
    title = "Proximal policy optimisation (clipped)"
    spaces_line = "Discrete, MultiDiscrete, MultiBinary, Box"
    config: PPOConfig
    policy: ActorCritic

    def _build(self) -> nn.Module:
        return ActorCritic(self)

    @classmethod
    def steps_per_fragment(cls, config: PPOConfig, sync: bool, runners: int, envs: int) -> int:
        """One fragment is the data of one update round."""
        return config.n_steps

    def _start_learning(self) -> None:
        config = self.config
        self.optimizer = FlatAdam(self.policy, self.flat, config.learning_rate, config.adam_eps, config.max_grad_norm)
        self.return_scale = ReturnScale(self.num_streams, self.spec.num_agents, config.gamma)
        self.loss: Callable[..., tuple[Tensor, Tensor | None]] = torch.compile(loss) if config.compile else loss

    def _numpy_policy(self) -> Callable[[Array], Array] | None:
        policy = self.policy
        plain = policy.normalizer is None and policy.log_std is None
        return numpy_forward(policy.actor_encoder, policy.actor) if plain else None

    def choose_action(self, obs: Nested, deterministic: bool = False) -> dict[str, Array]:
        """Sample (or take the likeliest) action; "outputs" are kept to compute log-probabilities for all steps at once."""
        head, outputs = self.policy.head, self._act(obs).reshape(*leading_axes(obs), -1)
        return {"action": head.mode(outputs) if deterministic else head.sample(outputs, self.rng), "outputs": outputs}

    def finish_fragment(self, fragment: Fragment) -> None:
        """Behaviour log-probabilities of all steps in one pass."""
        outputs, action = torch.from_numpy(fragment.pop("outputs")), torch.from_numpy(fragment["action"])
        log_prob = self.policy.head.log_prob(outputs.flatten(0, 2), action.flatten(0, 2))
        fragment["log_prob"] = log_prob.numpy().reshape(fragment["reward"].shape)

    def update(self, fragment: Fragment) -> dict[str, float]:
        """Advantages, then `n_epochs` passes of minibatches."""
        config, policy = self.config, self.policy
        data, explained = self._prepare(fragment)
        rate = decayed(config.learning_rate, config.learning_rate_decay, self.progress)
        if not len(data["advantage"]):  # a fragment of nothing but rows that are being reset
            return {}
        standardized = "advantage" if config.normalize_advantage else None
        logs: list[Tensor] = []
        for epoch in range(config.n_epochs):
            log = epoch == config.n_epochs - 1 or config.target_kl is not None
            for batch in minibatches(data, config.batch_size, self.rng, standardized):
                total, figures = self.loss(policy, batch, config, log)
                if figures is not None:
                    logs.append(figures)
                    if config.target_kl is not None and float(figures[4]) > 1.5 * config.target_kl:
                        break
                self.optimizer.step(total, rate)
                self.updates += 1
            else:
                continue
            break
        means = zip(LOGGED, torch.stack(logs).mean(0).tolist(), strict=True)
        named = {f"losses/{name}": value for name, value in means}
        return {**named, "losses/explained_variance": explained, "charts/learning_rate": rate}

    def _prepare(self, fragment: Fragment) -> tuple[dict[str, Any], float]:
        """Rows `[N, ...]` to learn from, advantages and value targets among them, and the explained variance of returns."""
        config, policy = self.config, self.policy
        raw = to_tensors(fragment["obs"], self.device, skip_axes=3)
        alive = fragment.get("alive")
        living = slice(None) if alive is None else torch.from_numpy(np.flatnonzero(alive)).to(self.device)
        if policy.normalizer is not None:
            policy.normalizer.update(tree_map(lambda leaf: leaf[living], raw))
        with torch.no_grad():
            obs = policy.normalize(raw)
            after = [to_tensors(fragment[name], self.device, skip_axes=2) for name in ("last_obs", "final_obs")]
            values = [policy.value(rows).cpu().numpy() for rows in (obs, *map(policy.normalize, after))]
        value = values[0].reshape(fragment["reward"].shape)
        last, final = values[1].reshape(value.shape[1:]), values[2].reshape(-1, value.shape[2])
        following = next_values(fragment, value, last, final)
        reward = self.return_scale.scale(fragment) if config.normalize_reward else fragment["reward"]
        ends = fragment["terminated"], fragment["truncated"]
        advantage = gae(reward, value, following, *ends, config.gamma, config.gae_lambda)
        target = advantage + value
        rows = {"action": fragment["action"], "log_prob": fragment["log_prob"], "advantage": advantage}
        rows.update(value=value, target=target)
        data = {"obs": obs, **to_tensors(rows, self.device, skip_axes=3)}
        if alive is not None:
            data = tree_map(lambda leaf: leaf[living], data)
            target, value = target[alive], value[alive]
        variance = float(np.var(target)) if target.size else 0.0
        return data, 1.0 - float(np.var(target - value)) / variance if variance > 0 else math.nan

    def learner_state(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "return_scale": self.return_scale.state_dict()}

    def load_learner_state(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.return_scale.load_state_dict(state["return_scale"])
