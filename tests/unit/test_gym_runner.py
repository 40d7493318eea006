"""The built-in runner: fragments hold what happened, in place, and episodes are counted once each."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from tests.envs import (
    BoxAction,
    BoxObs,
    Broken,
    Chain,
    DictObs,
    DyingAgents,
    MultiBinaryAction,
    MultiDiscreteAction,
    Relay,
    TupleObs,
)
from tests.fragments import trees_equal
from tests.plans import make_plan, one_runner, start
from wiserl.core.batch import Fragment, check_fragment, count_env_steps
from wiserl.core.tree import tree_map
from wiserl.training.gym_runner import GymRunner
from wiserl.util.errors import EnvError, InputError
from wiserl.util.seeding import derive_seed, episode_seed, first_episode


def collect(tmp_path: Any, env: Any, steps: int = 8, algo: str = "ppo", kwargs: dict[str, Any] | None = None, fragments: int = 1,
            vector: str = "inline", **changes: Any) -> list[Fragment]:  # fmt: skip
    """The first fragments of one runner with two envs, copied."""
    plan = make_plan(tmp_path, algo, env, env_kwargs=kwargs, **changes)
    runner = one_runner(plan, env, steps, env_kwargs=kwargs, vector=vector)
    found = [tree_map(np.copy, runner.collect()) for _ in range(fragments)]
    runner.close()
    return found


ENVS = [BoxObs, DictObs, TupleObs, MultiBinaryAction, MultiDiscreteAction, DyingAgents]


@pytest.mark.parametrize("env", ENVS)
def test_a_fragment_of_any_env_fits_the_schema(tmp_path, env):
    for fragment in collect(tmp_path, env, steps=20, fragments=2):
        check_fragment(fragment)


def test_a_fragment_is_what_a_plain_loop_over_the_envs_gives(tmp_path):
    """Replaying the actions in envs seeded the same way gives every field again, over two fragments and several episodes."""
    fragments = collect(tmp_path, Chain, steps=30, kwargs={"length": 4, "max_steps": 7}, fragments=2)
    for e in range(2):
        env = Chain(length=4, max_steps=7)
        episode = first_episode(derive_seed(0, 0, 0, 0, e))
        obs, _ = env.reset(seed=episode_seed(episode))
        total, length, episodes, finals = 0.0, 0, [], []
        for number, fragment in enumerate(fragments):
            for t in range(30):
                assert np.array_equal(fragment["obs"][t, e, 0], obs)
                obs, reward, terminated, truncated, _ = env.step(int(fragment["action"][t, e, 0]))
                total, length = total + reward, length + 1
                assert fragment["reward"][t, e, 0] == reward
                assert fragment["terminated"][t, e, 0] == terminated
                assert fragment["truncated"][t, e, 0] == (truncated and not terminated)
                if terminated or truncated:
                    finals.append((number, t, obs))
                    episodes.append((total, length))
                    total, length = 0.0, 0
                    episode += 1
                    obs, _ = env.reset(seed=episode_seed(episode))
            assert np.array_equal(fragment["last_obs"][e, 0], obs)
        kept = [
            (number, t, final[0])
            for number, fragment in enumerate(fragments)
            for (t, env_index), final in zip(fragment["final_at"].tolist(), fragment["final_obs"], strict=True)
            if env_index == e
        ]
        assert [where[:2] for where in kept] == [where[:2] for where in finals]
        assert all(np.array_equal(a[2], b[2]) for a, b in zip(kept, finals, strict=True))
        assert len(episodes) > 3
    counted = sum(len(fragment["episode_return"]) for fragment in fragments)
    assert counted == sum(len(fragment["final_at"]) for fragment in fragments)


def test_fragments_continue_each_other_and_only_the_first_is_fresh(tmp_path):
    first, second = collect(tmp_path, BoxObs, fragments=2)
    assert np.array_equal(first["last_obs"], second["obs"][0])
    assert (first["fresh"].tolist(), second["fresh"].tolist()) == ([True, True], [False, False])
    assert not np.array_equal(first["obs"], second["obs"])


def test_episodes_are_counted_where_agents_end_at_different_times(tmp_path):
    """An env's episode is over when no living agent goes on; its return is that of all agents."""
    fragments = collect(tmp_path, DyingAgents, steps=25, kwargs={"length": 10}, fragments=2)
    assert [fragment["episode_length"].tolist() for fragment in fragments] == [[10, 10, 10, 10], [10] * 6]
    rewards = np.concatenate([fragment["reward"] for fragment in fragments]).sum(axis=2)
    expected = [rewards[start : start + 10, e].sum() for start in range(0, 50, 10) for e in range(2)]
    found = np.concatenate([fragment["episode_return"] for fragment in fragments])
    assert found.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("vector", ["inline", "process"])
def test_an_episode_goes_on_where_an_agent_joins_as_the_last_one_leaves(tmp_path, vector):
    first, second = collect(tmp_path, Relay, steps=9, kwargs={"leg": 2}, fragments=2, vector=vector)
    assert [fragment["episode_length"].tolist() for fragment in (first, second)] == [[6, 6], [6, 6, 6, 6]]
    assert [fragment["episode_return"].tolist() for fragment in (first, second)] == [[6.0] * 2, [6.0] * 4]
    assert np.argwhere(first["terminated"][:, 0]).tolist() == [[1, 0], [3, 1], [5, 2], [7, 0]]


def test_rows_of_agents_that_are_gone_are_marked_and_empty(tmp_path):
    (fragment,) = collect(tmp_path, DyingAgents, steps=10, kwargs={"length": 10})
    alive = fragment["alive"][:, 0]
    assert alive[:, 0].tolist() == [True] * 4 + [False] * 6
    assert alive[:, 1].tolist() == [True] * 7 + [False] * 3
    assert alive[:, 2].tolist() == [False] * 2 + [True] * 8
    dead = ~fragment["alive"]
    for name in ("reward", "terminated", "truncated", "obs"):
        assert not fragment[name][dead].any()
    assert count_env_steps(fragment) == 20
    assert fragment["terminated"][:, 0].nonzero()[0].tolist() == [3, 9]
    assert np.argwhere(fragment["truncated"][:, 0]).tolist() == [[6, 1]]


def test_resetting_rows_of_a_native_vector_env_count_neither_as_steps_nor_as_episodes(tmp_path):
    fragments = collect(tmp_path, "CartPole-v1", steps=60, fragments=2, vector="native")
    for fragment in fragments:
        check_fragment(fragment)
        ended = fragment["terminated"] | fragment["truncated"]
        assert np.array_equal(~fragment["alive"][1:], ended[:-1])
        assert not fragment["reward"][~fragment["alive"]].any()
        assert count_env_steps(fragment) == 120 - (~fragment["alive"]).sum()
    returns, lengths = (np.concatenate([f[f"episode_{name}"] for f in fragments]) for name in ("return", "length"))
    assert len(returns) > 3
    assert np.array_equal(returns, lengths), "CartPole pays 1 for each step"


@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_fragments_say_who_made_them_and_with_which_weights(tmp_path, algo):
    plan = make_plan(tmp_path, algo, BoxObs, runners=2)
    _, group = start(plan, BoxObs, 4)
    first, second = (member[0].collect() for member in group.members)
    assert (first["rank"].tolist(), second["rank"].tolist()) == ([0, 0], [1, 1])
    assert (first["stream"].tolist(), second["stream"].tolist()) == ([0, 1], [2, 3])
    assert not np.array_equal(first["obs"], second["obs"]), "runners have seeds of their own"
    runner = group.members[0][0]
    runner.policy.weights_version = 7
    assert runner.collect()["version"].tolist() == [7, 7]


def test_what_is_kept_of_the_envs_is_a_copy(tmp_path):
    runner = one_runner(make_plan(tmp_path, "ppo", BoxAction), BoxAction, 8)
    fragment = runner.collect()
    kept = tree_map(np.copy, {name: fragment[name] for name in ("last_obs", "final_obs", "final_at", "episode_return")})
    runner.collect()
    assert all(trees_equal(kept[name], fragment[name]) for name in kept)


def test_running_ends_when_the_agent_has_learned_from_all_the_steps_it_wants(tmp_path):
    closed = []

    class Closing(BoxObs):
        def close(self) -> None:
            closed.append(self)

    wise_rl, group = start(make_plan(tmp_path, "ppo", Closing, total_steps=60), Closing, 8)
    wise_rl.start_all_runners(group)
    status = wise_rl.call("learner", "status")
    assert status["env_steps"] == 60
    assert group.members[0][0].vector_steps == 30
    assert len(closed) == 3, "two envs and the probe"


@pytest.mark.parametrize(
    ("what", "text"), [("obs", "nan as observation at step 21"), ("reward", "nan as reward at step 20")]
)
def test_nan_is_refused_with_the_step_counted_over_fragments(tmp_path, what, text):
    """The env breaks at step 21 of its episode, in the third fragment of eight steps."""
    plan = make_plan(tmp_path, "ppo", BoxObs)
    kwargs = {"step": 21, "what": what, "length": 100}
    wise_rl, group = start(plan, Broken, 8, env_kwargs=kwargs)
    with pytest.raises(EnvError, match=f"env 'tests.envs:Broken' returned {text} of env 0 of runner 0"):
        wise_rl.start_all_runners(group)
    assert wise_rl.call("learner", "status")["env_steps"] == 32, "no weight was touched by it"


class FailsOnGarbage(Broken):
    """A simulator that dies of the action a policy chose on its own garbage."""

    def __init__(self) -> None:
        super().__init__(3, "obs", 100)

    def step(self, action: Any) -> Any:
        if getattr(self, "_steps", 0) >= 4:
            raise ZeroDivisionError("garbage in")
        return super().step(action)


def test_garbage_that_makes_the_env_fail_later_is_named_as_the_cause(tmp_path):
    runner = one_runner(make_plan(tmp_path, "ppo", BoxObs), FailsOnGarbage, 8)
    with pytest.raises(EnvError, match="returned nan as observation at step 3"):
        runner.collect()


def test_an_envs_own_exception_comes_through(tmp_path):
    runner = one_runner(make_plan(tmp_path, "ppo", BoxObs), Broken, 8, env_kwargs={"step": 5, "what": "raise"})
    with pytest.raises(RuntimeError, match="broken at step 5"):
        runner.collect()


@pytest.mark.parametrize(
    ("value", "found"), [(torch.zeros(2, 1), r"Tensor \[2, 1\]"), (1.0, r"float \[\]"), (np.zeros(2), r"ndarray \[2\]")]
)
def test_what_an_algorithm_chooses_is_an_array_for_each_env_and_agent(tmp_path, monkeypatch, value, found):
    runner = one_runner(make_plan(tmp_path, "ppo", BoxObs), BoxObs, 8)
    choose = runner.policy.algorithm.choose_action
    monkeypatch.setattr(runner.policy.algorithm, "choose_action", lambda *given: {**choose(*given), "doubt": value})
    with pytest.raises(
        InputError, match=rf"choose_action of PPO gave 'doubt' as {found}; expected a numpy array \[2, 1, "
    ):
        runner.collect()


def test_a_subclass_may_change_what_is_collected(tmp_path):
    class Doubling(GymRunner):
        def collect(self) -> Fragment:
            fragment = super().collect()
            return fragment | {"reward": 2 * fragment["reward"], "extra": np.ones((8, 2, 1))}

    wise_rl, group = start(make_plan(tmp_path, "ppo", BoxObs, total_steps=32), BoxObs, 8, runner_class=Doubling)
    wise_rl.start_all_runners(group)
    assert wise_rl.call("learner", "status")["env_steps"] == 32


def test_box_actions_reach_the_env_in_its_own_units(tmp_path):
    fragment = collect(tmp_path, "tests.envs:BoxAction", steps=20)[0]  # the env asserts that its space contains them
    assert fragment["action"].dtype == np.float32
    assert gym.spaces.Box(-np.inf, np.inf, (1,)).contains(fragment["action"][0, 0, 0])


class Moody(BoxObs):
    """Has another observation space each time it is made."""

    made = 0

    def __init__(self) -> None:
        Moody.made += 1
        self.observation_space = gym.spaces.Box(-1, 1, (Moody.made,), np.float32)


def test_envs_with_other_spaces_than_the_policys_are_refused_and_both_are_named(tmp_path):
    plan = make_plan(tmp_path, "ppo", Moody)
    with pytest.raises(InputError, match=r"has observations Box\(.*\(1,\).*but made again it has .*\(2,\).*same ones"):
        one_runner(plan, Moody, 8)


def test_a_native_version_with_other_spaces_is_refused_with_what_to_choose(tmp_path):
    plan = make_plan(tmp_path, "ppo", Chain, env_kwargs={"length": 5})
    with pytest.raises(
        InputError, match=r"but its native vector version has observations .* choose --vector inline or"
    ):
        one_runner(plan, "CartPole-v1", 8, vector="native")
