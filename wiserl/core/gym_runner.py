"""The built-in runner: steps a vector of envs and hands over whole fragments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from wiserl.core.batch import (
    Array,
    Fragment,
    Nested,
    check_finite,
    check_fragment,
    count_env_steps,
    tree_leaves,
    tree_map,
)
from wiserl.core.registry import WiseRL
from wiserl.core.runner import Runner
from wiserl.core.training import TrainingAgent
from wiserl.env.make import EnvLike, env_id
from wiserl.env.spaces import ActionCodec, EnvSpec, observation_zeros
from wiserl.env.vector import VectorEnv, make_vector
from wiserl.ops.pacing import steps_of_round
from wiserl.util.errors import EnvError, InputError
from wiserl.util.seeding import derive_seed, rng

Transform: TypeAlias = Callable[[Fragment], Fragment]


@dataclass(frozen=True)
class GymRunnerArgs:
    """What a `GymRunner` needs.

    Attributes:
        agent: name of the agent to feed.
        env: gymnasium id, `package/module` of a PettingZoo env, `module:function`, or a callable.
        env_kwargs: go to the env.
        envs: number of envs in this runner.
        steps: T, vector steps per fragment; the last ones of a training may have fewer.
        vector: "inline", "native" or "process".
        seed: the run's seed.
        transform: given each fragment (`core.batch` has its fields) before it is shipped; what it returns is learned from.
        workers: processes that step the envs where `vector` is "process"; None: one per core, as if this runner were alone.
    """

    agent: str
    env: EnvLike
    envs: int
    steps: int
    seed: int
    vector: str = "inline"
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    transform: Transform | None = None
    workers: int | None = None

    @staticmethod
    def check_transform(transform: Any) -> None:
        """Check that it can be called, before anything is made.

        Raises:
            InputError: it cannot.
        """
        if transform is not None and not callable(transform):
            raise InputError(
                f"transform={transform!r} is not valid: expected a function that is given a fragment and returns it, or None"
            )


class GymRunner(Runner):
    """Steps `envs` copies of an env with an agent's policy, T steps at a time, until the agent says stop.

    `run` loops over `step`; `step` collects one fragment and hands it to the agent. A subclass may override `collect`.

    Raises:
        InputError: the env cannot be made this way, or has other spaces than those the policy was made for.
    """

    args: GymRunnerArgs

    def __init__(self, args: GymRunnerArgs, local_rank: int = 0) -> None:
        super().__init__(args, local_rank)
        self.agent = WiseRL().get_agent(args.agent)
        assert isinstance(self.agent.replica, TrainingAgent)
        self.policy = self.agent.replica
        self.envs = make_vector(args.env, args.env_kwargs, args.envs, args.vector, args.workers)
        _check_same(self.envs, self.policy.plan.spec)
        self.vector_steps = 0
        shape = (args.steps, args.envs, self.envs.spec.num_agents)
        self._obs_buffer = observation_zeros(self.envs.spec.observation_space, shape)
        self._buffers: dict[str, Array] = {
            "reward": np.zeros(shape, np.float32),
            "terminated": np.zeros(shape, bool),
            "truncated": np.zeros(shape, bool),
        }
        self._alive_buffer = np.ones(shape, bool)
        self._constants = {
            "rank": np.full(args.envs, self.rank),
            "stream": self.rank * args.envs + np.arange(args.envs),
        }
        self._returns = np.zeros(args.envs)
        self._lengths = np.zeros(args.envs, np.int64)
        self._reset()

    def run(self) -> None:
        """Collect and hand over until the agent has learned from all the steps it wants."""
        while not self.policy.stop:
            self.step()

    def step(self) -> None:
        """Collect one fragment and hand it to the agent. In sync mode this returns with new weights taken in.

        Raises:
            InputError: `transform` returned something that is no fragment of the same steps, envs and agents.
        """
        fragment = self.collect()
        if self.args.transform is not None:
            fragment = _transformed(fragment, self.args.transform)
        self.agent.update(fragment)
        if self.policy.boundary != self._boundary:
            self._reset()

    def close(self) -> None:
        """Close the envs."""
        self.envs.close()

    def _reset(self) -> None:
        """Start new episodes in all envs, with seeds that depend on the boundary alone, and not on what came before."""
        self._boundary = self.policy.boundary
        where = (self.args.seed, self.rank, self.incarnation, self._boundary)
        self.policy.algorithm.reseed(*where, "act")
        self._begin_episodes(*where)

    def _begin_episodes(self, *where: int | str) -> None:
        self._obs, self._alive = self.envs.reset([derive_seed(*where, env) for env in range(self.args.envs)])
        self._fresh = True
        self._returns[:] = 0.0
        self._lengths[:] = 0

    def collect(self) -> Fragment:
        """T steps of all envs, as a fragment `[T, E, A, ...]`. Its arrays are used again for the next one.

        T is `args.steps`; at the end of training, this runner's share of what is left by what it has heard from the learner.

        Raises:
            EnvError: an observation or reward was not finite.
        """
        plan, env_steps = self.policy.plan, self.policy.algorithm.env_steps
        steps = steps_of_round(env_steps, plan.total_steps, plan.runners * plan.envs, self.args.steps)
        fragment = self._sample(self.policy.choose_action, steps)
        self.policy.finish_fragment(fragment)
        return fragment

    def random_fragments(self, env_steps: int) -> Iterator[Fragment]:
        """Fragments of at least so many env steps of uniformly random actions, for none to learn from.

        They are of episodes of their own. The first fragment that `collect` gives after them is the one it would have given
        before, weights apart.
        """
        random, codec = (
            rng(self.args.seed, self.rank, self.incarnation, "random"),
            ActionCodec(self.envs.spec.action_space),
        )
        shape = (self.args.envs, self.envs.spec.num_agents)
        vector_steps, sampled = self.vector_steps, 0
        self._begin_episodes(self.args.seed, self.rank, self.incarnation, "random")
        try:
            while sampled < env_steps:
                fragment = self._sample(lambda obs: {"action": codec.random(random, shape)}, self.args.steps)
                sampled += count_env_steps(fragment)
                yield fragment
        finally:
            self.vector_steps = vector_steps
            self._reset()

    def _sample(self, act: Callable[[Nested], dict[str, Array]], steps: int) -> Fragment:
        chosen: dict[str, Array] = {}
        ends: list[Any] = []
        finished: list[tuple[float, int]] = []
        steps_before, fresh, t = self.vector_steps, self._fresh, 0
        self._fresh = True  # Should this be interrupted, its steps are lost, and the next fragment continues nothing.
        try:
            for t in range(steps):
                self._collect_one(t, act, chosen, ends, finished)
        except EnvError:
            raise
        except Exception:
            # Garbage observations often make an env or policy fail before the fragment is complete: name the cause.
            if t:
                check_finite(self._fragment(t, chosen, ends, finished, fresh), env_id(self.args.env), steps_before)
            raise
        fragment = self._fragment(steps, chosen, ends, finished, fresh)
        check_finite(fragment, env_id(self.args.env), steps_before)
        self._fresh = False
        return fragment

    def _check_chosen(self, chosen: dict[str, Array]) -> None:
        expected = (self.args.envs, self.envs.spec.num_agents)
        for name, value in chosen.items():
            if not isinstance(value, np.ndarray) or value.shape[:2] != expected:
                found = f"{type(value).__name__} {list(getattr(value, 'shape', ()))}"
                raise InputError(
                    f"choose_action of {type(self.policy.algorithm).__name__} gave '{name}' as {found}; expected a numpy array "
                    f"{[*expected, '...']} (envs, agents) for each name"
                )

    def _collect_one(self, t: int, act: Callable[[Nested], dict[str, Array]], chosen: dict[str, Array], ends: list[Any],
                     finished: list[tuple[float, int]]) -> None:  # fmt: skip
        action = act(self._obs)
        if t == 0:
            self._check_chosen(action)
            shape = (self.args.steps,)
            chosen.update({name: np.empty(shape + value.shape, value.dtype) for name, value in action.items()})
        for name, value in action.items():
            chosen[name][t] = value
        _store(self._obs_buffer, t, self._obs)
        alive = self._alive
        if alive is not None:
            self._alive_buffer[t] = alive
            alive = self._alive_buffer[t]  # the envs write over their own array in `step`
            stepped = alive.any(axis=1)
        step = self.envs.step(action["action"])
        self.vector_steps += 1
        buffers = self._buffers
        buffers["reward"][t] = step.reward
        buffers["terminated"][t] = step.terminated
        buffers["truncated"][t] = step.truncated
        self._returns += step.reward[:, 0] if step.reward.shape[1] == 1 else step.reward.sum(axis=1)
        self._lengths += 1 if alive is None else stepped
        if step.final_envs:
            ends.append((t, step.final_envs, tree_map(np.copy, step.final_obs)))
            for env in step.final_envs:
                ended = step.terminated[env] | step.truncated[env]
                if alive is None or ended[alive[env]].all():
                    finished.append((self._returns[env], self._lengths[env]))
                    self._returns[env] = self._lengths[env] = 0
                    self.policy.algorithm.end_episode(env)
        self._obs, self._alive = step.obs, step.alive

    def _fragment(self, steps: int, chosen: dict[str, Array], ends: list[Any], finished: list[tuple[float, int]],
                  fresh: bool) -> Fragment:  # fmt: skip
        at = [(t, env) for t, envs, _ in ends for env in envs]
        if ends:
            final_obs = tree_map(lambda *leaves: np.concatenate(leaves), *(obs for _, _, obs in ends))
        else:
            final_obs = tree_map(lambda leaf: leaf[:0], self._obs)
        fragment = {
            "obs": tree_map(lambda leaf: leaf[:steps], self._obs_buffer),
            **{name: value[:steps] for name, value in {**chosen, **self._buffers}.items()},
            "last_obs": tree_map(np.copy, self._obs),
            "final_obs": final_obs,
            "final_at": np.array(at, np.int64).reshape(-1, 2),
            "version": np.full(self.args.envs, self.policy.version),
            "fresh": np.full(self.args.envs, fresh),
            "episode_return": np.array([value for value, _ in finished], np.float32),
            "episode_length": np.array([length for _, length in finished], np.int64),
            **self._constants,
        }
        if self._alive is not None:
            fragment["alive"] = self._alive_buffer[:steps]
        return fragment


def _check_same(envs: VectorEnv, expected: EnvSpec) -> None:
    """Raise InputError, and close the envs, unless they have the spaces and agents that the policy was made for."""
    found, wanted = ((spec.observation_space, spec.action_space, spec.num_agents) for spec in (envs.spec, expected))
    if found == wanted:
        return
    envs.close()
    has, had = (f"observations {obs}, actions {action} and {num} agent(s)" for obs, action, num in (found, wanted))
    if envs.kind == "native":
        who, advice = "its native vector version", "choose --vector inline or process"
    else:
        who, advice = "made again it", "let it have the same ones each time"
    raise InputError(f"env '{expected.id}' has {had}, but {who} has {has}: {advice}")


def _transformed(fragment: Fragment, transform: Transform) -> Fragment:
    shape = fragment["reward"].shape
    changed = transform(fragment)
    if not isinstance(changed, dict):
        raise InputError(
            f"transform returned {changed!r}; expected the fragment, a dict of arrays: does it say `return fragment`?"
        )
    for path, leaf in tree_leaves(changed):
        if not isinstance(leaf, np.ndarray):
            raise InputError(f"transform returned a {type(leaf).__name__} as {path}; expected an array")
        if leaf.dtype.kind == "f" and not np.isfinite(leaf).all():
            raise InputError(f"transform returned NaN or infinity in {path}; expected finite numbers")
    try:
        check_fragment(changed)
    except ValueError as error:
        raise InputError(f"transform returned what is no fragment: {error}") from error
    if changed["reward"].shape != shape:
        raise InputError(
            f"transform returned [T, E, A] = {list(changed['reward'].shape)} steps of {list(shape)}; expected all of them"
        )
    return {**changed, "reward": changed["reward"].astype(np.float32, copy=False)}


def _store(buffer: Nested, t: int, obs: Nested) -> None:
    if isinstance(buffer, dict):
        for key, value in buffer.items():
            _store(value, t, obs[key])
    else:
        buffer[t] = obs
