"""The base class of the built-in algorithms: an `Agent` that learns from fragments."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from wiserl.core.agent import Agent
from wiserl.core.batch import Fragment, count_env_steps
from wiserl.core.spec import EnvSpec
from wiserl.core.tree import Array, Nested, tree_map
from wiserl.net.acting import NumpyPolicy
from wiserl.net.choice import NetworkConfig, is_recurrent
from wiserl.net.initial import drawn_from
from wiserl.net.normalize import ObservationNormalizer, normalizers
from wiserl.net.optim import flatten_parameters
from wiserl.ops.returns import ReturnScale
from wiserl.ops.schedules import decayed_value, progress, resume_notice
from wiserl.ops.tensors import to_tensors
from wiserl.util.errors import InputError
from wiserl.util.seeding import derive_seed, restart, rng

ModuleT = TypeVar("ModuleT", bound=nn.Module)
LEARNING_RATE = "learning rate"


class Algorithm(Agent):
    """An agent whose experience is a whole fragment. One subclass, one file, one algorithm.

    A subclass builds `self.policy` (what acts, on runners and learner alike) in `_build`, what only the learner needs
    (optimiser, targets, buffers) in `start_learning`, and implements `choose_action` and `update`.

    Args:
        sync: whether runners wait for every new set of weights.
        spec: spaces and agents of the env.
        config: an instance of `config_class`.
        seed: seed of initial weights and of everything random on the learner.
        num_streams: envs over all runners.
        total_steps: env steps of the whole training, for schedules.

    Attributes:
        title, spaces_line, supports: what `wiserl list algos` says: the method, its action spaces, what it can do besides.
        recurrent: whether it can learn a network with memory.
        env_steps: env steps learned from so far, over all runners.
        updates: optimiser steps so far.
        progress_from: env steps and share of training from which `progress` counts: where a resumed run got another length.
        device: where the networks live; the CPU until `move_to`.
        flat: all parameters of `policy` as one tensor.
        normalizer: of the observations, a part of `policy`; None without `normalize_observation`.
        return_scale: what rewards are divided by, on the learner; None without `normalize_reward`.
    """

    config_class: ClassVar[type]
    on_policy: ClassVar[bool]
    title: ClassVar[str]
    spaces_line: ClassVar[str]
    recurrent: ClassVar[bool] = False
    supports: ClassVar[str] = "on-policy: each fragment is learned from, then dropped"
    ship_every = 1
    within_fragment = False  # nothing can have changed the network since the last step
    policy: nn.Module

    def __init__(self, sync: bool = True, *, spec: EnvSpec, config: Any, seed: int = 0, num_streams: int = 1,
                 total_steps: int = 1) -> None:  # fmt: skip
        super().__init__(sync)
        self.spec, self.config, self.seed = spec, config, seed
        self.num_streams, self.total_steps = num_streams, total_steps
        self.device = torch.device("cpu")
        self.env_steps = 0
        self.updates = 0
        self.progress_from = (0, 0.0)
        self.rng = rng(seed, "learner")
        if isinstance(config, NetworkConfig) and is_recurrent(config.net) and not self.recurrent:
            raise InputError(
                f"{type(self).__name__.lower()} cannot learn net={config.net}, which has memory: use net=auto, mlp, cnn or impala_cnn "
                "(frame stacking shows it the last few observations)"
            )
        if spec.masks and not self.takes("mask"):
            raise InputError(
                f"{type(self).__name__.lower()} cannot act with masks, which env '{spec.id}' gives: its choose_action has no argument "
                "'mask'. Give it one and let it choose valid actions only (docs/masks.md), or leave action_mask out of the env"
            )
        self.policy = self._initialise("weights", self._build)
        self.normalizer = self._find_normalizer()
        scaled = getattr(config, "normalize_reward", False)
        self.return_scale = ReturnScale(num_streams, spec.num_agents, config.gamma) if scaled else None
        self._own_tensors()

    def _initialise(self, name: str, build: Callable[[], ModuleT]) -> ModuleT:
        """What `build` makes, its weights drawn from the seed and `name` alone; torch's own generator stays as it was."""
        with drawn_from(derive_seed(self.seed, name)):
            return build()

    def _make_normalizer(self) -> ObservationNormalizer | None:
        """What `_build` gives its networks, by `normalize_observation`."""
        asked = getattr(self.config, "normalize_observation", False)
        return ObservationNormalizer(self.spec.observation_space) if asked else None

    def _find_normalizer(self) -> ObservationNormalizer | None:
        if not getattr(self.config, "normalize_observation", False):
            return None
        found = normalizers(self.policy)
        if not found:
            name = type(self).__name__
            raise InputError(
                f"{name} with normalize_observation=true: {type(self.policy).__name__}, which its _build made, normalises nothing. Make "
                "its encoder by make_encoder(..., normalizer=self._make_normalizer()), or leave the option out"
            )
        return found[0]

    def _note_observations(self, fragment: Fragment) -> None:
        """Count a fragment's observations in the statistics of the normaliser, if there is one: each living agent's once."""
        if self.normalizer is not None:
            obs, living = to_tensors(fragment["obs"], self.device, skip_axes=3), self._living(fragment)
            self.normalizer.update(tree_map(lambda leaf: leaf[living], obs))

    def _living(self, fragment: Fragment) -> slice | Tensor:
        """Which of all rows `[T * E * A]` are steps of agents that are there."""
        if "alive" not in fragment:
            return slice(None)
        return torch.from_numpy(np.flatnonzero(fragment["alive"])).to(self.device)

    def _own_tensors(self) -> None:
        """Look up what is read at each step, whenever the tensors have moved."""
        self.flat = flatten_parameters(self.policy)
        self._buffers = dict(self.policy.named_buffers())  # looked up once: the walk over all modules is slow
        self._forward = NumpyPolicy.of(self.policy)

    @classmethod
    def takes(cls, argument: str) -> bool:
        """Whether `choose_action` has an argument of this name."""
        parameters = inspect.signature(cls.choose_action).parameters
        return argument in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())

    def _act(self, obs: Nested, mask: Array | None = None) -> Array:
        """What `policy` gives for observations `[E, A, ...]`: `[E * A, ...]`, computed in the cheaper way.

        `mask` is handed on to the policy; None: it has no argument for it, or needs none.
        """
        if mask is not None:
            with torch.inference_mode():
                given = (to_tensors(each, self.device, skip_axes=2) for each in (obs, mask))
                values: Array = self.policy(*given).cpu().numpy()
            return values
        if not (self.within_fragment or self._forward is None or self._forward.holds()):
            self._forward = NumpyPolicy.of(self.policy)
        if self._forward is not None:
            return self._forward(obs.reshape(obs.shape[0] * obs.shape[1], -1))
        with torch.inference_mode():
            outputs: Array = self.policy(to_tensors(obs, self.device, skip_axes=2)).cpu().numpy()
        return outputs

    def _act_on(self, obs: Nested, memory: Array) -> tuple[Array, Array]:
        """As `_act`, for a network that remembers `[E, A, M]`; with what it remembers then, of the same shape."""
        before = memory.reshape(-1, memory.shape[2])
        if not (self.within_fragment or self._forward is None or self._forward.holds()):
            self._forward = NumpyPolicy.of(self.policy)
        if self._forward is not None:
            outputs, after = self._forward.step(obs.reshape(len(before), -1), before)
        else:
            with torch.inference_mode():
                rows = to_tensors(obs, self.device, skip_axes=2), torch.from_numpy(before).to(self.device)
                outputs, after = (part.cpu().numpy() for part in self.policy.step(*rows))  # type: ignore[operator]
        return outputs, after.reshape(memory.shape)

    def move_to(self, device: str) -> None:
        """Put the networks on a device; before `start_learning`."""
        self.device = torch.device(device)
        self.policy.to(self.device)
        self._own_tensors()

    @abstractmethod
    def _build(self) -> nn.Module:
        """The network that acts.

        Raises:
            InputError: the env's spaces are not what this algorithm can do.
        """

    @classmethod
    @abstractmethod
    def steps_per_fragment(cls, config: Any, sync: bool, runners: int, envs: int) -> int:
        """T: steps of each env in one fragment, for so many runners of so many envs."""

    @abstractmethod
    def choose_action(self, obs: Nested, deterministic: bool = False) -> dict[str, Array]:
        """Act on observations `[E, A, ...]`: arrays `[E, A, ...]`, "action" and whatever `finish_fragment` or `update` needs.

        Where `memory_size` is not 0 there is an argument more, `memory`: float32 `[E, A, memory_size]`, what acting remembers
        of each row's episode, zeros at its start. What is to be remembered next is in the result under that name. Where the env
        gives masks there is `mask`, bool `[E, A, n]` (`core.masks`): an action that it does not allow must not be chosen.
        """

    @abstractmethod
    def update(self, fragment: Fragment) -> dict[str, float]:
        """Learn from the fragments of one round (joined along E); returns means to log."""

    def finish_fragment(self, fragment: Fragment) -> None:
        """Complete a fragment on the runner, before it is shipped: what is cheaper for all steps at once."""

    @property
    def memory_size(self) -> int:
        """M, numbers that acting remembers of each env and agent from one step to the next; 0: nothing.

        Whoever acts carries them: the runner, which sets them to zero where an episode ends, and the checkpoint. Nothing else
        that `choose_action` leaves in the object is there when a run is resumed.
        """
        return 0

    @property
    def max_policy_lag(self) -> int | None:
        """In async mode, weight versions per runner that a fragment may be behind and still be learned from; None: any number."""
        return None

    def reseed(self, *parts: int | str) -> None:
        """Restart the generator that acting draws from. A runner does so before each fragment."""
        restart(self.rng, *parts)

    @property
    def progress(self) -> float:
        """Share of training done, 0 to 1."""
        return progress(self.env_steps, self.total_steps, self.progress_from)

    def scheduled_values(self, progress: float) -> dict[str, float]:
        """Values that are scheduled, by name, at that share of training. A resumed run with another length tells them to the user."""
        config = self.config
        if getattr(config, "learning_rate_decay", "none") == "none":
            return {}
        return {LEARNING_RATE: decayed_value(config.learning_rate, config.learning_rate_decay, progress)}

    def course(self) -> dict[str, Any]:
        """What schedules need, besides the counters, to go on from a checkpoint: plain values by name."""
        return {"total_steps": self.total_steps, "progress_from": list(self.progress_from)}

    def resume_course(self, course: Mapping[str, Any], config: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Go on with schedules from a checkpoint, whose weights, `env_steps` and `updates` have been loaded.

        Args:
            course: what `course` gave; of a checkpoint without it, its `total_steps` at least.
            config: hyper-parameters of the checkpoint, by name.

        Returns:
            What a user should know: lines, each with "message" or "warning" before it.
        """
        env_steps, share = course.get("progress_from", (0, 0.0))
        self.progress_from = (env_steps, share)
        before, total = course["total_steps"], self.total_steps
        if total == before or self.env_steps >= total:
            return []
        self.progress_from = (self.env_steps, progress(self.env_steps, before, self.progress_from))
        now, end = self.scheduled_values(self.progress), self.scheduled_values(1.0)
        told = [("message", f"total_steps={total:,} (was {before:,}): {resume_notice(now, end)}")] if now else []
        if now.get(LEARNING_RATE) == 0.0:
            told.append(("warning", f"the learning rate has ended at 0, so that nothing more is learned: resume with "
                         f"learning_rate_decay=none to learn at learning_rate={self.config.learning_rate:g}"))  # fmt: skip
        return told

    def _learning_rate(self, fragment: Fragment) -> float:
        """The rate to learn from this round at, by `learning_rate` and `learning_rate_decay` of the config."""
        begun = progress(self.env_steps - count_env_steps(fragment), self.total_steps, self.progress_from)
        return decayed_value(self.config.learning_rate, self.config.learning_rate_decay, self.progress, begun)

    def learner_state(self) -> dict[str, Any]:
        """What a checkpoint keeps besides the policy: tensors and plain values, by name."""
        return {} if self.return_scale is None else {"return_scale": self.return_scale.state_dict()}

    def load_learner_state(self, state: dict[str, Any]) -> None:
        """Take in what `learner_state` gave."""
        if self.return_scale is not None and "return_scale" in state:
            self.return_scale.load_state_dict(state["return_scale"])

    def replay_state(self) -> dict[str, Any] | None:
        """State of the replay buffer (arrays and plain values), or None for an algorithm without one."""
        return None

    def load_replay_state(self, state: dict[str, Any]) -> None:
        """Take in what `replay_state` gave."""

    def _sync_model(self) -> None:
        self._fire(self.weights())

    def _update_model(self, params: Any) -> None:
        with torch.no_grad():
            self.flat.copy_(params["parameters"])
            for name, buffer in self._buffers.items():
                buffer.copy_(params["buffers"][name])

    def weights(self) -> dict[str, Any]:
        """What travels to the runners: the flat parameters and the buffers (normaliser statistics) by name."""
        return {"parameters": self.flat, "buffers": self._buffers}
