"""Making a vector env of a kind, and measuring which kind is faster."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from wiserl.core.actions import ActionCodec
from wiserl.core.spec import EnvSpec
from wiserl.env.make import EnvLike
from wiserl.env.vector.base import VECTOR_KINDS, VectorEnv, VectorKind
from wiserl.env.vector.inline import InlineVector
from wiserl.util.errors import InputError, nearest

_MEASURE_SECONDS = 0.03
_WORTH_IT = 1.5
# What a step through worker processes costs besides the envs' own time: seconds, and seconds per worker.
_POOL_SECONDS, _POOL_SECONDS_PER_WORKER = 30e-6, 20e-6


def make_vector(
    env: EnvLike,
    kwargs: Mapping[str, Any] | None,
    num_envs: int,
    kind: str = "inline",
    num_workers: int | None = None,
) -> VectorEnv:
    """Make a vector env.

    Args:
        env: see `make_env`.
        kwargs: arguments of the env.
        num_envs: how many envs.
        kind: "inline", "native" or "process"; `choose_vector` chooses the first or the last.
        num_workers: worker processes of kind "process"; None: as many as there are cores, at most `num_envs`.

    Raises:
        InputError: an unknown kind, a count below 1, or an env that cannot be made this way.
    """
    if num_envs < 1:
        raise InputError(f"number of envs is {num_envs}; expected 1 or more")
    if kind == "inline":
        return InlineVector(env, kwargs, num_envs)
    if kind == "native":
        from wiserl.env.vector.native import NativeVector

        return NativeVector(env, kwargs, num_envs)
    if kind == "process":
        from wiserl.env.vector.process import ProcessVector

        return ProcessVector(env, kwargs, num_envs, num_workers)
    raise InputError(f"vector kind '{kind}' is not known: {nearest(kind, VECTOR_KINDS)}")


def choose_vector(env: EnvLike, kwargs: Mapping[str, Any] | None, num_envs: int, cores: int) -> tuple[VectorKind, str]:
    """Measure whether envs are stepped faster in this process or by worker processes, for at most some 0.1 s besides making the env.

    Both give the same training, so what is measured decides nothing else. Worker processes are chosen where they are 1.5 times as
    fast. They are estimated from the time of a step, not started to find out. A native version has other episodes, with which a
    resumed run cannot go on: it is never chosen, only named where it is that much faster.

    Args:
        env: see `make_env`.
        kwargs: arguments of the env.
        num_envs: how many envs are to be stepped together.
        cores: how many of them may be stepped at the same time.

    Returns:
        the kind, and a sentence or two that say why, with the numbers.
    """
    with InlineVector(env, kwargs, 1) as single:
        seconds = num_envs * _seconds_per_step(single)
        spec, gives_masks = single.spec, single.mask is not None
    kind: VectorKind = "inline"
    taken = seconds
    said = f"{num_envs} env{'s' * (num_envs > 1)} of '{spec.id}' take {seconds * 1e6:.0f} µs a step in this process"
    workers = min(cores, num_envs)
    if workers > 1:
        overhead = _POOL_SECONDS + workers * _POOL_SECONDS_PER_WORKER
        estimated = math.ceil(num_envs / workers) / num_envs * seconds + overhead
        said += f", an estimated {estimated * 1e6:.0f} µs in {workers} worker processes"
        if seconds >= _WORTH_IT * estimated:
            kind, taken = "process", estimated
    native = None if gives_masks else _native_seconds(env, kwargs, num_envs, spec)
    if native is not None and taken >= _WORTH_IT * native:
        said += (
            f". --vector native takes {native * 1e6:.0f} µs; its episodes are others, and a resumed run begins new ones"
        )
    return kind, f"{kind}: {said}"


def _native_seconds(env: EnvLike, kwargs: Mapping[str, Any] | None, num_envs: int, spec: EnvSpec) -> float | None:
    """Seconds per step of the env's native vector version; None where there is none of the same spaces."""
    from wiserl.env.vector.native import NativeVector, has_native

    if not has_native(env):
        return None
    with NativeVector(env, kwargs, num_envs) as native:
        same = (native.spec.observation_space, native.spec.action_space) == (spec.observation_space, spec.action_space)
        return _seconds_per_step(native) if same else None


def _seconds_per_step(vector: VectorEnv) -> float:
    """Seconds per vector step under uniform actions, the first step (which may compile or load things) left out."""
    codec, shape = ActionCodec(vector.spec.action_space), (64, vector.num_envs, vector.spec.num_agents)
    random = np.random.default_rng(0)
    actions = codec.random(random, shape)
    vector.reset(range(vector.num_envs))
    if vector.mask is not None:
        return _seconds_per_masked_step(vector, codec, random)
    vector.step(actions[0])
    steps, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < _MEASURE_SECONDS or not steps:
        vector.step(actions[steps % len(actions)])
        steps += 1
    return elapsed / steps


def _seconds_per_masked_step(vector: VectorEnv, codec: ActionCodec, random: np.random.Generator) -> float:
    """The same under actions that are valid; drawing them is left out of the time."""
    mask, shape = vector.mask, (vector.num_envs, vector.spec.num_agents)
    times: list[float] = []
    while len(times) < 2 or sum(times) < _MEASURE_SECONDS:
        action = codec.random(random, shape, mask)
        start = time.perf_counter()
        mask = vector.step(action).mask
        times.append(time.perf_counter() - start)
    return sum(times[1:]) / (len(times) - 1)
