"""Where a runner's envs stand, so that a resumed run can go on in the middle of their episodes.

The state of an env cannot be saved in general. But an episode is a function of its seed and the actions taken in it. With
each fragment a runner says which episodes its envs are in and how old these are, and the learner keeps the actions since they
began. A new runner begins the same episodes and steps through those actions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from wiserl.core.batch import Fragment
from wiserl.core.tree import Array, Nested, tree_map

REPEATS = 2
"""Successors of a dead runner that do the same steps again, before one does others."""


@dataclass(frozen=True)
class Position:
    """Where a runner stands after a fragment.

    Attributes:
        rank: of the runner.
        vector_steps: steps it has made so far, of each env.
        episodes: uint64 `[E]`, the episodes going (`util.seeding`); None: the envs cannot be seeded one by one.
        ages: int64 `[E]`, steps made in each of them.
        actions: `[T, E, A, ...]`, what was chosen in the fragment.
        obs: `[E, A, ...]`, what the next actions will be chosen on.
        memory: float32 `[E, A, M]`, what acting remembers; None: nothing.
        returns: float64 `[E]`, rewards of each of these episodes so far, summed over steps and agents; None: not known.
    """

    rank: int
    vector_steps: int
    episodes: Array | None
    ages: Array
    actions: Array
    obs: Nested
    memory: Array | None
    returns: Array | None = None


class Collected(NamedTuple):
    """What a runner hands over: a fragment, and where its envs stand after it (None: it does not say)."""

    fragment: Fragment
    position: Position | None = None


@dataclass(frozen=True)
class Continuation:
    """What a runner goes on from: a `Position` and, for each env, all actions of the episode going, `[age, A, ...]`."""

    vector_steps: int
    episodes: Array
    actions: list[Array]
    obs: Nested
    memory: Array | None
    returns: Array | None = None


class Start(NamedTuple):
    """From where a runner begins.

    Attributes:
        vector_steps: steps made so far in its place, of each env.
        going: the episodes going then; None: not known.
        stream: what its seeds are derived with. Not 0: other episodes, and other actions, than those of the place's first runner.
    """

    vector_steps: int
    going: Continuation | None
    stream: int


class Track:
    """What the learner keeps of one runner: its last position, and the actions since the oldest of its episodes began."""

    def __init__(self, position: Position) -> None:
        self._last = position
        self._actions: deque[Array] = deque([position.actions])
        self._steps = len(position.actions)

    def add(self, position: Position) -> None:
        """Take in where the runner stands one fragment later."""
        if position.vector_steps - len(position.actions) != self._last.vector_steps:
            self._actions.clear()  # in async mode, a runner that was restarted
            self._steps = 0
        self._last = position
        self._actions.append(position.actions)
        self._steps += len(position.actions)
        oldest = int(position.ages.max())
        while self._steps - len(self._actions[0]) >= oldest and len(self._actions) > 1:
            self._steps -= len(self._actions.popleft())

    def continuation(self) -> Continuation | None:
        """What a new runner goes on from; None where its envs cannot be brought to where they were."""
        last = self._last
        if last.episodes is None or last.ages.max() > self._steps:
            return None
        actions = np.concatenate(self._actions)
        chosen = [actions[self._steps - age :, env].copy() for env, age in enumerate(last.ages.tolist())]
        return Continuation(last.vector_steps, last.episodes, chosen, last.obs, last.memory, last.returns)

    @property
    def vector_steps(self) -> int:
        """Steps the runner has made so far, of each env."""
        return self._last.vector_steps

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors, for a checkpoint."""
        going = self.continuation()
        state: dict[str, Any] = {"rank": self._last.rank, "vector_steps": self._last.vector_steps, "episodes": None}
        if going is not None:
            state["episodes"] = going.episodes.tolist()
            state["ages"] = self._last.ages.tolist()
            state["actions"] = torch.from_numpy(np.concatenate(going.actions))
            state["obs"] = tree_map(lambda leaf: torch.from_numpy(np.array(leaf)), going.obs)
            state["memory"] = None if going.memory is None else torch.from_numpy(np.array(going.memory))
            state["returns"] = None if going.returns is None else going.returns.tolist()
        return state

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Track:
        """What `state_dict` gave, as a track again."""
        rank, vector_steps = state["rank"], state["vector_steps"]
        if state["episodes"] is None:
            nothing = np.zeros((0, 0, 0))
            return cls(Position(rank, vector_steps, None, np.zeros(1, np.int64), nothing, nothing, None))
        ages = np.array(state["ages"], np.int64)
        parts = np.split(state["actions"].numpy(), ages.cumsum()[:-1])
        actions = np.zeros((int(ages.max()), len(ages), *parts[0].shape[1:]), parts[0].dtype)
        for env, part in enumerate(parts):
            actions[len(actions) - len(part) :, env] = part
        memory = None if state["memory"] is None else state["memory"].numpy()
        obs = tree_map(lambda leaf: leaf.numpy(), state["obs"])
        returns = None if state.get("returns") is None else np.array(state["returns"])  # older checkpoints have none
        episodes = np.array(state["episodes"], np.uint64)
        return cls(Position(rank, vector_steps, episodes, ages, actions, obs, memory, returns))


class Positions:
    """Where all runners stand, as the learner knows it."""

    def __init__(self) -> None:
        self._tracks: dict[int, Track] = {}  # by rank
        self._restarts: dict[int, dict[int, int]] = {}  # by rank and incarnation: the vector steps at which it began

    def follow(self, position: Position | None) -> None:
        """Keep where a runner stands after a fragment; None: it does not say."""
        if position is None:
            return
        track = self._tracks.get(position.rank)
        if track is None:
            self._tracks[position.rank] = Track(position)
        else:
            track.add(position)

    def start(self, rank: int, incarnation: int, otherwise: int) -> Start:
        """From where a runner of this place begins; `otherwise`: at which of its steps, where that was never said.

        A successor does again what its predecessor did. Where two have died of that, the next one begins new episodes: the same
        actions may have killed them.
        """
        track = self._tracks.get(rank)
        vector_steps = otherwise if track is None else track.vector_steps
        began = self._restarts.setdefault(rank, {})
        if incarnation:
            began[incarnation] = vector_steps
        died = sum(at == vector_steps for other, at in began.items() if 0 < other < incarnation)
        if died >= REPEATS:
            return Start(vector_steps, None, incarnation)
        return Start(vector_steps, None if track is None else track.continuation(), 0)

    def state_list(self) -> list[dict[str, Any]]:
        """Plain values and tensors of each runner, for a checkpoint."""
        return [track.state_dict() for track in self._tracks.values()]

    def load_state_list(self, states: Sequence[dict[str, Any]]) -> None:
        """Take in what `state_list` gave."""
        self._tracks = {state["rank"]: Track.from_state(state) for state in states}
