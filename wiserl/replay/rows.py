"""What a row of the stored transitions holds, and which envs of a fragment are neighbours in the store."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from wiserl.core.tree import Array

Block = tuple[slice, slice]  # a part of the rings: slots, streams

# What a row holds. 0: nothing to sample (never written, written ahead, or an agent that was not alive).
GOING, TRUNCATED, TERMINATED = 1, 2, 3


class Ends(NamedTuple):
    """Rows of a fragment that end an episode, each `[n]`, and where their final observation is in `final_obs`."""

    step: Array
    env: Array
    agent: Array
    entry: Array


@lru_cache(maxsize=1024)
def contiguous(ids: bytes, dtype: str, num_streams: int) -> tuple[tuple[int, int], ...]:
    """Runs of consecutive stream ids in a fragment: (first env, first stream) of each, then (number of envs, 0)."""
    streams = np.frombuffer(ids, dtype).tolist()
    if not all(0 <= stream < num_streams for stream in streams) or len(set(streams)) < len(streams):
        raise ValueError(
            f"fragment has streams {streams}; expected distinct numbers below num_streams = {num_streams}: "
            f"make the replay for the envs of all runners"
        )
    starts = [env for env, stream in enumerate(streams) if env == 0 or stream != streams[env - 1] + 1]
    return (*((env, streams[env]) for env in starts), (len(streams), 0))
