"""The options of a run: where they come from, which wins, what is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from tests.envs import Chain
from wiserl.agent.ppo import PPO, PPOConfig
from wiserl.core.config import PositiveInt
from wiserl.experiment.options import (
    RUN_OPTIONS,
    presets,
    read_config_file,
    resolve,
    run_options_of,
)
from wiserl.util.errors import InputError


@dataclass(frozen=True)
class LongRoundsConfig(PPOConfig):
    n_steps: PositiveInt = 512


class LongRounds(PPO):
    config_class = LongRoundsConfig


def options(**given):
    return resolve("ppo", "tests.envs:Chain", given)


def test_defaults_presets_and_given_options_are_layered():
    run, config = resolve("ppo", "CartPole-v1", {"n_steps": "64", "runners": "2"})
    preset = presets()["ppo"]["CartPole-v1"]
    assert (config.n_steps, run.runners) == (64, 2)
    assert (config.gae_lambda, run.total_steps) == (preset["gae_lambda"], preset["total_steps"])
    assert config.vf_coef == 0.5
    run, config = resolve("ppo", "CartPole-v1", {}, use_preset=False)
    assert config.gae_lambda == 0.95


@pytest.mark.parametrize("off", [False, "false"])
def test_a_preset_can_be_left_out(off):
    run, config = resolve("ppo", "CartPole-v1", {"preset": off, "seed": 3})
    assert (run.preset, run.total_steps, run.seed, config.gae_lambda) == (False, 100_000, 3, 0.95)
    run, config = resolve("ppo", "CartPole-v1", {"preset": None})
    assert (run.preset, config.gae_lambda) == (True, presets()["ppo"]["CartPole-v1"]["gae_lambda"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, 2048),
        ({"envs": "1"}, 2048),
        ({"envs": "9"}, 1820),
        ({"envs": 128}, 128),
        ({"envs": 4096}, 32),
        ({"runners": "4"}, 512),
        ({"runners": 4, "envs": 64}, 64),
        ({"runners": 4, "sync": "false"}, 2048),
        ({"envs": 128, "n_steps": 2048}, 2048),
    ],
)
def test_the_default_round_of_ppo_is_bounded_where_there_are_many_envs(given, expected):
    run, config = options(**given)
    assert config.n_steps == expected
    assert (
        "n_steps" in given or run.envs > 512 or config.n_steps * run.envs * (run.runners if run.sync else 1) <= 16_384
    )


def test_a_preset_or_a_config_of_ones_own_that_says_how_long_a_round_is_has_its_way():
    assert resolve("ppo", "Pendulum-v1", {"envs": 128})[1].n_steps == 1024
    assert resolve(LongRounds, Chain, {"envs": 128})[1].n_steps == 512


def test_every_preset_is_valid_and_says_something():
    for algo, envs in presets().items():
        for env, values in envs.items():
            resolve(algo, env, {})
            assert values, f"{algo} {env}"


def test_options_of_the_env_and_of_the_algorithm_and_of_the_run_find_their_place():
    run, config = options(**{"env.length": "7", "env_kwargs": {"max_steps": 30}, "gamma": "0.5", "seed": 4})
    assert run.env_kwargs == {"max_steps": 30, "length": 7}
    assert (config.gamma, run.seed) == (0.5, 4)


def test_options_that_were_not_given_are_left_alone():
    run, config = options(runners=None, env_kwargs=None, clip_range_vf=None)
    assert (run.runners, run.env_kwargs, config.clip_range_vf) == (1, {}, None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n_step": 5}, "unknown option 'n_step' for ppo: did you mean 'n_steps'"),
        ({"runner": 5}, "unknown option 'runner' for ppo: did you mean 'runners'"),
        ({"runners": 0}, "runners=0 is not valid: Expected `int` >= 1"),
        ({"total_steps": "-5"}, "total_steps=-5 is not valid"),
        ({"envs": "two"}, "envs=two is not valid: Expected `int`"),
        ({"seed": -1}, "seed=-1 is not valid"),
        ({"vector": "inlin"}, "vector=inlin is not valid: did you mean 'inline'?"),
        ({"backend": "rai"}, "did you mean 'ray'?"),
        ({"device": "gpu"}, "unknown device 'gpu': expected auto, cpu, cuda or cuda:INDEX"),
        ({"device": "cuda:x"}, "unknown device 'cuda:x'"),
        ({"env_kwargs": 5}, "env_kwargs=5 is not valid: expected a mapping"),
        ({"learner_gpus": -1}, "learner_gpus=-1 is not valid"),
        ({"gamma": 2}, "ppo: gamma=2 is not valid"),
    ],
)
def test_bad_options_are_refused_with_the_valid_choice(given, message):
    with pytest.raises(InputError) as error:
        options(**given)
    assert message in str(error.value)


def test_an_unknown_algorithm_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="unknown algorithm 'pppo': did you mean 'ppo'"):
        resolve("pppo", "CartPole-v1", {})


def test_an_option_of_another_algorithm_is_told_from_one_of_none():
    with pytest.raises(InputError) as error:
        resolve("qrdqn", "CartPole-v1", {"rainbow": "true"})
    assert str(error.value).endswith(
        ". 'rainbow' is an option of dqn. `wiserl list options qrdqn` explains those of qrdqn"
    )
    with pytest.raises(InputError) as error:
        resolve("qrdqn", "CartPole-v1", {"gama": "1"})
    assert "is an option of" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["n_steps: 64\nenv_kwargs: {length: 4}\n", '{"n_steps": 64, "env_kwargs": {"length": 4}}']
)
def test_a_config_file_is_yaml_or_json(tmp_path, text):
    (tmp_path / "c").write_text(text)
    run, config = options(**read_config_file(tmp_path / "c"))
    assert (config.n_steps, run.env_kwargs) == (64, {"length": 4})


@pytest.mark.parametrize(
    ("text", "message"),
    [("- 1\n", "holds a list; expected a mapping"), ("a: [", "neither YAML nor JSON"), (None, "cannot be read")],
)
def test_a_bad_config_file_is_refused_in_one_line(tmp_path, text, message):
    if text is not None:
        (tmp_path / "c").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_config_file(tmp_path / "c")
    assert "\n" not in str(error.value)


def saved_run(folder, hyperparameters=None, **changes):
    run = {
        "algo": "ppo",
        "env": "tests.envs:Chain",
        "runners": 2,
        "envs": 4,
        "seed": 0,
        "sync": True,
        "vector": "inline",
    }
    run |= {"total_steps": 1000, "run_dir": "elsewhere", "env_kwargs": {"length": 4}} | changes
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"run": run, "hyperparameters": hyperparameters or {"gamma": 0.9}}))
    return folder


def test_a_run_is_resumed_with_its_own_options_and_the_changes(tmp_path):
    folder = saved_run(tmp_path / "run")
    algo, env, given = run_options_of(folder, {"total_steps": "5000", "runners": "2", "eval_every": None, "sync": True})
    assert (algo, env) == ("ppo", "tests.envs:Chain")
    run, config = resolve(algo, env, given, use_preset=False)
    assert (run.total_steps, run.runners, run.run_dir, config.gamma) == (5000, 2, str(folder), 0.9)
    assert run.env_kwargs == {"length": 4}


@pytest.mark.parametrize(
    "change", [{"envs": "8"}, {"runners": 3}, {"seed": "1"}, {"sync": False}, {"vector": "process"}]
)
def test_what_a_checkpoint_depends_on_cannot_change_on_resume(tmp_path, change):
    (key, value), *_ = change.items()
    with pytest.raises(InputError, match=rf"--resume with {key}={value}: the run in .* has {key}="):
        run_options_of(saved_run(tmp_path / "run"), change)


def test_a_data_set_cannot_change_on_resume(tmp_path):
    """Its transitions are in the saved replay, or in one beside it."""
    folder = saved_run(tmp_path / "run", {"dataset": "a.npz", "dataset_share": 0.25}, algo="dqn")
    for change in ({"dataset": "b.npz"}, {"dataset": ""}, {"dataset_share": "0"}):
        (key, value), *_ = change.items()
        with pytest.raises(InputError, match=rf"--resume with {key}={value}: the run in .* has {key}="):
            run_options_of(folder, change)
    run_options_of(folder, {"dataset": "a.npz", "dataset_share": "0.25"})


def test_a_folder_without_a_run_or_with_a_broken_one_is_named(tmp_path):
    with pytest.raises(InputError, match="is not a run folder: it has no config"):
        run_options_of(tmp_path, {})
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json' is corrupt"):
        run_options_of(tmp_path, {})


def test_an_env_may_be_a_callable():
    run, _ = resolve("ppo", Chain, {})
    assert run.env is Chain


def test_run_options_are_listed_for_messages():
    assert {"runners", "total_steps", "run_dir"} <= set(RUN_OPTIONS)
    assert not {"algo", "env", "env_kwargs"} & set(RUN_OPTIONS)
