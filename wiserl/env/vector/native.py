"""Envs that come with their own vector version (gymnasium's `vector_entry_point`), such as CartPole-v1 and Atari's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from wiserl.core.actions import ActionCodec
from wiserl.core.spaces import batched_observation, observation_zeros, write_observation
from wiserl.core.spec import EnvSpec
from wiserl.core.tree import Array, tree_map
from wiserl.env.make import EnvLike, env_id
from wiserl.env.vector.base import VectorEnv, VectorKind, VectorStep
from wiserl.util.errors import EnvError, InputError


def has_native(env: EnvLike) -> bool:
    """Whether `env` is a gymnasium id with a vector version of its own."""
    return isinstance(env, str) and env in gym.registry and gym.registry[env].vector_entry_point is not None


class NativeVector(VectorEnv):
    """Steps an env's own vector version: no Python loop over envs.

    Where it resets one step after an episode's end (gymnasium's NEXT_STEP), the row of that step is not alive: the
    action is ignored, the reward 0. Infos are not passed on.
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
        self.spec = EnvSpec(name, self._envs.single_observation_space, self._envs.single_action_space)
        mode = self._envs.metadata.get("autoreset_mode")
        if mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
            self.close()
            raise InputError(
                f"the native vector version of env '{name}' has autoreset mode {mode}; expected NEXT_STEP or "
                "SAME_STEP: choose --vector inline or process"
            )
        self._is_next_step = mode == AutoresetMode.NEXT_STEP
        self._codec = ActionCodec(self.spec.action_space)
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
        obs, _ = self._envs.reset(seed=seed)
        self._alive = self._all_alive
        return batched_observation(self.spec.observation_space, obs), self._alive if self._is_next_step else None

    def step(self, actions: Array) -> VectorStep:
        """See `VectorEnv.step`."""
        obs, rewards, terminations, truncations, info = self._envs.step(self._codec.to_env(actions[:, 0]))
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
            return VectorStep(nested, reward, terminated, truncated, self._alive if self._is_next_step else None)
        final_envs: list[int] = np.nonzero(ended[:, 0])[0].tolist()
        truncated = truncated & ~terminated
        if self._is_next_step:
            self._alive = ~ended
            final_obs = tree_map(lambda leaf: leaf[final_envs], nested)
            return VectorStep(nested, reward, terminated, truncated, self._alive, final_envs, final_envs, final_obs)
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
        for row, index in enumerate(final_envs):
            write_observation(space, final_obs, (row, 0), info["final_obs"][index])
        return final_obs

    def close(self) -> None:
        """Close the envs."""
        if not self._is_closed:
            self._is_closed = True
            self._envs.close()
