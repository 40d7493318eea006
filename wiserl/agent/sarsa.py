"""SARSA (Rummery and Niranjan 1994) with a network, expected (van Seijen et al. 2009) or sampled, with lambda-returns.

Top to bottom: config, targets, loss, agent; the network is in `net/q_network.py`. `docs/algorithms/sarsa.md` explains the method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from gymnasium import spaces
from torch import Tensor, nn

from wiserl.agent.base.on_policy import OnPolicy, OnPolicyConfig
from wiserl.core.batch import Fragment
from wiserl.core.config import Fraction, PositiveFloat, PositiveInt, option
from wiserl.core.tree import Array, Nested, leading_axes, tree_map
from wiserl.net.choice import Activation
from wiserl.net.optim import FlatAdam
from wiserl.net.q_network import QNetwork
from wiserl.ops.exploration import epsilon_greedy, epsilon_greedy_value
from wiserl.ops.minibatches import minibatches
from wiserl.ops.returns import gae, next_values
from wiserl.ops.schedules import exploration
from wiserl.ops.tensors import to_tensors
from wiserl.util.errors import InputError


@dataclass(frozen=True)
class SARSAConfig(OnPolicyConfig):
    """Hyper-parameters of SARSA, named as those of PPO and DQN. Steps are env steps over all envs, except `n_steps`."""

    learning_rate: PositiveFloat = option(1e-3, "Adam's step size at the start")
    n_steps: PositiveInt = option(32, "steps of each env per update round")
    n_epochs: PositiveInt = option(1, "passes over a round's data")
    max_grad_norm: PositiveFloat = option(10.0, "bound on the gradient's L2 norm; inf: none")
    hidden_sizes: tuple[PositiveInt, ...] = option((64, 64), "widths of the network (on top of a CNN: none)")
    activation: Activation = option("relu", "after each hidden layer")
    expected: bool = option(True, "targets take the expectation over the next action; false: the action taken")
    td_lambda: Fraction = option(0.0, "weight of longer returns in the targets; 0: one step")
    exploration_fraction: Fraction = option(0.5, "share of training over which epsilon falls")
    exploration_initial_eps: Fraction = option(1.0, "epsilon at the start")
    exploration_final_eps: Fraction = option(0.05, "epsilon at the end")


def targets(fragment: Fragment, q: Array, last_q: Array, final_q: Array, epsilon: float, config: SARSAConfig) -> Array:
    """What Q of the actions taken should have been (Sutton and Barto 2018, sections 6.4 and 6.6, lambda-returns 12.8).

    Args:
        fragment: `[T, E, A]` action, reward, terminated, truncated, and final_at; the masks if there are some.
        q: `[T, E, A, n]` float32, Q-values of `obs`.
        last_q: `[E, A, n]` of `last_obs`.
        final_q: `[K, A, n]` of `final_obs`.
        epsilon: of the policy whose expectation is taken.
        config: gamma, td_lambda and expected are read.

    Returns:
        `[T, E, A]` float32. Where the next action is not known, at truncations and after the last row, its expectation is
        taken in either mode. No return goes beyond the fragment.
    """
    masks = (fragment.get(name) for name in ("action_mask", "last_mask", "final_mask"))
    pairs = zip((q, last_q, final_q), masks, strict=True)
    value, last, final = (epsilon_greedy_value(values, epsilon, mask) for values, mask in pairs)
    if not config.expected:
        value = np.take_along_axis(q, fragment["action"][..., None], -1)[..., 0]
    following = next_values(fragment, value, last, final)
    ended = (fragment["terminated"], fragment["truncated"])
    # With A the generalised advantage over any value, A + value is the lambda-return that bootstraps from that value.
    target: Array = gae(fragment["reward"], value, following, *ended, config.gamma, config.td_lambda) + value
    return target


def loss(network: QNetwork, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Half the mean squared error, whose gradient is that of the classic update.

    Args:
        network: what is learned.
        batch: tensors `[N, ...]`: obs, action, target.

    Returns:
        The loss, and the Q-values of the actions taken `[N]`.
    """
    taken = network(batch["obs"]).gather(1, batch["action"].unsqueeze(1)).squeeze(1)
    return 0.5 * F.mse_loss(taken, batch["target"]), taken.detach()


class SARSA(OnPolicy):
    """Learns the Q-values of the policy that acts, epsilon-greedy in them, from each round's data; then throws it away.

    In async mode an older version may have acted. Expected one-step targets are right for any actions, since the expectation
    is that of the policy now. Longer returns, and those of the action taken, follow the older policy and are not corrected.
    """

    config_class = SARSAConfig
    title = "SARSA (expected, sampled, lambda-returns)"
    spaces_line = "Discrete"
    config: SARSAConfig
    policy: QNetwork

    def _build(self) -> nn.Module:
        if not isinstance(self.spec.action_space, spaces.Discrete):
            raise InputError(
                f"sarsa cannot act in {self.spec.action_space}: it needs a Discrete action space. "
                "ppo does Box, MultiDiscrete and MultiBinary; ddpg, td3 and sac do Box"
            )
        self.num_actions = int(self.spec.action_space.n)
        config = self.config
        return QNetwork(self.spec, config.hidden_sizes, config.activation, dueling=False, sigma0=None, net=config.net,
                        normalizer=self._make_normalizer())  # fmt: skip

    def start_learning(self) -> None:
        config = self.config
        self.optimizer = FlatAdam(self.policy, self.flat, config.learning_rate, max_grad_norm=config.max_grad_norm)
        self._loss: Callable[..., tuple[Tensor, Tensor]] = self._compile_if_asked(loss)

    @property
    def epsilon(self) -> float:
        """Probability of a random action now."""
        return exploration(self.config, self.progress)

    def scheduled_values(self, progress: float) -> dict[str, float]:
        return {**super().scheduled_values(progress), "epsilon": exploration(self.config, progress)}

    def choose_action(self, obs: Nested, deterministic: bool = False, mask: Array | None = None) -> dict[str, Array]:
        """Epsilon-greedy (or greedy) actions."""
        values = self._act(obs).reshape(*leading_axes(obs), self.num_actions)
        action = epsilon_greedy(values, 0.0 if deterministic else self.epsilon, self.rng, mask)
        return {"action": action}

    def update(self, fragment: Fragment) -> dict[str, float]:
        """Targets, then `n_epochs` passes of minibatches, and then what was seen for the normaliser."""
        logs = self._learn(fragment)
        self._note_observations(fragment)
        return logs

    def _learn(self, fragment: Fragment) -> dict[str, float]:
        config = self.config
        data = self._prepare(fragment)
        rate = self._learning_rate(fragment)
        if not len(data["target"]):  # a fragment of nothing but rows that are being reset
            return {}
        logs: list[Tensor] = []
        for _ in range(config.n_epochs):
            for batch in minibatches(data, config.batch_size, self.rng):
                total, taken = self._loss(self.policy, batch)
                self.optimizer.step(total, rate)
                self.updates += 1
                logs.append(torch.stack([total.detach(), taken.mean()]))
        td_loss, q_values = torch.stack(logs).mean(0).tolist()
        return {
            "losses/td_loss": td_loss,
            "losses/q_values": q_values,
            "charts/epsilon": self.epsilon,
            "charts/learning_rate": rate,
        }

    def _prepare(self, fragment: Fragment) -> dict[str, Any]:
        """Rows `[N, ...]` to learn from: obs, action, target."""
        obs = to_tensors(fragment["obs"], self.device, skip_axes=3)
        after = [to_tensors(fragment[name], self.device, skip_axes=2) for name in ("last_obs", "final_obs")]
        with torch.no_grad():
            q, last_q, final_q = (self.policy(rows).cpu().numpy() for rows in (obs, *after))
        steps, envs, agents = fragment["reward"].shape
        target = targets(
            {**fragment, "reward": self._reward(fragment)},
            q.reshape(steps, envs, agents, -1),
            last_q.reshape(envs, agents, -1),
            final_q.reshape(-1, agents, self.num_actions),
            self.epsilon,
            self.config,
        )
        rows = {"action": fragment["action"], "target": target}
        data = {"obs": obs, **to_tensors(rows, self.device, skip_axes=3)}
        if "alive" in fragment:
            living = self._living(fragment)
            data = tree_map(lambda leaf: leaf[living], data)
        return data
