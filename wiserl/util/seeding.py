"""Seeds for every random stream of a run, derived from the run's one seed and the names of what is random.

The same parts give the same seed on every machine, process and Python version, and different parts give independent
streams: `rng(seed, "replay")`, `derive_seed(seed, "evaluation", env_steps)`.

Each episode of an env has a seed of its own, so that a resumed run can begin any of them again. An episode is named by one
64-bit number: the seed that the env's first episode had, and how many came before this one.
"""

from __future__ import annotations

import hashlib

import numpy as np


def _digest(parts: tuple[int | str, ...]) -> bytes:
    # repr tells 1 from "1" and ("ab", "c") from ("a", "bc"); int() and str() take numpy's scalars along.
    plain = [str(part) if isinstance(part, str) else int(part) for part in parts]
    return hashlib.sha256(repr(plain).encode()).digest()


def restart(generator: np.random.Generator, *parts: int | str) -> None:
    """Set a generator that `rng` made to the beginning of the stream of `parts`: several times as fast as making one."""
    digest = _digest(parts)
    numbers = {"state": int.from_bytes(digest[:16], "little"), "inc": int.from_bytes(digest[16:], "little") | 1}
    generator.bit_generator.state = {"bit_generator": "PCG64", "state": numbers, "has_uint32": 0, "uinteger": 0}


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2**32) that is a stable function of `parts` (integers of any sign, strings)."""
    return int.from_bytes(_digest(parts)[:4], "little")


def rng(*parts: int | str) -> np.random.Generator:
    """A numpy generator (PCG64, 256 bits of seed through SeedSequence) that is a stable function of `parts`."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(int.from_bytes(_digest(parts), "little"))))


_MASK = 2**64 - 1


def first_episode(seed: int) -> int:
    """The number of the episode that an env begins with when it is seeded with `seed`, in [0, 2**32)."""
    return (int(seed) & 0xFFFFFFFF) << 32


def episode_seed(episode: int) -> int:
    """The seed of an episode, in [0, 2**32): of the first one the seed itself; the one after `episode` is `episode + 1`."""
    if not episode & 0xFFFFFFFF:
        return episode >> 32
    # The finaliser of SplitMix64 (Steele et al. 2014): numbers that follow each other give unrelated seeds.
    mixed = episode * 0x9E3779B97F4A7C15 & _MASK
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _MASK
    return (mixed ^ mixed >> 31) >> 32
