"""Stacked images stored frame by frame come out of replay as they went in; which envs stack frames; what is refused."""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import (
    FrameStackObservation,
    MaxAndSkipObservation,
    NormalizeObservation,
    RecordEpisodeStatistics,
    TransformObservation,
)
from hypothesis import given
from hypothesis import strategies as st

from wiserl.core.batch import check_fragment
from wiserl.core.spec import EnvSpec
from wiserl.env.rows import read_spec
from wiserl.replay.prioritized import PrioritizedReplay
from wiserl.replay.uniform import Replay
from wiserl.util.errors import InputError

KINDS = st.sampled_from([Replay, PrioritizedReplay])


class Counter(gym.Env):
    """Observations `[2, 1]` that never repeat: (stream, clock)."""

    def __init__(self, number: int = 0, shape: tuple[int, ...] = (2, 1), dtype: Any = np.int32) -> None:
        self.observation_space = spaces.Box(-1, 10_000, shape, dtype)
        self.action_space = spaces.Discrete(2)
        self.number, self.clock = number + 1, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        return self.step(0)[0], {}

    def step(self, action: int):
        self.clock += 1
        return np.array([[self.number], [self.clock]], np.int32), 0.0, False, False, {}


class Stream:
    """One env whose episodes end at random; `step` gives a row of a fragment with its number as `id`."""

    def __init__(
        self, number: int, frames: int, padding: str, rng: np.random.Generator, end: float, dead_reset: bool
    ) -> None:
        self.number, self.rng, self.end, self.dead_reset = number, rng, end, dead_reset
        self.env = FrameStackObservation(Counter(number), frames, padding_type=padding)
        self.steps = 0
        self.restart()

    def restart(self) -> None:
        self.obs, self.is_over = self.env.reset()[0], False

    def step(self) -> dict[str, Any]:
        self.steps += 1
        row = {"obs": self.obs, "alive": not self.is_over, "terminated": False, "truncated": False, "final": None}
        row |= {"id": 1000 * self.number + self.steps, "reward": self.rng.random(), "action": self.rng.integers(9)}
        if self.is_over:
            self.restart()
            return row
        self.obs = self.env.step(0)[0]
        draw = self.rng.random()
        if draw < self.end:
            row |= {"terminated": draw < self.end / 2, "truncated": draw >= self.end / 2, "final": self.obs}
            if self.dead_reset:
                self.is_over = True
            else:
                self.restart()
        return row


def collect(streams: list[Stream], num_steps: int, fresh: list[bool]) -> dict[str, Any]:
    """The fragment of the next `num_steps` steps of `streams`; `fresh` ones are restarted first."""
    for stream, restart in zip(streams, fresh, strict=True):
        if restart:
            stream.restart()
    rows = [[stream.step() for stream in streams] for _ in range(num_steps)]
    dtypes = {"obs": np.int32, "action": np.int64, "reward": np.float32, "id": np.int64}
    names = ("obs", "action", "reward", "id", "terminated", "truncated", "alive")
    fragment: dict[str, Any] = {
        name: np.array([[row[name] for row in line] for line in rows], dtypes.get(name, np.bool_))[:, :, None]
        for name in names
    }
    at = [(t, e) for t, line in enumerate(rows) for e, row in enumerate(line) if row["final"] is not None]
    fragment |= {
        "final_at": np.array(at, np.int64).reshape(-1, 2),
        "final_obs": np.array([rows[t][e]["final"] for t, e in at], np.int32).reshape(-1, 1, *streams[0].obs.shape),
        "last_obs": np.stack([stream.obs for stream in streams])[:, None].astype(np.int32),
        "stream": np.array([stream.number for stream in streams]),
        "fresh": np.array(fresh),
        "version": np.zeros(len(streams), np.int64),
        "rank": np.zeros(len(streams), np.int64),
    }
    check_fragment(fragment)
    return fragment


def rows_by_id(replay: Replay) -> dict[int, list[tuple[str, Any, tuple[int, ...], bytes]]]:
    """All that is sampled, bit by bit: of each transition its fields with dtypes and shapes."""
    batch = replay.sample(20 * len(replay))
    names = [name for name in sorted(batch) if name not in ("index", "weight")]
    return {
        int(batch["id"][i]): [
            (name, batch[name].dtype, batch[name][i].shape, batch[name][i].tobytes()) for name in names
        ]
        for i in range(len(batch["id"]))
    }


def assert_same(single: Replay, whole: Replay) -> None:
    assert len(single) == len(whole)
    if len(whole):
        assert rows_by_id(single) == rows_by_id(whole)


@given(
    seed=st.integers(0, 2**32 - 1),
    kind=KINDS,
    num_streams=st.integers(1, 3),
    frames=st.integers(2, 5),
    padding=st.sampled_from(["reset", "zero"]),
    n_step=st.integers(1, 4),
    per_stream=st.integers(1, 12),
    end=st.sampled_from([0.0, 0.1, 0.4]),
    dead_reset=st.booleans(),
    restarts=st.sampled_from([0.0, 0.3]),
)
def test_samples_are_bit_for_bit_those_of_a_replay_that_stores_whole_stacks(
    seed: int,
    kind: type[Replay],
    num_streams: int,
    frames: int,
    padding: str,
    n_step: int,
    per_stream: int,
    end: float,
    dead_reset: bool,
    restarts: float,
) -> None:
    rng = np.random.default_rng(seed)
    streams = [Stream(number, frames, padding, rng, end, dead_reset) for number in range(num_streams)]
    arguments = (per_stream * num_streams, num_streams, seed, n_step, 0.9, ("id",))
    whole = kind(*arguments)
    single = kind(*arguments, frame_stack=frames, frame_padding=padding)
    for _ in range(rng.integers(1, 8)):
        some = rng.permutation(num_streams)[: rng.integers(1, num_streams + 1)]
        chosen = [streams[i] for i in some]
        fresh = [stream.steps > 0 and rng.random() < restarts for stream in chosen]
        fragment = collect(chosen, int(rng.integers(1, 12)), fresh)
        for replay in (whole, single):
            replay.add(fragment)
        if rng.random() < 0.3:
            assert_same(single, whole)
        if rng.random() < 0.3:
            state = single.state_dict()
            plain = json.loads(json.dumps({k: v for k, v in state.items() if not isinstance(v, np.ndarray)}))
            arrays = {name: value.copy() for name, value in state.items() if isinstance(value, np.ndarray)}
            single = kind(*arguments, frame_stack=frames, frame_padding=padding)
            single.load_state_dict(plain | arrays)
    assert_same(single, whole)


def filled(frame_stack: int, capacity: int = 400) -> Replay:
    rng = np.random.default_rng(0)
    replay = Replay(capacity, 2, seed=0, extras=("id",), frame_stack=frame_stack)
    streams = [Stream(number, 4, "reset", rng, 0.02, dead_reset=False) for number in range(2)]
    for _ in range(4):
        replay.add(collect(streams, 150, [False, False]))
    return replay


def test_a_stack_of_four_takes_the_memory_of_one_frame() -> None:
    def bytes_of_frames(state: dict[str, Any]) -> int:
        return sum(state[name].nbytes for name in ("field.obs", "final"))

    single, whole = (filled(frames).state_dict() for frames in (4, 0))
    # 200 steps of each stream, one written ahead, and for single frames the three before the oldest step
    assert single["field.obs"].shape == (2 * 204, 2, 1)
    assert whole["field.obs"].shape == (2 * 201, 4, 2, 1)
    assert 4 * bytes_of_frames(single) < 1.03 * bytes_of_frames(whole)


def test_memory_does_not_grow_however_many_episodes_end_before_the_oldest_transition() -> None:
    rng = np.random.default_rng(0)
    replay, stream = (
        Replay(4, 1, seed=0, frame_stack=4, extras=("id",)),
        Stream(0, 4, "reset", rng, 1.0, dead_reset=False),
    )
    sizes = set()
    for _ in range(60):
        replay.add(collect([stream], 12, [False]))
        sizes.add(replay.nbytes)
    assert len(sizes) == 1


def test_ages_and_unknown_extras_do_not_reach_the_batch() -> None:
    assert set(filled(4).sample(3)) == set(filled(0).sample(3))


def stacked(num_steps: int = 6, **changes: Any) -> dict[str, Any]:
    """A fragment of one stream whose episode began with its first step: frames 1, 2, ... stacked by three."""
    frame = np.maximum(np.arange(1, num_steps + 2)[:, None] + np.arange(-2, 1), 1).astype(np.float32)
    shape = (num_steps, 1, 1)
    return {
        "obs": frame[:-1, None, None],
        "action": np.zeros(shape, np.int64),
        "reward": np.ones(shape, np.float32),
        "terminated": np.zeros(shape, np.bool_),
        "truncated": np.zeros(shape, np.bool_),
        "last_obs": frame[-1:, None],
        "final_obs": np.zeros((0, 1, 3), np.float32),
        "final_at": np.zeros((0, 2), np.int64),
        "stream": np.zeros(1, np.int64),
        "fresh": np.ones(1, np.bool_),
    } | changes


def with_value(name: str, where: tuple[int, ...], value: float) -> dict[str, Any]:
    field = stacked()[name].copy()
    field[where] = value
    return {name: field}


ENDED = np.arange(6)[:, None, None] == 2
FIRST = np.array([[[4, 4, 4]]], np.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            with_value("obs", (4, 0, 0, 1), 99),
            r"field obs: entry \[3, 0, 0\] is not the observation before it moved on",
        ),
        (with_value("last_obs", (0, 0, 0), 99), "field last_obs: .*frame_stack=3 promises.*outermost"),
        (with_value("obs", (0, 0, 0, 0), 99), r"begins at \[step, env\] = \[0, 0\] .*its first frame repeated"),
        (
            {"truncated": ENDED, "final_at": np.array([[2, 0]]), "final_obs": np.full((1, 1, 3), 4, np.float32)}
            | {
                "obs": np.concatenate([stacked()["obs"][:3], stacked()["obs"][:3]]),
                "last_obs": np.array([[[2, 3, 4]]], np.float32),
            },
            r"field final_obs: entry \[0, 0\]",
        ),
        ({"obs": np.zeros((6, 1, 1, 4), np.float32)}, r"obs is float32 \[6, 1, 1, 4\]; expected stacks of 3"),
        ({"final_obs": np.zeros((0, 1), np.float32)}, r"final_obs is float32 \[0, 1\]; expected stacks of 3"),
        ({"obs": {"image": stacked()["obs"]}}, "obs is dict; expected stacks of 3 frames"),
        ({"stream": np.array([1])}, "below num_streams = 1"),
    ],
)
def test_a_first_fragment_that_is_no_stack_of_frames_is_refused(changes: dict[str, Any], message: str) -> None:
    replay = Replay(10, 1, seed=0, frame_stack=3)
    with pytest.raises(ValueError, match=message):
        replay.add(stacked(**changes))
    assert len(replay) == 0
    replay.add(stacked())
    assert len(replay) == 6


def test_an_episode_that_begins_with_old_frames_is_refused_in_any_fragment() -> None:
    replay = Replay(10, 1, seed=0, frame_stack=3)
    replay.add(stacked())
    ended = {"terminated": ENDED, "final_at": np.array([[2, 0]]), "final_obs": FIRST}
    with pytest.raises(ValueError, match=r"begins at \[step, env\] = \[3, 0\]"):
        replay.add(stacked(**ended))
    assert len(replay) == 6


def test_zeros_below_the_first_frame_are_told_from_its_repetition() -> None:
    with pytest.raises(ValueError, match="zeros below its first frame, which frame_padding 'zero' promises"):
        Replay(10, 1, seed=0, frame_stack=3, frame_padding="zero").add(stacked())


def test_a_dead_row_need_not_be_a_stack() -> None:
    alive = np.arange(6)[:, None, None] != 3
    obs = np.concatenate([stacked()["obs"][:3], np.full((1, 1, 1, 3), 77), stacked()["obs"][:2]]).astype(np.float32)
    changes = {"alive": alive, "terminated": ENDED, "final_at": np.array([[2, 0]])}
    changes |= {"final_obs": np.array([[[2, 3, 4]]], np.float32), "last_obs": np.array([[[1, 2, 3]]], np.float32)}
    replay = Replay(10, 1, seed=0, frame_stack=3)
    replay.add(stacked(obs=obs, **changes))
    batch = replay.sample(200)
    pairs = {(*before.tolist(), *after.tolist()) for before, after in zip(batch["obs"], batch["next_obs"], strict=True)}
    assert pairs == {(1, 1, 1, 1, 1, 2), (1, 1, 2, 1, 2, 3), (1, 2, 3, 2, 3, 4)}


@pytest.mark.parametrize("wrong", [{"frame_stack": 1}, {"frame_stack": 256}, {"frame_padding": "edge"}])
def test_wrong_arguments_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"2 to 255 frames .*'reset' or 'zero'"):
        Replay(**({"capacity": 10, "num_streams": 1, "seed": 0, "frame_stack": 4} | wrong))


def test_the_age_field_is_no_name_for_an_extra() -> None:
    with pytest.raises(InputError, match="frame_age"):
        Replay(10, 1, seed=0, extras=("frame_age",), frame_stack=4)


def test_a_state_of_other_stacks_is_refused() -> None:
    state = Replay(10, 1, seed=0, frame_stack=4).state_dict()
    for other in (0, 3):
        with pytest.raises(InputError, match=f"stacks of 4 frames .*this run's {other}"):
            Replay(10, 1, seed=0, frame_stack=other).load_state_dict(state)
    with pytest.raises(InputError, match="frame_padding 'reset', this run's 'zero'"):
        Replay(10, 1, seed=0, frame_stack=4, frame_padding="zero").load_state_dict(state)


def test_a_state_saved_before_there_were_stacks_is_loaded() -> None:
    state = Replay(10, 1, seed=0).state_dict()
    assert "frame_stack" not in state
    Replay(10, 1, seed=0).load_state_dict(state)


def stack(env: gym.Env, frames: int = 4, **arguments: Any) -> gym.Env:
    return FrameStackObservation(env, frames, **arguments)


@pytest.mark.parametrize(
    ("env", "found"),
    [
        (stack(Counter()), (4, "reset")),
        (stack(Counter(), padding_type="zero"), (4, "zero")),
        (RecordEpisodeStatistics(stack(Counter())), (4, "reset")),
        (
            gym.wrappers.ClipReward(gym.wrappers.TimeLimit(stack(RecordEpisodeStatistics(Counter())), 9), 0, 1),
            (4, "reset"),
        ),
        (Counter(), (0, "reset")),
        (stack(Counter(), 1), (0, "reset")),
        (stack(Counter(), padding_type=np.ones((2, 1), np.int32)), (0, "reset")),
        (gym.wrappers.FlattenObservation(stack(Counter())), (0, "reset")),
        (NormalizeObservation(stack(Counter())), (0, "reset")),
        (TransformObservation(stack(Counter()), lambda obs: obs[::-1], None), (0, "reset")),
        (MaxAndSkipObservation(stack(Counter())), (0, "reset")),
        (stack(gym.wrappers.TimeAwareObservation(gym.wrappers.TimeLimit(Counter(), 9), flatten=False)), (0, "reset")),
    ],
    ids=str,
)
def test_the_spec_of_an_env_says_whether_its_observations_are_stacks(env: gym.Env, found: tuple[int, str]) -> None:
    spec = read_spec(env, "x")
    assert (spec.frame_stack, spec.frame_padding) == found


def test_a_wrapper_that_moves_the_axis_of_frames_is_none_that_stacks() -> None:
    class Last(gym.Wrapper):
        def __init__(self, env: gym.Env) -> None:
            super().__init__(env)
            self.observation_space = spaces.Box(-1, 10_000, (2, 1, 4), np.int32)

    assert read_spec(Last(stack(Counter())), "x").frame_stack == 0


def test_a_spec_with_frames_survives_json_and_one_saved_without_still_loads() -> None:
    spec = EnvSpec("x", spaces.Box(0, 1, (4, 2)), spaces.Discrete(2), frame_stack=4, frame_padding="zero")
    data = json.loads(json.dumps(spec.to_json()))
    assert EnvSpec.from_json(data) == spec
    for name in ("frame_stack", "frame_padding"):
        del data[name]
    assert (EnvSpec.from_json(data).frame_stack, EnvSpec.from_json(data).frame_padding) == (0, "reset")
