"""Twin delayed deterministic policy gradient (Fujimoto et al. 2018): DDPG with two critics, whose smaller value counts, a
noisy target action, and an actor that learns less often.

Top to bottom: config, loss, agent. The actor, its loss and how it acts are DDPG's. `docs/algorithms/td3.md` explains the method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wiserl.agent.ddpg import DDPG, Actor, DDPGConfig
from wiserl.core.config import NonNegative, PositiveInt, option
from wiserl.net.critic import Critics
from wiserl.ops.losses import weighted_mean


@dataclass(frozen=True)
class TD3Config(DDPGConfig):
    """Hyper-parameters of TD3, named as in Stable-Baselines3 where it has them. Steps are env steps over all envs."""

    policy_delay: PositiveInt = option(2, "updates of the critics for each one of the actor and the targets")
    target_policy_noise: NonNegative = option(0.2, "standard deviation of the noise on the target action")
    target_noise_clip: NonNegative = option(0.5, "bound on that noise")


def critic_loss(critics: Critics, target: Critics, target_actor: Actor, batch: dict[str, Any], noise: Tensor,
                clip: float) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Squared TD errors of both critics (Fujimoto et al. 2018, algorithm 1), summed.

    Args:
        critics: what is learned.
        target: the smaller of its two values is the bootstrap.
        target_actor: chooses the next action.
        batch: tensors `[N, ...]`: obs, action, reward (of n steps), next_obs, terminated, discount, weight if prioritised.
        noise: `[N, size]`, added to the next action once it is clipped to ±`clip`.
        clip: bound on the noise.

    Returns:
        The loss and the absolute TD errors `[N]`, of the two critics the mean.
    """
    with torch.no_grad():
        next_action = (target_actor(batch["next_obs"]) + noise.clamp(-clip, clip)).clamp(-1.0, 1.0)
        following = target(batch["next_obs"], next_action).amin(1)
        goal = batch["reward"] + batch["discount"] * ~batch["terminated"] * following
    errors = goal.unsqueeze(1) - critics(batch["obs"], batch["action"])
    return weighted_mean((errors * errors).sum(1), batch), errors.detach().abs().mean(1)


class TD3(DDPG):
    """DDPG against its habit of overestimating."""

    config_class = TD3Config
    title = "Twin delayed deterministic policy gradient"
    num_critics = 2
    config: TD3Config

    def start_learning(self) -> None:
        super().start_learning()
        self._critic_loss = self._compile_if_asked(critic_loss)

    def learn(self, batch: dict[str, Any], rate: float) -> tuple[Tensor, dict[str, Tensor | float]]:
        """One Adam step of the critics; each `policy_delay`-th time one of the actor, and the targets follow."""
        config = self.config
        shape = (len(batch["reward"]), self.size)
        noise = torch.randn(shape, generator=self.generator, dtype=torch.float32, device=self.device)
        value_loss, errors = self._critic_loss(
            self.critics.online, self.critics.target, self.actor.target, batch, noise * config.target_policy_noise,
            config.target_noise_clip,
        )  # fmt: skip
        self.critics.optimizer.step(value_loss, rate)
        logs: dict[str, Tensor | float] = {"losses/qf_loss": value_loss.detach()}
        if (self.updates + 1) % config.policy_delay == 0:
            policy_loss = self._actor_loss(self.policy, self.critics.frozen, batch["obs"])
            self.actor.optimizer.step(policy_loss, rate)
            self.critics.follow(config.tau)
            self.actor.follow(config.tau)
            logs["losses/actor_loss"] = policy_loss.detach()
        return errors, logs
