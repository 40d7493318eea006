"""The built-in runner: steps a vector of envs and hands over whole fragments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wiserl.agent.base.divergence import check_actions
from wiserl.agent.catalogue import algorithm_name
from wiserl.core.actions import ActionCodec
from wiserl.core.batch import Fragment, check_finite, count_env_steps
from wiserl.core.memory import RowMemory
from wiserl.core.runner import Runner
from wiserl.core.spaces import observation_zeros
from wiserl.core.spec import EnvSpec
from wiserl.core.tree import Array, Nested, tree_leaves, tree_map
from wiserl.env.make import EnvLike, env_id
from wiserl.env.vector.base import VectorEnv
from wiserl.env.vector.choose import make_vector
from wiserl.ops.pacing import steps_of_round
from wiserl.training.position import Continuation, Position
from wiserl.training.training_agent import TrainingAgent
from wiserl.training.transform import Transform, transformed
from wiserl.transport.registry import WiseRL
from wiserl.util.errors import EnvError, InputError
from wiserl.util.seeding import derive_seed, rng

_STEPS_AT_ONCE = 64
"""Steps that an env is brought forward by in one call, so that a slow one is not taken for one that hangs."""


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
        self._ages = np.zeros(args.envs, np.int64)  # vector steps in the episode going: rows that are being reset count
        self._memory = RowMemory(self.policy.algorithm.memory_size, args.envs, self.envs.spec.num_agents)
        self._go_on()

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
        position = self._position(fragment["action"])
        if self.args.transform is not None:
            fragment = transformed(fragment, self.args.transform)
        self.agent.update(fragment, position)

    def close(self) -> None:
        """Close the envs."""
        self.envs.close()

    def _go_on(self) -> None:
        """Go on with the episodes that were going when the run was saved; where that cannot be done, begin new ones."""
        env_steps = self.policy.algorithm.env_steps
        if env_steps and not self.incarnation:
            self.vector_steps, continuation = self.agent.call("continuation", self.rank)
            problem = self._continue(continuation)
            if problem is None:
                return
            self.agent.call("warn", f"{problem}: new episodes begin, and the run does not go on bit for bit")
        self._begin_episodes(self.args.seed, self.rank, self.incarnation, env_steps)

    def _begin_episodes(self, *where: int | str) -> None:
        self._obs, self._alive = self.envs.reset([derive_seed(*where, env) for env in range(self.args.envs)])
        self._fresh = True
        self._returns[:] = 0.0
        self._lengths[:] = 0
        self._ages[:] = 0
        self._memory.restart(self._alive)

    def _continue(self, going: Continuation | None) -> str | None:
        """Bring the envs to where they were. Returns what is in the way of that, if anything."""
        if self.envs.episodes is None:
            return "the native vector version of an env cannot be brought back into its episodes (--vector inline can)"
        if going is None or len(going.episodes) != self.args.envs:
            return "the checkpoint does not hold what the envs had done"
        self._obs, self._alive = self.envs.begin(going.episodes.tolist())
        done = 0
        while any(done < len(actions) for actions in going.actions):
            parts = [actions[done : done + _STEPS_AT_ONCE] for actions in going.actions]
            self._returns += self.envs.advance(parts)
            done += _STEPS_AT_ONCE
        self._ages[:] = self._lengths[:] = [len(actions) for actions in going.actions]
        same = all(
            np.array_equal(found, saved, equal_nan=found.dtype.kind == "f")
            for (_, found), (_, saved) in zip(tree_leaves(self._obs), tree_leaves(going.obs), strict=True)
        )
        if not same or not np.array_equal(self.envs.episodes, going.episodes):
            return f"env '{env_id(self.args.env)}' did something else when its seed and actions were repeated"
        self._memory.restart(self._alive, going.memory)
        self._fresh = False
        return None

    def _position(self, actions: Array) -> Position:
        """Where the envs stand, after a fragment of these actions."""
        episodes = self.envs.episodes
        return Position(
            rank=self.rank,
            vector_steps=self.vector_steps,
            episodes=None if episodes is None else episodes.copy(),
            ages=self._ages.copy(),
            actions=actions,
            obs=tree_map(np.copy, self._obs),
            memory=None if self._memory.value is None else self._memory.value.copy(),
        )

    def collect(self) -> Fragment:
        """T steps of all envs, as a fragment `[T, E, A, ...]`. Its arrays are used again for the next one.

        T is `args.steps`; at the end of training, this runner's share of what is left by what it has heard from the learner.

        Raises:
            EnvError: an observation or reward was not finite.
        """
        plan, env_steps = self.policy.plan, self.policy.algorithm.env_steps
        steps = steps_of_round(env_steps, plan.total_steps, plan.runners * plan.envs, self.args.steps)
        # What acting draws depends on where the runner is, and not on how it came there.
        self.policy.algorithm.reseed(self.args.seed, self.rank, self.incarnation, self.vector_steps, "act")
        fragment = self._sample(self._act, steps)
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
            self._go_on()

    def _act(self, obs: Nested) -> dict[str, Array]:
        chosen = self.policy.choose_action(obs, **self._memory.arguments())
        self._memory.take(chosen)
        return chosen

    def _sample(self, act: Callable[[Nested], dict[str, Array]], steps: int) -> Fragment:
        chosen: dict[str, Array] = {}
        ends: list[Any] = []
        finished: list[tuple[float, int]] = []
        steps_before, fresh, t = self.vector_steps, self._fresh, 0
        self._first_memory = self._memory.value
        self._fresh = True  # Should this be interrupted, its steps are lost, and the next fragment continues nothing.
        try:
            for t in range(steps):
                self._collect_one(t, act, chosen, ends, finished)
        except Exception as error:
            self._check_acted(chosen, t + 1)
            if isinstance(error, EnvError):
                raise
            # Garbage observations often make an env or policy fail before the fragment is complete: name the cause.
            if t:
                check_finite(self._fragment(t, chosen, ends, finished, fresh), env_id(self.args.env), steps_before)
            raise
        self._check_acted(chosen, steps)
        fragment = self._fragment(steps, chosen, ends, finished, fresh)
        check_finite(fragment, env_id(self.args.env), steps_before)
        self._fresh = False
        return fragment

    def _check_acted(self, chosen: dict[str, Array], steps: int) -> None:
        if "action" in chosen:
            obs = tree_map(lambda leaf: leaf[:steps], self._obs_buffer)
            algorithm, name = self.policy.algorithm, algorithm_name(self.policy.plan.algo)
            check_actions(algorithm, name, chosen["action"][:steps], obs, axes=3)

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
            chosen.update({name: np.zeros(shape + value.shape, value.dtype) for name, value in action.items()})
        for name, value in action.items():
            chosen[name][t] = value
        _store(self._obs_buffer, t, self._obs)
        alive = self._alive
        if alive is not None:
            self._alive_buffer[t] = alive
            stepped = alive.any(axis=1)  # of now: the envs write over their own array in `step`
        step = self.envs.step(action["action"])
        self.vector_steps += 1
        buffers = self._buffers
        buffers["reward"][t] = step.reward
        buffers["terminated"][t] = step.terminated
        buffers["truncated"][t] = step.truncated
        self._returns += step.reward[:, 0] if step.reward.shape[1] == 1 else step.reward.sum(axis=1)
        self._lengths += 1 if alive is None else stepped
        self._ages += 1
        if step.final_envs:
            remembered = None if self._memory.value is None else self._memory.value[step.final_envs]
            ends.append((t, step.final_envs, tree_map(np.copy, step.final_obs), remembered))
            for env in step.env_ended:
                finished.append((self._returns[env], self._lengths[env]))
                self._returns[env] = self._lengths[env] = self._ages[env] = 0
        self._memory.forget(step.terminated | step.truncated, step.alive)
        self._obs, self._alive = step.obs, step.alive

    def _fragment(self, steps: int, chosen: dict[str, Array], ends: list[Any], finished: list[tuple[float, int]],
                  fresh: bool) -> Fragment:  # fmt: skip
        at = [(t, env) for t, envs, *_ in ends for env in envs]
        if ends:
            final_obs = tree_map(lambda *leaves: np.concatenate(leaves), *(obs for _, _, obs, _ in ends))
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
        if self._first_memory is not None and self._memory.value is not None:
            fragment["memory"], fragment["last_memory"] = self._first_memory, self._memory.value
            none = self._memory.value[:0]
            fragment["final_memory"] = np.concatenate([none, *(remembered for *_, remembered in ends)])
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


def _store(buffer: Nested, t: int, obs: Nested) -> None:
    if isinstance(buffer, dict):
        for key, value in buffer.items():
            _store(value, t, obs[key])
    else:
        buffer[t] = obs
