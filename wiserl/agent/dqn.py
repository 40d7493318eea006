"""Deep Q-learning (Mnih et al. 2015), with double (van Hasselt et al. 2016), dueling (Wang et al. 2016), n-step, prioritised
(Schaul et al. 2016), categorical (Bellemare et al. 2017) and noisy (Fortunato et al. 2018) as switches; all of them together
are Rainbow (Hessel et al. 2018).

Top to bottom: config, losses, agent; the networks are in `net/q_network.py`. `docs/algorithms/dqn.md` explains the method.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from gymnasium import spaces
from msgspec import Meta
from torch import Tensor, nn

from wiserl.agent.base.off_policy import OffPolicy, OffPolicyConfig
from wiserl.core.config import Fraction, NonNegative, PositiveFloat, PositiveInt, option
from wiserl.core.tree import Array, Nested, leading_axes
from wiserl.net.noisy import Noise
from wiserl.net.optim import TrainedNetwork
from wiserl.net.q_network import CategoricalNetwork, QNetwork, best, inputs, outputs_at
from wiserl.ops.distributional import project
from wiserl.ops.exploration import epsilon_greedy, random_choices
from wiserl.ops.losses import weighted_mean
from wiserl.ops.pacing import target_moves
from wiserl.ops.schedules import exploration
from wiserl.util.errors import InputError


@dataclass(frozen=True)
class QLearningConfig(OffPolicyConfig):
    """Hyper-parameters of learning Q-values, named as in Stable-Baselines3 where it has them. Steps are env steps over all envs."""

    learning_rate: PositiveFloat = option(1e-4, "Adam's step size at the start")
    batch_size: PositiveInt = option(32, "transitions per update")
    train_freq: PositiveInt = option(4, "env steps between updates")
    round_steps: PositiveInt = option(64, "env steps between visits to the learner and the updates they pay for")
    target_update_interval: PositiveInt = option(10_000, "env steps between moves of the target")
    tau: Fraction = option(1.0, "share of the online network that the target takes over each time")
    exploration_fraction: Fraction = option(0.1, "share of training over which epsilon falls")
    exploration_initial_eps: Fraction = option(1.0, "epsilon at the start")
    exploration_final_eps: Fraction = option(0.05, "epsilon at the end")
    max_grad_norm: PositiveFloat = option(10.0, "bound on the gradient's L2 norm; inf: none")
    double: bool = option(False, "choose the next action with the online network, value it with the target")
    dueling: bool = option(False, "value and advantage streams")
    noisy: bool = option(False, "learned noise on the weights explores; epsilon is 0 after learning_starts")
    sigma0: NonNegative = option(0.5, "noisy: initial scale of the noise")
    hidden_sizes: tuple[PositiveInt, ...] = option((64, 64), "widths of the network (on top of a CNN: none)")


RAINBOW = {"double": True, "dueling": True, "prioritized": True, "n_step": 3, "categorical": True, "noisy": True}


@dataclass(frozen=True)
class DQNConfig(QLearningConfig):
    """Hyper-parameters of DQN. With `rainbow`, those of `RAINBOW` that are not given are as it says.

    Raises:
        InputError: the support of a categorical network is empty.
    """

    categorical: bool = option(False, "C51: learn the distribution of returns, not only its mean")
    num_atoms: Annotated[int, Meta(ge=2)] = option(51, "categorical: values that a return can have")
    v_min: float = option(-10.0, "categorical: the smallest of them")
    v_max: float = option(10.0, "categorical: the largest of them")
    rainbow: bool = option(False, "all parts of Rainbow", sets=RAINBOW)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.v_min < self.v_max:
            raise InputError(f"v_min={self.v_min} and v_max={self.v_max} are not valid: v_max must be above v_min")


def td_loss(network: QNetwork, target: QNetwork, batch: dict[str, Any],
            config: QLearningConfig) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Huber loss of the n-step temporal difference (Mnih et al. 2015, algorithm 1; error clipping as in its methods section).

    Args:
        network: what is learned.
        target: what the bootstrap is taken from.
        batch: tensors `[N, ...]`: obs, action, reward (of n steps), next_obs, terminated, discount, weight if prioritised, and
            action_mask and next_action_mask if the env gives masks.
        config: double is read.

    Returns:
        The loss, the TD errors `[N]` and the Q-values of the actions taken `[N]`.
    """
    before, after, next_mask = inputs(batch)
    with torch.no_grad():
        following = target(*after)
        chooser = network(*after) if config.double else following
        bootstrap = following.gather(1, best(chooser, next_mask).unsqueeze(1)).squeeze(1)
        goal = batch["reward"] + batch["discount"] * ~batch["terminated"] * bootstrap
    values = network(*before).gather(1, batch["action"].unsqueeze(1)).squeeze(1)
    total = weighted_mean(F.smooth_l1_loss(values, goal, reduction="none"), batch)
    return total, goal - values.detach(), values.detach()


def categorical_loss(network: CategoricalNetwork, target: CategoricalNetwork, batch: dict[str, Any],
                     config: DQNConfig) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Cross-entropy from the projected distribution of the n-step target (Bellemare et al. 2017, algorithm 1).

    Args:
        network: what is learned.
        target: what the next state's distribution is taken from.
        batch: as for `td_loss`.
        config: double is read.

    Returns:
        The loss; each row's Kullback-Leibler divergence `[N]`, Rainbow's priority (Hessel et al. 2018); the Q-values of the
        actions taken `[N]`.
    """
    before, after, next_mask = inputs(batch)
    with torch.no_grad():
        following = target.outputs(*after)
        chooser = network.outputs(*after) if config.double else following
        chosen = best(network.values(chooser), next_mask)
        discount = batch["discount"] * ~batch["terminated"]
        goal = project(outputs_at(following, chosen).softmax(1), batch["reward"], discount, network.support)
    logits = outputs_at(network.outputs(*before), batch["action"])
    cross_entropy = -(goal * logits.log_softmax(1)).sum(1)
    divergence = cross_entropy.detach() + torch.xlogy(goal, goal).sum(1)
    return weighted_mean(cross_entropy, batch), divergence, network.values(logits.detach())


class QLearning(OffPolicy):
    """Learns Q-values from replay; acts greedily but for an epsilon, or for the noise of its weights.

    A subclass says which network is trained by which loss.
    """

    config: QLearningConfig
    policy: QNetwork

    @abstractmethod
    def _network(self, **common: Any) -> QNetwork:
        """The network, made from what all Q-networks are given first."""

    @abstractmethod
    def _loss_function(self) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
        """The loss, as `td_loss` takes its arguments and gives the loss, errors and Q-values."""

    def _build(self) -> nn.Module:
        if not isinstance(self.spec.action_space, spaces.Discrete):
            raise InputError(
                f"{type(self).__name__.lower()} cannot act in {self.spec.action_space}: it needs a Discrete action space. "
                "ppo does Box, MultiDiscrete and MultiBinary; ddpg, td3 and sac do Box"
            )
        self.num_actions = int(self.spec.action_space.n)
        config = self.config
        return self._network(
            spec=self.spec, hidden_sizes=config.hidden_sizes, activation=config.activation, dueling=config.dueling,
            sigma0=config.sigma0 if config.noisy else None, net=config.net, normalizer=self._make_normalizer(),
        )  # fmt: skip

    def start_learning(self) -> None:
        super().start_learning()
        config = self.config
        self.network = TrainedNetwork(self.policy, self.flat, config.learning_rate, config.max_grad_norm)
        self.target_noise = Noise(self.network.target)
        self._loss = self._compile_if_asked(self._loss_function())

    def _own_tensors(self) -> None:
        super()._own_tensors()
        self.noise = Noise(self.policy)

    @property
    def epsilon(self) -> float:
        """Probability of a random action now."""
        config = self.config
        if self.warming_up:
            return 1.0
        if config.noisy:
            return 0.0
        return exploration(config, self.progress)

    def scheduled_values(self, progress: float) -> dict[str, float]:
        values = super().scheduled_values(progress)
        return values if self.config.noisy else {**values, "epsilon": exploration(self.config, progress)}

    def choose_action(self, obs: Nested, deterministic: bool = False, mask: Array | None = None) -> dict[str, Array]:
        """Epsilon-greedy (or greedy) actions; with noisy weights, greedy by one draw of them (or by their means)."""
        shape = leading_axes(obs)
        epsilon = 0.0 if deterministic else self.epsilon
        if epsilon >= 1.0:
            return {"action": random_choices(self.rng, shape, self.num_actions, mask)}
        with self.noise.draw(None if deterministic else self.rng):
            # Only a stream for the state's value makes values depend on what is valid.
            values = self._act(obs, mask if self.config.dueling else None).reshape(*shape, self.num_actions)
        return {"action": epsilon_greedy(values, epsilon, self.rng, mask)}

    def learn(self, batch: dict[str, Any], rate: float) -> tuple[Tensor, dict[str, Tensor | float]]:
        """One Adam step on the loss; the target network follows at its intervals."""
        config = self.config
        with self.noise.draw(self.generator), self.target_noise.draw(self.generator):
            total, errors, values = self._loss(self.policy, self.network.target, batch, config)
        self.network.optimizer.step(total, rate)
        moves = target_moves(self.updates + 1, config.target_update_interval, config.train_freq, config.gradient_steps)
        if moves:
            self.network.follow(1.0 - (1.0 - config.tau) ** moves)
        logs = {"losses/td_loss": total.detach(), "losses/q_values": values, "charts/epsilon": self.epsilon}
        return errors, logs

    def learner_state(self) -> dict[str, Any]:
        return {**super().learner_state(), **self.network.state_dict()}

    def load_learner_state(self, state: dict[str, Any]) -> None:
        super().load_learner_state(state)
        self.network.load_state_dict(state)


class DQN(QLearning):
    """Deep Q-learning, with the switches that make it Rainbow."""

    config_class: ClassVar[type] = DQNConfig
    title = "Deep Q-learning (double, dueling, n-step, prioritised, categorical, noisy: Rainbow)"
    spaces_line = "Discrete"
    config: DQNConfig

    def _network(self, **common: Any) -> QNetwork:
        config = self.config
        if config.categorical:
            return CategoricalNetwork(**common, outputs=config.num_atoms, v_min=config.v_min, v_max=config.v_max)
        return QNetwork(**common)

    def _loss_function(self) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
        return categorical_loss if self.config.categorical else td_loss
