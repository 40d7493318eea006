"""Fragments and specs for tests: random but valid against the schema, with every kind of ending."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from wiserl.core.actions import ActionCodec
from wiserl.core.batch import Fragment
from wiserl.core.spaces import observation_zeros
from wiserl.core.spec import EnvSpec
from wiserl.core.tree import tree_leaves, tree_map

VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
DISCRETE = spaces.Discrete(4)


def make_spec(observation: spaces.Space = VECTOR, action: spaces.Space = DISCRETE, agents: int = 1) -> EnvSpec:
    return EnvSpec("test", observation, action, tuple(f"agent_{i}" for i in range(agents)))


def random_obs(space: spaces.Space, leading: tuple[int, ...], rng: np.random.Generator) -> Any:
    """Observations `[*leading, ...]` in the layout of `observation_zeros`; integers are 0 or 1, which fits any space."""

    def fill(leaf: np.ndarray) -> np.ndarray:
        if leaf.dtype.kind == "f":
            return rng.standard_normal(leaf.shape).astype(leaf.dtype)
        return rng.integers(2, size=leaf.shape).astype(leaf.dtype)

    return tree_map(fill, observation_zeros(space, leading))


def make_fragment(
    spec: EnvSpec | None = None,
    steps: int = 5,
    envs: int = 2,
    seed: int = 0,
    end_rate: float = 0.0,
    ends: dict[tuple[int, int, int], str] | None = None,
    **changes: Any,
) -> Fragment:
    """A fragment of random steps.

    `ends` says which (t, e, a) were "terminated" or "truncated"; with `end_rate`, others end at random. `changes`
    replaces fields.
    """
    spec = spec or make_spec()
    rng = np.random.default_rng(seed)
    shape = (steps, envs, spec.num_agents)
    flags = {kind: rng.random(shape) < end_rate for kind in ("terminated", "truncated")}
    for where, kind in (ends or {}).items():
        flags[kind][where] = True
    flags["truncated"] &= ~flags["terminated"]
    at = np.argwhere((flags["terminated"] | flags["truncated"]).any(axis=2))
    fragment: Fragment = {
        "obs": random_obs(spec.observation_space, shape, rng),
        "action": ActionCodec(spec.action_space).random(rng, shape),
        "reward": rng.standard_normal(shape).astype(np.float32),
        **flags,
        "last_obs": random_obs(spec.observation_space, shape[1:], rng),
        "final_obs": random_obs(spec.observation_space, (len(at), spec.num_agents), rng),
        "final_at": at.astype(np.int64),
        "version": np.zeros(envs, np.int64),
        "rank": np.zeros(envs, np.int64),
        "stream": np.arange(envs),
        "fresh": np.zeros(envs, bool),
    }
    return fragment | changes


def trees_equal(left: Any, right: Any) -> bool:
    """Same leaves, shapes, dtypes and values."""
    a, b = tree_leaves(left), tree_leaves(right)
    return [path for path, _ in a] == [path for path, _ in b] and all(
        np.asarray(x).dtype == np.asarray(y).dtype and np.array_equal(x, y) for (_, x), (_, y) in zip(a, b, strict=True)
    )
