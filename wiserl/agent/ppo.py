"""Proximal policy optimisation, the clipped variant (Schulman et al. 2017, https://arxiv.org/abs/1707.06347).

Top to bottom: config, networks, loss, agent. `docs/algorithms/ppo.md` explains the method.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from wiserl.agent.base.on_policy import OnPolicy, OnPolicyConfig
from wiserl.core.batch import Fragment
from wiserl.core.config import Fraction, NonNegative, PositiveFloat, RoundSteps
from wiserl.core.tree import Array, Nested, leading_axes, tree_map
from wiserl.net.acting import Plain
from wiserl.net.choice import make_encoder
from wiserl.net.encoder import orthogonal_
from wiserl.net.heads import DiagonalGaussian, make_head
from wiserl.net.images import is_image
from wiserl.net.optim import FlatAdam
from wiserl.ops.losses import weighted_mean
from wiserl.ops.minibatches import minibatches
from wiserl.ops.returns import explained_variance, gae, next_values, vtrace
from wiserl.ops.tensors import to_tensors


@dataclass(frozen=True)
class PPOConfig(OnPolicyConfig):
    """Hyper-parameters of PPO, named as in Stable-Baselines3 where it has them."""

    gae_lambda: Fraction = 0.95  # weight of longer advantage sums
    n_steps: RoundSteps = 2048  # steps of each env per round; if not given: at most 16384 over all, at least 32 each
    clip_range: PositiveFloat = 0.2  # bound on the change of the probability ratio
    clip_range_vf: PositiveFloat | None = None  # the same for values, in units of return; none: no bound
    ent_coef: NonNegative = 0.0  # weight of the entropy bonus
    vf_coef: NonNegative = 0.5  # weight of the value loss
    target_kl: PositiveFloat | None = None  # end the epochs once the policy moved 1.5 times this (nats); none: never
    normalize_advantage: bool = True  # per minibatch: zero mean, unit variance
    ortho_init: bool = True  # orthogonal initial weights; gain 0.01 for the policy's outputs
    adam_eps: PositiveFloat = 1e-5  # Adam's epsilon
    log_std_init: float = 0.0  # initial log standard deviation for Box actions (bounds are -1 to 1)


class ActorCritic(nn.Module):
    """Policy and value networks: apart for vectors, on one shared CNN for images."""

    def __init__(self, agent: PPO) -> None:
        super().__init__()
        config, space = agent.config, agent.spec.observation_space
        self.head = make_head(agent.spec.action_space, "ppo")
        self.normalizer = agent._make_normalizer()
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

    def plain(self) -> Plain | None:
        """What the policy comes down to without normaliser and learned deviation."""
        return Plain(self.actor_encoder, self.actor) if self.normalizer is None and self.log_std is None else None

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
    """The clipped surrogate (Schulman et al. 2017, equation 9); with weights the decoupled one (Hilton et al. 2022).

    Args:
        policy: the networks.
        batch: tensors `[N, ...]`: obs and advantage (both normalised), action, log_prob (of the policy to stay near), value, target
            (of the value), and weight (of the surrogate) where another policy has acted.
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
    policy_loss = -weighted_mean(torch.min(advantage * ratio, bound), batch)
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


class PPO(OnPolicy):
    """Learns from each round's data for some epochs, then throws it away.

    In async mode older policies may have acted. The policy stays near the one that the update begins with, not near those
    (Hilton et al. 2022), and what it learns is corrected for them: weights, advantages and value targets are those of v-trace.
    """

    config_class = PPOConfig
    title = "Proximal policy optimisation (clipped)"
    spaces_line = "Discrete, MultiDiscrete, MultiBinary, Box"
    config: PPOConfig
    policy: ActorCritic

    def _build(self) -> nn.Module:
        return ActorCritic(self)

    def _start_learning(self) -> None:
        config = self.config
        self.optimizer = FlatAdam(self.policy, self.flat, config.learning_rate, config.adam_eps, config.max_grad_norm)
        self.loss: Callable[..., tuple[Tensor, Tensor | None]] = torch.compile(loss) if config.compile else loss

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
        """Advantages, then `n_epochs` passes of minibatches, and then what was seen for the normaliser.

        The observations are learned from with the statistics that they were acted on with, or the ratios would not begin at 1.
        """
        logs = self._learn(fragment)
        self._note_observations(fragment)
        return logs

    def _learn(self, fragment: Fragment) -> dict[str, float]:
        config, policy = self.config, self.policy
        data, explained = self._prepare(fragment)
        rate = self._learning_rate(fragment)
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
        if "weight" in data:
            named["losses/behaviour_ratio"] = float(data["weight"].mean())
        return {**named, "losses/explained_variance": explained, "charts/learning_rate": rate}

    def _prepare(self, fragment: Fragment) -> tuple[dict[str, Any], float]:
        """Rows `[N, ...]` to learn from, advantages and value targets among them, and the explained variance of returns."""
        config, policy = self.config, self.policy
        alive, living = fragment.get("alive"), self._living(fragment)
        with torch.no_grad():
            obs = policy.normalize(to_tensors(fragment["obs"], self.device, skip_axes=3))
            after = [to_tensors(fragment[name], self.device, skip_axes=2) for name in ("last_obs", "final_obs")]
            values = [policy.value(rows).cpu().numpy() for rows in (obs, *map(policy.normalize, after))]
        value = values[0].reshape(fragment["reward"].shape)
        last, final = values[1].reshape(value.shape[1:]), values[2].reshape(-1, value.shape[2])
        following = next_values(fragment, value, last, final)
        reward, ends = self._reward(fragment), (fragment["terminated"], fragment["truncated"])
        rows = {name: fragment[name] for name in ("action", "log_prob")}
        if self.sync:
            advantage = gae(reward, value, following, *ends, config.gamma, config.gae_lambda)
            target = advantage + value
        else:
            rows["log_prob"], rows["weight"] = self._proximal(obs, fragment)
            advantage, target = vtrace(reward, value, following, *ends, rows["weight"], config.gamma, config.gae_lambda)
        rows.update(advantage=advantage, value=value, target=target)
        data = {"obs": obs, **to_tensors(rows, self.device, skip_axes=3)}
        if alive is not None:
            data = tree_map(lambda leaf: leaf[living], data)
            target, value = target[alive], value[alive]
        return data, explained_variance(target, value)

    def _proximal(self, obs: Nested, fragment: Fragment) -> tuple[Array, Array]:
        """Log-probabilities under the policy now, `[T, E, A]`, and its ratios to the policy that acted, cut off at 1."""
        action = to_tensors(fragment["action"], self.device, skip_axes=3)
        with torch.no_grad():
            log_prob = self.policy.head.log_prob(self.policy.outputs(obs), action)
        now = log_prob.cpu().numpy().reshape(fragment["reward"].shape)
        ratio = np.exp(np.minimum(now - fragment["log_prob"], 0.0))
        return now, np.where(fragment.get("alive", True), ratio, np.float32(1.0))
