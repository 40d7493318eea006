"""The built-in runner: steps a vector of envs and hands over whole fragments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from wiserl.core.actions import ActionCodec
from wiserl.core.batch import Fragment, count_env_steps
from wiserl.core.runner import Runner
from wiserl.core.spec import EnvSpec
from wiserl.core.tree import Array, Nested
from wiserl.env.make import EnvLike, env_id
from wiserl.env.vector.base import VectorEnv
from wiserl.env.vector.choose import make_vector
from wiserl.ops.pacing import steps_of_round
from wiserl.training.collect import Collector
from wiserl.training.episodes import Episodes
from wiserl.training.training_agent import TrainingAgent
from wiserl.training.transform import Transform, apply_transform
from wiserl.transport.registry import WiseRL
from wiserl.util.errors import InputError
from wiserl.util.seeding import derive_seed, rng


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

    Attributes:
        agent: the handle that it acts and hands over by.
        policy: the replica behind it, to look at: the algorithm, and what came with the weights (`stop`, env steps).
        envs: what is stepped.

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
        algorithm, names = self.policy.algorithm, (self.policy.plan.algo.name, env_id(args.env))
        self._episodes = Episodes(self.envs, names[1], algorithm.memory_size)
        self._collector = Collector(self._episodes, args.steps, self.rank, algorithm, names)
        self._go_on()
        _check_masks(self.envs, self.policy.plan.spec)

    @property
    def vector_steps(self) -> int:
        """Steps made so far, of each env."""
        return self._episodes.vector_steps

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
        position = self._episodes.position(self.rank, fragment["action"])
        if self.args.transform is not None:
            fragment = apply_transform(fragment, self.args.transform)
        self.agent.update(fragment, position)

    def collect(self) -> Fragment:
        """T steps of all envs, as a fragment `[T, E, A, ...]`. Its arrays are used again for the next one.

        T is `args.steps`; at the end of training, this runner's share of what is left by what it has heard from the learner.

        Raises:
            EnvError: an observation or reward was not finite.
        """
        plan, algorithm = self.policy.plan, self.policy.algorithm
        steps = steps_of_round(algorithm.env_steps, plan.total_steps, plan.runners * plan.envs, self.args.steps)
        # What acting draws depends on where the runner is, and not on how it came there.
        algorithm.reseed(self.args.seed, self.rank, self._stream, self.vector_steps, "act")
        fragment = self._collector.collect(self._act, steps, self.policy.weights_version)
        self.policy.finish_fragment(fragment)
        return fragment

    def random_fragments(self, env_steps: int) -> Iterator[Fragment]:
        """Fragments of at least so many env steps of uniformly random actions, which are not learned from.

        They are of episodes of their own. The first fragment that `collect` gives after them is the one it would have given
        before, weights apart.
        """
        where, spec, version = (
            (self.args.seed, self.rank, self._stream),
            self.envs.spec,
            self.policy.weights_version,
        )
        random, codec, shape = rng(*where, "random"), ActionCodec(spec.action_space), (self.args.envs, spec.num_agents)
        vector_steps, sampled = self.vector_steps, 0

        def act(obs: Nested) -> dict[str, Array]:
            return {"action": codec.random(random, shape, self._episodes.mask)}

        self._begin_episodes(*where, "random")
        try:
            while sampled < env_steps:
                fragment = self._collector.collect(act, self.args.steps, version)
                sampled += count_env_steps(fragment)
                yield fragment
        finally:
            self._episodes.vector_steps = vector_steps
            self._go_on()

    def close(self) -> None:
        """Close the envs."""
        self.envs.close()

    def _act(self, obs: Nested) -> dict[str, Array]:
        given = self._episodes.arguments()
        chosen: dict[str, Array] = self.agent.choose_action(obs, **given) if given else self.agent.choose_action(obs)
        if "memory" in given:
            self._episodes.remember(chosen)
        return chosen

    def _go_on(self) -> None:
        """Go on with the episodes that were going when the run was saved, or the runner before this one died.

        New ones begin where there is nothing to go on from, or that cannot be done. In async mode they do after each death: what
        was on its way then may still be learned from.
        """
        env_steps, self._stream = self.policy.algorithm.env_steps, self.incarnation
        if (env_steps or self.incarnation) and (self.policy.sync or not self.incarnation):
            self._episodes.vector_steps, going, self._stream = self.agent.call("start_of", self.rank, self.incarnation)
            problem: str | None = f"runner {self.rank} died {self._stream} times, the last ones at the same step"
            if not self._stream:
                problem = self._episodes.go_on(going) if env_steps else ""
            if problem is None:
                return
            if problem:
                self.agent.call("warn", f"{problem}: new episodes begin, and the run does not go on bit for bit")
        self._begin_episodes(self.args.seed, self.rank, self._stream, env_steps)

    def _begin_episodes(self, *where: int | str) -> None:
        self._episodes.begin([derive_seed(*where, env) for env in range(self.args.envs)])


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


def _check_masks(envs: VectorEnv, expected: EnvSpec) -> None:
    """Raise InputError, and close the envs, unless they give masks as they did when the run was prepared."""
    if (envs.mask is not None) == bool(expected.masks):
        return
    envs.close()
    now, then = ("masks", "none") if expected.masks == "" else ("no masks", "some")
    raise InputError(
        f"env '{expected.id}' gives {now} (--vector {envs.kind}), but gave {then} when it was made first: let it give one at each "
        "reset and step, or none; where its native vector version is another env, choose --vector inline"
    )
