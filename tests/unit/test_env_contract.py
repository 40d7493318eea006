"""wiserl.env.contract: what an env returns that is not what it promised is one clear error, at each reset and step."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile

import numpy as np
import pytest

import wiserl
from tests.hostile_envs import Hostile, HostileAgents
from wiserl.env.vector.choose import make_vector
from wiserl.util.errors import EnvError
from wiserl.util.seeding import episode_seed, first_episode

FAULTS = [
    ("vector", "obs", "one", r"observation of step\(\) of env '.*', copy \d, has shape \(1,\), its space says \(3,\)"),
    ("vector", "obs", "none", r"has shape \(\) \(NoneType\)"),
    ("vector", "space", "none", r"has shape \(7,\), its space says \(3,\)"),
    (
        "vector",
        "reward",
        "number as text",
        r"step\(\) of env '.*', copy \d, gave the reward '1.5' \(str\); expected one number",
    ),
    ("vector", "reward", "two", "gave the reward array"),
    ("vector", "terminated", "text", r"gave terminated = 'False' \(str\); expected a bool: return bool\(terminated\)"),
    ("vector", "truncated", "half", r"gave truncated = 1.7 \(float\); expected a bool"),
    ("vector", "info", "list", r"gave the info \[1.0\] \(list\); expected a dict"),
    ("vector", "short", "none", r"returned 4 values \(ndarray, float, bool, bool\); expected \(observation, reward"),
    ("vector", "all", "none", "returned a NoneType; expected"),
    ("bytes", "obs", "floats", "has dtype float64, its space says uint8"),
    ("bytes", "obs", "shorts", r"has 300 \(dtype uint16\), its space says uint8"),
    ("bytes", "obs", "longs", "has dtype int64, its space says uint8"),
    ("discrete", "obs", "half", "has dtype float64, its space says int64"),
    ("discrete", "obs", "three hundred", "is 300, its space says -1 to 2"),
    ("discrete", "terminated", "text", "gave terminated = 'False'"),
    ("discrete", "short", "none", "returned 4 values"),
    ("multi", "obs", "longs", r"is 300 at index \[0\], its space says 0 to 2"),
    ("binary", "obs", "longs", "has 300"),
    ("dict", "leaf", "one", r"entry 'x' of step\(\) of env '.*', copy \d, has shape \(1,\)"),
    ("dict", "obs", "dict", "lacks 'n'; it has y"),
    ("tuple", "leaf", "floats", "entry '1' of step"),
    ("tuple", "obs", "list", r"entry '1'|has dtype float64|lacks"),
]
AGENT_FAULTS = [
    ({"part": "reward", "fault": "missing"}, "gave no reward of agent b, which acted; it gave those of a"),
    ({"part": "reward", "fault": "unknown"}, "gave no reward of agent b, which acted; it gave those of a, x"),
    ({"part": "terminated", "fault": "missing"}, "gave no termination of agent b"),
    ({"part": "truncated", "fault": "missing"}, "gave no truncation of agent b"),
    ({"part": "terminated", "value": "text"}, r"step\(\) of env '.*', copy \d, agent b, gave terminated = 'False'"),
    ({"part": "reward", "value": "text"}, r"agent b, gave the reward 'False'"),
    ({"part": "obs", "value": "one"}, r"of step\(\) of env '.*', copy \d, agent b, has shape \(1,\)"),
    ({"part": "info", "fault": "not a dict"}, "gave None .* as infos; expected a dict by agent"),
    ({"part": "agents", "fault": "unknown"}, "has agent x in env.agents, which its possible_agents lack: a, b"),
    ({"part": "short"}, "returned 4 values"),
]


def play(env, kwargs, kind="inline", steps=4, envs=2):
    with make_vector(env, kwargs, envs, kind) as vector:
        vector.reset(range(envs))
        for _ in range(steps):
            vector.step(np.zeros((envs, vector.spec.num_agents), np.int64))


@pytest.mark.parametrize(("kind", "part", "value", "said"), FAULTS)
def test_wrong_data_of_a_step_is_refused_with_env_and_entry(kind, part, value, said):
    with pytest.raises(EnvError, match=said):
        play(Hostile, {"kind": kind, "part": part, "value": value})


@pytest.mark.parametrize(("kwargs", "said"), AGENT_FAULTS)
def test_wrong_data_of_one_of_several_agents_is_refused_by_name(kwargs, said):
    with pytest.raises(EnvError, match=said):
        play(HostileAgents, kwargs)


@pytest.mark.parametrize(
    ("env", "kwargs", "said"),
    [
        (Hostile, {"part": "obs", "value": "one"}, r"observation of step\(\) of env '.*', copy 1, has shape \(1,\)"),
        (Hostile, {"kind": "dict", "part": "leaf", "value": "one"}, r"entry 'x' of step\(\) of env '.*', copy 1, has"),
        (HostileAgents, {"part": "reward", "fault": "missing"}, "copy 1, gave no reward of agent b"),
    ],
)
def test_a_worker_process_names_the_env_by_its_number_among_all(env, kwargs, said):
    class OnlyTheSecond(env):
        def reset(self, seed=None, options=None):
            if seed != episode_seed(first_episode(1)):
                self._at = -1
            return super().reset(seed=seed)

    with pytest.raises(EnvError, match=said):
        play(OnlyTheSecond, kwargs, "process")


@pytest.mark.parametrize("at", [1, 7])
@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"part": "obs", "value": "one"}, r"observation of reset\(\) of env '.*', copy 0, has shape \(1,\)"),
        (
            {"part": "obs", "value": "three hundred", "kind": "discrete"},
            r"of reset\(\) .* is 300, its space says -1 to 2",
        ),
        (
            {"part": "short"},
            r"reset\(\) of env '.*', copy 0, returned 1 values \(ndarray\); expected \(observation, info\)",
        ),
        ({"part": "info", "value": "list"}, r"reset\(\) of env '.*', copy 0, gave the info \[1.0\]"),
    ],
)
def test_the_first_reset_and_every_later_one_are_checked(at, kwargs, said):
    with pytest.raises(EnvError, match=said):
        play(Hostile, {"at": at, **kwargs}, steps=8)


@pytest.mark.parametrize("value", ["one", "floats"])
def test_a_final_observation_is_checked_as_any_other(value):
    with pytest.raises(EnvError, match=r"observation of step\(\)"):
        play(Hostile, {"kind": "bytes", "part": "obs", "value": value, "at": 6}, steps=5)


def test_steps_repeated_to_go_on_with_an_episode_are_checked():
    with make_vector(Hostile, {"part": "obs", "value": "one"}, 1, "inline") as vector:
        vector.begin([first_episode(0)])
        with pytest.raises(EnvError, match=r"has shape \(1,\)"):
            vector.advance([np.zeros((4, 1), np.int64)])


@pytest.mark.parametrize(
    ("part", "value"), [("terminated", "true"), ("reward", "one"), ("obs", "as list"), ("info", "none")]
)
def test_what_says_the_same_in_another_type_is_taken(part, value):
    play(Hostile, {"part": part, "value": value}, steps=8)


@pytest.mark.parametrize("vector", ["inline", "process"])
def test_a_run_ends_with_runner_step_env_and_entry_named(tmp_path, vector):
    env = functools.partial(Hostile, part="obs", value="one", at=12, length=100)
    with pytest.raises(EnvError, match=r"^at step 10 of runner 0: observation of step\(\) of env '.*', copy 0, has"):
        wiserl.train("ppo", env, total_steps=64, envs=2, vector=vector, quiet=True, run_dir=tmp_path / "run")


@pytest.mark.parametrize(
    ("env", "settings", "said"),
    [
        ("Hostile", ["env.part=obs", "env.value=one"], "at step 6 of runner 0: observation of step() of env"),
        ("HostileAgents", ["env.part=reward", "env.fault=missing"], "copy 0, gave no reward of agent b, which acted"),
    ],
)  # fmt: skip
def test_the_command_line_says_it_in_one_line_and_exits_with_1(tmp_path, env, settings, said):
    options = [f"--set={setting}" for setting in ("env.at=8", "env.length=50", *settings)]
    command = [
        sys.executable,
        "-m",
        "wiserl",
        "train",
        "ppo",
        f"tests.hostile_envs:{env}",
        "--total-steps",
        "64",
        *options,
    ]
    command += ["--vector", "inline", "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("wiserl: error:") and said in line]


class ClosesBadly(Hostile):
    def close(self):
        raise RuntimeError("the window is gone")


@pytest.mark.parametrize("vector", ["inline", "process"])
def test_an_env_that_raises_in_close_costs_nothing(tmp_path, caplog, vector):
    options = {"total_steps": 64, "envs": 2, "n_steps": 16, "eval_episodes": 1, "vector": vector, "quiet": True}
    summary = wiserl.train("ppo", ClosesBadly, run_dir=tmp_path / "run", **options)
    assert summary["env_steps"] == 64
    assert (tmp_path / "run" / "summary.json").exists()
    if vector == "inline":
        assert "raised RuntimeError in close(): the window is gone" in caplog.text


class GoesAway(Hostile):
    """Changes into a folder that is removed."""

    def reset(self, **options):
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
        return super().reset(**options)


def test_an_env_may_leave_the_process_in_a_folder_that_is_gone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"total_steps": 64, "envs": 2, "n_steps": 16, "eval_episodes": 1, "vector": "inline", "quiet": True}
    assert wiserl.train("ppo", GoesAway, run_dir="run", **options)["run_dir"] == str(tmp_path / "run")


def test_agents_that_are_no_list_are_told():
    class NoAgents(HostileAgents):
        def step(self, actions):
            given = super().step(actions)
            self.agents = None
            return given

    envs = make_vector(NoAgents, {}, 1, "inline")
    envs.reset([0])
    with pytest.raises(EnvError, match="has agents = None; expected a list"):
        envs.step(np.zeros((1, envs.spec.num_agents), np.int64))
