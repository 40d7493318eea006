"""What all algorithms that learn from replay share: their common hyper-parameters, what is stored, how often is learned."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from wiserl.buffer.hindsight import HindsightReplay
from wiserl.buffer.prioritized import PrioritizedReplay
from wiserl.buffer.replay import Replay
from wiserl.core.algorithm import Algorithm
from wiserl.core.batch import Fragment, tree_map
from wiserl.core.config import Count, Fraction, PositiveFloat, PositiveInt
from wiserl.env.goals import GoalReward, check_goals
from wiserl.env.spaces import EnvSpec
from wiserl.ops.normalize import to_tensors
from wiserl.ops.pacing import updates_due
from wiserl.ops.schedules import decayed, linear
from wiserl.util.errors import InputError
from wiserl.util.seeding import derive_seed

BATCHES_AT_ONCE = 16
"""Batches that are drawn from uniform replay in one go: drawing costs per call."""


@dataclass(frozen=True)
class OffPolicyConfig:
    """Hyper-parameters of learning from replay, named as in Stable-Baselines3 where it has them. Steps are env steps."""

    learning_rate: PositiveFloat = 3e-4  # Adam's step size at the start
    learning_rate_decay: Literal["none", "linear"] = "none"  # linear: to 0 at the last env step
    gamma: Fraction = 0.99  # discount per step
    buffer_size: PositiveInt = 1_000_000  # transitions in replay, over all envs
    learning_starts: Count = 100  # env steps before the first update; actions are random until then
    batch_size: PositiveInt = 256  # transitions per update
    train_freq: PositiveInt = 1  # env steps between updates
    gradient_steps: PositiveInt = 1  # updates each time
    round_steps: PositiveInt = 16  # env steps between visits to the learner, which then does all updates they pay for
    n_step: PositiveInt = 1  # rewards summed before the bootstrap
    prioritized: bool = False  # sample in proportion to the last TD error
    prioritized_alpha: Fraction = 0.6  # exponent of priorities
    prioritized_beta: Fraction = 0.4  # initial exponent of importance weights; 1 at the end of training
    hindsight: Literal["none", "future", "final", "episode"] = "none"  # which steps' achievements become goals
    hindsight_goals: PositiveInt = 4  # goals put in hindsight for each one that the env had given
    hidden_sizes: tuple[PositiveInt, ...] = (256, 256)  # widths of each network (of what acts, on a CNN: none)
    activation: Literal["tanh", "relu", "elu", "gelu", "silu"] = "relu"  # after each hidden layer
    compile: bool = False  # compile the loss with torch.compile: some 20 s at the start, faster updates


class OffPolicy(Algorithm):
    """An algorithm that stores fragments in replay and learns from batches of transitions.

    A subclass implements `choose_action` and `learn`, one update. Whatever `choose_action` returns beside the action and is
    named in `extras` is stored with each transition and is in the batch under that name.

    Attributes:
        replay: what is learned from.
        generator: for what an update draws (`torch.randn(..., generator=...)`). It starts anew with each fragment, from a
            seed that depends on the number of updates alone, so that a resumed run draws the same.
    """

    on_policy = False
    supports = "replay: uniform or prioritised, n-step, hindsight on goal envs"
    extras: ClassVar[tuple[str, ...]] = ()
    config: OffPolicyConfig

    def __init__(self, sync: bool = True, *, spec: EnvSpec, config: Any, **others: Any) -> None:
        """As `Algorithm`.

        Raises:
            InputError: also where hindsight is asked for on an env without goals, or together with what it excludes.
        """
        super().__init__(sync, spec=spec, config=config, **others)
        if config.hindsight != "none":
            check_goals(spec)
            if config.prioritized or config.n_step != 1:
                raise InputError(
                    f"hindsight={config.hindsight} with prioritized={config.prioritized}, n_step={config.n_step}: priorities and "
                    "sums of rewards are of the goal that the env gave; use prioritized=false and n_step=1"
                )

    @classmethod
    def steps_per_fragment(cls, config: OffPolicyConfig, sync: bool, runners: int, envs: int) -> int:
        """Enough for `round_steps` env steps of all runners in a sync round. Async: four times that of one runner, since
        nobody waits for it, and each shipment has its price.
        """
        wanted = max(config.train_freq, config.round_steps)
        return -(-wanted // (runners * envs)) if sync else -(-4 * wanted // envs)

    @abstractmethod
    def learn(self, batch: dict[str, Any], rate: float) -> tuple[Tensor, dict[str, Tensor | float]]:
        """One update.

        Args:
            batch: tensors `[N, ...]` on `device`: obs, action, reward (of n steps), next_obs, terminated, discount, index, the
                extras, and weight (of each transition in the loss) if prioritised.
            rate: the learning rate.

        Returns:
            TD errors `[N]`, whose absolute values are the new priorities, and what to log, by name (of tensors the mean).
        """

    def _start_learning(self) -> None:
        config = self.config
        self.generator = torch.Generator(self.device)
        seed = derive_seed(self.seed, "replay")
        arguments = (config.buffer_size, self.num_streams, seed, config.n_step, config.gamma, self.extras)
        self.replay: Replay
        if config.hindsight != "none":
            reward, goals = self._goal_reward(), config.hindsight_goals
            self.replay = HindsightReplay(*arguments, reward=reward, strategy=config.hindsight, goals=goals)
        elif config.prioritized:
            alpha, beta = config.prioritized_alpha, config.prioritized_beta
            self.replay = PrioritizedReplay(*arguments, alpha=alpha, beta=beta)
        else:
            self.replay = Replay(*arguments)

    def _goal_reward(self) -> GoalReward:
        if self.spec.make is None:
            raise InputError("hindsight needs to make the env: give EnvSpec(..., make=(env, env_kwargs))")
        reward = GoalReward(*self.spec.make)
        reward.check()
        return reward

    def _maybe_compiled(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        """`loss`, compiled if the configuration says so."""
        return torch.compile(loss) if self.config.compile else loss

    @property
    def warming_up(self) -> bool:
        """Whether actions are to be random still."""
        return self.env_steps < self.config.learning_starts

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
        self.generator.manual_seed(derive_seed(self.seed, "learn", self.updates))
        logs: dict[str, Tensor | float] = {}
        for batch in self._batches(due):
            errors, newest = self.learn(batch, rate)
            logs.update(newest)
            self.updates += 1
            if isinstance(self.replay, PrioritizedReplay):
                self.replay.update_priorities(batch["index"].cpu().numpy(), errors.abs().cpu().numpy())
        values = {name: float(value.mean() if isinstance(value, Tensor) else value) for name, value in logs.items()}
        return {**values, "charts/learning_rate": rate}

    def _batches(self, count: int) -> Iterator[dict[str, Any]]:
        """Batches for `count` updates, as tensors. With priorities each is drawn after the update before it."""
        size = self.config.batch_size
        if isinstance(self.replay, PrioritizedReplay):
            beta = linear(self.config.prioritized_beta, 1.0, self.progress)
            for _ in range(count):
                yield to_tensors(self.replay.sample(size, beta), self.device)
            return
        ahead = 1 if self.extras else BATCHES_AT_ONCE  # what an update writes back is in the next batch
        for first in range(0, count, ahead):
            together = min(count - first, ahead)
            drawn = to_tensors(self.replay.sample(together * size), self.device)
            for start in range(0, together * size, size):
                yield tree_map(lambda leaf, start=start: leaf[start : start + size], drawn)

    def replay_state(self) -> dict[str, Any]:
        return self.replay.state_dict()

    def load_replay_state(self, state: dict[str, Any]) -> None:
        self.replay.load_state_dict(state)
