"""Many envs stepped at once, one interface: in this process, by an env's own vector version, or by worker processes.

Same-step autoreset: in the step in which an episode ends the env is reset and the new episode's observation returned,
while the true final observation is kept apart in `final_obs`. The one exception is a native vector env that resets one
step later: the step in between is a row that is not alive.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
from gymnasium import spaces

from wiserl.core.batch import Array, tree_map
from wiserl.env.make import EnvLike, is_parallel, make_env
from wiserl.env.multi_agent import EnvRows, RowBuffers, read_spec
from wiserl.env.spaces import ActionCodec, EnvSpec, check_observation
from wiserl.util.errors import InputError, nearest
from wiserl.util.seeding import episode_seed, first_episode

VectorT = TypeVar("VectorT", bound="VectorEnv")
VectorKind = Literal["inline", "native", "process"]
VECTOR_KINDS: tuple[VectorKind, ...] = ("inline", "native", "process")

_MEASURE_SECONDS = 0.03
_WORTH_IT = 1.5
# What a step through worker processes costs besides the envs' own time: seconds, and seconds per worker.
_POOL_SECONDS, _POOL_SECONDS_PER_WORKER = 30e-6, 20e-6


@dataclass(slots=True)
class VectorStep:
    """What one step of all envs gave. The next step may overwrite the arrays: copy what you keep.

    Attributes:
        obs: nested arrays `[E, A, ...]` to act on next, after any autoreset.
        reward: float32 `[E, A]`.
        terminated: bool `[E, A]`: the agent's episode ended in a terminal state.
        truncated: bool `[E, A]`: it ended otherwise; never True together with `terminated`.
        alive: bool `[E, A]`, which rows act next (those of `obs`); None: all rows, always.
        final_envs: the envs in which the episode of at least one agent ended at this step, ascending.
        env_ended: those of them whose own episode is over, reset at this step. Where agents join as others leave, the
            episode of an agent, even of all that acted, ends in mid-episode of the env.
        final_obs: nested arrays `[len(final_envs), A, ...]`: true final observations; None while no episode ended.
        infos: (env, info) of the envs that gave a non-empty info.
    """

    obs: Any
    reward: Array
    terminated: Array
    truncated: Array
    alive: Array | None
    final_envs: list[int] = field(default_factory=list)
    env_ended: list[int] = field(default_factory=list)
    final_obs: Any = None
    infos: list[tuple[int, dict[str, Any]]] = field(default_factory=list)


class VectorEnv(ABC):
    """Several copies of one env, stepped together.

    Attributes:
        spec: spaces and agents of one env.
        num_envs: `E`.
        kind: "inline", "native" or "process".
        episodes: uint64 `[E]`, the episode going in each env, as `util.seeding` numbers them; None where the envs cannot be
            seeded one by one.
    """

    spec: EnvSpec
    num_envs: int
    kind: VectorKind
    episodes: Array | None

    def reset(self, seeds: Sequence[int]) -> tuple[Any, Array | None]:
        """Start a new episode in each env, seeded. The seeds of those that follow it are functions of its seed.

        Args:
            seeds: one per env, in [0, 2**32).

        Returns and raises as `begin`.
        """
        return self.begin([first_episode(seed) for seed in seeds])

    @abstractmethod
    def begin(self, episodes: Sequence[int]) -> tuple[Any, Array | None]:
        """Start the episode of this number in each env.

        Args:
            episodes: one per env, as `util.seeding` numbers them.

        Returns:
            nested observations `[E, A, ...]` and `alive` bool `[E, A]` (None: all, always). The next step may overwrite
            them.

        Raises:
            InputError: not one seed per env.
            EnvError: an observation does not have the shape or dtype its space says.
        """

    @abstractmethod
    def step(self, actions: Array) -> VectorStep:
        """Step each env once. `reset` or `begin` comes first.

        Args:
            actions: `[E, A, *action shape]` as a policy emits them (see `ActionCodec`).

        Raises:
            Exception: what an env raises comes through unchanged; `reset` makes the vector usable again.
        """

    @abstractmethod
    def advance(self, actions: Sequence[Array]) -> Array:
        """Step each env through actions of its own, more in some than in others: `obs` and `alive` of the last `begin` change.

        Args:
            actions: for each env `[n, A, *action shape]`, as `step` takes them; n may be 0.

        Returns:
            float64 `[E]`: rewards of these steps, summed over agents.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the envs; a second call does nothing."""

    def _check_episodes(self, episodes: Sequence[int]) -> None:
        if len(episodes) != self.num_envs:
            raise InputError(f"reset got {len(episodes)} seeds for {self.num_envs} envs; give one per env")

    def __enter__(self: VectorT) -> VectorT:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
        self._is_fast = not self._is_parallel and isinstance(self.spec.observation_space, spaces.Box)
        self._step_functions = [made.step for made in self._envs]
        self._any_ended = True
        self.bind(RowBuffers.zeros(self.spec, num_envs))

    @property
    def has_alive(self) -> bool:
        """Whether rows can be gone: a parallel env's agents may, the one row of a gymnasium env never is."""
        return self._is_parallel

    def bind(self, buffers: RowBuffers) -> None:
        """Write into `buffers` from now on (a worker process shares them with its parent). `begin` comes next."""
        self._buffers = buffers
        self.episodes = buffers.episode
        self._alive = buffers.alive if self._is_parallel else None
        self._rows: list[EnvRows] = []
        if self._is_fast:
            # Views without the agent axis: an index of one number instead of two.
            self._obs_rows = buffers.obs[:, 0]
            self._reward_rows = buffers.reward[:, 0]
        else:
            self._rows = [EnvRows(env, self.spec, buffers, index) for index, env in enumerate(self._envs)]

    def begin(self, episodes: Sequence[int]) -> tuple[Any, Array | None]:
        """See `VectorEnv.begin`."""
        self._check_episodes(episodes)
        if self._is_fast:
            for index, episode in enumerate(episodes):
                obs = self._begin_fast(index, int(episode))
                check_observation(self.spec.observation_space, obs, f"env '{self.spec.id}'")
                self._obs_rows[index] = obs
            self._any_ended = True  # A step that raised may have set flags before it did.
        for rows, episode in zip(self._rows, episodes, strict=False):
            rows.begin(int(episode))
        return self._buffers.obs, self._alive

    def _begin_fast(self, index: int, episode: int) -> Any:
        self._buffers.episode[index] = episode
        return self._envs[index].reset(seed=episode_seed(episode))[0]

    def advance(self, actions: Sequence[Array]) -> Array:
        """See `VectorEnv.advance`."""
        totals = np.zeros(self.num_envs)
        for index, chosen in enumerate(actions):
            for action in self._codec.to_env(chosen):
                if self._is_fast:
                    row = action[0].tolist() if self._as_ints else action[0]
                    obs, reward, terminated, truncated, _ = self._step_functions[index](row)
                    totals[index] += np.float32(reward)
                    if terminated or truncated:
                        obs = self._begin_fast(index, int(self._buffers.episode[index]) + 1)
                    self._obs_rows[index] = obs
                else:
                    self._rows[index].step(action.tolist() if self._as_ints else action)
                    totals[index] += self._buffers.reward[index].sum()
        return totals

    def step(self, actions: Array) -> VectorStep:
        """See `VectorEnv.step`."""
        actions = self._codec.to_env(actions)
        return self._step_fast(actions) if self._is_fast else self._step_rows(actions)

    def _step_fast(self, actions: Array) -> VectorStep:
        """One agent and an array as observation: no call besides the env's own."""
        buffers, obs_rows, reward_rows = self._buffers, self._obs_rows, self._reward_rows
        if self._any_ended:
            buffers.terminated.fill(False)
            buffers.truncated.fill(False)
            buffers.ended.fill(False)
            buffers.env_ended.fill(False)
        final_envs: list[int] = []
        infos: list[tuple[int, dict[str, Any]]] = []
        # As Python ints: an env's own checks and branches on them are 10 % faster than on numpy scalars.
        rows = actions[:, 0].tolist() if self._as_ints else actions[:, 0]
        for index, (step, action) in enumerate(zip(self._step_functions, rows, strict=True)):
            obs, reward_rows[index], terminated, truncated, info = step(action)
            if terminated or truncated:
                final_envs.append(index)
                buffers.final_obs[index, 0] = obs
                if terminated:
                    buffers.terminated[index, 0] = True
                else:
                    buffers.truncated[index, 0] = True
                obs = self._begin_fast(index, int(buffers.episode[index]) + 1)
            obs_rows[index] = obs
            if info:
                infos.append((index, info))
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
        return step_result(buffers, self._alive, infos)

    def close(self) -> None:
        """Close the envs."""
        envs, self._envs = self._envs, []
        for env in envs:
            env.close()


def step_result(buffers: RowBuffers, alive: Array | None, infos: list[tuple[int, dict[str, Any]]]) -> VectorStep:
    """What the buffers say of the step just made, the final observations picked where `ended`."""
    final_envs, env_ended, final_obs = [], [], None
    if np.count_nonzero(buffers.ended):  # Several times as fast as any() on a few envs.
        final_envs = np.nonzero(buffers.ended)[0].tolist()
        env_ended = np.nonzero(buffers.env_ended)[0].tolist()
        final_obs = tree_map(lambda leaf: leaf[final_envs], buffers.final_obs)
    flags = (buffers.terminated, buffers.truncated)
    return VectorStep(buffers.obs, buffers.reward, *flags, alive, final_envs, env_ended, final_obs, infos)


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
        kind: "inline", "native" or "process"; `choose_vector` measures which is fastest.
        num_workers: worker processes of kind "process"; None: as many as there are cores, at most `num_envs`.

    Raises:
        InputError: an unknown kind, a count below 1, or an env that cannot be made this way.
    """
    if num_envs < 1:
        raise InputError(f"number of envs is {num_envs}; expected 1 or more")
    if kind == "inline":
        return InlineVector(env, kwargs, num_envs)
    if kind == "native":
        from wiserl.env.native import NativeVector

        return NativeVector(env, kwargs, num_envs)
    if kind == "process":
        from wiserl.env.pool import ProcessVector

        return ProcessVector(env, kwargs, num_envs, num_workers)
    raise InputError(f"vector kind '{kind}' is not known: {nearest(kind, VECTOR_KINDS)}")


def choose_vector(env: EnvLike, kwargs: Mapping[str, Any] | None, num_envs: int, cores: int) -> tuple[VectorKind, str]:
    """Measure which kind of vector env is fastest, for at most some 0.1 s besides making the env.

    Inline, unless another kind is at least 1.5 times as fast. Worker processes are estimated from the time of a step,
    not started to find out. A native version whose spaces differ from the plain env's is not considered.

    Args:
        env: see `make_env`.
        kwargs: arguments of the env.
        num_envs: how many envs are to be stepped together.
        cores: how many of them may be stepped at the same time.

    Returns:
        the kind, and one sentence that says why, with the numbers.
    """
    from wiserl.env.native import NativeVector, has_native

    with InlineVector(env, kwargs, 1) as single:
        spec = single.spec
        seconds = num_envs * _seconds_per_step(single)
    times: dict[VectorKind, float] = {"inline": seconds}
    said = [f"{num_envs} env{'s' * (num_envs > 1)} of '{spec.id}' take {seconds * 1e6:.0f} µs a step in this process"]
    if has_native(env):
        with NativeVector(env, kwargs, num_envs) as native:
            if (native.spec.observation_space, native.spec.action_space) == (spec.observation_space, spec.action_space):
                times["native"] = _seconds_per_step(native)
                said.append(f"{times['native'] * 1e6:.0f} µs in the env's native vector version")
            else:
                said.append("its native vector version has other spaces")
    workers = min(cores, num_envs)
    if workers > 1:
        overhead = _POOL_SECONDS + workers * _POOL_SECONDS_PER_WORKER
        times["process"] = math.ceil(num_envs / workers) / num_envs * seconds + overhead
        said.append(f"an estimated {times['process'] * 1e6:.0f} µs in {workers} worker processes")
    fastest = min(times, key=lambda kind: times[kind])
    kind: VectorKind = fastest if times["inline"] >= _WORTH_IT * times[fastest] else "inline"
    return kind, f"{kind}: {', '.join(said)}"


def _seconds_per_step(vector: VectorEnv) -> float:
    """Seconds per vector step under uniform actions, the first step (which may compile or load things) left out."""
    shape = (64, vector.num_envs, vector.spec.num_agents)
    actions = ActionCodec(vector.spec.action_space).random(np.random.default_rng(0), shape)
    vector.reset(range(vector.num_envs))
    vector.step(actions[0])
    steps, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < _MEASURE_SECONDS or not steps:
        vector.step(actions[steps % len(actions)])
        steps += 1
    return elapsed / steps
