"""What a run names is imported only where this user trained the run, named it, or trusts whoever did."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
from click.testing import CliRunner

import wiserl
from wiserl.cli.main import cli
from wiserl.env.registered import is_registered
from wiserl.run_folder.checkpoint import open_checkpoint
from wiserl.run_folder.sealed import sealed_text
from wiserl.run_folder.signature import is_signed, key_file, sign
from wiserl.util.errors import InputError

WISERL = Path(sys.executable).with_name("wiserl")
PAST = Path(__file__).parents[1] / "past" / "format_2"
SMALL = {
    "total_steps": 64,
    "envs": 2,
    "vector": "inline",
    "eval_episodes": 1,
    "quiet": True,
    "n_steps": 8,
    "hidden_sizes": (4,),
}


@pytest.fixture
def booby(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that leaves a trace when it is imported, in the current folder."""
    (tmp_path / "booby.py").write_text(
        "import pathlib\npathlib.Path('ran').touch()\ndef make(**kwargs):\n    pathlib.Path('called').touch()\n"
    )
    shutil.copytree(tmp_path, tmp_path / "boobies")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield "booby"
    for name in ("booby", "boobies", "boobies.booby"):
        sys.modules.pop(name, None)


def ran() -> bool:
    return Path("ran").exists() or Path("called").exists()


def foreign(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A run of somebody else's who has changed its manifest, and sealed it anew."""
    shutil.copytree(PAST / "ppo", folder, symlinks=True)
    path = folder / "checkpoints" / "step_64" / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(sealed_text(manifest))
    return folder


def command(*arguments: object) -> tuple[int, str]:
    """Exit code and message of a command line; a traceback fails the test."""
    result = CliRunner().invoke(cli, list(map(str, arguments)))
    if isinstance(result.exception, InputError):
        return 2, str(result.exception)
    assert result.exception is None, result.exception
    return 0, result.output


@pytest.mark.parametrize(
    "env", ["booby:make", "booby:Env-v0", "boobies/booby", "os:system", "ALE/booby", ":make", "booby:"]
)
@pytest.mark.parametrize("task", ["eval", "play"])
def test_the_env_of_a_foreign_run_is_not_imported(task: str, env: str, booby: str) -> None:
    kwargs = {"command": "touch called"}
    run = foreign(Path("run"), lambda manifest: manifest.update(env=env, env_kwargs=kwargs))
    code, said = command(task, run, *(["--video", "v.gif"] if task == "play" else []))
    assert (code, ran()) == (2, False)
    if not env.startswith("ALE/"):  # that one is no game; whether ale_py is there decides which line is said
        assert f"env '{env}'" in said
        assert f"--env {env}" in said
        assert "--trust" in said
    assert wiserl.load(run).choose_action(np.zeros(4, np.float32)) in (0, 1)  # acting needs no env
    assert not ran()


@pytest.mark.parametrize("env", ["GymV26Environment-v0", "GymV21Environment-v0"])
def test_a_registered_env_that_makes_others_by_name_is_not_made(env: str, booby: str) -> None:
    run = foreign(Path("run"), lambda manifest: manifest.update(env=env, env_kwargs={"env_id": "booby:Env-v0"}))
    assert "--trust" in command("eval", run)[1]
    assert not ran()


@pytest.mark.parametrize("what", ["algo", "net"])
def test_an_algorithm_or_network_of_a_foreign_run_is_not_imported(what: str, booby: str) -> None:
    def change(manifest: dict[str, Any]) -> None:
        (manifest if what == "algo" else manifest["config"])[what] = "booby:make"

    run = foreign(Path("run"), change)
    with pytest.raises(InputError, match=r"'booby:make'.*trust=True"):
        wiserl.load(run)
    assert command("eval", run)[0] == 2
    assert command("play", run, "--video", "v.gif")[0] == 2
    assert not ran()
    with pytest.raises(Exception, match=r"algorithm|nn\.Module|positional"):
        wiserl.load(run, trust=True)  # imported, and then found to be neither
    assert ran()


def test_a_forged_or_copied_signature_does_not_count(booby: str) -> None:
    signature = sign({"algo": "ppo", "env": "other:make", "env_kwargs": {}, "net": "auto"})
    for forged in (signature, "0" * 64, "", 7, None, "é"):
        shutil.rmtree("run", ignore_errors=True)
        run = foreign(Path("run"), lambda manifest, it=forged: manifest.update(env="booby:make", signature=it))
        assert command("eval", run)[0] == 2
    assert not ran()


def train(folder: Path, **options: Any) -> dict[str, Any]:
    return wiserl.train("ppo", options.pop("env", "tests.envs:Chain"), run_dir=folder, **{**SMALL, **options})


def test_a_run_of_ones_own_opens_without_a_question_and_elsewhere_when_its_user_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    train(run, network="tests.networks:Wide", env_kwargs={"length": 4})
    assert command("eval", run)[0] == 0
    assert wiserl.train("ppo", "tests.envs:Chain", resume=run, total_steps=128, quiet=True)["env_steps"] == 128

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "somebody"))
    with pytest.raises(InputError, match=r"network 'tests.networks:Wide', which runs when it is opened"):
        wiserl.load(run)
    assert command("eval", run, "--trust")[0] == 0
    with pytest.raises(InputError, match=r"--net tests.networks:Wide \(network="):
        wiserl.train("ppo", "tests.envs:Chain", resume=run, total_steps=192, quiet=True)
    assert open_checkpoint(run).manifest["env_steps"] == 128
    resumed = wiserl.train(
        "ppo", "tests.envs:Chain", resume=run, network="tests.networks:Wide", total_steps=192, quiet=True
    )
    assert resumed["env_steps"] == 192
    assert command("eval", run)[0] == 0, "it was trained here now"


def test_what_is_named_is_trusted_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path / "env")
    wiserl.train("tests.algorithms:DQN", "tests.envs:Chain", run_dir=tmp_path / "algo", learning_starts=8,
                 **{key: value for key, value in SMALL.items() if key != "n_steps"})  # fmt: skip
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "somebody"))
    monkeypatch.setattr("wiserl.agent.catalogue._given", {})
    assert command("eval", tmp_path / "env")[0] == 2
    assert command("eval", tmp_path / "env", "--env", "tests.envs:Chain")[0] == 0
    named = ("--algo", "tests.algorithms:DQN")
    assert "algorithm 'tests.algorithms:DQN'" in command("eval", tmp_path / "algo")[1]
    assert "env 'tests.envs:Chain'" in command("eval", tmp_path / "algo", *named)[1]
    assert command("eval", tmp_path / "algo", *named, "--env", "tests.envs:Chain")[0] == 0
    assert command("eval", tmp_path / "algo", "--trust")[0] == 0
    assert wiserl.load(tmp_path / "algo", algo="tests.algorithms:DQN").act(np.zeros((1, 1, 5), np.float32)).shape == (
        1,
        1,
    )


def test_an_env_of_other_spaces_is_refused_in_a_line(tmp_path: Path) -> None:
    shutil.copytree(PAST / "ppo", tmp_path / "run", symlinks=True)
    for env in ("Pendulum-v1", "MountainCar-v0"):
        for arguments in (["eval"], ["play", "--video", tmp_path / "v.gif"]):
            code, said = command(*arguments, tmp_path / "run", "--env", env)
            assert code == 2
            assert f"env '{env}'" in said


def test_the_key_is_for_its_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    before = os.umask(0)
    try:
        signature = sign({"a": (1, 2)})
    finally:
        os.umask(before)
    assert key_file().stat().st_mode & 0o777 == 0o600
    assert [path.name for path in key_file().parent.iterdir()] == ["key"]
    assert is_signed({"a": [1, 2]}, signature)
    assert not is_signed({"a": [1, 3]}, signature)
    key_file().chmod(0o640)
    with pytest.raises(InputError, match=r"0640.*expected mode 0600"):
        is_signed({"a": [1, 2]}, signature)
    key_file().chmod(0o600)
    key_file().write_bytes(b"short")
    with pytest.raises(InputError, match="5 bytes"):
        sign({})


def test_a_user_without_a_folder_for_the_key_is_told_and_trains_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file" / "config"))
    assert train(tmp_path / "run")["eval_return_mean"] is not None
    assert "cannot be signed as yours" in caplog.text
    assert "--trust" in command("eval", tmp_path / "run")[1]


def test_two_who_make_the_first_key_at_once_have_the_same(tmp_path: Path) -> None:
    script = "from wiserl.run_folder.signature import sign; print(sign({'a': 1}))"
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}
    started = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment, text=True)
        for _ in range(4)
    ]
    assert len({process.communicate(timeout=60)[0] for process in started}) == 1


def test_which_envs_are_registered() -> None:
    for env in (
        "CartPole-v1",
        "tabular/CliffWalking-v0",
        "mpe2/simple_spread_v3",
        "pettingzoo/butterfly/knights_v1",
        "Nothing-v0",
    ):
        assert is_registered(env), env
    for env in (
        "os:system",
        "wiserl.env.goals:BitFlip",
        "my/env",
        "mpe2/../os",
        "gymnasium:CartPole-v1",
        "mpe2:x",
        "/tmp/x",
    ):
        assert not is_registered(env), env


# ---- hashes


def test_a_flipped_bit_in_any_byte_of_manifest_and_config_is_named(tmp_path: Path) -> None:
    shutil.copytree(PAST / "ppo", tmp_path / "run", symlinks=True)
    checkpoint = tmp_path / "run" / "checkpoints" / "step_64"
    for file, read in (
        (checkpoint / "manifest.json", lambda: open_checkpoint(checkpoint)),
        (
            tmp_path / "run" / "config.json",
            lambda: wiserl.train("ppo", "CartPole-v1", resume=tmp_path / "run", quiet=True),
        ),
    ):
        whole = file.read_bytes()
        for at in range(len(whole)):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << at % 8
            file.write_bytes(damaged)
            with pytest.raises(InputError, match=file.name) as error:
                read()
            assert "\n" not in str(error.value)
        file.write_bytes(whole)
        read()


def test_a_checkpoint_of_another_env_does_not_resume(tmp_path: Path) -> None:
    """Of equal shapes, so that nothing else would tell."""
    train(tmp_path / "mine", env="tests.envs:Chain", env_kwargs={"length": 5})
    train(tmp_path / "other", env="tests.envs:Chain", env_kwargs={"length": 5})
    folder = tmp_path / "mine" / "checkpoints" / "step_64"
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "other" / "checkpoints" / "step_64", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(sealed_text({**manifest, "env": "tests.envs:Other"}))
    with pytest.raises(
        InputError, match=r"saved by ppo on tests\.envs:Other, this run trains ppo on tests\.envs:Chain"
    ):
        wiserl.train("ppo", "tests.envs:Chain", resume=tmp_path / "mine", total_steps=128, quiet=True)


def test_a_checkpoint_of_the_same_env_with_other_arguments_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path / "run", env="CartPole-v1")
    wiserl.train(
        "ppo",
        "CartPole-v1",
        resume=tmp_path / "run",
        total_steps=128,
        quiet=True,
        env_kwargs={"sutton_barto_reward": True},
    )
    assert (
        "trained with env_kwargs={}, this run goes on with env_kwargs={'sutton_barto_reward': True}"
        in capsys.readouterr().err
    )


def test_the_hash_of_a_file_is_that_of_the_rest_of_its_text() -> None:
    text = sealed_text({"format": 2, "a": "é", "blake2b": "old"})
    value = json.loads(text)
    assert (list(value), value["a"]) == (["format", "a", "blake2b"], "é")
    assert hashlib.blake2b(text.replace(value["blake2b"], "").encode()).hexdigest() == value["blake2b"]


@pytest.mark.parametrize("arguments", [("eval", "."), ("plot", "."), ("list", "algos")])
def test_modules_that_lie_in_the_current_folder_are_not_run(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """As where somebody changes into a run that was sent to them."""
    shutil.copytree(PAST / "ppo", tmp_path / "run", symlinks=True)
    for module in ("torch", "gymnasium", "numpy", "matplotlib"):
        (tmp_path / "run" / f"{module}.py").write_text(f"open({str(tmp_path / 'called')!r}, 'w')")
    done = subprocess.run([WISERL, *arguments], cwd=tmp_path / "run", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "called").exists()


def test_a_module_that_is_named_is_that_of_the_current_folder(tmp_path: Path) -> None:
    """Whatever is installed by that name: `test` is a module of Python's."""
    (tmp_path / "test.py").write_text("from tests.envs import BoxObs\n")
    done = subprocess.run([WISERL, "check-env", "test:BoxObs"], cwd=tmp_path, capture_output=True, text=True)
    assert "nothing found" in done.stdout, done.stderr


def test_weights_that_are_nan_are_told(tmp_path: Path) -> None:
    run = shutil.copytree(PAST.parent / "format_1_last" / "ppo", tmp_path / "run", symlinks=True)
    file = next(run.glob("checkpoints/step_*/weights.safetensors"))
    weights = {name: tensor * math.nan for name, tensor in safetensors.torch.load_file(file).items()}
    safetensors.torch.save_file(weights, file)
    manifest = file.with_name("manifest.json")
    content = json.loads(manifest.read_text())
    digest = hashlib.blake2b(file.read_bytes()).hexdigest()
    content["files"][file.name] = {"bytes": file.stat().st_size, "blake2b": digest}
    manifest.write_text(json.dumps(content))
    with pytest.raises(InputError, match="has weights that are infinite or NaN"):
        wiserl.load(run)
