"""Seeds for every random stream of a run, derived from the run's one seed and the names of what is random.

The same parts give the same seed on every machine, process and Python version, and different parts give independent
streams. Envs are seeded by (seed, rank, env, boundary): the run's seed, the runner's rank, the env's index in that
runner, and the number of the checkpoint boundary at which it is reset (0 at the start). What is random elsewhere adds a
name: `rng(seed, "replay")`, `derive_seed(seed, "evaluation", env_steps)`.
"""

from __future__ import annotations

import hashlib

import numpy as np


def _digest(parts: tuple[int | str, ...]) -> bytes:
    # repr tells 1 from "1" and ("ab", "c") from ("a", "bc"); int() and str() take numpy's scalars along.
    plain = [str(part) if isinstance(part, str) else int(part) for part in parts]
    return hashlib.sha256(repr(plain).encode()).digest()


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2**32) that is a stable function of `parts` (integers of any sign, strings).

    Example: `derive_seed(seed, rank, env, boundary)` seeds one env.
    """
    return int.from_bytes(_digest(parts)[:4], "little")


def rng(*parts: int | str) -> np.random.Generator:
    """A numpy generator (PCG64, 256 bits of seed through SeedSequence) that is a stable function of `parts`."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(int.from_bytes(_digest(parts), "little"))))
