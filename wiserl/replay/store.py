"""Storage of transitions in one ring per stream: each observation once, true final observations kept, exact resume.

Layout. A stream is one env of one runner. It has a ring of `num_slots` steps and its own write position, since
fragments of different runners arrive at different rates. A field is one array `[slots * streams * agents, ...]`: the
transition of agent `a` of stream `s` in slot `t` is row `t * stride + s * agents + a` with `stride = streams * agents`,
so the next step of a row is `stride` further on (around the end of the array), and a batch is one `take` per field.

The next observation of a row is the observation of the next slot. The newest one is written ahead, into a slot that
holds no transition yet. Where an episode ended, the next slot belongs to another episode; the true final observation is
in a side table. `replay.frames` stores stacks of frames in the same layout, one frame per row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any

import numpy as np

from wiserl.core.batch import Fragment
from wiserl.core.tree import (
    Array,
    Nested,
    leaf_paths,
    leaves_at,
    name_leaves,
    set_rows,
    take_rows,
    tree_leaves,
    tree_map,
)
from wiserl.replay.final_table import FinalTable
from wiserl.replay.masks import MASKS, with_next_masks
from wiserl.replay.rows import GOING, TRUNCATED, Block, Ends, contiguous
from wiserl.util.errors import InputError


class TransitionStore:
    """The rings. Arrays are allocated on the first fragment, whose shapes and dtypes they take over.

    Args:
        capacity: transitions per agent over all streams; each stream keeps the last `capacity // num_streams` steps.
        num_streams: envs over all runners.
        extras: further fragment fields `[T, E, A, ...]` to store. `action_mask` and `next_action_mask` (which follows from
            the other masks) are stored without being named if the first fragment has them.
        margin: slots behind the oldest transition of each stream whose observations are kept, though nothing begins there.

    Attributes:
        fields: arrays `[rows, ...]` of obs, action, reward (float32) and the extras; empty before the first fragment.
        kind: uint8 `[rows]`, what each row holds: 0 (nothing), GOING, TRUNCATED or TERMINATED.
        stride: rows from a step to the next one.
        written: rows, from the first one, among which all transitions lie.
        count: transitions held.
        frame_stack: frames per observation, of which rows hold the last alone; 0: rows hold whole observations.

    Raises:
        InputError: a capacity below one step per stream.
    """

    frame_stack = 0

    def __init__(self, capacity: int, num_streams: int, extras: Sequence[str] = (), margin: int = 0) -> None:
        if not 1 <= num_streams <= capacity:
            raise InputError(
                f"a replay of {capacity} transitions for {num_streams} envs; expected at least one env and one "
                f"transition for each: raise buffer_size or run fewer envs"
            )
        self.capacity, self.num_streams, self.extras = capacity, num_streams, tuple(extras)
        self.per_stream, self.margin = capacity // num_streams, margin
        self.num_slots = self.per_stream + 1 + margin  # one is always taken by the observation written ahead
        self.fields: dict[str, Nested] = {}
        self.kind: Array = np.zeros(0, np.uint8)
        self.stride = self.written = self.count = 0
        self._positions = [0] * num_streams

    @property
    def nbytes(self) -> int:
        """Bytes allocated for transitions and final observations."""
        if not self.fields:
            return 0
        leaves = (leaf for _, leaf in tree_leaves(self.fields))
        return int(sum(leaf.nbytes for leaf in leaves) + self.kind.nbytes + self._final_of.nbytes + self._finals.nbytes)

    def insert(self, fragment: Fragment) -> list[Block]:
        """Store a fragment; the oldest steps of its streams give way. `Replay.add` documents fields and errors.

        Returns:
            The parts of the rings that have changed, the slots written ahead included.
        """
        fragment = with_next_masks(fragment)
        if not self.fields:
            self._allocate_for(fragment)
        leaves, ahead = self._check(fragment)
        stream, terminated = fragment["stream"], fragment["terminated"]
        num_steps = len(terminated)
        runs = list(self._runs(stream))
        ended = terminated | fragment["truncated"]
        kind = ended.view(np.uint8) + terminated
        kind += np.uint8(1)
        if "alive" in fragment:
            kind *= fragment["alive"]
        kind[: max(0, num_steps - self.per_stream)] = 0
        ends = self._find_ends(fragment, ended) if ended.any() else None
        if fragment["fresh"].any():
            self._cut(stream[fragment["fresh"]])

        blocks: list[Block] = []
        for env, end_env, first_stream in runs:
            slot, step = self._positions[first_stream], max(0, num_steps - self.per_stream - self.margin)
            streams = slice(first_stream, first_stream + end_env - env)
            changed = num_steps - step + 1
            for block in self._around(slot + self.margin, changed, streams):
                self._vacate(block)
            blocks += self._around(slot, min(changed + self.margin, self.num_slots), streams)
            for block in self._around(slot, num_steps - step, streams):
                end = step + block[0].stop - block[0].start
                for ring, leaf in zip(self._rings, leaves, strict=True):
                    ring[block] = leaf[step:end, env:end_env]
                held = kind[step:end, env:end_env]
                self._kind_ring[block] = held
                self.count += int(np.count_nonzero(held))
                step = end
            slot = (slot + changed - 1) % self.num_slots
            for ring, leaf in zip(self._rings, ahead, strict=False):  # obs come first in _rings
                ring[slot, streams] = leaf[env:end_env]
            self._positions[streams] = [slot] * (end_env - env)

        self.written = max(self.written, *(block[0].stop * self.stride for block in blocks))
        if ends is not None:
            self._keep_finals(fragment, ends)
        return blocks

    def observations(self, rows: Array) -> Nested:
        """The observations of `rows [B]`, leaves `[B, ...]`."""
        return take_rows(self.fields["obs"], rows)

    def following(self, rows: Array) -> Nested:
        """The observations after the steps of `rows [B]`, the true final ones where an episode ended; `[B, ...]`."""
        observations = take_rows(self.fields["obs"], rows + self.stride)
        ended = (self.kind.take(rows) >= TRUNCATED).nonzero()[0]
        if len(ended):
            set_rows(observations, ended, self._finals.take(self._final_of.take(rows[ended])))
        return observations

    def state_dict(self) -> dict[str, Any]:
        """What is held, as numpy arrays and values that JSON can hold. The arrays are views of the filled part."""
        state: dict[str, Any] = {
            "capacity": self.capacity,
            "num_streams": self.num_streams,
            "written": self.written,
            "positions": list(self._positions),
        }
        if self.fields:
            ended = np.flatnonzero(self.kind[: self.written] >= TRUNCATED)
            state["kind"] = self.kind[: self.written]
            state["fields"] = name_leaves(tree_map(lambda leaf: leaf[: self.written], self.fields), "field", state)
            state["final_obs"] = name_leaves(self._finals.take(self._final_of[ended]), "final", state)
            state["num_agents"] = self._num_agents
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave; the arrays are copied. `Replay.load_state_dict` documents the errors."""
        if "capacity" not in state:
            raise InputError("the saved replay is not of this kind: resume with the dataset_share it was saved with")
        saved = (state["capacity"], state["num_streams"])
        if saved != (self.capacity, self.num_streams):
            raise InputError(
                f"the saved replay holds {saved[0]} transitions of {saved[1]} envs, this run's {self.capacity} of "
                f"{self.num_streams}: resume with the buffer_size, runners and envs it was saved with"
            )
        stacked = state.get("frame_stack", 0)
        if stacked != self.frame_stack:
            raise InputError(
                f"the saved replay holds stacks of {stacked} frames (0: whole observations), this run's "
                f"{self.frame_stack}: resume with the env it was saved with"
            )
        missing = set(self.extras).difference(state.get("fields", self.extras))
        if missing:
            raise InputError(f"the saved replay lacks {sorted(missing)}: resume with the extras it was saved with")
        self._positions, self.written, self.count = list(state["positions"]), state["written"], 0
        self.fields, self.kind = {}, np.zeros(0, np.uint8)
        if "fields" not in state:
            return
        fields = tree_map(lambda name: state[name], state["fields"])
        self._allocate(fields, state["num_agents"])
        set_rows(self.fields, slice(0, self.written), fields)
        self.kind[: self.written] = state["kind"]
        self.count = int(np.count_nonzero(self.kind))
        ended = np.flatnonzero(self.kind >= TRUNCATED)
        self._final_of[ended] = self._finals.put(tree_map(lambda name: state[name], state["final_obs"]), len(ended))

    def _allocate_for(self, fragment: Fragment) -> None:
        masks = (name for name in MASKS if name in fragment and name not in self.extras)
        names = ("obs", "action", "reward", *self.extras, *masks)
        missing = [name for name in names if name not in fragment]
        if missing:
            raise ValueError(f"fragment lacks {missing}, to be stored in the replay; it has {list(fragment)}")
        rows = {name: tree_map(lambda leaf: leaf[:0, 0, 0], fragment[name]) for name in names}
        rows["reward"] = rows["reward"].astype(np.float32)
        self._allocate(rows, fragment["reward"].shape[2])

    def _allocate(self, like: dict[str, Nested], num_agents: int) -> None:
        """Make the arrays for fields `[any, ...]` like those given."""
        self._num_agents = num_agents
        self.stride = self.num_streams * num_agents
        num_rows = self.num_slots * self.stride
        ordered = {"obs": like["obs"], **like}
        self.fields = tree_map(lambda leaf: np.zeros((num_rows, *leaf.shape[1:]), leaf.dtype), ordered)
        self.kind = np.zeros(num_rows, np.uint8)
        self._final_of: Array = np.zeros(num_rows, np.int32)  # slot in the side table, where kind >= TRUNCATED
        self._finals = FinalTable(self.fields["obs"])
        ring = (self.num_slots, self.num_streams, num_agents)
        self._kind_ring, self._final_ring = self.kind.reshape(ring), self._final_of.reshape(ring)
        self._paths = leaf_paths(self.fields)
        self._rings = [leaf.reshape(*ring, *leaf.shape[1:]) for leaf in leaves_at(self.fields, self._paths)]

    def _check(self, fragment: Fragment) -> tuple[list[Array], list[Array]]:
        """The fragment's leaves in the order of `_rings`, and those of `last_obs`."""
        lead = (*fragment["terminated"].shape[:2], self._num_agents)
        try:
            leaves = leaves_at(fragment, self._paths)
            ahead = leaves_at({"obs": fragment["last_obs"]}, [path for path in self._paths if path[0] == "obs"])
        except KeyError as error:
            raise ValueError(f"fragment lacks {error}, which the first one had; it has {list(fragment)}") from None
        for ring, leaf, path in zip(self._rings, leaves, self._paths, strict=True):
            if leaf.shape != lead + ring.shape[3:] or (leaf.dtype != ring.dtype and path != ("reward",)):
                raise ValueError(
                    f"fragment field {'.'.join(path)} is {leaf.dtype} {list(leaf.shape)}, but the replay stores "
                    f"{ring.dtype} {list(lead + ring.shape[3:])} = [T, E, A, ...] since its first fragment"
                )
        return leaves, ahead

    def _find_ends(self, fragment: Fragment, ended: Array) -> Ends:
        step, env, agent = ended.nonzero()
        at = fragment["final_at"]
        entry_of = np.full(ended.shape[:2], len(at))
        entry_of[at[:, 0], at[:, 1]] = np.arange(len(at))
        entry = entry_of[step, env]
        if entry.max() == len(at):
            where = [int(step[entry.argmax()]), int(env[entry.argmax()])]
            raise ValueError(f"an episode ended at [step, env] = {where}; expected it in final_at and final_obs")
        kept = slice(int(step.searchsorted(len(ended) - self.per_stream)), None)
        return Ends(step[kept], env[kept], agent[kept], entry[kept])

    def _keep_finals(self, fragment: Fragment, ends: Ends) -> None:
        stream = fragment["stream"]
        # The write positions are past the newest step already: count back from there.
        position = np.array([self._positions[number] for number in stream.tolist()])
        slot = (position[ends.env] + ends.step - len(fragment["terminated"])) % self.num_slots
        rows = slot * self.stride + stream[ends.env] * self._num_agents + ends.agent
        finals = tree_map(lambda leaf: leaf[ends.entry, ends.agent], fragment["final_obs"])
        self._final_of[rows] = self._finals.put(finals, len(rows))

    def _contiguous(self, stream: Array) -> tuple[tuple[int, int], ...]:
        return contiguous(stream.tobytes(), stream.dtype.str, self.num_streams)

    def _runs(self, stream: Array) -> Iterator[tuple[int, int, int]]:
        """Envs that are written together, consecutive streams in step: (first env, end, first stream) of each run."""
        runs = self._contiguous(stream)
        for (env, first), (end, _) in pairwise(runs):
            for _, group in groupby(self._positions[first : first + end - env]):
                size = sum(1 for _ in group)
                yield env, env + size, first
                env, first = env + size, first + size

    def _around(self, first: int, count: int, streams: slice) -> list[Block]:
        """`count` slots from `first` on, around the end of the ring."""
        first %= self.num_slots
        end = first + count
        if end <= self.num_slots:
            return [(slice(first, end), streams)]
        return [(slice(first, self.num_slots), streams), (slice(0, end - self.num_slots), streams)]

    def _vacate(self, block: Block) -> None:
        """Forget the transitions of a block, which is about to be overwritten or to become margin."""
        kind = self._kind_ring[block]
        held = int(np.count_nonzero(kind))
        if held:
            self.count -= held
            if self._finals.used:
                self._finals.release(self._final_ring[block][kind >= TRUNCATED])
            kind[...] = 0

    def _cut(self, streams: Array) -> None:
        """End what is still going in `streams`: the observation written ahead becomes the final one."""
        position = np.array([self._positions[stream] for stream in streams.tolist()])
        first = position * self.stride + streams * self._num_agents
        ahead = (first[:, None] + np.arange(self._num_agents)).ravel()
        newest = (ahead - self.stride) % len(self.kind)
        going = self.kind[newest] == GOING
        newest, ahead = newest[going], ahead[going]
        self.kind[newest] = TRUNCATED
        self._final_of[newest] = self._finals.put(take_rows(self.fields["obs"], ahead), len(newest))
