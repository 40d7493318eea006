"""The base class of the built-in algorithms: an `Agent` that learns from fragments."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from wiserl.core.agent import Agent
from wiserl.core.batch import Array, Fragment, Nested
from wiserl.env.spaces import EnvSpec
from wiserl.net.choice import NetworkConfig, is_recurrent
from wiserl.ops.optim import flatten_parameters
from wiserl.ops.tensors import to_tensors
from wiserl.util.errors import InputError
from wiserl.util.seeding import derive_seed, rng

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class Algorithm(Agent):
    """An agent whose experience is a whole fragment. One subclass, one file, one algorithm.

    A subclass builds `self.policy` (what acts, on runners and learner alike) in `_build`, what only the learner needs
    (optimiser, targets, buffers) in `_start_learning`, and implements `choose_action` and `update`.

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
        device: where the networks live; the CPU until `move_to`.
        flat: all parameters of `policy` as one tensor.
    """

    config_class: ClassVar[type]
    on_policy: ClassVar[bool]
    title: ClassVar[str]
    spaces_line: ClassVar[str]
    recurrent: ClassVar[bool] = False
    supports: ClassVar[str] = "on-policy: each fragment is learned from, then dropped"
    ship_every = 1
    policy: nn.Module

    def __init__(self, sync: bool = True, *, spec: EnvSpec, config: Any, seed: int = 0, num_streams: int = 1,
                 total_steps: int = 1) -> None:  # fmt: skip
        super().__init__(sync)
        self.spec, self.config, self.seed = spec, config, seed
        self.num_streams, self.total_steps = num_streams, total_steps
        self.device = torch.device("cpu")
        self.env_steps = 0
        self.updates = 0
        self.rng = rng(seed, "learner")
        if isinstance(config, NetworkConfig) and is_recurrent(config.net) and not self.recurrent:
            raise InputError(
                f"{type(self).__name__.lower()} cannot learn net={config.net}, which has memory: use net=auto, mlp, cnn or impala_cnn "
                "(frame stacking shows it the last few observations)"
            )
        self.policy = self._initialised("weights", self._build)
        self._own_tensors()

    def _initialised(self, name: str, build: Callable[[], ModuleT]) -> ModuleT:
        """What `build` makes, its weights drawn from the seed and `name` alone; torch's own generator stays as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(
                derive_seed(self.seed, name)
            )  # torch.manual_seed would seed GPUs as well
            return build()

    def _own_tensors(self) -> None:
        """Look up what is read at each step, whenever the tensors have moved."""
        self.flat = flatten_parameters(self.policy)
        self._buffers = dict(self.policy.named_buffers())  # looked up once: the walk over all modules is slow
        self._forward = self._numpy_policy()

    def _numpy_policy(self) -> Callable[[Array], Array] | None:
        """`policy` as a function of arrays `[N, ...]`, if it is a network that `numpy_forward` covers."""
        return None

    def _act(self, obs: Nested) -> Array:
        """What `policy` gives for observations `[E, A, ...]`: `[E * A, ...]`, computed in the cheaper way."""
        if self._forward is not None:
            envs, agents = leading_axes(obs)
            return self._forward(obs.reshape(envs * agents, -1))
        with torch.inference_mode():
            outputs: Array = self.policy(to_tensors(obs, self.device, skip_axes=2)).cpu().numpy()
        return outputs

    def move_to(self, device: str) -> None:
        """Put the networks on a device; before `_start_learning`."""
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
        """Act on observations `[E, A, ...]`: arrays `[E, A, ...]`, "action" and whatever `finish_fragment` or `update` needs."""

    @abstractmethod
    def update(self, fragment: Fragment) -> dict[str, float]:
        """Learn from the fragments of one round (joined along E); returns means to log."""

    def finish_fragment(self, fragment: Fragment) -> None:
        """Complete a fragment on the runner, before it is shipped: what is cheaper for all steps at once."""

    def end_episode(self, env: int) -> None:
        """An episode of the runner's env of that index is over: forget what acting remembers of it."""

    def reseed(self, *parts: int | str) -> None:
        """Restart the generator that acting draws from."""
        self.rng = rng(*parts)

    @property
    def progress(self) -> float:
        """Share of training done, 0 to 1."""
        return min(self.env_steps / self.total_steps, 1.0)

    def learner_state(self) -> dict[str, Any]:
        """What a checkpoint keeps besides the policy: tensors and plain values, by name."""
        return {}

    def load_learner_state(self, state: dict[str, Any]) -> None:
        """Take in what `learner_state` gave."""

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


def leading_axes(obs: Nested) -> tuple[int, int]:
    """(E, A) of an observation `[E, A, ...]`."""
    while isinstance(obs, dict):
        obs = next(iter(obs.values()))
    return obs.shape[0], obs.shape[1]
