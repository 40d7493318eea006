"""A trained policy, opened for acting: no Ray, no env, no learner."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wiserl.agent.base.algorithm import Algorithm
from wiserl.agent.base.divergence import check_actions
from wiserl.agent.catalogue import AlgoLike, find_algorithm
from wiserl.core.actions import ActionCodec
from wiserl.core.config import make_config
from wiserl.core.masks import ENTRY, split_observation
from wiserl.core.memory import RowMemory
from wiserl.core.observations import ObservationReader
from wiserl.core.spaces import Space, leaf_layout, leaf_spaces, observation_zeros, with_text_keys
from wiserl.core.spec import EnvSpec
from wiserl.core.tree import Array, Nested, leading_axes
from wiserl.net.size import parameters_up_to
from wiserl.policy.trust import Names, check_policy
from wiserl.run_folder.checkpoint import Checkpoint, open_checkpoint
from wiserl.run_folder.manifest import check_manifest
from wiserl.util.device import check_device
from wiserl.util.errors import EnvError, InputError, WiserlError
from wiserl.util.paths import as_path

_NEEDED = ("algo", "env", "env_kwargs", "spec", "config", "seed", "env_steps")  # of a manifest


class Policy:
    """Chooses actions as the env takes them.

    Args:
        checkpoint: what it is made from.
        device: where the network lives.
        trust: import what the checkpoint names, whoever trained it.
        algo: its algorithm, where the user names it.

    Attributes:
        spec: the env's spaces and agents.
        manifest: the checkpoint's manifest.

    Raises:
        InputError: the checkpoint holds no such policy, or names code of a run that this user neither trained nor trusts.
    """

    def __init__(
        self, checkpoint: Checkpoint, device: str = "cpu", *, trust: bool = False, algo: AlgoLike | None = None
    ) -> None:
        self.manifest = checkpoint.manifest
        check_manifest(checkpoint.path, self.manifest, _NEEDED)
        names = Names.of_manifest(self.manifest)
        if not trust:
            check_policy(names, checkpoint.path, named=algo is not None)
        found = find_algorithm(algo or names.algo)
        weights = checkpoint.weights()
        brings_code = ":" in found.name or names.own_net
        size = contextlib.nullcontext() if brings_code else parameters_up_to(sum(map(torch.numel, weights.values())))
        try:
            self.spec = EnvSpec.from_json(self.manifest["spec"])
            config: Any = make_config(found.algorithm.config_class, self.manifest["config"], found.name)
            with size:
                self._algorithm: Algorithm = found.algorithm(spec=self.spec, config=config, seed=self.manifest["seed"])
        except WiserlError as error:
            raise InputError(f"checkpoint '{checkpoint.path}' does not hold a {found.name} network: {error}") from None
        except Exception as error:  # of torch, numpy or gymnasium, from values that no training writes
            if brings_code:
                raise  # their own errors are for who wrote them
            raise InputError(
                f"checkpoint '{checkpoint.path}' describes no {found.name} policy: its manifest.json has values with which none can "
                f"be made ({type(error).__name__}: {error})"
            ) from error
        try:
            self._algorithm.policy.load_state_dict(weights)
        except RuntimeError as error:
            raise InputError(f"checkpoint '{checkpoint.path}' does not hold a {found.name} network: {error}") from None
        # Of what is learned alone: a network of the user's may keep an infinity, in a mask say.
        learned = self._algorithm.policy.named_parameters()
        broken = [name for name, tensor in learned if not tensor.isfinite().all()]
        if broken:
            raise InputError(
                f"checkpoint '{checkpoint.path}' has weights that are infinite or NaN ({broken[0]}), which no training saves: choose "
                "another one"
            )
        self._algorithm.move_to(check_device(device))
        # Where training left off: a new algorithm would act at random, as before its first update.
        self._algorithm.env_steps, self._algorithm.updates = self.manifest["env_steps"], self.manifest.get("updates", 0)
        self._codec = ActionCodec(self.spec.action_space)
        self._reader = ObservationReader(self.spec.observation_space)
        self._memories: dict[str, RowMemory] = {}  # by agent

    def memory(self, envs: int, agents: int) -> RowMemory:
        """What acting on so many rows remembers, for `act`: nothing yet."""
        return RowMemory(self._algorithm.memory_size, envs, agents)

    def act(
        self, obs: Nested, deterministic: bool = True, memory: RowMemory | None = None, mask: Array | None = None
    ) -> Array:
        """Policy-format actions `[E, A, ...]` for observations `[E, A, ...]`, as a `VectorEnv` takes them.

        `memory` is of the same rows, and is brought up to date; None: these are first steps of episodes. `mask`, bool
        `[E, A, n]`, is what the env gives with the observations; None: nothing.

        Raises:
            InputError: the policy was trained with masks and is given none, or it cannot act with masks.
            Diverged: the weights are such that an action is infinite or NaN.
        """
        if memory is None:
            memory = self.memory(*leading_axes(obs))
        if mask is None and self.spec.masks:
            raise InputError(f"this policy was trained with action masks (env '{self.spec.id}') and is given none")
        if mask is not None and not self._algorithm.takes("mask"):
            raise InputError(f"{self.manifest['algo']} cannot act with masks: its choose_action has no argument 'mask'")
        masks = {} if mask is None else {"mask": mask}
        chosen = self._algorithm.choose_action(obs, deterministic, **memory.arguments(), **masks)
        memory.take(chosen)
        check_actions(self._algorithm, self.manifest["algo"], chosen["action"], obs, axes=2)
        return chosen["action"]

    def choose_action(self, obs: Any, deterministic: bool = True, agent: str = "", mask: Any = None) -> Any:
        """The env's action for one agent's observation, as the env returns it.

        A policy with memory remembers what it was given since the last `reset`, for each `agent` by itself.

        Args:
            obs: the observation; with its entry `action_mask`, if the policy was trained with such.
            deterministic: the best action, or one drawn as in training.
            agent: whose observation it is, where there are several.
            mask: `info["action_mask"]`, if the policy was trained with such: `[n]`, 1 where an action is valid.

        Raises:
            InputError: the observation does not fit the space the policy was trained on; the mask is missing or does not fit.
        """
        try:
            if self.spec.masks == "observation":
                if mask is not None:
                    raise InputError(
                        f"the mask of env '{self.spec.id}' is the observation's entry '{ENTRY}': leave mask= out"
                    )
                obs, mask = split_observation(self.spec, obs, self.spec.agents[0])
            valid = None if mask is None else self._valid(mask)
            obs = with_text_keys(self.spec.observation_space, obs)
            buffers = observation_zeros(self.spec.observation_space, (1, 1))
            self._reader.write(buffers, (0, 0), obs, self.spec.agents[0])
        except (EnvError, TypeError, ValueError, KeyError) as error:
            raise InputError(f"observation does not fit {self.spec.observation_space}: {error}") from None
        if valid is None and self.spec.masks:
            raise InputError(
                f"this policy was trained with action masks: give choose_action(obs, mask=info['{ENTRY}']), with the info that came "
                "with the observation"
            )
        memory = self._memories.setdefault(agent, self.memory(1, 1))
        action = self._codec.to_env(self.act(buffers, deterministic, memory, valid))[0, 0]
        return action.item() if np.ndim(action) == 0 else action

    def _valid(self, given: Any) -> Array:
        """A mask as an env gives it, as bool `[1, 1, n]`."""
        layout = self._codec.masks
        if not layout.size:
            raise InputError(f"a mask is given, but the actions are {self.spec.action_space}: expected none")
        mask = layout.read(given, self.spec.agents[0])
        if not layout.has_choice(mask):
            raise InputError(f"the mask leaves no valid action: {mask.astype(int).tolist()}; expected one at least")
        return mask[None, None]

    def check_spaces(self, spec: EnvSpec) -> None:
        """Check that an env takes what the policy gives, and gives what it takes; bounds may be others.

        Raises:
            InputError: its observations or actions are others than those the policy was trained with.
        """
        for what, trained, given in (
            ("observations", self.spec.observation_space, spec.observation_space),
            ("actions", self.spec.action_space, spec.action_space),
        ):
            if _layout(trained) != _layout(given):
                raise InputError(
                    f"env '{spec.id}' has {what} {given}, the policy was trained on '{self.spec.id}' with {trained}: expected an "
                    "env of the same"
                )

    def reset(self) -> None:
        """Forget the episode so far. Call it when one begins; a policy without memory has nothing to forget."""
        self._memories.clear()

    def reseed(self, *parts: int | str) -> None:
        """Seed the generator that `deterministic=False` draws from."""
        self._algorithm.reseed(*parts)


def _layout(space: Space) -> list[tuple[Any, ...]]:
    """Names, kinds, shapes and sizes of a space's leaves."""
    return [
        (path, type(leaf), leaf_layout(leaf), getattr(leaf, "n", None), str(getattr(leaf, "nvec", "")))
        for path, leaf in leaf_spaces(space)
    ]


def load(
    run_dir: str | Path,
    checkpoint: str = "last",
    device: str = "cpu",
    *,
    trust: bool = False,
    algo: AlgoLike | None = None,
) -> Policy:
    """Open a policy from a run folder (or a checkpoint's own folder). Its env is not needed, and not imported.

    Args:
        run_dir: as given to `train`.
        checkpoint: `last`, `best`, or a number of env steps.
        device: where the network lives: cpu, cuda or cuda:INDEX.
        trust: import an algorithm or network that the run names, though this user did not train it.
        algo: the algorithm, instead of what the run names: one of somebody else's run that you know.

    Raises:
        InputError: no such run, checkpoint or device; it is corrupt; or it names code to import, and this user neither trained
            the run nor named or trusted that.
    """
    return Policy(open_checkpoint(as_path(run_dir, "run_dir"), checkpoint), device, trust=trust, algo=algo)
