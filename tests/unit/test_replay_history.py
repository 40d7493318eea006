"""Replay against a plain loop over random histories of many streams and agents; and exact resume."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wiserl.core.batch import check_fragment
from wiserl.replay.uniform import Replay

GAMMA = 0.9


class Stream:
    """One env with `num_agents` agents that end, join and restart at random, and a log of what truly happened.

    Every observation is unique: (stream, agent, clock), so a sampled row tells which transition it is.
    """

    def __init__(self, number: int, num_agents: int, rng: np.random.Generator, end: float, dead_reset: bool) -> None:
        self.number, self.num_agents, self.rng, self.end, self.dead_reset = number, num_agents, rng, end, dead_reset
        self.clock = 0
        self.log: list[list[dict[str, Any] | None]] = [[] for _ in range(num_agents)]
        self.reset()

    def reset(self) -> None:
        self.clock += 1
        self.alive = self.rng.random(self.num_agents) < 0.7
        self.alive[self.rng.integers(self.num_agents)] = True
        self.joining = ~self.alive & (self.rng.random(self.num_agents) < 0.5)
        self.waiting = False

    def obs(self) -> np.ndarray:
        return np.array([[self.number, agent, self.clock] for agent in range(self.num_agents)], np.float32)

    def abandon(self) -> None:
        """The runner died: what was still going counts as truncated, and a new episode begins."""
        for entries in self.log:
            if entries and entries[-1] is not None and not entries[-1]["terminated"]:
                entries[-1]["truncated"] = True
        self.reset()

    def step(self) -> dict[str, Any]:
        alive, obs = self.alive.copy(), self.obs()
        action = self.rng.integers(0, 5, self.num_agents)
        reward = np.where(alive, self.rng.standard_normal(self.num_agents), 0.0).astype(np.float32)
        draw = self.rng.random(self.num_agents)
        terminated = alive & (draw < self.end)
        truncated = alive & ~terminated & (draw < 2 * self.end)
        if self.waiting:
            self.reset()
            next_obs = self.obs()
        else:
            self.clock += 1
            next_obs = self.obs()
            self.alive = (alive & ~terminated & ~truncated) | self.joining
            self.joining[:] = False
            if not self.alive.any():
                if self.dead_reset:
                    self.waiting = True
                else:
                    self.reset()
        for agent in range(self.num_agents):
            entry = None
            if alive[agent]:
                entry = {
                    "obs": obs[agent],
                    "action": action[agent],
                    "reward": float(reward[agent]),
                    "next_obs": next_obs[agent],
                    "terminated": bool(terminated[agent]),
                    "truncated": bool(truncated[agent]),
                }
            self.log[agent].append(entry)
        ended = bool((terminated | truncated).any())
        return {
            "obs": obs,
            "action": action,
            "reward": reward,
            "terminated": terminated,
            "truncated": truncated,
            "alive": alive,
            "final": next_obs if ended else None,
        }


def collect(streams: list[Stream], num_steps: int, fresh: list[bool] | None = None) -> dict[str, Any]:
    """The fragment of the next `num_steps` steps of `streams`; `fresh` ones are abandoned first."""
    for stream, restart in zip(streams, fresh or [], strict=False):
        if restart:
            stream.abandon()
    steps = [[stream.step() for stream in streams] for _ in range(num_steps)]
    fragment: dict[str, Any] = {
        name: np.stack([np.stack([row[name] for row in rows]) for rows in steps])
        for name in ("obs", "action", "reward", "terminated", "truncated", "alive")
    }
    at = [(t, e) for t, rows in enumerate(steps) for e, row in enumerate(rows) if row["final"] is not None]
    num_agents = streams[0].num_agents
    finals = [steps[t][e]["final"] for t, e in at]
    fragment["final_at"] = np.array(at, np.int64).reshape(-1, 2)
    fragment["final_obs"] = np.array(finals, np.float32).reshape(-1, num_agents, 3)
    fragment["last_obs"] = np.stack([stream.obs() for stream in streams])
    fragment["stream"] = np.array([stream.number for stream in streams], np.int64)
    fragment["version"] = fragment["rank"] = np.zeros(len(streams), np.int64)
    fragment["fresh"] = np.array(fresh) if fresh else np.zeros(len(streams), np.bool_)
    check_fragment(fragment)
    return fragment


def expected_windows(
    log: list[dict[str, Any] | None], held: int, n_step: int
) -> dict[tuple[float, ...], dict[str, Any]]:
    """The n-step transitions of the last `held` steps of one agent of one stream, by a plain loop."""
    kept = log[-held:] if held else []
    windows = {}
    for start, first in enumerate(kept):
        if first is None:
            continue
        total, discount, last = 0.0, 1.0, first
        for entry in kept[start : start + n_step]:
            if entry is None:
                break
            total += discount * entry["reward"]
            discount *= GAMMA
            last = entry
            if entry["terminated"] or entry["truncated"]:
                break
        windows[tuple(first["obs"].tolist())] = {
            "action": first["action"],
            "reward": total,
            "next_obs": last["next_obs"],
            "terminated": last["terminated"],
            "discount": discount,
        }
    return windows


def assert_holds(replay: Replay, streams: list[Stream], capacity: int) -> None:
    """The replay samples every transition of the log that should be held, and nothing else, with the right values."""
    held = capacity // replay_streams(replay)
    expected: dict[tuple[float, ...], dict[str, Any]] = {}
    for stream in streams:
        for log in stream.log:
            expected |= expected_windows(log, held, replay.n_step)
    assert len(replay) == len(expected)
    if not expected:
        return
    batch = replay.sample(40 * len(expected))
    seen = set()
    for i in range(len(batch["index"])):
        key = tuple(batch["obs"][i].tolist())
        seen.add(key)
        true = expected[key]
        assert batch["action"][i] == true["action"]
        assert batch["reward"][i] == pytest.approx(true["reward"], rel=1e-4, abs=1e-5)
        np.testing.assert_array_equal(batch["next_obs"][i], true["next_obs"])
        assert batch["terminated"][i] == true["terminated"]
        assert batch["discount"][i] == pytest.approx(true["discount"], rel=1e-5)
    assert seen == set(expected)


def replay_streams(replay: Replay) -> int:
    return int(replay.state_dict()["num_streams"])


def all_arrays_equal(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


@given(
    seed=st.integers(0, 2**32 - 1),
    num_streams=st.integers(1, 5),
    num_agents=st.integers(1, 3),
    n_step=st.integers(1, 5),
    per_stream=st.integers(1, 12),
    rounds=st.integers(1, 8),
    end=st.sampled_from([0.0, 0.05, 0.3]),
    dead_reset=st.booleans(),
    restarts=st.booleans(),
)
def test_samples_are_what_a_plain_loop_over_the_history_gives(
    seed: int,
    num_streams: int,
    num_agents: int,
    n_step: int,
    per_stream: int,
    rounds: int,
    end: float,
    dead_reset: bool,
    restarts: bool,
) -> None:
    rng = np.random.default_rng(seed)
    streams = [Stream(number, num_agents, rng, end, dead_reset) for number in range(num_streams)]
    capacity = per_stream * num_streams
    replay = Replay(capacity, num_streams, seed, n_step, GAMMA)
    for _ in range(rounds):
        some = rng.permutation(num_streams)[: rng.integers(1, num_streams + 1)]
        if rng.random() < 0.5:
            some = np.sort(some)
        fresh = (rng.random(len(some)) < 0.3).tolist() if restarts else None
        replay.add(collect([streams[i] for i in some], int(rng.integers(1, 16)), fresh))
    assert_holds(replay, streams, capacity)


@given(seed=st.integers(0, 2**32 - 1), n_step=st.integers(1, 3), num_agents=st.integers(1, 3))
def test_a_replay_restored_from_its_state_goes_on_identically(seed: int, n_step: int, num_agents: int) -> None:
    rng = np.random.default_rng(seed)
    streams = [Stream(number, num_agents, rng, 0.2, dead_reset=False) for number in range(3)]
    replay = Replay(30, 3, seed, n_step, GAMMA)
    for _ in range(rng.integers(0, 5)):
        replay.add(collect(streams[: rng.integers(1, 4)], 4))
        replay.sample(5) if len(replay) else None
    state = replay.state_dict()
    plain = {name: value for name, value in state.items() if not isinstance(value, np.ndarray)}
    plain = json.loads(json.dumps(plain, sort_keys=True))
    arrays = {name: value.copy() for name, value in state.items() if isinstance(value, np.ndarray)}
    restored = Replay(30, 3, seed + 1, n_step, GAMMA)
    restored.load_state_dict(plain | arrays)
    assert len(restored) == len(replay)
    for _ in range(4):
        fragment = collect(streams[: rng.integers(1, 4)], 5)
        replay.add(fragment)
        restored.add(fragment)
        assert all_arrays_equal(replay.sample(16), restored.sample(16))
