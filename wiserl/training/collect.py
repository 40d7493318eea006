"""Makes fragments `[T, E, A, ...]` from steps of envs, and checks that all values are finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from wiserl.agent.base.algorithm import Algorithm
from wiserl.agent.base.divergence import check_actions
from wiserl.core.batch import Fragment, check_finite
from wiserl.core.spaces import observation_zeros
from wiserl.core.spec import EnvSpec
from wiserl.core.tree import Array, Nested, tree_map
from wiserl.env.vector.base import VectorStep
from wiserl.training.episodes import Ends, Episodes
from wiserl.util.errors import EnvError, InputError

Act: TypeAlias = Callable[[Nested], dict[str, Array]]
"""Chooses on observations `[E, A, ...]`: "action", and whatever else is to be a field of the fragment, each `[E, A, ...]`."""


class FragmentBuffer:
    """The fields of one fragment, filled step by step: `add_choice`, then `add_outcome`. Most arrays are used for the next one again.

    Args:
        spec: of the envs; it has A agents.
        steps: T, at most.
        envs: E.

    Attributes:
        length: steps that are complete.
    """

    def __init__(self, spec: EnvSpec, steps: int, envs: int) -> None:
        shape = (steps, envs, spec.num_agents)
        self._steps = steps
        self._obs = observation_zeros(spec.observation_space, shape)
        self._reward = np.zeros(shape, np.float32)
        self._terminated, self._truncated = np.zeros(shape, bool), np.zeros(shape, bool)
        self._alive = np.ones(shape, bool)
        self.length = self._acted = 0
        self._chosen: dict[str, Array] = {}
        self._first: Mapping[str, Array] = {}
        self._final_at: list[tuple[int, int]] = []
        self._finals: list[dict[str, Nested]] = []
        self._finished: list[tuple[float, int]] = []

    def begin(self, first: Mapping[str, Array]) -> None:
        """Begin the next fragment; `first`: fields `[E, A, ...]` of its start."""
        self.length = self._acted = 0
        self._chosen, self._first = {}, first
        self._final_at, self._finals, self._finished = [], [], []

    def add_choice(self, obs: Nested, alive: Array | None, chosen: dict[str, Array]) -> None:
        """What a step begins with: observations, which rows act, and what was chosen for them."""
        t = self.length
        if t == 0:
            self._chosen = {name: np.zeros((self._steps, *value.shape), value.dtype) for name, value in chosen.items()}
        for name, value in chosen.items():
            self._chosen[name][t] = value
        _store(self._obs, t, obs)
        if alive is not None:
            self._alive[t] = alive
        self._acted = t + 1

    def add_outcome(self, step: VectorStep, ends: Ends | None) -> None:
        """What came of it."""
        t = self.length
        self._reward[t] = step.reward
        self._terminated[t] = step.terminated
        self._truncated[t] = step.truncated
        if ends is not None:
            self._final_at += [(t, env) for env in step.final_envs]
            self._finals.append(ends.final)
            self._finished += ends.finished
        self.length = t + 1

    def choices(self) -> tuple[Nested, Array] | None:
        """Observations and actions so far, the last step's too if it is not complete; None before the first."""
        if not self._acted:
            return None
        return tree_map(lambda leaf: leaf[: self._acted], self._obs), self._chosen["action"][: self._acted]

    def fragment(self, last: Mapping[str, Nested], alive: Array | None) -> Fragment:
        """The complete steps.

        Args:
            last: `[E, A, ...]` after them, by name: fields `last_...`. At the ends of episodes it has been added as `final_...`.
            alive: which rows act after them; None: all, always.
        """
        fields = {"reward": self._reward, "terminated": self._terminated, "truncated": self._truncated}
        fragment = {
            "obs": tree_map(lambda leaf: leaf[: self.length], self._obs),
            **{name: value[: self.length] for name, value in {**self._chosen, **fields}.items()},
            "final_at": np.array(self._final_at, np.int64).reshape(-1, 2),
            "episode_return": np.array([value for value, _ in self._finished], np.float32),
            "episode_length": np.array([length for _, length in self._finished], np.int64),
            **self._first,
        }
        for name, value in last.items():
            none = tree_map(lambda leaf: leaf[:0], value)
            finals = (final[name] for final in self._finals)
            fragment[f"last_{name}"] = tree_map(np.copy, value)
            fragment[f"final_{name}"] = tree_map(lambda *leaves: np.concatenate(leaves), none, *finals)
        if alive is not None:
            fragment["alive"] = self._alive[: self.length]
        return fragment


class Collector:
    """Samples fragments from a runner's episodes.

    Args:
        episodes: what is stepped.
        steps: T of a fragment, at most.
        rank: of the runner.
        algorithm: what acts, for messages.
        names: of the algorithm and of the env, for messages.
    """

    def __init__(self, episodes: Episodes, steps: int, rank: int, algorithm: Algorithm, names: tuple[str, str]) -> None:
        self._episodes, self._algorithm = episodes, algorithm
        self._algorithm_name, self._env = names
        spec, envs = episodes.envs.spec, episodes.envs.num_envs
        self._rows = (envs, spec.num_agents)
        self._buffer = FragmentBuffer(spec, steps, envs)
        self._place = {"rank": np.full(envs, rank), "stream": rank * envs + np.arange(envs)}

    def collect(self, act: Act, steps: int, version: int) -> Fragment:
        """The next `steps` steps. The fragment's arrays are used again for the next one.

        Args:
            act: chooses the actions.
            steps: T.
            version: of the weights that it acts with.

        Raises:
            EnvError: what an env returned is not what it promised, or an observation or reward is not finite.
            Diverged: an action is not, on an observation that is.
            InputError: `act` gave something else than arrays for each env and agent.
        """
        episodes, buffer = self._episodes, self._buffer
        steps_before, fresh = episodes.vector_steps, episodes.fresh
        buffer.begin(episodes.memory())
        # Should this be interrupted, its steps are lost, and the next fragment continues nothing.
        episodes.fresh = True
        try:
            for _ in range(steps):
                self._step(act)
                self._algorithm.within_fragment = True
        except Exception as error:
            self._check_actions()
            # Garbage observations often make an env or policy fail before the fragment is complete: name the cause.
            if buffer.length and not isinstance(error, EnvError):
                check_finite(self._fragment(version, fresh), self._env, steps_before)
            raise
        finally:
            self._algorithm.within_fragment = False
        self._check_actions()
        fragment = self._fragment(version, fresh)
        check_finite(fragment, self._env, steps_before)
        episodes.fresh = False
        return fragment

    def _step(self, act: Act) -> None:
        episodes, buffer = self._episodes, self._buffer
        chosen = act(episodes.obs)
        if buffer.length == 0:
            self._check_chosen(chosen)
        given = chosen if episodes.mask is None else {**chosen, "action_mask": episodes.mask}
        buffer.add_choice(episodes.obs, episodes.alive, given)
        try:
            outcome = episodes.step(chosen["action"])
        except EnvError as error:
            where = f"at step {episodes.vector_steps} of runner {int(self._place['rank'][0])}"
            raise EnvError(f"{where}: {error}") from error
        buffer.add_outcome(*outcome)

    def _fragment(self, version: int, fresh: bool) -> Fragment:
        envs = self._rows[0]
        fragment = self._buffer.fragment(self._episodes.now(), self._episodes.alive)
        return {**fragment, "version": np.full(envs, version), "fresh": np.full(envs, fresh), **self._place}

    def _check_actions(self) -> None:
        choices = self._buffer.choices()
        if choices is not None:
            obs, actions = choices
            check_actions(self._algorithm, self._algorithm_name, actions, obs, axes=3)

    def _check_chosen(self, chosen: dict[str, Array]) -> None:
        for name, value in chosen.items():
            if not isinstance(value, np.ndarray) or value.shape[:2] != self._rows:
                found = f"{type(value).__name__} {list(getattr(value, 'shape', ()))}"
                raise InputError(
                    f"choose_action of {type(self._algorithm).__name__} gave '{name}' as {found}; expected a numpy array "
                    f"{[*self._rows, '...']} (envs, agents) for each name"
                )


def _store(buffer: Nested, t: int, obs: Nested) -> None:
    if isinstance(buffer, dict):
        for key, value in buffer.items():
            _store(value, t, obs[key])
    else:
        buffer[t] = obs
