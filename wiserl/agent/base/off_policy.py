"""What all algorithms that learn from replay share: their common hyper-parameters, what is stored, how often is learned."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from msgspec import Meta
from torch import Tensor

from wiserl.agent.base.algorithm import Algorithm
from wiserl.core.batch import Fragment
from wiserl.core.config import Count, Fraction, PositiveFloat, PositiveInt, option
from wiserl.core.goals import check_goals
from wiserl.core.masks import MaskLayout
from wiserl.core.spec import EnvSpec, RewardOfGoals
from wiserl.core.tree import tree_map
from wiserl.net.choice import Activation, NetworkConfig
from wiserl.ops.pacing import updates_due
from wiserl.ops.schedules import linear
from wiserl.ops.tensors import to_tensors
from wiserl.replay.dataset import load_dataset, spread
from wiserl.replay.hindsight import HindsightReplay
from wiserl.replay.masks import with_valid_masks
from wiserl.replay.mixed import MixedReplay, share_out
from wiserl.replay.prioritized import PrioritizedReplay
from wiserl.replay.uniform import Replay
from wiserl.util.errors import InputError
from wiserl.util.seeding import derive_seed

PACE = ("learning_starts", "train_freq", "gradient_steps")
"""Options that say how many updates env steps pay for."""

BATCHES_AT_ONCE = 16
"""Batches that are drawn from replay in one go: drawing costs per call. With priorities, those of up to 15 updates before are
not yet known (Horgan et al. 2018 learn from older ones); drawn one by one they would cost more than the updates.
"""


@dataclass(frozen=True)
class OffPolicyConfig(NetworkConfig):
    """Hyper-parameters of learning from replay, named as in Stable-Baselines3 where it has them (`n_step` is its `n_steps`,
    which is PPO's rollout). Steps are env steps.
    """

    learning_rate: PositiveFloat = option(3e-4, "Adam's step size at the start")
    learning_rate_decay: Literal["none", "linear"] = option("none", "linear: to 0 at the last env step")
    gamma: Fraction = option(0.99, "discount per step")
    buffer_size: PositiveInt = option(1_000_000, "transitions in replay, over all envs")
    learning_starts: Count = option(100, "env steps before the first update; actions are random until then")
    batch_size: PositiveInt = option(256, "transitions per update")
    train_freq: PositiveInt = option(1, "env steps between updates")
    gradient_steps: PositiveInt = option(1, "updates each time")
    round_steps: PositiveInt = option(16, "env steps between visits to the learner and the updates they pay for")
    n_step: PositiveInt = option(1, "rewards summed before the bootstrap")
    prioritized: bool = option(False, "sample in proportion to the last TD error")
    prioritized_alpha: Fraction = option(0.6, "exponent of priorities")
    prioritized_beta: Fraction = option(0.4, "initial exponent of importance weights; 1 at the end of training")
    hindsight: Literal["none", "future", "final", "episode"] = option("none", "which steps' achievements become goals")
    hindsight_goals: PositiveInt = option(4, "goals put in hindsight for each one that the env had given")
    dataset: str = option("", "your own transitions to start from: an .npz file, or minari:ID")
    dataset_share: Annotated[float, Meta(ge=0, lt=1)] = option(0.0, "of each batch from the data set; 0: put in replay")
    hidden_sizes: tuple[PositiveInt, ...] = option((256, 256), "widths of each network (of what acts, on a CNN: none)")
    activation: Activation = option("relu", "after each hidden layer")
    normalize_observation: bool = option(False, "by running mean and variance, which are part of the weights")
    normalize_reward: bool = option(False, "divide by the running deviation of discounted returns")
    compile: bool = option(False, "compile the loss with torch.compile: some 20 s at the start, faster updates")


class OffPolicy(Algorithm):
    """An algorithm that stores fragments in replay and learns from batches of transitions.

    A subclass implements `choose_action` and `learn`, one update. Whatever `choose_action` returns beside the action and is
    named in `extras` is stored with each transition and is in the batch under that name.

    Attributes:
        replay: what is learned from.
        warmed_up: env steps at the end of a warm-up by hand; 0: there was none. The steps before paid for no updates.
        pace_from: env steps and updates from which updates are counted against env steps: where a resumed run got another pace.
        generator: for what an update draws (`torch.randn(..., generator=...)`). It starts anew with each fragment, from a
            seed that depends on the number of updates alone, so that a resumed run draws the same.
    """

    on_policy = False
    supports = "replay: uniform or prioritised, n-step, hindsight on goal envs"
    extras: ClassVar[tuple[str, ...]] = ()
    config: OffPolicyConfig
    replay: Replay | MixedReplay

    def __init__(self, sync: bool = True, *, spec: EnvSpec, config: Any, **others: Any) -> None:
        """As `Algorithm`.

        Raises:
            InputError: also where hindsight is asked for on an env without goals, or together with what it excludes; where
                there is a `dataset_share` of nothing.
        """
        super().__init__(sync, spec=spec, config=config, **others)
        self.pace_from = (0, 0)
        self.warmed_up = 0
        if config.dataset_share and not config.dataset:
            raise InputError(
                f"dataset_share={config.dataset_share} without a data set: name one by dataset, or leave it out"
            )
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

    def start_learning(self) -> None:
        config = self.config
        self.generator = torch.Generator(self.device)
        own = self._make_replay(config.buffer_size, self.num_streams, "replay")
        self.replay = own
        if config.dataset:
            self._load(list(load_dataset(config.dataset, self.spec, self.extras)), own)

    def _make_replay(self, capacity: int, num_streams: int, name: str) -> Replay:
        config, spec = self.config, self.spec
        arguments = (capacity, num_streams, derive_seed(self.seed, name), config.n_step, config.gamma, self.extras)
        if config.hindsight != "none":
            reward, goals = self._goal_reward(), config.hindsight_goals
            return HindsightReplay(*arguments, reward=reward, strategy=config.hindsight, goals=goals)
        stack, padding = spec.frame_stack, spec.frame_padding
        if config.prioritized:
            return PrioritizedReplay(
                *arguments, alpha=config.prioritized_alpha, frame_stack=stack, frame_padding=padding
            )
        return Replay(*arguments, frame_stack=stack, frame_padding=padding)

    def _load(self, fragments: list[Fragment], own: Replay) -> None:
        """Take in transitions from outside: into the run's own replay, or beside it."""
        config, share = self.config, self.config.dataset_share
        count = sum(len(fragment["reward"]) for fragment in fragments)
        kept, streams = own, self.num_streams
        if share:
            rows = share_out(config.batch_size, (1.0 - share, share))
            if not all(rows):
                raise InputError(
                    f"dataset_share={share}: of batch_size={config.batch_size} that is {rows[1]} transitions of the data set and "
                    f"{rows[0]} of the run's own; expected some of both: choose another share or a larger batch"
                )
            kept, streams = self._make_replay(count + 1, 1, "dataset"), 1
            self.replay = MixedReplay([(own, 1.0 - share), (kept, share)])
        for fragment in fragments:
            self._note(fragment)
        try:
            for fragment in spread(fragments, streams, whole_episodes=bool(self.spec.frame_stack)):
                kept.add(fragment)
        except ValueError as error:
            raise InputError(f"data set '{config.dataset}' does not fit into the replay: {error}") from error
        if len(kept) < count:
            raise InputError(
                f"data set '{config.dataset}' has {count} transitions, buffer_size={config.buffer_size} over {streams} envs holds "
                f"fewer: raise buffer_size, or keep the data set beside the replay by dataset_share"
            )

    def _goal_reward(self) -> RewardOfGoals:
        reward = self.spec.goal_reward
        if reward is None:
            raise InputError(
                "hindsight needs the rewards of other goals: give EnvSpec(..., goal_reward=GoalReward(env, env_kwargs)), "
                "with GoalReward of wiserl.env.goal_reward"
            )
        reward.check()
        return reward

    def _compile_if_asked(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        """`loss`, compiled if the configuration says so."""
        return torch.compile(loss) if self.config.compile else loss

    @property
    def learning_starts(self) -> int:
        """Env steps before the first update: what the config says, or more after a warm-up by hand."""
        return max(self.config.learning_starts, self.warmed_up)

    @property
    def warming_up(self) -> bool:
        """Whether actions are to be random still."""
        return self.env_steps < self.learning_starts

    def update(self, fragment: Fragment) -> dict[str, float]:
        """Store the fragment as the env gave it, then do as many updates as the env steps so far pay for."""
        config = self.config
        self.replay.add(fragment)
        self._note(fragment)
        pace = (self.learning_starts, config.train_freq, config.gradient_steps)
        due = updates_due(self.env_steps, self.updates, *pace, self.pace_from)
        if not due or not len(self.replay):
            return {}
        rate = self._learning_rate(fragment)
        self.generator.manual_seed(derive_seed(self.seed, "learn", self.updates))
        logs: dict[str, Tensor | float] = {}
        ahead = 1 if self.extras else BATCHES_AT_ONCE  # what an update writes back is in the next batch
        while due > 0:
            batches = min(due, ahead)
            logs.update(self._learn_from(self._draw(batches), batches, rate))
            due -= batches
        values = {name: float(value.mean() if isinstance(value, Tensor) else value) for name, value in logs.items()}
        return {**values, "charts/learning_rate": rate}

    def _note(self, fragment: Fragment) -> None:
        """Count a fragment in the statistics that observations and rewards are normalised by whenever they are learned from."""
        self._note_observations(fragment)
        if self.return_scale is not None:
            self.return_scale.take_in(fragment)

    def _draw(self, batches: int) -> dict[str, Any]:
        """Rows of so many batches, one after the other."""
        size = self.config.batch_size
        if isinstance(self.replay, PrioritizedReplay | MixedReplay):
            return self.replay.sample(size, linear(self.config.prioritized_beta, 1.0, self.progress), batches)
        return self.replay.sample(size * batches)

    def _learn_from(self, drawn: dict[str, Any], batches: int, rate: float) -> dict[str, Tensor | float]:
        """An update for each batch, and then the new priorities; returns what to log."""
        if self.return_scale is not None:
            drawn = {**drawn, "reward": self.return_scale.divide(drawn["reward"], self.config.n_step)}
        rows, size = to_tensors(drawn, self.device), self.config.batch_size
        logs: dict[str, Tensor | float] = {}
        errors = []
        for start in range(0, batches * size, size):
            batch = tree_map(lambda leaf, start=start: leaf[start : start + size], rows)
            error, newest = self.learn(batch, rate)
            errors.append(error)
            logs.update(newest)
            self.updates += 1
        if self.config.prioritized:
            assert isinstance(self.replay, PrioritizedReplay | MixedReplay)
            self.replay.update_priorities(drawn["index"], torch.cat(errors).abs().cpu().numpy())
        return logs

    def scheduled_values(self, progress: float) -> dict[str, float]:
        values, config = super().scheduled_values(progress), self.config
        return values | (
            {"prioritized_beta": linear(config.prioritized_beta, 1.0, progress)} if config.prioritized else {}
        )

    def course(self) -> dict[str, Any]:
        return {**super().course(), "pace_from": list(self.pace_from), "warmed_up": self.warmed_up}

    def resume_course(self, course: Mapping[str, Any], config: Mapping[str, Any]) -> list[tuple[str, str]]:
        """As `Algorithm`. With another pace than that of the checkpoint, updates are counted from here."""
        env_steps, updates = course.get("pace_from", (0, 0))
        self.pace_from = (env_steps, updates)
        self.warmed_up = course.get("warmed_up", 0)
        changed = [
            f"{name}={value} (was {before})"
            for name in PACE
            if (value := getattr(self.config, name)) != (before := config.get(name, value))
        ]
        if not changed:
            return super().resume_course(course, config)
        self.pace_from = (self.env_steps, self.updates)
        told = f"{', '.join(changed)}: this counts from env step {self.env_steps:,} on, not for the steps before"
        return [("message", told), *super().resume_course(course, config)]

    def replay_state(self) -> dict[str, Any]:
        return self.replay.state_dict()

    def load_replay_state(self, state: dict[str, Any]) -> None:
        if self.spec.masks:
            state = with_valid_masks(state, MaskLayout(self.spec.action_space).size)
        self.replay.load_state_dict(state)
