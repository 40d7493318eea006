"""Where a runner's envs stand: what the learner keeps is what a new runner needs, and no more."""

from __future__ import annotations

import numpy as np
import torch

from wiserl.training.position import Position, Positions, Track


def position(vector_steps: int, ages: list[int], steps: int = 4, rank: int = 1) -> Position:
    """A runner of two envs; the action of env e at its vector step t is 10 t + e."""
    taken = np.arange(vector_steps - steps, vector_steps)
    actions = (10 * taken[:, None] + np.arange(2))[:, :, None]
    obs = {"a": np.array([[1.5], [2.5]], np.float32)}
    memory = np.full((2, 1, 3), vector_steps, np.float32)
    return Position(rank, vector_steps, np.array([7 << 32, 9], np.uint64), np.array(ages), actions, obs, memory)


def test_the_actions_since_each_episode_began_are_kept_over_fragments():
    track = Track(position(4, [4, 1]))
    track.add(position(8, [8, 2]))
    track.add(position(12, [12, 6]))
    going = track.continuation()
    assert going.vector_steps == 12
    assert going.actions[0][:, 0].tolist() == [10 * t for t in range(12)]
    assert going.actions[1][:, 0].tolist() == [10 * t + 1 for t in range(6, 12)]
    assert going.memory[0, 0, 0] == 12


def test_what_is_older_than_all_episodes_is_forgotten():
    track = Track(position(4, [4, 4]))
    for step in range(8, 4000, 4):
        track.add(position(step, [5, 3]))
    assert len(track._actions) <= 3
    assert track.continuation().actions[0][:, 0].tolist() == [10 * t for t in range(step - 5, step)]


def test_a_runner_that_began_new_episodes_has_none_of_the_old_ones_actions():
    track = Track(position(8, [4, 4]))
    track.add(position(4, [4, 2]))
    assert track.continuation().actions[1][:, 0].tolist() == [21, 31]


def test_envs_that_cannot_be_seeded_one_by_one_are_not_gone_on_with():
    before = position(4, [4, 4])
    track = Track(Position(0, 4, None, before.ages, before.actions, before.obs, None))
    assert track.continuation() is None
    again = Track.from_state(track.state_dict())
    assert (again.continuation(), again.vector_steps) == (None, 4)


def test_a_saved_track_goes_on_as_the_one_that_was_saved(tmp_path):
    track = Track(position(4, [4, 1]))
    track.add(position(8, [3, 0]))
    torch.save(track.state_dict(), tmp_path / "state.pt")
    again = Track.from_state(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(2):
        one, two = track.continuation(), again.continuation()
        assert (one.vector_steps, one.episodes.tolist()) == (two.vector_steps, two.episodes.tolist())
        assert [part.tolist() for part in one.actions] == [part.tolist() for part in two.actions]
        assert np.array_equal(one.obs["a"], two.obs["a"])
        assert np.array_equal(one.memory, two.memory)
        for each in (track, again):
            each.add(position(12, [7, 2]))


def test_a_successor_does_the_same_steps_again_until_two_have_died_of_them():
    positions = Positions()
    assert positions.start(1, 1, 0) == (0, None, 0), "it died before the first round"
    positions.follow(position(4, [4, 1]))
    positions.follow(position(8, [8, 2]))
    for incarnation in (2, 3):
        start = positions.start(1, incarnation, 0)
        assert (start.vector_steps, start.stream) == (8, 0)
        assert start.going.vector_steps == 8
        assert positions.start(1, incarnation, 0).stream == 0, "it may ask twice"
    assert positions.start(1, 4, 0) == (8, None, 4)
    positions.follow(position(12, [4, 4]))
    start = positions.start(1, 5, 0)
    assert (start.going.vector_steps, start.stream) == (12, 0)
    assert positions.start(0, 0, 7) == (7, None, 0), "nothing is known of another runner"
