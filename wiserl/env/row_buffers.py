"""Where envs write what a step gave: arrays of all envs and agents, also in memory shared with other processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from wiserl.core.masks import MaskLayout
from wiserl.core.spaces import observation_zeros
from wiserl.core.spec import EnvSpec
from wiserl.core.tree import Array


@dataclass(slots=True)
class RowBuffers:
    """Where envs write what a step gave; one index per env on the first axis.

    Attributes:
        obs: nested arrays `[E, A, ...]`, the observation to act on next (of the new episode, after an autoreset).
        final_obs: the same layout; the true final observation, valid where `ended`.
        reward: float32 `[E, A]`.
        terminated: bool `[E, A]`.
        truncated: bool `[E, A]`, never True together with `terminated`.
        alive: bool `[E, A]`, which rows act next.
        ended: bool `[E]`, the envs in which the episode of at least one agent ended at this step.
        env_ended: bool `[E]`, the envs that were reset at this step: nobody was left to act.
        episode: uint64 `[E]`, the env's episode that is going, as `util.seeding` numbers them.
        mask: bool `[E, A, n]`, which actions are valid on `obs`; all True in rows that do not act. Written if the env gives masks.
        final_mask: the same for `final_obs`.
    """

    obs: Any
    final_obs: Any
    reward: Array
    terminated: Array
    truncated: Array
    alive: Array
    ended: Array
    env_ended: Array
    episode: Array
    mask: Array
    final_mask: Array

    @classmethod
    def zeros(cls, spec: EnvSpec, num_envs: int) -> RowBuffers:
        """Buffers for `num_envs` envs, all zeros and False."""
        rows, choices = (num_envs, spec.num_agents), MaskLayout(spec.action_space).size
        return cls(
            obs=observation_zeros(spec.observation_space, rows),
            final_obs=observation_zeros(spec.observation_space, rows),
            reward=np.zeros(rows, np.float32),
            terminated=np.zeros(rows, np.bool_),
            truncated=np.zeros(rows, np.bool_),
            alive=np.zeros(rows, np.bool_),
            ended=np.zeros(num_envs, np.bool_),
            env_ended=np.zeros(num_envs, np.bool_),
            episode=np.zeros(num_envs, np.uint64),
            mask=np.zeros((*rows, choices), np.bool_),
            final_mask=np.zeros((*rows, choices), np.bool_),
        )
