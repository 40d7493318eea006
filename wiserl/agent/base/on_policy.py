"""What algorithms share that learn from what was just sampled, and then throw it away: options, and which rows count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wiserl.agent.base.algorithm import Algorithm
from wiserl.core.batch import Fragment
from wiserl.core.config import Fraction, PositiveFloat, PositiveInt, option
from wiserl.core.tree import Array, Nested, tree_map
from wiserl.net.actor_critic import ActorCritic
from wiserl.net.choice import NetworkConfig
from wiserl.net.optim import FlatAdam
from wiserl.ops.sequences import Sequences, begins
from wiserl.ops.tensors import to_tensors
from wiserl.util.errors import InputError


@dataclass(frozen=True)
class OnPolicyConfig(NetworkConfig):
    """Hyper-parameters of learning from rounds, named as in Stable-Baselines3 where it has them."""

    learning_rate: PositiveFloat = option(3e-4, "Adam's step size at the start")
    learning_rate_decay: Literal["none", "linear"] = option("none", "linear: to 0 at the last env step")
    gamma: Fraction = option(0.99, "discount per step")
    n_steps: PositiveInt = option(2048, "steps of each env per update round")
    batch_size: PositiveInt = option(64, "rows per minibatch")
    n_epochs: PositiveInt = option(10, "passes over a round's data")
    max_grad_norm: PositiveFloat = option(0.5, "bound on the gradient's L2 norm; inf: none")
    max_policy_lag: PositiveInt | None = option(None, "async: versions per runner a fragment may be behind; none: any")
    normalize_observation: bool = option(False, "by running mean and variance, which are part of the weights")
    normalize_reward: bool = option(False, "divide by the running deviation of discounted returns")
    compile: bool = option(False, "compile the loss with torch.compile: some 20 s at the start, faster updates")


class OnPolicy(Algorithm):
    """An algorithm that learns from each fragment once, some epochs of minibatches, by one optimiser.

    In sync mode a fragment is of the policy that learns from it. In async mode it is of one that may be some versions older, how
    many its `version` says, and a subclass has to allow for that: `sync` says which it is.
    """

    on_policy = True
    config: OnPolicyConfig
    optimizer: FlatAdam

    @classmethod
    def steps_per_fragment(cls, config: OnPolicyConfig, sync: bool, runners: int, envs: int) -> int:
        """One fragment is the data of one update round, or a runner's part of it."""
        return config.n_steps

    @property
    def max_policy_lag(self) -> int | None:
        return self.config.max_policy_lag

    def _compile_if_asked(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        """`loss(policy, batch, ...)`, compiled if the configuration says so, for minibatches of `batch_size` rows, or as a round has.

        Those of other lengths, at the end of an epoch or of the training, go through the loss as it is: to compile for them takes
        longer than they do. With memory all lengths differ, and one compiled loss is for all.
        """
        if not self.config.compile:
            return loss
        compiled = torch.compile(loss)
        length = min(self.config.batch_size, self.config.n_steps * self.num_streams * self.spec.num_agents)

        def chosen(policy: nn.Module, batch: dict[str, Any], *rest: Any) -> Any:
            fits = "memory" in batch or len(batch["action"]) == length
            return (compiled if fits else loss)(policy, batch, *rest)

        return chosen

    def _reward(self, fragment: Fragment) -> Array:
        """The rewards to learn from `[T, E, A]`: counted and scaled with `normalize_reward`, else as the env gave them."""
        reward: Array = fragment["reward"]
        return reward if self.return_scale is None else self.return_scale.scale(fragment)

    def _unroll(
        self, policy: ActorCritic, obs: Nested, fragment: Fragment, length: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`ActorCritic.unroll` through a fragment; normalised observations are rows `[T * E * A, ...]`."""
        steps, memory = len(fragment["reward"]), to_tensors(fragment["memory"], self.device, skip_axes=2)
        reset = to_tensors(begins(fragment), self.device).flatten(1)
        per_step = tree_map(lambda leaf: leaf.view(steps, -1, *leaf.shape[1:]), obs)
        return policy.unroll(per_step, memory, reset, length)

    def _compare(self, policy: ActorCritic, obs: Nested, unrolled: Tensor | None, fragment: Fragment) -> None:
        """Compare, on the first step of a fragment, the outputs that are acted by with those that are learned.

        Args:
            policy: the networks.
            obs: normalised, rows `[T * E * A, ...]`.
            unrolled: with memory, outputs of all these rows; None: without.
            fragment: observations as the env gave them, and memory.

        Raises:
            InputError: they differ: a subclass, a hook or a patch has changed the one and not the other.
        """
        rows = fragment["reward"][0].size
        first = to_tensors(tree_map(lambda leaf: leaf[0], fragment["obs"]), self.device, skip_axes=2)
        if unrolled is None:
            acted, learned = policy(first), policy.outputs(tree_map(lambda leaf: leaf[:rows], obs))
            acting, learning = "forward", "outputs"
        else:
            acted = policy.step(first, to_tensors(fragment["memory"], self.device, skip_axes=2))[0]
            learned, acting, learning = unrolled[:rows], "step", "unroll"
        # Rounding differs from one number of rows to another; anything else is far above these.
        if not torch.allclose(acted, learned, rtol=1e-2, atol=1e-4, equal_nan=True):
            raise InputError(
                f"{type(self).__name__} would act by another network than it learns: {type(policy).__name__}.{acting} gives other outputs "
                f"than .{learning} for the same observations. Change outputs_of, which both go through, instead of {acting}"
            )

    @staticmethod
    def _as_sequences(rows: dict[str, Any], parts: Tensor, fragment: Fragment, length: int) -> dict[str, Any]:
        """Rows `[T * E * A, ...]` for `sequence_minibatches`; `parts`: what is remembered before each part of the fragment."""
        sequences = Sequences.of(fragment, length)
        return {**sequences.take(rows), "memory": sequences.memory(parts), "living": sequences}

    def learner_state(self) -> dict[str, Any]:
        return {**super().learner_state(), "optimizer": self.optimizer.state_dict()}

    def load_learner_state(self, state: dict[str, Any]) -> None:
        super().load_learner_state(state)
        self.optimizer.load_state_dict(state["optimizer"])
