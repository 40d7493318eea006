"""Deep Q-learning (Mnih et al. 2015), with double (van Hasselt et al. 2016), dueling (Wang et al. 2016), n-step and
prioritised (Schaul et al. 2016) as switches.

Top to bottom: config, networks, loss, agent. `docs/algorithms/dqn.md` explains the method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from gymnasium import spaces
from torch import Tensor, nn

from wiserl.core.algorithm import leading_axes
from wiserl.core.batch import Array, Nested
from wiserl.core.config import Fraction, PositiveFloat, PositiveInt
from wiserl.core.off_policy import OffPolicy, OffPolicyConfig
from wiserl.env.spaces import EnvSpec
from wiserl.net.acting import numpy_forward
from wiserl.net.encoder import Encoder
from wiserl.ops.normalize import to_tensors
from wiserl.ops.optim import TrainedNetwork
from wiserl.ops.schedules import linear
from wiserl.util.errors import InputError


@dataclass(frozen=True)
class DQNConfig(OffPolicyConfig):
    """Hyper-parameters of DQN, named as in Stable-Baselines3 where it has them. Steps are env steps over all envs."""

    learning_rate: PositiveFloat = 1e-4  # Adam's step size at the start
    batch_size: PositiveInt = 32  # transitions per update
    train_freq: PositiveInt = 4  # env steps between updates
    round_steps: PositiveInt = 64  # env steps between visits to the learner, which then does all updates they pay for
    target_update_interval: PositiveInt = 10_000  # env steps between updates of the target network
    tau: Fraction = 1.0  # share of the online network that the target takes over each time
    exploration_fraction: Fraction = 0.1  # share of training over which epsilon falls
    exploration_initial_eps: Fraction = 1.0  # epsilon at the start
    exploration_final_eps: Fraction = 0.05  # epsilon at the end
    max_grad_norm: PositiveFloat = 10.0  # bound on the gradient's L2 norm; inf: none
    double: bool = False  # choose the next action with the online network, value it with the target
    dueling: bool = False  # value and advantage streams
    hidden_sizes: tuple[PositiveInt, ...] = (64, 64)  # widths of the network (on top of a CNN: none)


class QNetwork(nn.Module):
    """Values of all actions `[N, n]`, in one stream or two."""

    def __init__(self, spec: EnvSpec, config: DQNConfig) -> None:
        super().__init__()
        assert isinstance(spec.action_space, spaces.Discrete)
        self.encoder = Encoder(spec.observation_space, config.hidden_sizes, config.activation)
        self.advantage = nn.Linear(self.encoder.size, int(spec.action_space.n))
        self.value = nn.Linear(self.encoder.size, 1) if config.dueling else None

    def forward(self, obs: Nested) -> Tensor:
        """Q-values `[N, n]`."""
        features = self.encoder(obs)
        advantage: Tensor = self.advantage(features)
        if self.value is None:
            return advantage
        value: Tensor = self.value(features)
        return value + advantage - advantage.mean(-1, keepdim=True)


def loss(
    network: QNetwork, target: QNetwork, batch: dict[str, Any], config: DQNConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Huber loss of the n-step temporal difference (Mnih et al. 2015, algorithm 1; error clipping as in its methods section).

    Args:
        network: what is learned.
        target: what the bootstrap is taken from.
        batch: tensors `[N, ...]`: obs, action, reward (of n steps), next_obs, terminated, discount, and weight if prioritised.
        config: double is read.

    Returns:
        The loss, the Q-values of the actions taken `[N]` and what they should have been `[N]`: their difference is the
        new priority.
    """
    with torch.no_grad():
        following = target(batch["next_obs"])
        if config.double:
            best = network(batch["next_obs"]).argmax(1, keepdim=True)
            bootstrap = following.gather(1, best).squeeze(1)
        else:
            bootstrap = following.amax(1)
        goal = batch["reward"] + batch["discount"] * ~batch["terminated"] * bootstrap
    taken = network(batch["obs"]).gather(1, batch["action"].unsqueeze(1)).squeeze(1)
    if "weight" in batch:
        total = (batch["weight"] * F.smooth_l1_loss(taken, goal, reduction="none")).mean()
    else:
        total = F.smooth_l1_loss(taken, goal)
    return total, taken.detach(), goal


class DQN(OffPolicy):
    """Learns Q-values from replay; acts greedily but for an epsilon."""

    config_class = DQNConfig
    title = "Deep Q-learning (double, dueling, n-step, prioritised)"
    spaces_line = "Discrete"
    config: DQNConfig
    policy: QNetwork

    def _build(self) -> nn.Module:
        if not isinstance(self.spec.action_space, spaces.Discrete):
            raise InputError(
                f"dqn cannot act in {self.spec.action_space}: it needs a Discrete action space. ppo does Box, MultiDiscrete and MultiBinary"
            )
        self.num_actions = int(self.spec.action_space.n)
        return QNetwork(self.spec, self.config)

    def _start_learning(self) -> None:
        super()._start_learning()
        config = self.config
        self.network = TrainedNetwork(self.policy, self.flat, config.learning_rate, config.max_grad_norm)
        self._loss = self._maybe_compiled(loss)

    def _own_tensors(self) -> None:
        super()._own_tensors()
        self._forward = None if self.config.dueling else numpy_forward(self.policy.encoder, self.policy.advantage)

    @property
    def epsilon(self) -> float:
        """Probability of a random action now."""
        config = self.config
        if self.warming_up:
            return 1.0
        return linear(
            config.exploration_initial_eps, config.exploration_final_eps, self.progress, config.exploration_fraction
        )

    def choose_action(self, obs: Nested, deterministic: bool = False) -> dict[str, Array]:
        """Epsilon-greedy (or greedy) actions."""
        shape = leading_axes(obs)
        epsilon = 0.0 if deterministic else self.epsilon
        if epsilon >= 1.0:
            return {"action": self.rng.integers(self.num_actions, size=shape)}
        if self._forward is not None:
            values = self._forward(obs.reshape(shape[0] * shape[1], -1))
        else:
            with torch.inference_mode():
                values = self.policy(to_tensors(obs, self.device, skip_axes=2)).cpu().numpy()
        action: Array = values.argmax(1).reshape(shape)
        if epsilon > 0.0:
            explore = self.rng.random(shape) < epsilon
            if explore.any():
                action[explore] = self.rng.integers(self.num_actions, size=int(explore.sum()))
        return {"action": action}

    def learn(self, batch: dict[str, Any], rate: float) -> tuple[Tensor, dict[str, Tensor | float]]:
        """One Adam step on the loss; the target network follows at its intervals."""
        config = self.config
        total, taken, goal = self._loss(self.policy, self.network.target, batch, config)
        self.network.optimizer.step(total, rate)
        interval = max(round(config.target_update_interval * config.gradient_steps / config.train_freq), 1)
        if (self.updates + 1) % interval == 0:
            self.network.follow(config.tau)
        logs = {"losses/td_loss": total.detach(), "losses/q_values": taken, "charts/epsilon": self.epsilon}
        return goal - taken, logs

    def learner_state(self) -> dict[str, Any]:
        return self.network.state_dict()

    def load_learner_state(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state)
