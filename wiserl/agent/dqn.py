"""Deep Q-learning (Mnih et al. 2015), with double (van Hasselt et al. 2016), dueling (Wang et al. 2016), n-step and
prioritised (Schaul et al. 2016) as switches.

Top to bottom: config, networks, loss, agent. `docs/algorithms/dqn.md` explains the method.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from gymnasium import spaces
from torch import Tensor, nn

from wiserl.buffer.prioritized import PrioritizedReplay
from wiserl.buffer.replay import Replay
from wiserl.core.algorithm import Algorithm, leading_axes
from wiserl.core.batch import Array, Fragment, Nested, tree_map
from wiserl.core.config import Count, Fraction, PositiveFloat, PositiveInt
from wiserl.env.spaces import EnvSpec
from wiserl.net.acting import numpy_forward
from wiserl.net.encoder import Encoder
from wiserl.ops.normalize import to_tensors
from wiserl.ops.optim import FlatAdam, flatten_parameters
from wiserl.ops.pacing import updates_due
from wiserl.ops.schedules import decayed, linear
from wiserl.util.errors import InputError
from wiserl.util.seeding import derive_seed


@dataclass(frozen=True)
class DQNConfig:
    """Hyper-parameters of DQN, named as in Stable-Baselines3 where it has them. Steps are env steps over all envs."""

    learning_rate: PositiveFloat = 1e-4  # Adam's step size at the start
    learning_rate_decay: Literal["none", "linear"] = "none"  # linear: to 0 at the last env step
    gamma: Fraction = 0.99  # discount per step
    buffer_size: PositiveInt = 1_000_000  # transitions in replay, over all envs
    learning_starts: Count = 100  # env steps before the first update; actions are random until then
    batch_size: PositiveInt = 32  # transitions per update
    train_freq: PositiveInt = 4  # env steps between updates
    gradient_steps: PositiveInt = 1  # updates each time
    round_steps: PositiveInt = 64  # env steps between visits to the learner, which then does all updates they pay for
    target_update_interval: PositiveInt = 10_000  # env steps between updates of the target network
    tau: Fraction = 1.0  # share of the online network that the target takes over each time
    exploration_fraction: Fraction = 0.1  # share of training over which epsilon falls
    exploration_initial_eps: Fraction = 1.0  # epsilon at the start
    exploration_final_eps: Fraction = 0.05  # epsilon at the end
    max_grad_norm: PositiveFloat = 10.0  # bound on the gradient's L2 norm; inf: none
    double: bool = False  # choose the next action with the online network, value it with the target
    dueling: bool = False  # value and advantage streams
    n_step: PositiveInt = 1  # rewards summed before the bootstrap
    prioritized: bool = False  # sample in proportion to the last TD error
    prioritized_alpha: Fraction = 0.6  # exponent of priorities
    prioritized_beta: Fraction = 0.4  # initial exponent of importance weights; 1 at the end of training
    hidden_sizes: tuple[PositiveInt, ...] = (64, 64)  # widths of the network (on top of a CNN: none)
    activation: Literal["tanh", "relu", "elu", "gelu", "silu"] = "relu"  # after each hidden layer
    compile: bool = False  # compile the loss with torch.compile: some 20 s at the start, faster updates


BATCHES_AT_ONCE = 16
"""Batches that are drawn from uniform replay in one go: drawing costs per call."""


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


class DQN(Algorithm):
    """Learns Q-values from replay; acts greedily but for an epsilon."""

    config_class = DQNConfig
    on_policy = False
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

    @classmethod
    def steps_per_fragment(cls, config: DQNConfig, sync: bool, runners: int, envs: int) -> int:
        """Enough for `round_steps` env steps of all runners in a sync round. Async: four times that of one runner, since
        nobody waits for it, and each shipment has its price.
        """
        wanted = max(config.train_freq, config.round_steps)
        return -(-wanted // (runners * envs)) if sync else -(-4 * wanted // envs)

    def _start_learning(self) -> None:
        config = self.config
        self.optimizer = FlatAdam(self.policy, self.flat, config.learning_rate, max_grad_norm=config.max_grad_norm)
        self.target = copy.deepcopy(self.policy)
        self._target_flat = flatten_parameters(self.target)
        seed = derive_seed(self.seed, "replay")
        arguments = (config.buffer_size, self.num_streams, seed, config.n_step, config.gamma)
        self.replay: Replay | PrioritizedReplay = (
            PrioritizedReplay(*arguments, alpha=config.prioritized_alpha, beta=config.prioritized_beta)
            if config.prioritized
            else Replay(*arguments)
        )
        self._loss = torch.compile(loss) if config.compile else loss

    def _own_tensors(self) -> None:
        super()._own_tensors()
        self._forward = None if self.config.dueling else numpy_forward(self.policy.encoder, self.policy.advantage)

    @property
    def epsilon(self) -> float:
        """Probability of a random action now."""
        config = self.config
        if self.env_steps < config.learning_starts:
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

    def update(self, fragment: Fragment) -> dict[str, float]:
        """Store the fragment, then do as many updates as the env steps so far pay for."""
        config = self.config
        self.replay.add(fragment)
        due = updates_due(
            self.env_steps, self.updates, config.learning_starts, config.train_freq, config.gradient_steps
        )
        if not due or not len(self.replay):
            return {}
        rate = decayed(config.learning_rate, config.learning_rate_decay, self.progress)
        for batch in self._batches(due):
            total, taken = self._learn_once(batch, rate)
        return {
            "losses/td_loss": float(total),
            "losses/q_values": float(taken.mean()),
            "charts/learning_rate": rate,
            "charts/epsilon": self.epsilon,
        }

    def _batches(self, count: int) -> Iterator[dict[str, Any]]:
        """Batches for `count` updates, as tensors. With priorities each is drawn after the update before it."""
        size = self.config.batch_size
        if isinstance(self.replay, PrioritizedReplay):
            beta = linear(self.config.prioritized_beta, 1.0, self.progress)
            for _ in range(count):
                yield to_tensors(self.replay.sample(size, beta), self.device)
            return
        for first in range(0, count, BATCHES_AT_ONCE):
            together = min(count - first, BATCHES_AT_ONCE)
            drawn = to_tensors(self.replay.sample(together * size), self.device)
            for start in range(0, together * size, size):
                yield tree_map(lambda leaf, start=start: leaf[start : start + size], drawn)

    def _learn_once(self, batch: dict[str, Any], rate: float) -> tuple[Tensor, Tensor]:
        config = self.config
        total, taken, goal = self._loss(self.policy, self.target, batch, config)
        self.optimizer.step(total, rate)
        if isinstance(self.replay, PrioritizedReplay):
            self.replay.update_priorities(batch["index"].cpu().numpy(), (goal - taken).abs().cpu().numpy())
        self.updates += 1
        interval = max(round(config.target_update_interval * config.gradient_steps / config.train_freq), 1)
        if self.updates % interval == 0:
            with torch.no_grad():
                self._target_flat.lerp_(self.flat, config.tau)
        return total.detach(), taken

    def learner_state(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "target": self.target.state_dict()}

    def load_learner_state(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.target.load_state_dict(state["target"])

    def replay_state(self) -> dict[str, Any]:
        return self.replay.state_dict()

    def load_replay_state(self, state: dict[str, Any]) -> None:
        self.replay.load_state_dict(state)
