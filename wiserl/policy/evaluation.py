"""Evaluation: whole episodes of a policy in envs of its own."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from wiserl.core.masks import ENTRY
from wiserl.core.tree import Array
from wiserl.env.contract import read_flag
from wiserl.env.make import EnvLike, env_id
from wiserl.env.vector.choose import make_vector
from wiserl.policy.policy import Policy
from wiserl.util.errors import EnvError, InputError
from wiserl.util.seeding import derive_seed

log = logging.getLogger("wiserl")

MAX_ENVS = 20
MAX_STEPS = 100_000
"""Env steps after which an evaluation episode that does not end is cut off."""


class Episodes(NamedTuple):
    """What episodes came to.

    Attributes:
        returns: undiscounted, summed over agents, float64 `[episodes]`.
        success: `info["is_success"]` of each one's last step, bool `[episodes]`; None where the env does not say.
    """

    returns: Array
    success: Array | None


def evaluate(
    policy: Policy, env: EnvLike, env_kwargs: Mapping[str, Any], episodes: int, seed: int, deterministic: bool = True
) -> Array:
    """The returns of `run_episodes`, `[episodes]` float64."""
    return run_episodes(policy, env, env_kwargs, episodes, seed, deterministic).returns


def run_episodes(
    policy: Policy, env: EnvLike, env_kwargs: Mapping[str, Any], episodes: int, seed: int, deterministic: bool = True
) -> Episodes:
    """Play `episodes` episodes.

    Each env runs a fixed number of episodes, so that short ones are not favoured. Episode i is seeded from (seed, "eval", i).
    """
    returns: list[float] = []
    success: list[bool | None] = []
    policy.reseed(seed, "eval", "act")
    with make_vector(env, env_kwargs, min(episodes, MAX_ENVS), "inline") as envs:
        if envs.spec.masks and not policy.spec.masks:
            raise InputError(
                f"this policy observes '{ENTRY}' of env '{env_id(env)}', as policies did before wiserl used masks; train it again"
            )
        policy.check_spaces(envs.spec)
        while len(returns) < episodes:
            wanted = min(episodes - len(returns), envs.num_envs)
            seeds = [derive_seed(seed, "eval", len(returns) + i) for i in range(envs.num_envs)]
            obs, alive = envs.reset(seeds)
            mask = envs.mask
            memory = policy.memory(envs.num_envs, envs.spec.num_agents)
            memory.restart(alive)
            totals, going = np.zeros(envs.num_envs), np.arange(envs.num_envs) < wanted
            reached: list[bool | None] = [None] * wanted
            for number in range(MAX_STEPS):
                action = policy.act(obs, deterministic, memory, *(() if mask is None else (mask,)))
                try:
                    step = envs.step(action)
                except EnvError as error:
                    raise EnvError(f"in an evaluation, at step {number} of its episodes: {error}") from error
                memory.forget(step.terminated | step.truncated, step.alive)
                totals += step.reward.sum(axis=1) * going
                for i, info in step.infos:
                    if going[i] and "is_success" in info:
                        reached[i] = read_flag("info['is_success']", info["is_success"], f"env '{env_id(env)}'")
                going[step.env_ended] = False
                if not going.any():
                    break
                obs, mask = step.obs, step.mask
            else:
                log.warning("evaluation of '%s': %d episode(s) had not ended after %d steps and were cut off there; give the env a "
                            "time limit", env_id(env), int(going.sum()), MAX_STEPS)  # fmt: skip
            returns.extend(totals[:wanted].tolist())
            success.extend(reached)
    return Episodes(np.array(returns), None if None in success else np.array(success))
