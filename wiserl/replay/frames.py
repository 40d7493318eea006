"""Storage of stacked images (the last k frames as one observation), each frame once instead of k times.

A row keeps the last frame of its observation and its age: steps since its episode began, at most k - 1. The frames below
it in the stack are those of the rows before it. Below the first frame of an episode is padding: that frame again, or zeros,
as the env's wrapper has it. So that the oldest transition of a stream has its frames, the k - 1 rows before it are kept
(`margin`), and nothing that begins there is sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from wiserl.core.batch import Fragment
from wiserl.core.tree import Array, Nested
from wiserl.replay.rows import GOING, TRUNCATED, Block
from wiserl.replay.store import TransitionStore
from wiserl.util.errors import InputError

AGE = "frame_age"
"""Field of the store, uint8 `[rows]`: how many of the frames below a row's own belong to its episode."""

_REMEDY = (
    "Make FrameStackObservation the outermost wrapper that touches observations or resets, or make the replay with "
    "frame_stack=0, which stores whole observations"
)


class FrameStore(TransitionStore):
    """A `TransitionStore` whose observations are stacks `[k, ...]`, oldest frame first, and whose rows hold one frame.

    Args:
        capacity: transitions per agent over all streams, as in `TransitionStore`.
        num_streams: envs over all runners.
        extras: further fields to store.
        frame_stack: k, 2 to 255.
        frame_padding: what is below the first frame of an episode: "reset" that frame again, "zero" zeros.

    Raises:
        InputError: as `TransitionStore`, or another `frame_stack` or `frame_padding`.
    """

    def __init__(
        self, capacity: int, num_streams: int, extras: Sequence[str], frame_stack: int, frame_padding: str
    ) -> None:
        if not 2 <= frame_stack <= 255 or frame_padding not in ("reset", "zero"):
            raise InputError(
                f"replay with frame_stack {frame_stack}, frame_padding '{frame_padding}'; expected 2 to 255 frames (0: "
                f"observations are no stacks) and 'reset' or 'zero'"
            )
        super().__init__(capacity, num_streams, (*extras, AGE), margin=frame_stack - 1)
        self.frame_stack, self._padding = frame_stack, frame_padding
        self._back = np.arange(frame_stack - 1, -1, -1)  # steps back to the row of each frame of a stack
        self._is_checked = np.zeros(num_streams, np.bool_)

    def insert(self, fragment: Fragment) -> list[Block]:
        """As `TransitionStore.insert`.

        Raises:
            ValueError: observations are no stacks of frames; in a stream's first fragment, one is not the one before it moved
                on by a frame; or an episode does not begin with a stack of its first frame and padding.
        """
        self._contiguous(fragment["stream"])  # refuses unknown streams
        self._check_shapes(fragment)
        begins = self._begins(fragment)
        self._check_padding(fragment, begins)
        if not self._is_checked[fragment["stream"]].all():
            self._check_shift(fragment, begins)
        single = {
            "obs": fragment["obs"][:, :, :, -1],
            "last_obs": fragment["last_obs"][:, :, -1],
            "final_obs": fragment["final_obs"][:, :, -1],
            AGE: self._ages(fragment["stream"], begins),
        }
        blocks = super().insert({**fragment, **single})
        self._is_checked[fragment["stream"]] = True
        return blocks

    def observations(self, rows: Array) -> Nested:
        """The stacks of `rows [B]`, `[B, k, ...]`."""
        return self._stacks(rows, self.fields[AGE].take(rows))

    def following(self, rows: Array) -> Nested:
        """The stacks after the steps of `rows [B]`, with the true final frame where an episode ended; `[B, k, ...]`."""
        stacks = self._stacks(rows + self.stride, self.fields[AGE].take(rows) + np.uint8(1))
        ended = (self.kind.take(rows) >= TRUNCATED).nonzero()[0]
        if len(ended):
            stacks[ended, -1] = self._finals.take(self._final_of.take(rows[ended]))
        return stacks

    def state_dict(self) -> dict[str, Any]:
        """As `TransitionStore.state_dict`."""
        return super().state_dict() | {"frame_stack": self.frame_stack, "frame_padding": self._padding}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As `TransitionStore.load_state_dict`."""
        padding = state.get("frame_padding", self._padding)
        if padding != self._padding:
            raise InputError(
                f"the saved replay has frame_padding '{padding}', this run's '{self._padding}': resume with the env it was "
                f"saved with"
            )
        super().load_state_dict(state)

    def _stacks(self, rows: Array, age: Array) -> Array:
        back = np.minimum(self._back, age[:, None])
        stacks = self.fields["obs"].take(rows[:, None] - back * self.stride, 0, mode="wrap")
        if self._padding == "zero":
            stacks[self._back > age[:, None]] = 0
        return stacks  # type: ignore[no-any-return]

    def _newest(self, stream: Array) -> Array:
        """Rows of the newest step of `stream [E]`, `[E, A]`."""
        position = np.array([self._positions[number] for number in stream.tolist()])
        first = (position - 1) * self.stride + stream * self._num_agents
        rows: Array = (first[:, None] + np.arange(self._num_agents)) % len(self.kind)
        return rows

    def _begins(self, fragment: Fragment) -> Array:
        """Bool `[T, E, A]`: whether the observation of a step does not follow from the step before it."""
        begins = np.ones(fragment["terminated"].shape, np.bool_)
        if self.fields:
            begins[0] = (self.kind[self._newest(fragment["stream"])] != GOING) | fragment["fresh"][:, None]
        begins[1:] = fragment["terminated"][:-1] | fragment["truncated"][:-1]
        if "alive" in fragment:
            begins[1:] |= ~fragment["alive"][:-1]
        return begins

    def _ages(self, stream: Array, begins: Array) -> Array:
        """Ages of a fragment's rows, uint8 `[T, E, A]`."""
        step = np.arange(len(begins))[:, None, None]
        first = np.where(begins, step, -self.margin)
        if self.fields:
            first[0] = np.where(begins[0], 0, -1 - self.fields[AGE][self._newest(stream)].astype(np.int64))
        age: Array = np.minimum(step - np.maximum.accumulate(first, 0), self.margin).astype(np.uint8)
        return age

    def _check_shapes(self, fragment: Fragment) -> None:
        for name, lead in (("obs", 3), ("last_obs", 2), ("final_obs", 2)):
            leaf = fragment.get(name)
            if not isinstance(leaf, np.ndarray) or leaf.ndim <= lead or leaf.shape[lead] != self.frame_stack:
                given = f"{leaf.dtype} {list(leaf.shape)}" if isinstance(leaf, np.ndarray) else type(leaf).__name__
                raise ValueError(
                    f"fragment field {name} is {given}; expected stacks of {self.frame_stack} frames, "
                    f"{'[T, E, A, k, ...]' if lead == 3 else '[n, A, k, ...]'}, since frame_stack is {self.frame_stack}"
                )

    def _check_padding(self, fragment: Fragment, begins: Array) -> None:
        if "alive" in fragment:
            begins = begins & fragment["alive"]
        at = begins.nonzero()
        stacks = fragment["obs"][at]
        below = stacks[:, -1:] if self._padding == "reset" else np.zeros_like(stacks[:, -1:])
        wrong = (stacks[:, :-1] != below).any(tuple(range(1, stacks.ndim))).nonzero()[0]
        if len(wrong):
            step, env = int(at[0][wrong[0]]), int(at[1][wrong[0]])
            expected = "its first frame repeated" if self._padding == "reset" else "zeros below its first frame"
            raise ValueError(
                f"the episode that begins at [step, env] = {[step, env]} of the fragment begins with other frames than "
                f"{expected}, which frame_padding '{self._padding}' promises. {_REMEDY}"
            )

    def _check_shift(self, fragment: Fragment, begins: Array) -> None:
        obs, last, final = (fragment[name] for name in ("obs", "last_obs", "final_obs"))
        ended = fragment["terminated"] | fragment["truncated"]
        held = fragment.get("alive", np.ones(ended.shape, np.bool_))
        at = fragment["final_at"]
        of_final = (ended & held)[at[:, 0], at[:, 1]]
        shifted = {
            "obs": (obs[:-1], obs[1:], ~begins[1:]),
            "last_obs": (obs[-1], last, (~ended & held)[-1]),
            "final_obs": (obs[at[:, 0], at[:, 1]], final, of_final),
        }
        for name, (before, after, follows) in shifted.items():
            younger, older = ((*(slice(None),) * follows.ndim, frames) for frames in (slice(1, None), slice(-1)))
            same = before[younger] == after[older]
            wrong = np.argwhere(follows & ~same.all(tuple(range(follows.ndim, same.ndim))))
            if len(wrong):
                raise ValueError(
                    f"fragment field {name}: entry {wrong[0].tolist()} is not the observation before it moved on by one "
                    f"frame, which frame_stack={self.frame_stack} promises. {_REMEDY}"
                )
