"""Hindsight experience replay: Andrychowicz et al. 2017, arXiv:1707.01495.

A step is learned from as if what its episode achieved later had been the goal all along. Goals are exchanged when a batch
is drawn: nothing is stored twice, and a step meets another goal each time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from wiserl.core.batch import Fragment
from wiserl.core.tree import Array, Nested
from wiserl.replay.rows import GOING
from wiserl.replay.uniform import Replay
from wiserl.util.errors import InputError

Strategy: TypeAlias = Literal["future", "final", "episode"]


class HindsightReplay(Replay):
    """Uniform replay of a goal env, in which `goals` of `goals + 1` transitions have a goal put in hindsight.

    Such a goal is what was achieved after a step of the same episode, as far as it is in the replay: with `future` any one
    from this step on, with `final` the last, with `episode` any one. An episode of an agent is a run of its rows: fragments
    may cut it anywhere, and that of the newest rows grows with the next fragment.

    Where episodes are is known by two numbers per row, its age and its episode, and one per episode, the slot of its last
    step. Episodes are numbered from one on in each column (agent of a stream), modulo the number of slots: fewer than that
    are in a ring at one time.

    Args:
        capacity, num_streams, seed, gamma, extras: as in `Replay`, which documents errors, too.
        n_step: must be 1: the rewards of a window depend on the goal, and are not stored one by one with what was achieved.
        reward: from achieved goals `[B, ...]` and desired goals `[B, ...]`: rewards float32 `[B]`, and whether the step ends
            the episode bool `[B]`, or None where that does not depend on the goal (`env.goal_reward.GoalReward`).
        strategy: where goals are taken from.
        goals: put in hindsight, for each one that the env had given (k in the paper).

    Raises:
        InputError: `n_step` above 1.
    """

    def __init__(
        self,
        capacity: int,
        num_streams: int,
        seed: int,
        n_step: int = 1,
        gamma: float = 0.99,
        extras: Sequence[str] = (),
        *,
        reward: Callable[[Array, Array], tuple[Array, Array | None]],
        strategy: Strategy = "future",
        goals: int = 4,
    ) -> None:
        if n_step != 1:
            raise InputError(
                f"hindsight with n_step={n_step}: rewards of several steps cannot be exchanged; use n_step=1"
            )
        super().__init__(capacity, num_streams, seed, n_step, gamma, extras)
        self.strategy, self.goals = strategy, goals
        self._reward = reward
        self._position = np.zeros(num_streams, np.int64)  # slot of the observation written ahead, per stream
        self._allocate(0)

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return super().nbytes + self._age.nbytes + self._episode.nbytes + self._last.nbytes

    def add(self, fragment: Fragment) -> None:
        """As `Replay.add`."""
        super().add(fragment)
        if len(self._age) != len(self._store.kind):
            self._allocate(len(self._store.kind))
        self._find_episodes(fragment["stream"], len(fragment["terminated"]))

    def sample(self, batch_size: int) -> dict[str, Nested]:
        """As `Replay.sample`, with goals put in hindsight in `goals` of each `goals + 1` rows.

        There, `desired_goal` in obs and next_obs, `reward` and `terminated` are those of the new goal.

        Raises:
            ValueError: the replay is empty.
            InputError: the env's `compute_reward` does not give a reward per row.
        """
        batch = super().sample(batch_size)
        chosen = (np.arange(batch_size) % (self.goals + 1) < self.goals).nonzero()[0]
        goal = self._store.following(self._goal_rows(batch["index"][chosen]))["achieved_goal"]
        reward, terminated = self._reward(batch["next_obs"]["achieved_goal"][chosen], goal)
        batch["obs"]["desired_goal"][chosen] = goal
        batch["next_obs"]["desired_goal"][chosen] = goal
        batch["reward"][chosen] = reward
        if terminated is not None:
            batch["terminated"][chosen] = terminated
        return batch

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As `Replay.load_state_dict`; the state of any other replay of the same env will do."""
        super().load_state_dict(state)
        self._position[:] = state["positions"]
        self._allocate(len(self._store.kind))
        if len(self._age):
            self._find_episodes(np.arange(self._store.num_streams), self._store.num_slots - 1, stored=True)

    def _allocate(self, num_rows: int) -> None:
        self._age = np.zeros(num_rows, np.int32)  # steps since the first one of its episode
        self._episode = np.zeros(num_rows, np.int32)  # number of its episode
        self._last = np.zeros(num_rows, np.int32)  # [number of the episode, column]: slot of its last step

    def _find_episodes(self, stream: Array, num_steps: int, stored: bool = False) -> None:
        """Note age and episode of the newest `num_steps` steps of `stream [E]`, and where these episodes end so far.

        With `stored` the positions are behind these steps already.
        """
        store = self._store
        num_slots, stride = store.num_slots, store.stride
        num_steps = min(num_steps, num_slots - 1)
        if not stored:
            self._position[stream] = (self._position[stream] + num_steps) % num_slots
        agents = stride // store.num_streams
        column = (stream[:, None] * agents + np.arange(agents)).ravel()
        newest = self._position[stream].repeat(agents) - 1
        slot = (newest + np.arange(-num_steps, 1)[:, None]) % num_slots
        rows = slot * stride + column  # [1 + steps, columns]: the step before them first
        kind = store.kind.take(rows)
        goes_on = (kind[:-1] == GOING) & (kind[1:] > 0)
        before, rows, slot = rows[0], rows[1:], slot[1:]
        begins = (kind[1:] > 0) & ~goes_on
        episode = (self._episode[before] + begins.cumsum(0)) % num_slots
        step = np.arange(num_steps)[:, None]
        first = np.maximum.accumulate(np.where(begins, step, -1 - self._age[before]), 0)
        self._age[rows] = step - first
        self._episode[rows] = episode
        ends = kind[1:] > 0
        ends[:-1] &= ~goes_on[1:]
        self._last[(episode * stride + column)[ends]] = slot[ends]

    def _goal_rows(self, rows: Array) -> Array:
        """For each of `rows [B]` a row of its episode, after whose step something was achieved that is now the goal."""
        store = self._store
        num_slots, stride = store.num_slots, store.stride
        slot, column = np.divmod(rows, stride)
        ahead = (self._last.take(self._episode.take(rows).astype(np.int64) * stride + column) - slot) % num_slots
        if self.strategy == "final":
            return self._shift(rows, ahead)
        behind: Array = np.zeros(1, np.int64)
        if self.strategy == "episode":
            oldest = (slot - 1 - self._position[column // (stride // store.num_streams)]) % num_slots
            behind = np.minimum(self._age.take(rows), oldest)
        span = ahead + behind + 1
        return self._shift(rows, (self._rng.random(len(rows)) * span).astype(np.int64) - behind)

    def _shift(self, rows: Array, steps: Array) -> Array:
        moved: Array = (rows + steps * self._store.stride) % len(self._store.kind)
        return moved
