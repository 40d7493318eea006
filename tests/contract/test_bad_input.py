"""Bad input, through the command line: exit code 2 and one line that names the valid choice."""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from wiserl.cli.main import main
from wiserl.run_folder.claim import claim
from wiserl.util.errors import InputError

# Arguments, and what the line has to say: what was given, and what would do.
BAD: list[tuple[str, list[str]]] = [
    ("trian", ["'trian'", "did you mean 'train'?", "check-env, eval, list, play, plot, train"]),
    ("train ppo", ["Missing argument 'ENV'"]),
    (
        "train ppoo CartPole-v1",
        ["unknown algorithm 'ppoo'", "did you mean 'ppo'?", "Valid: ddpg, dqn, ppo, qrdqn, sac"],
    ),
    ("train ppo CartPole-v9", ["'CartPole-v9'", "CartPole-v1"]),
    ("train ppo CartPolee-v1", ["'CartPolee-v1'", "CartPole-v1"]),
    ("train ppo nowhere:make", ["no module 'nowhere'", "module:function"]),
    ("train ppo tests.envs:nan_emv", ["no function 'nan_emv'", "did you mean 'nan_env'?"]),
    ("train ppo mpe2/simple_sprad_v3", ["'mpe2/simple_sprad_v3'", "mpe2/simple_spread_v3"]),
    ("train ppo CartPole-v1 --runer 3", ["'--runer'", "'--runners'"]),
    ("train ppo CartPole-v1 --set learning_rat=1", ["'learning_rat'", "did you mean 'learning_rate'?"]),
    ("train ppo CartPole-v1 --set learning_rate", ["--set learning_rate", "KEY=VALUE"]),
    ("train ppo CartPole-v1 --set learning_rate=abc", ["learning_rate=abc", "float"]),
    ("train ppo CartPole-v1 --set n_steps=1.5", ["n_steps=1.5", "int"]),
    ("train ppo CartPole-v1 --set hidden_sizes=64,x", ["hidden_sizes", "int"]),
    ("train ppo CartPole-v1 --set gamma=1.5", ["gamma=1.5", "<= 1"]),
    ("train ppo CartPole-v1 --set learning_rate=0", ["learning_rate=0", "> 0"]),
    ("train ppo CartPole-v1 --set activation=tan", ["activation=tan", "tanh"]),
    ("train ppo CartPole-v1 --set env.gravity=3", ["'gravity'", "sutton_barto_reward"]),
    ("train ppo CartPole-v1 --total-steps x", ["total_steps=x", "int"]),
    ("train ppo CartPole-v1 --total-steps 0", ["total_steps=0", ">= 1"]),
    ("train ppo CartPole-v1 --runners 0", ["runners=0", ">= 1"]),
    ("train ppo CartPole-v1 --runners two", ["runners=two", "int"]),
    ("train ppo CartPole-v1 --envs -1", ["envs=-1", ">= 1"]),
    ("train ppo CartPole-v1 --seed -1", ["seed=-1", ">= 0"]),
    ("train ppo CartPole-v1 --eval-episodes 0", ["eval_episodes=0", ">= 1"]),
    ("train ppo CartPole-v1 --checkpoint-every -5", ["checkpoint_every=-5", ">= 0"]),
    ("train ppo CartPole-v1 --vector foo", ["vector=foo", "inline"]),
    ("train ppo CartPole-v1 --backend spark", ["backend=spark", "local"]),
    ("train ppo CartPole-v1 --device gpu", ["'gpu'", "cuda"]),
    ("train ppo CartPole-v1 --config nowhere.yaml", ["'nowhere.yaml'", "No such file"]),
    ("train ppo CartPole-v1 --resume nowhere", ["'nowhere'", "config.json"]),
    ("train dqn Pendulum-v1", ["dqn", "Discrete", "ppo does Box"]),
    ("train dqn tests.envs:MultiDiscreteAction", ["dqn", "Discrete"]),
    ("eval nowhere", ["'nowhere'", "run folder"]),
    ("play nowhere", ["'nowhere'", "run folder"]),
    ("plot nowhere", ["nowhere"]),
    ("list agents", ["'agents'", "'algos', 'options', 'presets'"]),
    ("check-env CartPole-v9", ["'CartPole-v9'", "CartPole-v1"]),
    ("train ppo ./my_envs:make", ["'./my_envs:make' names no module", "my_envs:make for my_envs.py"]),
    ("train ppo ..:make", ["'..:make' names no module", "my_envs:make"]),
    ("train ppo :x", ["':x' names no module", "module:function"]),
    ("train ppo :", ["':' names no module", "module:function"]),
    ("train ppo ./x", ["'./x' is not known", "mpe2/simple_spread_v3"]),
    ("train ppo //", ["'//' is not known", "mpe2/simple_spread_v3"]),
    ("train ppo GymV21Environment-v0", ["'GymV21Environment-v0'", "shimmy"]),
    ("train ppo json:loads", ["'json:loads' needs s"]),
    ("train ppo operator:neg", ["'operator:neg'", "by position"]),
    ("train ppo CartPole-v1 --set env=", ["'env' is no option", "env.KEY"]),
    (
        "train ppo CartPole-v1 --set batch_size=9223372036854775808",
        ["batch_size=9223372036854775808", "<= 1000000000000"],
    ),
    ("train ppo CartPole-v1 --set n_steps=9223372036854775807", ["n_steps=9223372036854775807", "<= 1000000000000"]),
    ("train ppo CartPole-v1 --set seed=9223372036854775808", ["seed=9223372036854775808", "<= 9223372036854775807"]),
    ("train ppo CartPole-v1 --set config=x", ["'config' is no option", "--help"]),
    ("train ppo CartPole-v1 --set resume=", ["'resume' is no option"]),
    ("train ppo CartPole-v1 --set quiet=1", ["'quiet' is no option"]),
    ("train ppo CartPole-v1 --set json_summary=1", ["'json_summary' is no option"]),
    ("train ppo CartPole-v1 --set env.x={a:1,a:1}", ["{a:1,a:1}", "twice"]),
    ("train ppo CartPole-v1 --set env.x={1:,}", ["{1:,}", "no text"]),
    ("train ppo CartPole-v1 --set env.x=!!int_a", ["!!int_a"]),
    ("train ppo CartPole-v1 --set env.x=1e999", ["1e999", "out of range"]),
    (f"train ppo CartPole-v1 --set env.x={'[' * 3000}", ["nested more than 32 deep"]),
    ("train ppo CartPole-v1 --run-dir /dev/null", ["'/dev/null' is a file", "--run-dir"]),
    ("train ppo CartPole-v1 --run-dir /dev/null/x", ["'/dev/null' is a file", "--run-dir"]),
    ("train ppo CartPole-v1 --run-dir /proc/nothing", ["'/proc/nothing' cannot be made", "--run-dir"]),
    (f"train ppo CartPole-v1 --run-dir made/{'x' * 300}", ["too long", "--run-dir"]),
    ("train ppo CartPole-v1 --run-dir a\0b", ["null byte", "--run-dir"]),
    (f"plot {'x' * 300}", ["too long"]),
    (f"eval {'x' * 300}", ["too long"]),
    ("train ppo CartPole-v1 --config /dev/zero", ["'/dev/zero' is larger than"]),
    ("train ppo CartPole-v1 --config .", ["'.' cannot be read", "directory"]),
    ("train ppo CartPole-v1 --device cuda:٣", ["'cuda:٣'", "cuda:INDEX"]),
    ("train ppo tests.clumsy:NoEntries", ["Dict() has no entries"]),
    ("train ppo tests.clumsy:NoEntriesInside", ["Dict() has no entries"]),
    ("train ppo tests.clumsy:NoEntriesInTuple", ["Tuple() has no entries"]),
    ("train ppo tests.clumsy:SameNames", ["have the name '1'"]),
    ("train ppo tests.clumsy:SameNamesJoined", ["have the name 'a.b'"]),
    ("train ppo tests.clumsy:NoAgents", ["has no agents", "possible_agents"]),
    ("train ppo tests.clumsy:AgentTwice", ["the agent a twice"]),
    ("train ppo tests.clumsy:AgentOfOddKind", ["the agent ('a', 1)", "text or a number"]),
]


@pytest.mark.parametrize(("arguments", "said"), BAD, ids=[arguments[:80] for arguments, _ in BAD])
def test_bad_input_is_one_line_that_names_the_valid_choice(
    arguments: str, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = told(arguments.split(), tmp_path, monkeypatch, capsys)
    for part in said:
        assert part in line
    assert not list(tmp_path.iterdir()), "something was left in the folder"


@pytest.mark.parametrize("setting", ["n_steps=1000000000000", "hidden_sizes=1000000000,1000000000"])
def test_what_does_not_fit_into_memory_is_one_line_that_names_what_to_lower(
    setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "train",
        "ppo",
        "CartPole-v1",
        "--quiet",
        "--envs",
        "64",
        "--run-dir",
        str(tmp_path / "run"),
        "--set",
        setting,
    ]
    monkeypatch.setattr(sys, "argv", ["wiserl", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("wiserl: error: not enough memory: ")
    assert "lower what is large of envs, n_steps" in line


@pytest.mark.parametrize(
    ("env", "modules", "extra"),
    [
        ("ALE/Pong-v5", ["ale_py"], "atari"),
        ("HalfCheetah-v5", ["mujoco"], "mujoco"),
        ("LunarLander-v3", ["Box2D"], "box2d"),
        ("mpe2/simple_spread_v3", ["mpe2"], "marl"),
    ],
)
def test_a_missing_optional_package_is_named_with_its_extra(
    env: str,
    modules: list[str],
    extra: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in list(sys.modules):
        if name.split(".")[0] in modules or name.startswith(("gymnasium.envs.box2d", "gymnasium.envs.mujoco")):
            monkeypatch.delitem(sys.modules, name)
    find_spec = PathFinder.find_spec
    monkeypatch.setattr(
        PathFinder, "find_spec", lambda name, *args: None if name in modules else find_spec(name, *args)
    )
    assert f"pip install 'wiserl[{extra}]'" in told(["train", "ppo", env], tmp_path, monkeypatch, capsys)


def told(
    arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """What a command that has to fail with 2 says: one line, without a traceback."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["wiserl", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr()
    assert ended.value.code == 2, shown.err
    assert shown.out == ""
    assert shown.err.startswith("wiserl: error: ")
    assert shown.err.count(os.linesep) == 1
    return shown.err


def test_a_run_folder_that_is_a_link_to_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "link").symlink_to("nothing")
    for name in ("link", "link/below"):
        line = told(["train", "ppo", "CartPole-v1", "--run-dir", name], tmp_path, monkeypatch, capsys)
        assert f"'{tmp_path / 'link'}' is a link to nothing; choose another --run-dir" in line
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


@pytest.mark.parametrize("name", ["mine", "mine/below"])
def test_a_run_folder_that_may_not_be_written_is_refused(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir(mode=0o500)
    nobody = 65534
    is_root = os.geteuid() == 0
    try:
        if is_root:
            os.seteuid(nobody)
        with pytest.raises(InputError, match="cannot be made: Permission denied; choose another --run-dir"):
            claim(str(tmp_path / name), False, lambda path: {})
    finally:
        if is_root:
            os.seteuid(0)
    assert list(folder.iterdir()) == []
