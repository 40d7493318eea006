"""QR-DQN (Dabney et al. 2018): deep Q-learning of the quantiles of returns instead of their mean.

Top to bottom: config, loss, agent. How it acts, learns and follows with its target are DQN's. `docs/algorithms/qrdqn.md`
explains the method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from wiserl.agent.dqn import QLearning, QLearningConfig
from wiserl.core.config import Fraction, PositiveFloat, PositiveInt, option
from wiserl.net.q_network import QNetwork, QuantileNetwork, best, inputs, outputs_at
from wiserl.ops.losses import weighted_mean


@dataclass(frozen=True)
class QRDQNConfig(QLearningConfig):
    """Hyper-parameters of QR-DQN, named as in sb3-contrib where it has them. Steps are env steps over all envs."""

    learning_rate: PositiveFloat = option(5e-5, "Adam's step size at the start")
    exploration_fraction: Fraction = option(0.005, "share of training over which epsilon falls")
    exploration_final_eps: Fraction = option(0.01, "epsilon at the end")
    max_grad_norm: PositiveFloat = option(float("inf"), "bound on the gradient's L2 norm; inf: none")
    n_quantiles: PositiveInt = option(200, "quantiles of each action's return")


def quantile_huber(quantiles: Tensor, goal: Tensor) -> Tensor:
    """Quantile Huber loss with a threshold of 1 (Dabney et al. 2018, equation 10), of each row.

    An estimate below what it aims at costs its share of probability, one above costs the rest, so that the minimum is the
    quantile and not the mean.

    Args:
        quantiles: estimates `[N, K]` at the midpoints of K equal shares of probability.
        goal: samples of what they are quantiles of, `[N, M]`.

    Returns:
        Summed over the estimates, averaged over the samples: `[N]`.
    """
    count = quantiles.shape[1]
    midpoints = (torch.arange(count, dtype=quantiles.dtype, device=quantiles.device) + 0.5) / count
    errors = goal.unsqueeze(1) - quantiles.unsqueeze(2)
    sizes = errors.abs()
    huber = torch.where(sizes < 1.0, 0.5 * errors * errors, sizes - 0.5)
    share = (midpoints.unsqueeze(1) - (errors.detach() < 0.0).float()).abs()
    return (share * huber).sum(1).mean(1)


def quantile_loss(network: QNetwork, target: QNetwork, batch: dict[str, Any],
                  config: QRDQNConfig) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Quantile Huber loss towards the quantiles of the n-step target (Dabney et al. 2018, algorithm 1).

    Args:
        network: what is learned.
        target: what the bootstrap is taken from.
        batch: tensors `[N, ...]`: obs, action, reward (of n steps), next_obs, terminated, discount, weight if prioritised, and
            action_mask and next_action_mask if the env gives masks.
        config: double is read.

    Returns:
        The loss, that of each row `[N]` (the new priorities) and the Q-values of the actions taken `[N]`.
    """
    before, after, next_mask = inputs(batch)
    with torch.no_grad():
        following = target.outputs(*after)
        chooser = network.outputs(*after) if config.double else following
        chosen = best(network.values(chooser), next_mask)
        discount = batch["discount"] * ~batch["terminated"]
        goal = batch["reward"].unsqueeze(1) + discount.unsqueeze(1) * outputs_at(following, chosen)
    quantiles = outputs_at(network.outputs(*before), batch["action"])
    losses = quantile_huber(quantiles, goal)
    return weighted_mean(losses, batch), losses.detach(), network.values(quantiles.detach())


class QRDQN(QLearning):
    """Deep Q-learning of quantiles."""

    config_class: ClassVar[type] = QRDQNConfig
    title = "Quantile-regression DQN (double, dueling, n-step, prioritised, noisy)"
    spaces_line = "Discrete"
    config: QRDQNConfig

    def _network(self, **common: Any) -> QNetwork:
        return QuantileNetwork(**common, outputs=self.config.n_quantiles)

    def _loss_function(self) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
        return quantile_loss
