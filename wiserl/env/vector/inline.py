"""Envs stepped one after the other in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from wiserl.core.actions import ActionCodec
from wiserl.core.masks import ENTRY
from wiserl.core.observations import ObservationReader
from wiserl.core.tree import Array
from wiserl.env.contract import NUMBERS, close_env, read_flag, read_info, read_reward, reset_parts, step_parts
from wiserl.env.make import EnvLike, is_parallel, make_env
from wiserl.env.masks import late_mask, mixed_masks
from wiserl.env.row_buffers import RowBuffers
from wiserl.env.rows import EnvRows, read_spec
from wiserl.env.vector.base import VectorEnv, VectorKind, VectorStep, step_result
from wiserl.util.seeding import episode_seed


class InlineVector(VectorEnv):
    """Steps the envs one after the other in this process: the least overhead for cheap envs."""

    kind: VectorKind = "inline"
    episodes: Array

    def __init__(self, env: EnvLike, kwargs: Mapping[str, Any] | None, num_envs: int) -> None:
        """Make `num_envs` envs.

        Args:
            env: see `make_env`.
            kwargs: arguments of the env.
            num_envs: how many.

        Raises:
            InputError: see `make_env` and `read_spec`.
        """
        self.num_envs = num_envs
        self._envs: list[Any] = []
        try:
            for _ in range(num_envs):
                self._envs.append(make_env(env, kwargs))
            self.spec = read_spec(self._envs[0], env)
        except BaseException:
            self.close()
            raise
        self._codec = ActionCodec(self.spec.action_space)
        self._as_ints = isinstance(self.spec.action_space, spaces.Discrete)
        self._is_parallel = is_parallel(self._envs[0])
        has_box = isinstance(self.spec.observation_space, spaces.Box)
        self._is_fast = has_box and not self._is_parallel and not self.spec.masks
        self._step_functions = [made.step for made in self._envs]
        self._any_ended, self._has_mask = True, False
        self.bind(RowBuffers.zeros(self.spec, num_envs))

    @property
    def has_alive(self) -> bool:
        """Whether rows can be gone: a parallel env's agents may, the one row of a gymnasium env never is."""
        return self._is_parallel

    def bind(self, buffers: RowBuffers, first: int = 0) -> None:
        """Write into `buffers` from now on (a worker process shares them with its parent). `begin` comes next.

        `first` is the number of the first of these envs among all that are stepped together.
        """
        self._buffers = buffers
        self._first = first
        names = [f"env '{self.spec.id}', copy {first + index}," for index in range(self.num_envs)]
        self._resets, self._steps = [f"reset() of {name}" for name in names], [f"step() of {name}" for name in names]
        self.episodes = buffers.episode
        self._alive = buffers.alive if self._is_parallel else None
        self.mask = None
        self._rows: list[EnvRows] = []
        if self._is_fast:
            self._leaf = ObservationReader(self.spec.observation_space).leaves[0]
            # Views without the agent axis: an index of one number instead of two.
            self._obs_rows = buffers.obs[:, 0]
            self._reward_rows = buffers.reward[:, 0]
        else:
            self._rows = [
                EnvRows(env, self.spec, buffers, index, first + index) for index, env in enumerate(self._envs)
            ]

    def begin(self, episodes: Sequence[int]) -> tuple[Any, Array | None]:
        """See `VectorEnv.begin`."""
        self._check_episodes(episodes)
        if self._is_fast:
            for index, episode in enumerate(episodes):
                obs = self._begin_fast(index, int(episode))
                if self._has_mask:
                    break
                self._obs_rows[index] = self._leaf.read(obs, self._resets[index])
            self._any_ended = True  # A step that raised may have set flags before it did.
            if self._has_mask:  # rows read the masks: the episodes begin again, by them
                self._is_fast = False
                self.bind(self._buffers, self._first)
        for rows, episode in zip(self._rows, episodes, strict=False):
            rows.begin(int(episode))
        given = {rows.masks.given for rows in self._rows}
        if len(given) > 1:
            raise mixed_masks(self.spec.id)
        self.mask = self._buffers.mask if True in given else None
        return self._buffers.obs, self._alive

    def _begin_fast(self, index: int, episode: int) -> Any:
        """Start an episode. Returns its first observation, which is not checked yet."""
        self._buffers.episode[index] = episode
        who = self._resets[index]
        obs, info = reset_parts(self._envs[index].reset(seed=episode_seed(episode)), who)
        self._has_mask = ENTRY in read_info(info, who)
        return obs

    def _flags(self, index: int, terminated: Any, truncated: Any) -> tuple[bool, bool]:
        who = self._steps[index]
        return read_flag("terminated", terminated, who), read_flag("truncated", truncated, who)

    def advance(self, actions: Sequence[Array]) -> list[list[float]]:
        """See `VectorEnv.advance`."""
        rewards: list[list[float]] = [[] for _ in actions]
        for index, chosen in enumerate(actions):
            for action in self._codec.to_env(chosen):
                if self._is_fast:
                    rewards[index].append(self._advance_fast(index, action[0].tolist() if self._as_ints else action[0]))
                else:
                    self._rows[index].step(action.tolist() if self._as_ints else action)
                    rewards[index].append(float(self._buffers.reward[index].sum()))
        return rewards

    def _advance_fast(self, index: int, action: Any) -> float:
        who = self._steps[index]
        obs, reward, terminated, truncated, _ = step_parts(self._step_functions[index](action), who)
        if any(self._flags(index, terminated, truncated)):
            obs, who = self._begin_fast(index, int(self._buffers.episode[index]) + 1), self._resets[index]
        self._obs_rows[index] = self._leaf.read(obs, who)
        return float(np.float32(read_reward(reward, who)))

    def step(self, actions: Array) -> VectorStep:
        """See `VectorEnv.step`."""
        actions = self._codec.to_env(actions)
        return self._step_fast(actions) if self._is_fast else self._step_rows(actions)

    def _step_fast(self, actions: Array) -> VectorStep:
        """One agent and an array as observation: no call besides the env's own, unless what it returned needs a second look."""
        buffers, obs_rows, reward_rows = self._buffers, self._obs_rows, self._reward_rows
        if self._any_ended:
            buffers.terminated.fill(False)
            buffers.truncated.fill(False)
            buffers.ended.fill(False)
            buffers.env_ended.fill(False)
        final_envs: list[int] = []
        infos: list[tuple[int, Mapping[str, Any]]] = []
        # As Python ints: an env's own checks and branches on them are 10 % faster than on numpy scalars.
        rows = actions[:, 0].tolist() if self._as_ints else actions[:, 0]
        steps, resets = self._steps, self._resets
        read, dtype, shape = self._leaf.read, self._leaf.exact, self._leaf.shape
        for index, (step, action) in enumerate(zip(self._step_functions, rows, strict=True)):
            given = step(action)
            if type(given) is not tuple or len(given) != 5:
                given = step_parts(given, steps[index])
            obs, reward, terminated, truncated, info = given
            reward_rows[index] = reward if type(reward) in NUMBERS else read_reward(reward, steps[index])
            if type(obs) is not np.ndarray or obs.dtype is not dtype or obs.shape != shape:
                obs = read(obs, steps[index])
            if type(info) is not dict:
                info = read_info(info, steps[index])
            if type(terminated) is not bool or type(truncated) is not bool:
                terminated, truncated = self._flags(index, terminated, truncated)
            if terminated or truncated:
                final_envs.append(index)
                buffers.final_obs[index, 0] = obs
                if terminated:
                    buffers.terminated[index, 0] = True
                else:
                    buffers.truncated[index, 0] = True
                obs = read(self._begin_fast(index, int(buffers.episode[index]) + 1), resets[index])
            obs_rows[index] = obs
            if info:
                infos.append((index, info))
                if ENTRY in info:
                    raise late_mask(self.spec.id)
        final_obs = None
        self._any_ended = bool(final_envs)
        if final_envs:
            buffers.ended[final_envs] = True
            buffers.env_ended[final_envs] = True
            final_obs = buffers.final_obs[final_envs]
        flags = (buffers.terminated, buffers.truncated)
        return VectorStep(buffers.obs, buffers.reward, *flags, None, final_envs, final_envs, final_obs, infos)

    def _step_rows(self, actions: Array) -> VectorStep:
        buffers = self._buffers
        infos = []
        rows_of = actions.tolist() if self._as_ints else actions
        for index, rows in enumerate(self._rows):
            info = rows.step(rows_of[index])
            if info:
                infos.append((index, info))
        return step_result(buffers, self._alive, infos, self.mask)

    def close(self) -> None:
        """Close the envs."""
        envs, self._envs = self._envs, []
        for env in envs:
            close_env(env, f"env {env}")
