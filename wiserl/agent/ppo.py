"""Proximal policy optimisation, the clipped variant (Schulman et al. 2017, https://arxiv.org/abs/1707.06347).

Top to bottom: config, networks, loss, agent. `docs/algorithms/ppo.md` explains the method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from wiserl.agent.base.on_policy import OnPolicy, OnPolicyConfig
from wiserl.core.batch import Fragment
from wiserl.core.config import Fraction, NonNegative, PositiveFloat, PositiveInt, RoundSteps, option
from wiserl.core.tree import Array, Nested, leading_axes, tree_map
from wiserl.net.actor_critic import ActorCritic
from wiserl.net.heads import make_head, masked_logits, only_valid
from wiserl.net.optim import FlatAdam
from wiserl.ops.losses import weighted_mean
from wiserl.ops.minibatches import minibatches
from wiserl.ops.returns import explained_variance, gae, next_values, vtrace
from wiserl.ops.sequences import sequence_minibatches
from wiserl.ops.tensors import to_tensors


@dataclass(frozen=True)
class PPOConfig(OnPolicyConfig):
    """Hyper-parameters of PPO, named as in Stable-Baselines3 where it has them."""

    gae_lambda: Fraction = option(0.95, "weight of longer advantage sums")
    n_steps: RoundSteps = option(2048, "steps per env and round; not given: 16384 over all at most, 32 each at least")
    clip_range: PositiveFloat = option(0.2, "bound on the change of the probability ratio")
    clip_range_vf: PositiveFloat | None = option(None, "the same for values, in units of return; none: no bound")
    ent_coef: NonNegative = option(0.0, "weight of the entropy bonus")
    vf_coef: NonNegative = option(0.5, "weight of the value loss")
    target_kl: PositiveFloat | None = option(None, "end the epochs at a change of 1.5 times this (nats); none: never")
    normalize_advantage: bool = option(True, "per minibatch: zero mean, unit variance")
    ortho_init: bool = option(True, "orthogonal initial weights; gain 0.01 for the policy's outputs")
    adam_eps: PositiveFloat = option(1e-5, "Adam's epsilon")
    sequence_length: PositiveInt | None = option(None, "with memory: steps learned from at once; none: whole fragments")
    log_std_init: float = option(0.0, "initial log standard deviation for Box actions (bounds are -1 to 1)")


def loss(policy: ActorCritic, batch: dict[str, Any], config: PPOConfig,
         log: bool = True) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """The clipped surrogate (Schulman et al. 2017, equation 9); with weights the decoupled one (Hilton et al. 2022).

    Args:
        policy: the networks.
        batch: tensors `[N, ...]`: obs and advantage (both normalised), action, log_prob (of the policy to stay near), value, target
            (of the value), weight (of the surrogate) where another policy has acted, action_mask if the env gives masks. With
            memory, as `sequence_minibatches`.
        config: clip_range, clip_range_vf, vf_coef, ent_coef are read.
        log: whether the figures are wanted: a dozen operations more.

    Returns:
        The loss, and the figures to log in the order of `LOGGED`, `[6]`, or None.
    """
    outputs, value = policy.evaluate(batch)
    outputs = masked_logits(outputs, batch.get("action_mask"))
    log_ratio = policy.head.log_prob(outputs, batch["action"]) - batch["log_prob"]
    ratio = log_ratio.exp()
    # min(A r, A clip(r)) is A r up to a bound that depends on A alone: (1 + clip_range) A above 0, (1 - clip_range) A below.
    advantage = batch["advantage"]
    bound = torch.add(advantage, advantage.abs(), alpha=config.clip_range)
    policy_loss = -weighted_mean(torch.min(advantage * ratio, bound), batch)
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
    recurrent = True

    @property
    def memory_size(self) -> int:
        return self.policy.memory_size

    def _build(self) -> nn.Module:
        config = self.config
        return ActorCritic(
            self.spec, config, make_head(self.spec.action_space, "ppo"), config.normalize_observation, config.ortho_init,
            config.log_std_init,
        )  # fmt: skip

    def start_learning(self) -> None:
        config = self.config
        self.optimizer = FlatAdam(self.policy, self.flat, config.learning_rate, config.adam_eps, config.max_grad_norm)
        chosen: Callable[..., tuple[Tensor, Tensor | None]] = getattr(self, "loss", loss)  # a subclass may have its own
        self.loss = self._compile_if_asked(chosen)
        self._compared = False

    def choose_action(self, obs: Nested, deterministic: bool = False, memory: Array | None = None,
                      mask: Array | None = None) -> dict[str, Array]:  # fmt: skip
        """Sample (or take the likeliest) action; "outputs" are kept to compute log-probabilities for all steps at once."""
        head, chosen = self.policy.head, {}
        if memory is None:
            outputs = self._act(obs)
        else:
            outputs, chosen["memory"] = self._act_on(obs, memory)
        outputs = only_valid(outputs.reshape(*leading_axes(obs), -1), mask)
        return {
            "action": head.mode(outputs) if deterministic else head.sample(outputs, self.rng),
            "outputs": outputs,
            **chosen,
        }

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
        if not data["advantage"].numel():  # a fragment of nothing but rows that are being reset
            return {}
        standardized = "advantage" if config.normalize_advantage else None
        logs: list[Tensor] = []
        for epoch in range(config.n_epochs):
            log = epoch == config.n_epochs - 1 or config.target_kl is not None
            batches = sequence_minibatches if "memory" in data else minibatches
            for batch in batches(data, config.batch_size, self.rng, standardized):
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
        """What to learn from, advantages and value targets included, and the explained variance of returns.

        Rows `[N, ...]`; with memory sequences `[L, S, ...]`.
        """
        config, policy, alive = self.config, self.policy, fragment.get("alive")
        shape = fragment["reward"].shape
        length = min(config.sequence_length or shape[0], shape[0])
        with torch.no_grad():
            obs = policy.normalize(to_tensors(fragment["obs"], self.device, skip_axes=3))
            unrolled = self._unroll(policy, obs, fragment, length) if self.memory_size else None
            if not self._compared:
                self._compare(policy, obs, unrolled and unrolled[0], fragment)
                self._compared = True
            value = (policy.value(obs) if unrolled is None else unrolled[1]).cpu().numpy().reshape(shape)
            last, final = (self._value_at(name, fragment).reshape(-1, shape[2]) for name in ("last", "final"))
        following = next_values(fragment, value, last, final)
        reward, ends = self._reward(fragment), (fragment["terminated"], fragment["truncated"])
        rows: dict[str, Any] = {
            name: fragment[name] for name in ("action", "log_prob", "action_mask") if name in fragment
        }
        if self.sync:
            advantage = gae(reward, value, following, *ends, config.gamma, config.gae_lambda)
            target = advantage + value
        else:
            with torch.no_grad():
                outputs = policy.outputs(obs) if unrolled is None else unrolled[0]
                rows["log_prob"], rows["weight"] = self._proximal(outputs, fragment)
            advantage, target = vtrace(reward, value, following, *ends, rows["weight"], config.gamma, config.gae_lambda)
        rows.update(advantage=advantage, value=value, target=target)
        data = {"obs": obs, **to_tensors(rows, self.device, skip_axes=3)}
        explained = explained_variance(*((target, value) if alive is None else (target[alive], value[alive])))
        if unrolled is not None:
            data = self._as_sequences(data, unrolled[2], fragment, length)
        elif alive is not None:
            living = self._living(fragment)
            data = tree_map(lambda leaf: leaf[living], data)
        return data, explained

    def _value_at(self, end: str, fragment: Fragment) -> Array:
        """Values of the `last` or `final` observations of a fragment, those of all agents in one row."""
        obs = self.policy.normalize(to_tensors(fragment[f"{end}_obs"], self.device, skip_axes=2))
        memory = to_tensors(fragment[f"{end}_memory"], self.device, skip_axes=2) if self.memory_size else None
        return self.policy.value(obs, memory).cpu().numpy()

    def _proximal(self, outputs: Tensor, fragment: Fragment) -> tuple[Array, Array]:
        """Log-probabilities under the policy now, `[T, E, A]`, and its ratios to the policy that acted, cut off at 1."""
        rows = {name: fragment[name] for name in ("action", "action_mask") if name in fragment}
        chosen = to_tensors(rows, self.device, skip_axes=3)
        log_prob = self.policy.head.log_prob(masked_logits(outputs, chosen.get("action_mask")), chosen["action"])
        now = log_prob.cpu().numpy().reshape(fragment["reward"].shape)
        ratio = np.exp(np.minimum(now - fragment["log_prob"], 0.0))
        return now, np.where(fragment.get("alive", True), ratio, np.float32(1.0))
