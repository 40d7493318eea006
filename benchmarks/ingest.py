"""How fast the learner's side takes recorded fragments in: schema check, check for finite values, replay."""

from __future__ import annotations

import time
from typing import Any

import gymnasium as gym
import numpy as np

from benchmarks import settings


def record(num_steps: int, num_envs: int, fragments: int, seed: int) -> list[dict[str, Any]]:
    """Fragments of CartPole under random actions, `[T, E, 1, ...]` as `wiserl.core.batch` declares them."""
    envs = [gym.make(settings.ENV, disable_env_checker=True) for _ in range(num_envs)]
    observations = np.stack([env.reset(seed=seed + index)[0] for index, env in enumerate(envs)])[:, None]
    random = np.random.default_rng(seed)
    return [_fragment(envs, observations, num_steps, random, version) for version in range(fragments)]


def _fragment(
    envs: list[Any], observations: Any, num_steps: int, random: np.random.Generator, version: int
) -> dict[str, Any]:
    shape = (num_steps, len(envs), 1)
    obs = np.empty((*shape, 4), np.float32)
    action = random.integers(0, 2, shape)
    reward = np.ones(shape, np.float32)
    terminated, truncated = np.zeros(shape, bool), np.zeros(shape, bool)
    final_obs, final_at = [], []
    for t in range(num_steps):
        obs[t] = observations
        for e, env in enumerate(envs):
            observation, _, terminated[t, e], truncated[t, e], _ = env.step(int(action[t, e, 0]))
            if terminated[t, e] or truncated[t, e]:
                final_obs.append(observation[None])
                final_at.append((t, e))
                observation, _ = env.reset()
            observations[e, 0] = observation
    return {
        "obs": obs,
        "action": action,
        "reward": reward,
        "terminated": terminated,
        "truncated": truncated,
        "last_obs": observations.copy(),
        "final_obs": np.array(final_obs, np.float32).reshape(-1, 1, 4),
        "final_at": np.array(final_at, np.int64).reshape(-1, 2),
        "version": np.full(len(envs), version),
        "rank": np.zeros(len(envs), np.int64),
        "stream": np.arange(len(envs)),
        "fresh": np.full(len(envs), version == 0),
    }


def replay(seconds: float, num_steps: int, num_envs: int, seed: int) -> dict[str, float]:
    """Feed recorded fragments to a replay of a million transitions, over and over, for `seconds`.

    Returns:
        `transitions_per_second`, and the `transitions` fed.
    """
    from wiserl.core.batch import check_finite, check_fragment
    from wiserl.replay.uniform import Replay

    fragments = record(num_steps, num_envs, 16, seed)
    buffer = Replay(1_000_000, num_envs, seed)
    per_pass = sum(fragment["reward"].size for fragment in fragments)
    passes, elapsed = 0, 0.0
    while elapsed < seconds:
        started = time.perf_counter()
        for fragment in fragments:
            check_fragment(fragment)
            check_finite(fragment, settings.ENV, passes * num_steps)
            buffer.add(fragment)
        if passes:
            elapsed += time.perf_counter() - started
        passes += 1
    transitions = (passes - 1) * per_pass
    return {"transitions": transitions, "transitions_per_second": transitions / elapsed}
