"""Hindsight replay against a plain loop over what happened: goals, rewards, ends; frequencies; resume; refusals."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from tests.fragments import make_spec
from wiserl.agent.dqn import DQN, DQNConfig
from wiserl.core.batch import check_fragment, concat_fragments
from wiserl.core.goals import ENTRIES
from wiserl.env.goals import BitFlip
from wiserl.env.rows import read_spec
from wiserl.replay.hindsight import HindsightReplay
from wiserl.replay.uniform import Replay
from wiserl.util.errors import InputError

STRATEGIES = ("future", "final", "episode")


def reward_of(achieved: np.ndarray, desired: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance of the goals, so that each pair has a reward of its own; an end where it is even."""
    distance = desired[:, 0] - achieved[:, 0]
    return distance.astype(np.float32), distance % 2 == 0


class Stream:
    """One env of several agents; what an agent has achieved is a clock, different for each stream and agent."""

    def __init__(self, number: int, num_agents: int, rng: np.random.Generator, end: float) -> None:
        self.number, self.num_agents, self.rng, self.end = number, num_agents, rng, end
        self.clock, self.episode = 0, 0
        self.log: list[list[dict[str, Any] | None]] = [[] for _ in range(num_agents)]
        self.begin()

    def begin(self) -> None:
        self.clock += 1
        self.episode += 1
        self.alive = self.rng.random(self.num_agents) < 0.8
        self.alive[self.rng.integers(self.num_agents)] = True

    def obs(self) -> dict[str, np.ndarray]:
        offset = 1e5 * self.number + 1e4 * np.arange(self.num_agents, dtype=np.float32)[:, None]
        clock = (offset + self.clock).astype(np.float32)
        return {"observation": clock, "achieved_goal": clock, "desired_goal": np.full_like(clock, -self.clock)}

    def step(self) -> dict[str, Any]:
        alive, obs = self.alive.copy(), self.obs()
        draw = self.rng.random(self.num_agents)
        terminated, truncated = alive & (draw < self.end), alive & (self.end <= draw) & (draw < 2 * self.end)
        self.clock += 1
        final = self.obs()
        for agent in range(self.num_agents):
            entry = {"at": obs["achieved_goal"][agent, 0], "after": final["achieved_goal"][agent, 0]}
            entry |= {"episode": self.episode, "terminated": terminated[agent]}
            self.log[agent].append(entry if alive[agent] else None)
        self.alive = alive & ~terminated & ~truncated
        if not self.alive.any():
            self.begin()
        reward = np.full(self.num_agents, 7.0, np.float32)
        ended = bool((terminated | truncated).any())
        return {"obs": obs, "terminated": terminated, "truncated": truncated, "alive": alive, "reward": reward,
                "action": np.zeros(self.num_agents, np.int64), "final": final if ended else None}  # fmt: skip


def stacked(trees: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([tree[name] for tree in trees]) for name in trees[0]}


def collect(streams: list[Stream], num_steps: int, restart: bool = False) -> dict[str, Any]:
    """The fragment of the next steps of `streams`; with `restart` what was going is abandoned first."""
    if restart:
        for stream in streams:
            stream.begin()
    steps = [[stream.step() for stream in streams] for _ in range(num_steps)]
    names = ("action", "reward", "terminated", "truncated", "alive")
    fragment: dict[str, Any] = {
        name: np.stack([np.stack([row[name] for row in rows]) for rows in steps]) for name in names
    }
    fragment["obs"] = stacked([stacked([row["obs"] for row in rows]) for rows in steps])
    fragment["last_obs"] = stacked([stream.obs() for stream in streams])
    finals = [(t, e, row["final"]) for t, rows in enumerate(steps) for e, row in enumerate(rows) if row["final"]]
    fragment["final_at"] = np.array([(t, e) for t, e, _ in finals], np.int64).reshape(-1, 2)
    empty = {name: leaf[:0] for name, leaf in fragment["last_obs"].items()}
    fragment["final_obs"] = stacked([final for _, _, final in finals]) if finals else empty
    fragment["stream"] = np.array([stream.number for stream in streams])
    fragment["version"] = fragment["rank"] = np.zeros(len(streams), np.int64)
    fragment["fresh"] = np.full(len(streams), restart)
    check_fragment(fragment)
    return fragment


def possible_goals(stream: Stream, held: int, strategy: str) -> dict[float, list[float]]:
    """For each observation of a stream that is held: the goals it may get, by a plain loop."""
    goals: dict[float, list[float]] = {}
    for log in stream.log:
        kept = log[-held:]
        for i, entry in enumerate(kept):
            if entry is None:
                continue
            same = [other and other["episode"] == entry["episode"] for other in kept]
            first = next(k for k in range(i, -1, -1) if k == 0 or not same[k - 1])
            end = next(k for k in range(i, len(kept)) if k + 1 == len(kept) or not same[k + 1])
            start = {"future": i, "final": end, "episode": first}[strategy]
            goals[float(entry["at"])] = [float(other["after"]) for other in kept[start : end + 1] if other]
    return goals


def make(capacity: int, num_streams: int, strategy: str = "future", goals: int = 4, **options: Any) -> HindsightReplay:
    options = {"seed": 0, "reward": reward_of, **options}
    return HindsightReplay(capacity, num_streams, strategy=strategy, goals=goals, **options)


def assert_goals_are_of_the_episode(replay: HindsightReplay, streams: list[Stream], held: int) -> None:
    """Each row is what happened, with its own goal or one that a plain loop allows it; all of these occur."""
    possible: dict[float, list[float]] = {}
    after: dict[float, dict[str, Any]] = {}
    for stream in streams:
        possible |= possible_goals(stream, held, replay.strategy)
        after |= {float(entry["at"]): entry for log in stream.log for entry in log[-held:] if entry}
    assert len(replay) == len(possible)
    pairs = sum(map(len, possible.values()))
    batch = replay.sample(4000 + 40 * pairs)
    columns = [batch[name][entry][:, 0] for name in ("obs", "next_obs") for entry in ENTRIES]
    seen = set()
    for at, achieved, goal, _, later, next_goal, reward, terminated in zip(
        *(column.tolist() for column in (*columns, batch["reward"], batch["terminated"])), strict=True
    ):
        assert achieved == at
        assert later == after[at]["after"]
        assert (next_goal == goal) == (goal > 0.0)
        if goal < 0.0:  # the env's own
            assert (reward, terminated) == (7.0, after[at]["terminated"])
            continue
        assert goal in possible[at]
        assert (reward, terminated) == (goal - later, (goal - later) % 2 == 0)
        seen.add((at, goal))
    assert len(seen) >= 0.95 * pairs, "goals that are possible do not occur"


@given(
    seed=st.integers(0, 2**32 - 1),
    num_streams=st.integers(1, 4),
    num_agents=st.integers(1, 3),
    per_stream=st.integers(1, 14),
    rounds=st.integers(1, 9),
    end=st.sampled_from([0.0, 0.03, 0.2]),
    strategy=st.sampled_from(STRATEGIES),
    data=st.data(),
)
def test_goals_are_those_that_a_plain_loop_over_the_history_allows(
    seed: int, num_streams: int, num_agents: int, per_stream: int, rounds: int, end: float, strategy: str, data: Any
) -> None:
    rng = np.random.default_rng(seed)
    streams = [Stream(number, num_agents, rng, end) for number in range(num_streams)]
    replay = make(per_stream * num_streams, num_streams, strategy)
    for turn in range(rounds):
        # Not all streams are in every fragment, and not in order: each has a place of its own in its ring.
        some = data.draw(st.permutations(streams))[: data.draw(st.integers(1, num_streams))] if turn else streams
        replay.add(collect(some, data.draw(st.integers(1, 7)), restart=data.draw(st.booleans())))
        if data.draw(st.booleans()):
            restored = make(per_stream * num_streams, num_streams, strategy)
            restored.load_state_dict(replay.state_dict())
            replay = restored
    assert_goals_are_of_the_episode(replay, streams, per_stream)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("num_steps", [4, 5, 6, 7, 23])
def test_fragments_may_be_longer_than_the_ring(strategy: str, num_steps: int) -> None:
    stream = Stream(0, 2, np.random.default_rng(1), 0.1)
    replay = make(4, 1, strategy)
    for _ in range(3):
        replay.add(collect([stream], num_steps))
        assert_goals_are_of_the_episode(replay, [stream], 4)


def test_fragments_of_several_runners_joined_are_as_good_as_one_after_the_other() -> None:
    streams = [Stream(number, 1, np.random.default_rng(number), 0.1) for number in range(3)]
    replay = make(60, 3)
    for _ in range(9):
        replay.add(concat_fragments([collect(streams[2:], 4), collect(streams[:2], 4)]))
    assert_goals_are_of_the_episode(replay, streams, 20)


@pytest.mark.parametrize(
    ("strategy", "first", "count"), [("future", 3, 5), ("final", 7, 1), ("episode", 0, 8)], ids=STRATEGIES
)
def test_a_goal_is_drawn_evenly_from_what_the_strategy_says(strategy: str, first: int, count: int) -> None:
    stream = Stream(0, 1, np.random.default_rng(0), 0.0)
    replay = make(100, 1, strategy, goals=9)
    replay.add(collect([stream], 8))
    replay.add(collect([stream], 8, restart=True))
    batch = replay.sample(40_000)
    fourth = (batch["obs"]["achieved_goal"][:, 0] == 4.0) & (batch["obs"]["desired_goal"][:, 0] > 0)
    drawn = Counter(
        (batch["obs"]["desired_goal"][fourth, 0] - 2.0).astype(int).tolist()
    )  # step after which it was achieved
    assert sorted(drawn) == list(range(first, first + count))
    assert count == 1 or chisquare(list(drawn.values())).pvalue > 1e-4


def test_an_episode_is_over_where_an_agent_is_gone_without_an_end() -> None:
    stream = Stream(0, 1, np.random.default_rng(0), 0.0)
    fragment = collect([stream], 8)
    fragment["alive"][3] = False
    replay = make(100, 1, "final")
    replay.add(fragment)
    batch = replay.sample(200)
    at, goal = (batch["obs"][name][:, 0] for name in ("achieved_goal", "desired_goal"))
    assert set(goal[(at < 4.0) & (goal > 0)].tolist()) == {4.0}
    assert set(goal[(at > 4.0) & (goal > 0)].tolist()) == {9.0}


@pytest.mark.parametrize("goals", [1, 4])
def test_as_many_goals_as_asked_for_are_put_in_hindsight_in_each_part_of_a_batch(goals: int) -> None:
    replay = make(100, 1, goals=goals)
    replay.add(collect([Stream(0, 1, np.random.default_rng(0), 0.1)], 50))
    hindsight = replay.sample(960)["obs"]["desired_goal"][:, 0] > 0
    share = hindsight.reshape(-1, 32).mean(1)
    assert hindsight.mean() == goals / (goals + 1)
    assert np.abs(share - goals / (goals + 1)).max() < 1 / 32 + 1e-9


def test_only_one_row_in_a_batch_of_one_is_relabelled() -> None:
    replay = make(100, 1)
    replay.add(collect([Stream(0, 1, np.random.default_rng(0), 0.1)], 50))
    assert replay.sample(1)["obs"]["desired_goal"][0, 0] > 0


def test_the_stored_end_stands_where_the_env_does_not_compute_one() -> None:
    stream = Stream(0, 1, np.random.default_rng(3), 0.2)
    replay = make(100, 1, reward=lambda achieved, desired: (np.zeros(len(achieved), np.float32), None))
    replay.add(collect([stream], 60))
    ended = {float(entry["at"]): entry["terminated"] for entry in stream.log[0] if entry}
    batch = replay.sample(500)
    assert [ended[at] for at in batch["obs"]["achieved_goal"][:, 0].tolist()] == batch["terminated"].tolist()
    assert 0 < batch["terminated"].sum() < 500


def test_what_is_stored_keeps_its_own_goal() -> None:
    replay = make(100, 1, "final")
    replay.add(collect([Stream(0, 1, np.random.default_rng(0), 0.1)], 50))
    before = {name: value.copy() for name, value in replay.state_dict().items() if isinstance(value, np.ndarray)}
    replay.sample(500)
    after = replay.state_dict()
    assert all(np.array_equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("rounds", [0, 2, 9])
def test_a_restored_replay_goes_on_exactly_as_the_one_that_was_saved(strategy: str, rounds: int) -> None:
    streams = [Stream(number, 2, np.random.default_rng(number), 0.05) for number in range(2)]
    replay, restored = make(40, 2, strategy), make(40, 2, strategy, seed=1)
    for _ in range(rounds):
        replay.add(collect(streams, 5))
    restored.load_state_dict(replay.state_dict())
    for _ in range(8):
        fragment = collect(streams, 5)
        for each in (replay, restored):
            each.add(fragment)
        left, right = replay.sample(64), restored.sample(64)
        for name in ("reward", "terminated", "index"):
            np.testing.assert_array_equal(left[name], right[name])
        for name in ENTRIES:
            np.testing.assert_array_equal(left["obs"][name], right["obs"][name])


def test_the_state_of_a_replay_without_hindsight_will_do() -> None:
    stream = Stream(0, 1, np.random.default_rng(0), 0.05)
    plain, replay = Replay(20, 1, seed=0), make(20, 1)
    for _ in range(5):
        plain.add(collect([stream], 6))
    replay.load_state_dict(plain.state_dict())
    assert_goals_are_of_the_episode(replay, [stream], 20)


def test_beside_the_transitions_a_row_costs_twelve_bytes() -> None:
    stream = Stream(0, 1, np.random.default_rng(0), 0.05)
    plain, replay = Replay(1000, 1, seed=0), make(1000, 1)
    for each in (plain, replay):
        each.add(collect([stream], 6))
    assert replay.nbytes == plain.nbytes + 12 * 1001


def test_rewards_of_several_steps_are_refused() -> None:
    with pytest.raises(InputError, match="n_step=3"):
        make(10, 1, n_step=3)


GOAL_SPEC = read_spec(BitFlip(3), "bits")


@pytest.mark.parametrize(
    ("spec", "changes", "message"),
    [
        (make_spec(), {}, "no goals"),
        (make_spec(spaces.Dict(observation=spaces.Discrete(3))), {}, "it has observation"),
        (GOAL_SPEC, {"n_step": 3}, "n_step=3"),
        (GOAL_SPEC, {"prioritized": True}, "prioritized=True"),
    ],
)
def test_what_hindsight_cannot_do_is_refused_before_anything_is_started(spec: Any, changes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        DQN(spec=spec, config=DQNConfig(hindsight="future", **changes))
    DQN(spec=spec, config=DQNConfig(**changes))


def test_a_learner_that_does_not_know_rewards_of_other_goals_says_so() -> None:
    learner = DQN(spec=GOAL_SPEC, config=DQNConfig(hindsight="future"))
    with pytest.raises(InputError, match="goal_reward="):
        learner.start_learning()
