"""Envs that come with their own vector version (gymnasium's `vector_entry_point`), such as CartPole-v1 and Atari's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from wiserl.core.actions import ActionCodec
from wiserl.core.masks import ENTRY, take_mask
from wiserl.core.observations import ObservationReader
from wiserl.core.spaces import batched_observation, observation_zeros
from wiserl.core.spec import EnvSpec
from wiserl.core.tree import Array, tree_map
from wiserl.env.make import EnvLike, env_id
from wiserl.env.masks import BatchedMasks, late_mask
from wiserl.env.vector.base import VectorEnv, VectorKind, VectorStep
from wiserl.util.errors import EnvError, InputError


def has_native(env: EnvLike) -> bool:
    """Whether `env` is a gymnasium id with a vector version of its own."""
    return isinstance(env, str) and env in gym.registry and gym.registry[env].vector_entry_point is not None


class NativeVector(VectorEnv):
    """Steps an env's own vector version: no Python loop over envs.

    Where it resets one step after an episode's end (gymnasium's NEXT_STEP), the row of that step is not alive: the
    action is ignored, the reward 0. Infos are not passed on, but for the masks in them.
    """

    kind: VectorKind = "native"
    episodes = None

    def __init__(self, env: EnvLike, kwargs: Mapping[str, Any] | None, num_envs: int) -> None:
        """Make the vector env.

        Raises:
            InputError: the env has no vector version, it does not reset by itself, or a space is not supported.
        """
        name = env_id(env)
        if not isinstance(env, str) or not has_native(env):
            raise InputError(f"env '{name}' has no native vector version; choose --vector inline, process or auto")
        self._envs = gym.make_vec(env, num_envs, vectorization_mode="vector_entry_point", **dict(kwargs or {}))
        self._is_closed = False
        self.num_envs = num_envs
        action = self._envs.single_action_space
        seen, masks, entry = take_mask(self._envs.single_observation_space, action)
        self.spec = EnvSpec(name, seen, action, masks=masks, only_entry=entry)
        self._masks = BatchedMasks(self.spec)
        mode = self._envs.metadata.get("autoreset_mode")
        if mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
            self.close()
            raise InputError(
                f"the native vector version of env '{name}' has autoreset mode {mode}; expected NEXT_STEP or "
                "SAME_STEP: choose --vector inline or process"
            )
        self._is_next_step = mode == AutoresetMode.NEXT_STEP
        self._codec = ActionCodec(self.spec.action_space)
        self._who = f"the native vector version of env '{name}'"
        layout = observation_zeros(self.spec.observation_space, (0,))
        # A Box in the dtype it is kept in needs no look at the space per step.
        self._is_plain = isinstance(layout, np.ndarray) and layout.dtype == self.spec.observation_space.dtype
        self._is_plain &= isinstance(self.spec.observation_space, spaces.Box)
        self._all_alive = np.ones((num_envs, 1), np.bool_)
        self._alive = self._all_alive

    def begin(self, episodes: Sequence[int]) -> tuple[Any, Array | None]:
        """See `VectorEnv.begin`; all envs draw from one random state, seeded from all of `episodes`."""
        self._check_episodes(episodes)
        seed = int(np.random.SeedSequence([int(episode) for episode in episodes]).generate_state(1)[0])
        obs, info = self._envs.reset(seed=seed)
        self._alive = self._all_alive
        self.mask = None
        if self.spec.masks or ENTRY in info:
            if not self._is_next_step:
                raise InputError(
                    f"the native vector version of env '{self.spec.id}' gives action masks and resets in the same step, so that those "
                    "of final observations are not known: choose --vector inline or process"
                )
            obs, self.mask = self._masks.read(obs, info, np.zeros(self.num_envs, np.bool_))
        return batched_observation(self.spec.observation_space, obs), self._alive if self._is_next_step else None

    def step(self, actions: Array) -> VectorStep:
        """See `VectorEnv.step`."""
        obs, rewards, terminations, truncations, info = self._envs.step(self._codec.to_env(actions[:, 0]))
        if self.mask is not None:
            obs, mask = self._masks.read(obs, info, np.asarray(terminations, np.bool_))
        elif ENTRY in info:
            raise late_mask(self.spec.id)
        else:
            mask = None
        nested = obs[:, None] if self._is_plain else batched_observation(self.spec.observation_space, obs)
        reward = np.asarray(rewards, np.float32)[:, None]
        terminated = np.asarray(terminations, np.bool_)[:, None]
        truncated = np.asarray(truncations, np.bool_)[:, None]
        if self._is_next_step and self._alive is not self._all_alive:
            reward = np.where(self._alive, reward, np.float32(0))
            terminated, truncated = terminated & self._alive, truncated & self._alive
        ended = terminated | truncated
        if not np.count_nonzero(ended):  # Several times as fast as ended.any() on a few envs.
            self._alive = self._all_alive
            alive = self._alive if self._is_next_step else None
            return VectorStep(nested, reward, terminated, truncated, alive, mask=mask)
        final_envs: list[int] = np.nonzero(ended[:, 0])[0].tolist()
        truncated = truncated & ~terminated
        if self._is_next_step:
            self._alive = ~ended
            final_obs = tree_map(lambda leaf: leaf[final_envs], nested)
            ends = (final_envs, final_envs, final_obs)
            final_mask = None if mask is None else mask[final_envs]
            mask = None if mask is None else mask | ended[..., None]
            return VectorStep(
                nested, reward, terminated, truncated, self._alive, *ends, mask=mask, final_mask=final_mask
            )
        final_obs = self._same_step(info, final_envs)
        return VectorStep(nested, reward, terminated, truncated, None, final_envs, final_envs, final_obs)

    def advance(self, actions: Sequence[Array]) -> list[list[float]]:
        """Cannot be done: `episodes` is None."""
        raise InputError(
            f"the native vector version of env '{self.spec.id}' steps all its envs at once: choose --vector inline or process"
        )

    def _same_step(self, info: dict[str, Any], final_envs: list[int]) -> Any:
        """The final observations that a vector env with same-step autoreset gives in its info."""
        if "final_obs" not in info:
            raise EnvError(
                f"the native vector version of env '{self.spec.id}' resets in the same step but gave no "
                f"info['final_obs'] (it has {', '.join(info)}): choose --vector inline or process"
            )
        space = self.spec.observation_space
        final_obs = observation_zeros(space, (len(final_envs), 1))
        reader = ObservationReader(space)
        for row, index in enumerate(final_envs):
            reader.write(final_obs, (row, 0), info["final_obs"][index], f"{self._who}, copy {index},")
        return final_obs

    def close(self) -> None:
        """Close the envs."""
        if not self._is_closed:
            self._is_closed = True
            self._envs.close()
