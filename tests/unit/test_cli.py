"""The command line: each command does what it says, and the exit code says how it went."""

from __future__ import annotations

import json
import re
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PillowImage

from wiserl.agent.catalogue import algorithm_names
from wiserl.agent.sac import SACConfig
from wiserl.cli import main as command_line
from wiserl.core.config import field_names
from wiserl.experiment.options import RUN_OPTIONS
from wiserl.util.errors import EnvError, InputError, Interrupted

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    """Run a command in this process, in a folder of its own; exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["wiserl", *args])
        code: Any = 0
        try:
            command_line.main()
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return run


TRAIN = [
    "train",
    "ppo",
    "tests.envs:Chain",
    "--total-steps",
    "64",
    "--envs",
    "2",
    "--backend",
    "local",
    "--device",
    "cpu",
]
TRAIN += [
    "--vector",
    "inline",
    "--eval-episodes",
    "2",
    "--set",
    "n_steps=8",
    "--set",
    "hidden_sizes=8",
    "--run-dir",
    "run",
]


@pytest.fixture
def run(cli: Cli) -> Cli:
    """The command line where a run has been trained in `run`."""
    assert cli(*TRAIN, "--quiet")[0] == 0
    return cli


def test_train_prints_a_summary_and_what_to_do_next(cli):
    code, out, _ = cli(*TRAIN)
    assert code == 0
    assert "wiserl play run" in out
    assert json.loads(Path("run/summary.json").read_text())["env_steps"] == 64


def test_train_with_json_ends_in_one_line_of_json(cli):
    code, out, _ = cli(*TRAIN, "--json")
    assert code == 0
    assert json.loads(out.splitlines()[-1])["algo"] == "ppo"


def test_train_takes_all_its_flags_and_reaches_hyper_parameters_and_the_env(cli):
    flags = ["--runners", "2", "--no-sync", "--seed", "7", "--eval-every", "32", "--checkpoint-every", "32", "--quiet"]
    code, _, err = cli(*TRAIN, *flags, "--set", "env.length=4", "--set", "gamma=0.5")
    assert code == 0, err
    config = json.loads(Path("run/config.json").read_text())
    run = config["run"]
    assert (run["runners"], run["sync"], run["seed"], run["eval_every"], run["checkpoint_every"]) == (
        2,
        False,
        7,
        32,
        32,
    )
    assert (run["env_kwargs"], config["hyperparameters"]["gamma"]) == ({"length": 4}, 0.5)


def test_train_resumes(run):
    code, _, err = run("train", "ppo", "tests.envs:Chain", "--resume", "run", "--total-steps", "128", "--quiet")
    assert code == 0, err
    assert json.loads(Path("run/summary.json").read_text())["env_steps"] == 128


def test_the_first_line_names_the_preset_and_no_preset_leaves_it_out(cli):
    small = ["train", "ppo", "CartPole-v1", "--total-steps", "64", "--backend", "local", "--eval-episodes", "1"]
    small += ["--device", "cpu", "--set", "n_epochs=1"]
    code, _, err = cli(*small, "--run-dir", "tuned")
    assert code == 0, err
    assert err.splitlines()[0].startswith("preset: ppo on CartPole-v1 (")
    code, _, err = cli(*small, "--run-dir", "plain", "--no-preset", "--vector", "inline")
    assert code == 0, err
    assert "preset" not in err
    tuned, plain = (json.loads(Path(f"{name}/config.json").read_text()) for name in ("tuned", "plain"))
    assert (tuned["hyperparameters"]["gamma"], plain["hyperparameters"]["gamma"]) == (0.98, 0.99)
    code, _, err = cli("train", "ppo", "CartPole-v1", "--resume", "tuned", "--total-steps", "128")
    assert code == 0, err
    assert "preset" not in err, "a resumed run has the options of its folder"
    code, _, err = cli("train", "ppo", "CartPole-v1", "--resume", "tuned", "--no-preset")
    assert code == 2
    assert "has preset=True; train anew" in err


def test_train_reads_a_config_file_and_flags_win(cli):
    Path("c.yaml").write_text("seed: 3\ngamma: 0.25\nenvs: 4\n")
    assert cli(*TRAIN, "--config", "c.yaml", "--quiet")[0] == 0
    config = json.loads(Path("run/config.json").read_text())
    assert (config["run"]["seed"], config["run"]["envs"], config["hyperparameters"]["gamma"]) == (3, 2, 0.25)


def test_eval_says_how_good_a_checkpoint_is(run):
    code, out, _ = run("eval", "run", "--episodes", "3", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["episodes"], found["checkpoint_env_steps"], len(found["eval_returns"])) == (3, 64, 3)
    code, out, _ = run("eval", "run", "--checkpoint", "best")
    assert code == 0
    assert out.startswith("ppo on tests.envs:Chain after")
    assert "over 20 episodes" in out
    first, twin = (run("eval", "run", "--stochastic", "--episodes", "5", "--json")[1] for _ in range(2))
    assert first == twin, "seeded"


def test_play_writes_a_video(run):
    code, out, _ = run("play", "run", "--video", "play.gif", "--episodes", "2")
    assert code == 0
    assert out.startswith("return ")
    assert "video: play.gif" in out
    with PillowImage.open("play.gif") as video:
        assert video.size == (80, 16)
        assert video.n_frames > 1


def test_play_without_a_display_says_so_instead_of_playing_unseen(run, monkeypatch):
    for name in ("SDL_VIDEODRIVER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    said = "wiserl: error: there is no display to open a window on (neither DISPLAY nor WAYLAND_DISPLAY is set): "
    assert run("play", "run") == (2, "", f"{said}write a video by --video FILE.gif\n")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    code, _, err = run("play", "run")
    assert code == 2
    assert "window on (SDL_VIDEODRIVER=dummy): write a video" in err
    assert run("play", "run", "--video", "play.gif")[0] == 0


def test_play_refuses_an_env_that_draws_no_window(run, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "")
    monkeypatch.setenv("DISPLAY", ":0")
    code, _, err = run("play", "run")
    assert code == 2
    assert "env 'tests.envs:Chain' draws no window (its render modes: rgb_array)" in err


def test_plot_draws_the_curve_where_it_was_asked_for(run):
    assert run("plot", "run") == (0, "run/curve.png\n", "")
    assert Path("run/curve.png").read_bytes()[:4] == b"\x89PNG"
    assert run("plot", "run", "--out", "c.svg", "--y", "losses/value_loss")[0] == 0
    assert "<svg" in Path("c.svg").read_text()


def test_the_module_is_a_command_as_well(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["wiserl", "no-such-command"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as end:
        runpy.run_path(command_line.__file__, run_name="__main__")
    assert end.value.code == 2
    assert "no command 'no-such-command'" in capsys.readouterr().err


def test_list_names_algorithms_and_presets(cli):
    code, out, _ = cli("list", "algos")
    assert code == 0
    listed, _, said_of_all = out.partition("\n\n")
    assert [line.split()[0] for line in listed.splitlines()[::2]] == algorithm_names()
    assert all("actions: " in line for line in listed.splitlines()[1::2])
    assert "Each takes any observation" in said_of_all
    assert "`wiserl list options ALGO`" in said_of_all
    code, out, _ = cli("list", "presets")
    assert code == 0
    assert "CartPole-v1" in out


def test_list_options_says_of_each_option_what_it_is(cli):
    code, out, _ = cli("list", "options", "sac")
    assert code == 0
    algorithm, run = (
        {line.split()[0]: line for line in part.splitlines()} for part in out.split("\n\nOptions of any run")
    )
    assert set(field_names(SACConfig)) <= set(algorithm)
    assert set(RUN_OPTIONS) <= set(run)
    columns = ["ent_coef", "auto", "number ≥ 0 or auto", "the temperature: a number, or learned"]
    assert re.split(r" {2,}", algorithm["ent_coef"].strip()) == columns
    assert "actions are in [-1, 1]" in algorithm["noise_std"]
    assert cli("list", "options", "tests.algorithms:RememberingDQN")[0] == 0


def test_check_env_lists_problems_with_what_to_do_and_exits_with_1(cli):
    assert cli("check-env", "tests.envs:Chain", "--set", "length=4")[:2] == (
        0,
        "'tests.envs:Chain': nothing found; a resumed run continues its episodes exactly\nno action masks\n",
    )
    code, out, _ = cli("check-env", "tests.envs:nan_env", "--set", "env.step=2")
    assert code == 1
    assert out.startswith("1. ")
    assert "nan" in out.lower()


def test_without_a_command_the_commands_are_shown(cli):
    code, out, _ = cli()
    assert code == 0
    assert all(name in out for name in ("train", "eval", "play", "plot", "list", "check-env"))


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("that is\nno env"), 2, "wiserl: error: that is no env\n"),
        (EnvError("NaN at step 3"), 1, "wiserl: error: NaN at step 3\n"),
        (Interrupted(signal.SIGTERM), 143, ""),
        (Interrupted(signal.SIGINT), 130, ""),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_the_exit_code_says_how_it_ended(cli, monkeypatch, error, code, said):
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr("wiserl.experiment.experiment.train", fail)
    assert cli("train", "ppo", "CartPole-v1") == (code, "", said)


def test_a_users_own_error_comes_with_its_traceback(cli, monkeypatch):
    def fail(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError("mine")

    monkeypatch.setattr("wiserl.experiment.experiment.train", fail)
    with pytest.raises(ZeroDivisionError, match="mine"):
        cli("train", "ppo", "CartPole-v1")


@pytest.mark.parametrize("code", [None, 0, 3])
def test_a_sys_exit_in_a_users_code_is_no_end_of_a_command(cli, monkeypatch, code):
    def leave(*args: Any, **kwargs: Any) -> None:
        raise SystemExit(code)

    monkeypatch.setattr("wiserl.experiment.experiment.train", leave)
    ended, _, err = cli("train", "ppo", "CartPole-v1")
    assert ended == 1
    assert "in leave" in err, "the traceback says where"
    assert f"called sys.exit({code})" in err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["tran"], "no command 'tran': did you mean 'train'?"),
        (["train", "ppo"], "Missing argument 'ENV'"),
        (["train", "ppo", "X", "--set", "gamma"], "--set gamma: expected KEY=VALUE"),
        (["train", "ppo", "CartPole-v1", "--nonsense", "1"], "--nonsense"),
        (["list", "everything"], "'everything' is not one of 'algos', 'options', 'presets'"),
        (["list", "options"], "list options: of which algorithm? Give one of ddpg, dqn"),
        (["list", "options", "dqm"], "unknown algorithm 'dqm': did you mean 'dqn'?"),
        (["list", "algos", "dqn"], "expected `wiserl list algos` alone, or `wiserl list options dqn`"),
        (["eval", "run", "--episodes", "0"], "is neither a run folder nor a checkpoint"),
    ],
)
def test_a_mistyped_command_is_one_line(cli, args, said):
    code, out, err = cli(*args)
    assert (code, out) == (2, "")
    assert err.startswith("wiserl: error: ")
    assert said in err
    assert err.count("\n") == 1
