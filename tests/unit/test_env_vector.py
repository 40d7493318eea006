"""wiserl.env.vector.choose and native: every kind gives what a plain loop over gymnasium envs gives."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector import VectorEnv as GymVectorEnv

from tests.envs import BoxObs, Chain
from wiserl.core.actions import ActionCodec
from wiserl.core.observations import ObservationReader
from wiserl.core.spaces import observation_zeros
from wiserl.core.tree import tree_leaves, tree_map
from wiserl.env.make import make_env
from wiserl.env.vector import choose as vector_module
from wiserl.env.vector.choose import choose_vector, make_vector
from wiserl.env.vector.inline import InlineVector
from wiserl.env.vector.native import NativeVector
from wiserl.util.errors import EnvError, InputError
from wiserl.util.seeding import episode_seed, first_episode

SINGLE_AGENT = [
    "tests.envs:Chain",
    "tests.envs:DictObs",
    "tests.envs:TupleObs",
    "tests.envs:DiscreteObs",
    "tests.envs:MultiDiscreteAction",
    "tests.envs:MultiBinaryAction",
    "tests.envs:BoxAction",
    "CartPole-v1",
]
KINDS = ["inline", "process"]


def plain_loop(name, seeds, actions):
    """What the vector must give, written as simply as possible."""
    envs = [make_env(name) for _ in seeds]
    space = envs[0].observation_space
    codec = ActionCodec(envs[0].action_space)

    def one(obs):
        buffer = observation_zeros(space, (1, 1))
        ObservationReader(space).write(buffer, (0, 0), obs, "it")
        return [leaf[0, 0].tolist() for _, leaf in tree_leaves(buffer)]

    first = [one(env.reset(seed=seed)[0]) for env, seed in zip(envs, seeds, strict=True)]
    steps, episodes = [], [first_episode(seed) for seed in seeds]
    for action in actions:
        step = []
        for index, env in enumerate(envs):
            obs, reward, terminated, truncated, _ = env.step(codec.to_env(action[index : index + 1, 0])[0])
            final = None
            if terminated or truncated:
                final = one(obs)
                episodes[index] += 1
                obs, _ = env.reset(seed=episode_seed(episodes[index]))
            step.append((one(obs), float(np.float32(reward)), terminated, truncated and not terminated, final))
        steps.append(step)
    return first, steps


def rows(obs):
    return [[leaf[e, 0].tolist() for _, leaf in tree_leaves(obs)] for e in range(len(tree_leaves(obs)[0][1]))]


@pytest.mark.parametrize("name", SINGLE_AGENT)
@pytest.mark.parametrize("kind", KINDS)
def test_a_vector_env_steps_as_a_plain_loop_does(name, kind):
    seeds = [3, 1, 4]
    with make_vector(name, {}, 3, kind, 2) as vector:
        codec = ActionCodec(vector.spec.action_space)
        actions = codec.random(np.random.default_rng(0), (80, 3, 1))
        first, steps = plain_loop(name, seeds, actions)
        obs, alive = vector.reset(seeds)
        assert alive is None
        assert rows(obs) == first
        for action, expected in zip(actions, steps, strict=True):
            step = vector.step(action)
            assert rows(step.obs) == [row[0] for row in expected]
            assert step.reward[:, 0].tolist() == [row[1] for row in expected]
            assert step.terminated[:, 0].tolist() == [row[2] for row in expected]
            assert step.truncated[:, 0].tolist() == [row[3] for row in expected]
            assert step.alive is None
            finals = {e: row[4] for e, row in enumerate(expected) if row[4] is not None}
            assert step.final_envs == step.env_ended == list(finals)
            assert (rows(step.final_obs) if finals else step.final_obs) == (list(finals.values()) or None)
    assert any(row[4] is not None for step in steps for row in step), "the test saw no episode end"


@pytest.mark.parametrize("name", ["tests.envs:DyingAgents", "tests.envs:Relay", "mpe2/simple_spread_v3"])
def test_worker_processes_give_the_same_rows_of_agents_as_this_process(name):
    logs = []
    for kind in KINDS:
        with make_vector(name, {}, 3, kind, 2) as vector:
            actions = ActionCodec(vector.spec.action_space).random(np.random.default_rng(0), (40, 3, 3))
            log = [tree_map(np.copy, part) for part in vector.reset([5, 6, 7])]
            for action in actions:
                step = vector.step(action)
                parts = (step.obs, step.reward, step.terminated, step.truncated, step.alive)
                log += [part.copy() for part in parts] + [np.array(step.final_envs), step.final_obs]
                log.append(np.array(step.env_ended))
        logs.append(log)
    for inline, process in zip(*logs, strict=True):
        np.testing.assert_array_equal(inline, process)
    assert any(isinstance(entry, np.ndarray) and entry.ndim == 3 for entry in logs[0])


@pytest.mark.parametrize("kind", ["inline", "native", "process"])
def test_one_seed_gives_one_run_and_another_seed_another(kind):
    actions = np.random.default_rng(0).integers(2, size=(100, 2, 1))

    def run(seeds):
        with make_vector("CartPole-v1", {}, 2, kind, 1) as vector:
            vector.reset([9, 9])
            vector.step(actions[0])
            vector.reset(seeds)
            return np.stack([vector.step(action).obs.copy() for action in actions])

    assert (run([1, 2]) == run([1, 2])).all()
    assert (run([1, 2]) != run([1, 3])).any()


@pytest.mark.parametrize("name", ["CartPole-v1", "tests.envs:DictObs", "tests.envs:DyingAgents"])
def test_a_reset_in_mid_episode_leaves_no_flag_of_before(name):
    with make_vector(name, {}, 2) as vector:
        actions = np.zeros((2, vector.spec.num_agents), np.int64)
        vector.reset([0, 1])
        while not vector.step(actions).final_envs:
            pass
        vector.reset([0, 1])
        step = vector.step(actions)
        assert step.final_envs == []
        assert step.final_obs is None
        assert not (step.terminated | step.truncated).any()


@pytest.mark.parametrize("kind", KINDS)
def test_infos_come_with_the_env_that_gave_them(kind):
    with make_vector("tests.envs:Chain", {"length": 3}, 3, kind, 2) as vector:
        vector.reset([0, 1, 2])
        found = [vector.step(np.array([[0], [0], [1]])).infos for _ in range(2)]
    assert (2, {"position": 2}) in found[0] + found[1]
    assert {env for infos in found for env, _ in infos} == {2}


@pytest.mark.parametrize("kind", KINDS)
def test_an_exception_in_an_env_comes_through_and_a_reset_mends_it(kind):
    with make_vector("tests.envs:raising_env", {"step": 3}, 3, kind, 2) as vector:
        actions = np.zeros((3, 1), np.int64)
        for _ in range(2):
            vector.reset([0, 1, 2])
            vector.step(actions)
            vector.step(actions)
            with pytest.raises(RuntimeError, match="broken at step 3"):
                vector.step(actions)


def test_a_step_that_raised_leaves_no_flag_of_the_envs_before_it():
    class SecondRaises(BoxObs):
        made = 0

        def __init__(self):
            super().__init__(length=2)
            self.number = SecondRaises.made
            SecondRaises.made += 1

        def step(self, action):
            if self.number == 1 and self._steps == 1:
                raise RuntimeError("second")
            return super().step(action)

    with make_vector(SecondRaises, {}, 2) as vector:
        actions = np.zeros((2, 1), np.int64)
        vector.reset([0, 1])
        vector.step(actions)
        with pytest.raises(RuntimeError, match="second"):
            vector.step(actions)
        vector.reset([0, 1])
        assert not vector.step(actions).truncated.any()


@pytest.mark.parametrize("kind", ["inline", "native", "process"])
def test_a_wrong_number_of_seeds_is_refused(kind):
    with make_vector("CartPole-v1", {}, 2, kind, 1) as vector, pytest.raises(InputError, match="1 seeds for 2 envs"):
        vector.reset([0])


@pytest.mark.parametrize("env", [BoxObs, Chain])
def test_an_observation_unlike_its_space_is_refused_at_reset(env):
    class Wrong(env):
        def reset(self, **kwargs):
            return np.zeros(9, np.float32), {}

    with make_vector(Wrong, {}, 1) as vector, pytest.raises(EnvError, match=r"shape \(9,\), its space says"):
        vector.reset([0])


def test_envs_made_before_one_failed_are_closed():
    closed = []

    class Third(BoxObs):
        made = 0

        def __init__(self):
            super().__init__()
            Third.made += 1
            if Third.made == 3:
                raise OSError("no third")

        def close(self):
            closed.append(self)

    with pytest.raises(OSError, match="no third"):
        InlineVector(Third, {}, 3)
    assert len(closed) == 2


@pytest.mark.parametrize(("num_envs", "kind", "said"), [(0, "inline", "0; expected 1"), (1, "inlin", "did you mean")])
def test_an_unknown_kind_or_count_is_refused(num_envs, kind, said):
    with pytest.raises(InputError, match=said):
        make_vector("CartPole-v1", {}, num_envs, kind)


# --- native -----------------------------------------------------------------------------------------------------------


def test_native_next_step_resets_are_rows_that_are_not_alive():
    """Against gymnasium's own vector env, stepped beside it."""
    actions = np.random.default_rng(0).integers(2, size=(200, 4, 1))
    seeds = [1, 2, 3, 4]
    plain = gym.make_vec("CartPole-v1", 4, vectorization_mode="vector_entry_point")
    seed = int(np.random.SeedSequence([first_episode(seed) for seed in seeds]).generate_state(1)[0])
    with NativeVector("CartPole-v1", {}, 4) as vector:
        obs, alive = vector.reset(seeds)
        np.testing.assert_array_equal(obs[:, 0], plain.reset(seed=seed)[0])
        assert alive.all()
        dead_steps = 0
        for action in actions:
            step = vector.step(action)
            plain_obs, reward, terminated, truncated, _ = plain.step(action[:, 0])
            np.testing.assert_array_equal(step.obs[:, 0], plain_obs)
            np.testing.assert_array_equal(step.reward[:, 0], reward)
            np.testing.assert_array_equal(step.terminated[:, 0], terminated)
            np.testing.assert_array_equal(step.alive[:, 0], ~(terminated | truncated))
            assert step.final_envs == step.env_ended == np.nonzero(terminated | truncated)[0].tolist()
            if step.final_envs:
                np.testing.assert_array_equal(step.final_obs[:, 0], plain_obs[step.final_envs])
            dead = ~alive[:, 0]
            dead_steps += dead.sum()
            assert not step.reward[dead].any()
            assert not (step.terminated | step.truncated)[dead].any()
            alive = step.alive.copy()
    assert dead_steps > 5


class FakeNative(GymVectorEnv):
    """Counts its steps; each env ends every `period` steps, with 10 * step as its final observation."""

    def __init__(self, num_envs, mode=AutoresetMode.SAME_STEP, with_final=True, period=3, **kwargs):
        self.metadata = {"autoreset_mode": mode}
        self.num_envs = num_envs
        self.single_observation_space = spaces.Box(-1, 1000, (1,), np.float64)
        self.single_action_space = spaces.Discrete(2)
        self._with_final, self._period = with_final, period

    def reset(self, *, seed=None, options=None):
        self._step = 0
        return np.zeros((self.num_envs, 1)), {}

    def step(self, actions):
        self._step += 1
        ends = (self._step + np.arange(self.num_envs)) % self._period == 0
        obs = np.where(ends, 0, self._step)[:, None].astype(np.float64)
        final = np.full(self.num_envs, None, object)
        for index in np.nonzero(ends)[0]:
            final[index] = np.array([10.0 * self._step])
        info = {"final_obs": final} if self._with_final else {}
        return obs, np.ones(self.num_envs), ends, ends, info


@pytest.fixture
def fake_native():
    gym.register("wiserl-test/Fake-v0", entry_point=BoxObs, vector_entry_point=FakeNative)
    yield "wiserl-test/Fake-v0"
    del gym.registry["wiserl-test/Fake-v0"]


def test_native_same_step_resets_keep_the_true_final_observation(fake_native):
    with NativeVector(fake_native, {}, 3) as vector:
        obs, alive = vector.reset([0, 0, 0])
        assert (obs.shape, obs.dtype) == ((3, 1, 1), np.float32)
        assert alive is None
        step = vector.step(np.zeros((3, 1), np.int64))
        assert step.final_envs == step.env_ended == [2]
        assert step.final_obs.tolist() == [[[10.0]]]
        assert step.obs[:, 0, 0].tolist() == [1.0, 1.0, 0.0]
        assert step.reward.dtype == np.float32
        assert step.terminated[:, 0].tolist() == [False, False, True]
        assert not step.truncated.any()
        assert step.alive is None


def test_what_a_native_env_says_of_its_reset_steps_is_not_passed_on(fake_native):
    """It claims a reward and an end in every step, also in those in which it only resets."""
    with NativeVector(fake_native, {"mode": AutoresetMode.NEXT_STEP, "period": 1}, 2) as vector:
        actions = np.zeros((2, 1), np.int64)
        for _ in range(2):
            _, alive = vector.reset([0, 0])
            assert alive.all()
            first = vector.step(actions)
            assert first.terminated.all()
            assert first.reward.all()
            assert not first.alive.any()
            second = vector.step(actions)
            assert second.final_envs == second.env_ended == []
            assert not np.any([second.terminated, second.truncated, second.reward != 0])
            assert second.alive.all()
            assert vector.step(actions).terminated.all()


def test_a_native_env_that_does_not_reset_by_itself_is_refused(fake_native):
    with pytest.raises(InputError, match="autoreset mode"):
        NativeVector(fake_native, {"mode": AutoresetMode.DISABLED}, 2)


def test_a_native_env_that_hides_its_final_observation_is_refused(fake_native):
    vector = NativeVector(fake_native, {"with_final": False}, 3)
    vector.reset([0, 0, 0])
    with pytest.raises(EnvError, match=r"no info\['final_obs'\]"):
        vector.step(np.zeros((3, 1), np.int64))


@pytest.mark.parametrize("env", ["Pendulum-v1", "tests.envs:Chain", Chain])
def test_an_env_without_a_native_version_is_refused(env):
    with pytest.raises(InputError, match="no native vector version"):
        NativeVector(env, {}, 2)


# --- choosing ---------------------------------------------------------------------------------------------------------


def test_a_slow_env_goes_to_worker_processes_and_the_reason_says_the_numbers():
    kind, reason = choose_vector("tests.envs:sleepy_env", {"ms": 3}, 4, cores=4)
    assert kind == "process"
    assert reason.startswith("process: 4 envs of 'tests.envs:sleepy_env' take")
    assert "4 worker processes" in reason


def test_one_core_or_one_env_leaves_a_slow_env_in_this_process():
    assert choose_vector("tests.envs:sleepy_env", {"ms": 3}, 4, cores=1)[0] == "inline"
    assert choose_vector("tests.envs:sleepy_env", {"ms": 3}, 1, cores=4)[0] == "inline"


@pytest.mark.parametrize(("native_seconds", "named"), [(10e-6, True), (90e-6, False)])
def test_native_is_never_chosen_and_named_where_it_is_half_as_fast_again(native_seconds, named, monkeypatch):
    """It has other episodes, so a measurement would decide what is learned."""
    seconds = {"inline": 100e-6 / 8, "native": native_seconds}
    monkeypatch.setattr(vector_module, "_seconds_per_step", lambda vector: seconds[vector.kind])
    kind, reason = choose_vector("CartPole-v1", {}, 8, cores=1)
    assert kind == "inline"
    assert ("--vector native takes 10 µs; its episodes are others" in reason) == named


def test_a_native_version_with_other_spaces_is_not_named(fake_native):
    kind, reason = choose_vector(fake_native, {}, 4, cores=1)
    assert kind == "inline"
    assert "native" not in reason
