"""wiserl.env.make: envs by id, module, function or callable, and one-line errors for what cannot be made."""

from __future__ import annotations

import functools
import sys

import gymnasium as gym
import numpy as np
import pytest

import wiserl
from tests.envs import Chain, DyingAgents
from wiserl.env.make import env_id, is_parallel, make_env
from wiserl.util.errors import InputError


@pytest.mark.parametrize(
    ("env", "parallel"),
    [
        ("CartPole-v1", False),
        ("mpe2/simple_spread_v3", True),
        ("tests.envs:Chain", False),
        ("tests.envs:nan_env", False),
        (DyingAgents, True),
        (functools.partial(Chain, length=3), False),
    ],
)
def test_an_env_is_made_from_any_form(env, parallel):
    made = make_env(env)
    assert is_parallel(made) is parallel
    made.reset(seed=0)
    made.close()


def test_kwargs_and_render_mode_reach_the_env():
    made = make_env("tests.envs:Chain", {"length": 7}, render_mode="rgb_array")
    assert made.observation_space.shape == (7,)
    assert made.render_mode == "rgb_array"
    assert make_env("CartPole-v1", {"max_episode_steps": 3}).spec.max_episode_steps == 3


def test_making_an_env_leaves_the_registry_as_it_was():
    make_env("CartPole-v1").close()
    assert gym.spec("CartPole-v1").order_enforce


@pytest.mark.parametrize(
    ("env", "kwargs", "said"),
    [
        ("CartPoel-v1", {}, r"'CartPoel-v1' is not known: did you mean 'CartPole-v1'\?"),
        ("mpe2/simple_spred_v3", {}, "'mpe2/simple_spred_v3' is not known"),
        ("mpe2", {}, "'mpe2' is not known"),
        ("tests/envs", {}, "has no parallel_env"),
        ("tests.envs:Chian", {}, r"no function 'Chian': did you mean 'Chain'\?"),
        ("no_such_module:make", {}, "no module 'no_such_module'"),
        ("CartPole-v1", {"gravty": 1}, "'CartPole-v1' has no argument 'gravty'"),
        ("tests.envs:Chain", {"lenght": 1}, r"no argument 'lenght': did you mean 'length'\?"),
        ("tests.envs:Broken", {}, "needs step, what"),
        (DyingAgents, {"size": 1}, "DyingAgents' has no argument 'size'"),
        (dict, {}, r"gave a builtins\.dict; expected a gymnasium\.Env"),
        (3, {}, "env is 3; expected an id"),
    ],
)
def test_what_cannot_be_made_is_said_in_one_line(env, kwargs, said):
    with pytest.raises(InputError, match=said) as caught:
        make_env(env, kwargs)
    assert "\n" not in str(caught.value)


class Unseeded(gym.Env):
    observation_space = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self):
        return np.zeros(3, np.float32), {}


@pytest.mark.parametrize("env", [Unseeded, lambda: gym.wrappers.TimeLimit(Unseeded(), 5)])
def test_an_env_whose_reset_takes_no_seed_is_refused_before_a_folder_is_made(env, tmp_path):
    with pytest.raises(InputError, match=r"has reset\(\), which takes no seed; expected reset\(self, \*, seed=None"):
        wiserl.train("ppo", env, run_dir=str(tmp_path / "run"), quiet=True)
    assert not (tmp_path / "run").exists()


def test_an_env_that_takes_turns_is_refused_with_the_wrapper_to_use():
    from mpe2 import simple_spread_v3

    with pytest.raises(InputError, match="aec_to_parallel"):
        make_env(simple_spread_v3.env)


@pytest.mark.parametrize(
    ("env", "module", "extra"),
    [
        ("LunarLander-v3", "Box2D", "box2d"),
        ("HalfCheetah-v5", "mujoco", "mujoco"),
        ("ALE/Pong-v5", "ale_py", "atari"),
        ("mpe2/simple_spread_v3", "mpe2", "marl"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(env, module, extra, monkeypatch):
    class Missing:
        """As if `module` were not installed."""

        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == module:
                raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    loaded = (module, "gymnasium.envs.box2d", "gymnasium.envs.mujoco")
    for name in [name for name in sys.modules if f"{name}.".startswith(tuple(f"{item}." for item in loaded))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    with pytest.raises(InputError, match=rf"pip install 'wiserl\[{extra}\]'"):
        make_env(env)


def test_an_error_inside_a_users_function_comes_through_unchanged():
    def broken(size=1):
        raise TypeError("mine")

    with pytest.raises(TypeError, match="mine"):
        make_env(broken, {"size": 2})


def test_a_module_in_the_current_directory_is_found(tmp_path, monkeypatch):
    (tmp_path / "envs_of_a_user.py").write_text("from tests.envs import Chain as make\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    made = make_env("envs_of_a_user:make", {"length": 3})
    assert isinstance(made, Chain)


def test_ids_are_readable():
    assert env_id("CartPole-v1") == "CartPole-v1"
    assert env_id(functools.partial(Chain, length=3)) == "tests.envs:Chain"


@pytest.mark.parametrize("steps", [float("nan"), 1e3, 0, [], "many", True])
def test_a_time_limit_that_is_none_is_refused(steps):
    with pytest.raises(InputError, match=r"env\.max_episode_steps=.* is not valid: expected an integer from 1"):
        make_env("CartPole-v1", {"max_episode_steps": steps})


@pytest.mark.parametrize("mode", [-1, True, {}])
def test_a_render_mode_that_is_no_text_is_refused(mode):
    with pytest.raises(InputError, match=r"env\.render_mode=.* is not valid: expected a text"):
        make_env("CartPole-v1", {"render_mode": mode})
