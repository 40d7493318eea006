"""Whether an env's episodes can go on in another process: a part of `wiserl check-env`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from wiserl.core.actions import ActionCodec
from wiserl.core.tree import Array, tree_leaves, tree_map
from wiserl.env.make import EnvLike
from wiserl.env.vector.inline import InlineVector

_STEPS, _SECONDS = 200, 1.0


def can_continue(env: EnvLike, kwargs: Mapping[str, Any]) -> bool:
    """Whether a new copy of the env comes to the same observation and rewards by repeating the seed and actions of an episode.

    The episode is the one that is going after 200 random steps, or 1 s of them.
    """
    random, rewards = np.random.default_rng(0), list[float]()  # of the episode going
    with InlineVector(env, kwargs, 1) as first:
        obs, _ = first.reset([0])
        actions: list[Array] = []
        mask = first.mask
        codec, deadline = ActionCodec(first.spec.action_space), time.monotonic() + _SECONDS
        for step in range(_STEPS):
            begun = first.episodes.copy()
            chosen = codec.random(random, (1, first.spec.num_agents), mask)
            after = first.step(chosen)
            obs, mask, going_on = after.obs, after.mask, np.array_equal(begun, first.episodes)
            rewards = [*rewards, float(after.reward[0].sum())] if going_on else []
            actions.append(chosen[0])
            if step and time.monotonic() > deadline:
                break
        expected, episodes = tree_map(np.copy, obs), first.episodes.tolist()
    with InlineVector(env, kwargs, 1) as second:
        obs, _ = second.begin(episodes)
        repeated = second.advance([np.stack(actions)[len(actions) - len(rewards) :]])
        return repeated == [rewards] and all(
            np.array_equal(found, wanted, equal_nan=found.dtype.kind == "f")
            for (_, found), (_, wanted) in zip(tree_leaves(obs), tree_leaves(expected), strict=True)
        )
