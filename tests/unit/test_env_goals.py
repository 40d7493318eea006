"""Goal envs keep GoalEnv's promises; rewards of other goals are the env's own; what cannot be computed is refused."""

from __future__ import annotations

import itertools
import math
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from tests.envs import BoxObs
from wiserl.core.goals import check_goals, is_goal_env
from wiserl.core.memory import RowMemory
from wiserl.core.spec import EnvSpec
from wiserl.env.check import check_env
from wiserl.env.goal_reward import GoalReward
from wiserl.env.goals import BitFlip, ReachGoal
from wiserl.env.make import make_env
from wiserl.env.rows import read_spec
from wiserl.policy.evaluation import run_episodes
from wiserl.util.errors import EnvError, InputError

NAMES = ("BitFlip", "ReachGoal")


def spec_of(achieved: spaces.Space, desired: spaces.Space) -> EnvSpec:
    space = spaces.Dict(observation=spaces.Discrete(2), achieved_goal=achieved, desired_goal=desired)
    return EnvSpec("test", space, spaces.Discrete(2))


def episodes(env: gym.Env, count: int, policy: Any = None) -> list[list[tuple[Any, ...]]]:
    """The steps of some episodes, of random actions unless `policy(obs)` gives them."""
    env.action_space.seed(0)
    env.reset(seed=0)
    played = []
    for _ in range(count):
        obs, _ = env.reset()
        steps: list[tuple[Any, ...]] = []
        while not steps or not (steps[-1][2] or steps[-1][3]):
            steps.append(env.step(policy(obs) if policy else env.action_space.sample()))
            obs = steps[-1][0]
        played.append(steps)
    return played


@pytest.mark.parametrize("name", NAMES)
def test_the_envs_have_no_faults_and_are_goal_envs(name: str) -> None:
    assert check_env(f"wiserl.env.goals:{name}", {}) == []
    spec = read_spec(make_env(f"wiserl.env.goals:{name}"), name)
    assert is_goal_env(spec)
    check_goals(spec)


@pytest.mark.parametrize("env", [BitFlip(3), ReachGoal(radius=0.3)], ids=NAMES)
def test_rewards_and_ends_are_those_computed_from_the_goals(env: gym.Env) -> None:
    steps = [step for steps in episodes(env, 60) for step in steps]
    achieved, desired = (np.stack([step[0][name] for step in steps]) for name in ("achieved_goal", "desired_goal"))
    reward, terminated = GoalReward(lambda: env)(achieved, desired)
    assert reward.dtype == np.float32
    assert reward.tolist() == [step[1] for step in steps]
    assert terminated.tolist() == [step[2] for step in steps] == [step[4]["is_success"] for step in steps]
    assert set(reward.tolist()) == {-1.0, 0.0}
    assert [reward == 0.0 for reward in reward.tolist()] == terminated.tolist()


def test_flipping_the_bits_that_are_wrong_reaches_the_goal_in_as_many_steps() -> None:
    env = BitFlip(6)
    wrong = []

    def flip(obs: dict[str, np.ndarray]) -> int:
        differ = np.flatnonzero(obs["observation"] != obs["desired_goal"])
        wrong.append(len(differ))
        return int(differ[0])

    for steps in episodes(env, 20, flip):
        assert steps[-1][2]
    assert all(after == before - 1 for before, after in itertools.pairwise(wrong) if before > 1)
    assert min(wrong) == 1, "no episode begins at its goal"


def test_bits_are_fifteen_unless_told_otherwise_and_an_episode_has_as_many_steps() -> None:
    steps = episodes(make_env("wiserl.env.goals:BitFlip"), 1)[0]
    assert steps[0][0]["desired_goal"].shape == (15,)
    assert len(steps) == 15
    assert steps[-1][2:4] == (False, True)


def test_the_point_moves_by_speed_times_the_action_and_stays_in_the_square() -> None:
    env = ReachGoal()
    obs, _ = env.reset(seed=0)
    moved, *_ = env.step(np.array([1.0, -0.5], np.float32))
    np.testing.assert_allclose(moved["observation"] - obs["observation"], [0.05, -0.025], atol=1e-6)
    for _ in range(50):
        obs, *_ = env.step(np.array([1.0, 1.0], np.float32))
    assert obs["achieved_goal"].tolist() == [1.0, 1.0]


def test_going_straight_reaches_every_point_and_going_anywhere_hardly_one() -> None:
    straight = episodes(
        ReachGoal(), 100, lambda obs: np.clip(20 * (obs["desired_goal"] - obs["observation"]), -1.0, 1.0)
    )
    assert all(steps[-1][2] for steps in straight)
    assert sum(steps[-1][2] for steps in episodes(ReachGoal(), 300)) < 30


class Odd(BitFlip):
    """Computes rewards the way it is told to."""

    def __init__(self, reward: Any = None, terminated: Any = None) -> None:
        super().__init__(2)
        self.asked: list[Any] = []
        self._reward, self._terminated = reward, terminated

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        return self._reward if self._reward is not None else super().compute_reward(achieved_goal, desired_goal, info)

    def compute_terminated(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        if self._terminated is not None:
            return self._terminated
        # Of one step only, as gymnasium-robotics has it: of many it says whether all of them are over.
        return bool((achieved_goal == desired_goal).all())


GOALS = np.array([[0, 0], [0, 1], [1, 1]], np.int8)


def test_an_end_computed_for_one_step_only_is_computed_for_each() -> None:
    reward, terminated = GoalReward(Odd)(GOALS, np.array([[0, 0], [0, 0], [1, 1]], np.int8))
    assert reward.tolist() == [0.0, -1.0, 0.0]
    assert terminated.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"reward": 1.0}, "compute_reward"), ({"reward": np.zeros((3, 1))}, "compute_reward"),
     ({"terminated": np.zeros((3, 2))}, "compute_terminated")],
)  # fmt: skip
def test_a_reward_or_end_that_is_not_one_per_row_is_refused(changes: dict[str, Any], name: str) -> None:
    with pytest.raises(InputError, match=rf"{name} of env .* expected \[3\]"):
        GoalReward(Odd, changes)(GOALS, GOALS)


def test_a_reward_that_is_not_finite_is_named_with_its_goals() -> None:
    with pytest.raises(EnvError, match=r"Odd' gave nan for achieved_goal \[0 1\] and desired_goal \[0 1\]"):
        GoalReward(Odd, {"reward": np.array([0.0, np.nan, np.inf])})(GOALS, GOALS)


class Bare(gym.Env):
    """An env with a reward of goals, and nothing more."""

    observation_space = action_space = spaces.Discrete(2)

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        return np.float64(2.0) * (achieved - desired)


def test_an_env_that_does_not_compute_ends_has_none_to_tell() -> None:
    reward, terminated = GoalReward(Bare)(np.array([3.0]), np.array([1.0]))
    assert reward.tolist() == [4.0]
    assert reward.dtype == np.float32
    assert terminated is None


def test_an_env_without_a_reward_of_goals_is_refused() -> None:
    with pytest.raises(InputError, match="BoxObs' has no compute_reward"):
        GoalReward("tests.envs:BoxObs").check()


def test_rewards_can_be_sent_to_another_process_when_the_env_is_made_already() -> None:
    def goals() -> BitFlip:
        return BitFlip(2)

    local = GoalReward(goals)
    assert local(GOALS, GOALS)[0].tolist() == [0.0, 0.0, 0.0]
    reward = GoalReward("wiserl.env.goals:ReachGoal", {"radius": 0.5})
    reward.check()
    sent = pickle.loads(pickle.dumps(reward))
    assert sent == reward
    near = np.array([[0.4, 0.0], [0.6, 0.0]], np.float32)
    assert sent(near, np.zeros((2, 2), np.float32))[0].tolist() == [0.0, -1.0]


def test_rewards_are_found_behind_wrappers() -> None:
    wrapped = gym.wrappers.TimeLimit(BitFlip(2), 1)
    assert GoalReward(lambda: wrapped)(GOALS, GOALS)[1].all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (read_spec(BoxObs(), "box"), "no goals"),
        (spec_of(spaces.Discrete(3), spaces.Discrete(3, start=1)), "count from 0"),
        (spec_of(spaces.MultiDiscrete([2], start=[1]), spaces.MultiDiscrete([2])), "count from 0"),
        (spec_of(spaces.Box(0, 1, (2,)), spaces.Box(0, 1, (3,))), "one shape"),
        (spec_of(*[spaces.Dict(place=spaces.Discrete(2))] * 2), "one shape"),
    ],
)
def test_goals_that_cannot_be_exchanged_are_refused(spec: EnvSpec, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_goals(spec)


@pytest.mark.parametrize("goal", [spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)], ids=str)
def test_goals_of_every_kind_of_array_can_be_exchanged(goal: spaces.Space) -> None:
    check_goals(spec_of(goal, goal))


class Passing(BitFlip):
    """Is at its goal in the first step only; goes on for as many steps as there are bits."""

    def step(self, action: Any) -> Any:
        obs, reward, _, truncated, _ = super().step(action)
        return obs, reward, False, truncated, {"is_success": np.bool_(self._steps == 1)}


class Flip:
    """A policy that flips the first bit that is wrong, but for the envs in `idle`, where it flips the last one."""

    def __init__(self, idle: tuple[int, ...] = ()) -> None:
        self.idle = list(idle)

    def act(self, obs: Any, deterministic: bool = True, memory: Any = None) -> np.ndarray:
        action = (obs["observation"] != obs["desired_goal"]).argmax(-1)
        action[self.idle] = obs["observation"].shape[-1] - 1
        return action

    def check_spaces(self, spec: Any) -> None:
        pass

    def reseed(self, *parts: Any) -> None:
        pass

    def memory(self, envs: int, agents: int) -> RowMemory:
        return RowMemory(0, envs, agents)


def test_evaluation_tells_which_episodes_ended_in_success() -> None:
    played = run_episodes(Flip(idle=(1,)), BitFlip, {"bits": 12}, 3, seed=0)
    assert played.success is not None
    assert played.success.tolist() == [True, False, True]
    assert played.returns[1] == -12.0
    assert run_episodes(Flip(), BitFlip, {"bits": 5}, 25, seed=0).success.tolist() == [True] * 25


def test_success_counts_at_the_end_of_an_episode() -> None:
    assert run_episodes(Flip(), Passing, {"bits": 3}, 2, seed=0).success.tolist() == [False, False]
    assert run_episodes(Flip(), Passing, {"bits": 1}, 2, seed=0).success.tolist() == [True, True]


def test_an_env_that_does_not_tell_of_success_has_no_rate_of_it() -> None:
    class Still:
        def act(self, obs: Any, deterministic: bool = True, memory: Any = None) -> np.ndarray:
            return np.zeros(obs.shape[:2], np.int64)

        def check_spaces(self, spec: Any) -> None:
            pass

        def reseed(self, *parts: Any) -> None:
            pass

        def memory(self, envs: int, agents: int) -> RowMemory:
            return RowMemory(0, envs, agents)

    assert run_episodes(Still(), BoxObs, {"length": 2}, 2, seed=0).success is None


class Says(BitFlip):
    """Says of its success what it is told to."""

    def __init__(self, success: Any) -> None:
        super().__init__(bits=3)
        self._says = success

    def step(self, action: Any) -> Any:
        *parts, info = super().step(action)
        return *parts, {**info, "is_success": self._says}


@pytest.mark.parametrize(("success", "rate"), [(np.float32(1.0), 1.0), (np.array([False]), 0.0), (1, 1.0)])
def test_success_is_a_bool_or_a_number_that_is_one(success: Any, rate: float) -> None:
    found = run_episodes(Flip(), Says, {"success": success}, 2, seed=0).success
    assert found is not None
    assert found.mean() == rate


@pytest.mark.parametrize("success", ["maybe", math.nan, np.array([True, False]), 0.5, None])
def test_success_of_another_kind_is_an_error_of_the_env(success: Any) -> None:
    with pytest.raises(EnvError, match=r"env .* gave info\['is_success'\] = .*; expected a bool"):
        run_episodes(Flip(), Says, {"success": success}, 2, seed=0)
