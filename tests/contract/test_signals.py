"""Ctrl-C, SIGTERM and SIGHUP, at any time: the run ends with the signal's exit code, saved, and leaves no process."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import wiserl
from tests.contract.harness import Command, tiny, train_command, wait_for

ENDLESS = 100_000_000


def begin(launch: Any, run_dir: Path, backend: str, **changes: Any) -> Command:
    options = tiny("ppo", total_steps=ENDLESS, checkpoint_every=1024, backend=backend, **changes)
    return launch(*train_command("ppo", "CartPole-v1", run_dir, options))


def saved_steps(run_dir: Path) -> int:
    manifest = run_dir / "checkpoints" / "last" / "manifest.json"
    return int(json.loads(manifest.read_text())["env_steps"]) if manifest.exists() else 0


def assert_resumes(run_dir: Path) -> None:
    """From what was saved, and not from the start."""
    steps = saved_steps(run_dir)
    summary = wiserl.train(
        "ppo",
        "CartPole-v1",
        resume=run_dir,
        total_steps=steps + 512,
        backend="local",
        eval_every=0,
        eval_episodes=1,
        quiet=True,
    )
    assert steps > 0
    assert summary["env_steps"] == steps + 512


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("vector", ["inline", "process"])
def test_a_signal_ends_a_local_run_saved_and_leaves_no_process(
    launch: Any, tmp_path: Path, signum: int, vector: str
) -> None:
    command = begin(launch, tmp_path / "run", "local", vector=vector, runners=1)
    wait_for(lambda: saved_steps(tmp_path / "run"), "a checkpoint")
    command.signal(signum, whole_group=signum == signal.SIGINT or vector == "process")
    assert command.finish() == 128 + signum, command.output
    assert not command.left_behind()
    assert f"--resume {tmp_path / 'run'}" in " ".join(command.output.split())
    assert_resumes(tmp_path / "run")


@pytest.mark.ray
@pytest.mark.parametrize("signum", [signal.SIGINT, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)])
def test_what_a_terminal_sends_to_all_ends_a_run_on_its_own_cluster_saved_and_leaves_no_process(
    launch: Any, tmp_path: Path, no_cluster: None, signum: int
) -> None:
    command = begin(launch, tmp_path / "run", "ray", vector="process")
    wait_for(lambda: saved_steps(tmp_path / "run"), "a checkpoint")
    command.signal(signum, whole_group=True)
    assert command.finish() == 128 + signum, command.output
    assert not command.left_behind()
    assert_resumes(tmp_path / "run")


@pytest.mark.ray
def test_sigterm_during_an_evaluation_ends_a_run_on_its_own_cluster_saved_and_leaves_no_process(
    launch: Any, tmp_path: Path, no_cluster: None
) -> None:
    command = begin(launch, tmp_path / "run", "ray", runners=1, eval_every=512, eval_episodes=1_000_000)
    wait_for((tmp_path / "run" / "checkpoints" / "step_512").exists, "the checkpoint that is evaluated")
    wait_for(lambda: saved_steps(tmp_path / "run"), "a checkpoint to resume from")
    command.signal(signal.SIGTERM)
    assert command.finish() == 143, command.output
    assert not command.left_behind()
    assert_resumes(tmp_path / "run")


@pytest.mark.ray
def test_sigterm_ends_a_users_script_on_its_own_cluster_and_leaves_no_process(
    launch: Any, tmp_path: Path, no_cluster: None
) -> None:
    command = launch(sys.executable, Path(__file__).parent / "scripts" / "user_ddpg.py", "--episodes", "1000000")
    wait_for(lambda: (tmp_path / "running-0").exists() and (tmp_path / "running-1").exists(), "both runners at work")
    command.signal(signal.SIGTERM)
    # 1 where Ray's own code, which is not told the number, was waiting
    assert command.finish() in (1, 143), command.output
    assert not command.left_behind()


@pytest.mark.slow  # `test_five_signals_in_half_a_second_leave_no_actor_on_a_cluster` is a run that joined one as well
@pytest.mark.ray
def test_a_signal_ends_a_run_that_joined_a_cluster_and_leaves_the_cluster(
    launch: Any, tmp_path: Path, cluster: Any
) -> None:
    command = begin(launch, tmp_path / "run", "ray", sync=False)
    wait_for(lambda: saved_steps(tmp_path / "run"), "a checkpoint")
    assert len(cluster.worker_pids("_RunnerActor")) == 2, command.output
    command.signal(signal.SIGTERM)
    assert command.finish() == 143, command.output
    assert not command.left_behind()
    for kind in ("_RunnerActor", "_LearnerActor", "_Keeper"):
        wait_for(lambda kind=kind: not cluster.worker_pids(kind), f"the end of every {kind}")
    assert_resumes(tmp_path / "run")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_start_up_ends_a_local_run_and_the_same_command_resumes_it(
    launch: Any, tmp_path: Path, signum: int
) -> None:
    folder = tmp_path / "run"
    command = begin(launch, folder, "local")
    wait_for((folder / "config.json").exists, "the run folder")
    command.signal(signum)
    assert command.finish() == 128 + signum, command.output
    assert not command.left_behind()
    steps = saved_steps(folder)  # none, if it had not begun to train
    summary = wiserl.train(
        "ppo", "CartPole-v1", resume=folder, total_steps=steps + 512, eval_episodes=1, quiet=True, backend="local"
    )
    assert summary["env_steps"] == steps + 512


@pytest.mark.ray
@pytest.mark.parametrize(("delay", "signum"), [(0.5, signal.SIGINT), (3.5, signal.SIGTERM)])
def test_a_signal_during_start_up_on_ray_leaves_no_process(
    launch: Any, tmp_path: Path, no_cluster: None, delay: float, signum: int
) -> None:
    command = begin(launch, tmp_path / "run", "ray", runners=1)
    wait_for((tmp_path / "run" / "config.json").exists, "the run folder")
    time.sleep(delay)
    command.signal(signum, whole_group=signum == signal.SIGINT)
    assert command.finish() == 128 + signum, command.output
    assert not command.left_behind()


TERMINATED_AS_RAY_CONNECTS = """
import ctypes, os, signal, threading, time
import wiserl

handler = ctypes.create_string_buffer(256)

def installed():
    ctypes.CDLL(None).sigaction(signal.SIGTERM, None, handler)
    return handler.raw[:8]

def terminate(before):
    while installed() == before:
        time.sleep(0.0005)
    os.kill(os.getpid(), signal.SIGTERM)

signal.signal(signal.SIGTERM, lambda signum, frame: None)  # the C handler is Python's from here on
threading.Thread(target=terminate, args=(installed(),), daemon=True).start()
try:
    wiserl.train("ppo", "CartPole-v1", total_steps=100_000_000, backend="ray", quiet=True, run_dir=RUN_DIR)
except KeyboardInterrupt:
    time.sleep(4)  # Ray's alarm aborts after 3 s
    print("interrupted")
"""


@pytest.mark.ray
def test_sigterm_in_the_instant_in_which_ray_connects(launch: Any, tmp_path: Path, no_cluster: None) -> None:
    """Ray's C++ has put its own handler in place of ours then, and Python's shows it only to the kernel."""
    script = TERMINATED_AS_RAY_CONNECTS.replace("RUN_DIR", repr(str(tmp_path / "run")))
    command = launch(sys.executable, "-c", script)
    assert command.finish(60.0) == 0, command.output
    assert command.output.endswith("interrupted\n"), command.output
    assert not command.left_behind()


def test_a_signal_interrupts_an_evaluation_on_the_way_and_the_run_ends_saved(launch: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = begin(launch, folder, "local", eval_every=512, eval_episodes=1_000_000)
    wait_for((folder / "checkpoints" / "step_512").exists, "the checkpoint that is evaluated")
    time.sleep(0.5)
    command.signal(signal.SIGTERM)
    assert command.finish(30.0) == 143, command.output
    assert_resumes(folder)


def test_a_signal_interrupts_the_final_evaluation_of_a_trained_policy(launch: Any, tmp_path: Path) -> None:
    options = tiny("ppo", total_steps=512, eval_episodes=1_000_000, backend="local")
    args = train_command("ppo", "CartPole-v1", tmp_path / "run", options)
    args.remove("--quiet")
    command = launch(*args)
    wait_for(lambda: "evaluating the final policy" in command.output, "the final evaluation")
    command.signal(signal.SIGINT)
    assert command.finish(30.0) == 130, command.output
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["env_steps"] == 512
    assert summary["eval_return_mean"] is None


def test_a_second_signal_does_not_wait_for_the_first(launch: Any, tmp_path: Path) -> None:
    (tmp_path / "closed").touch()
    options = tiny("ppo", total_steps=ENDLESS, backend="local", runners=1, **{"env.folder": tmp_path, "env.after": 5})
    command = launch(*train_command("ppo", "tests.contract.envs:gated", tmp_path / "run", options))
    wait_for((tmp_path / f"waiting-{command.pid}").exists, "the env in the midst of a step")
    command.signal(signal.SIGINT)
    time.sleep(0.3)
    assert command.process.poll() is None
    os.kill(command.pid, signal.SIGINT)
    assert command.finish(20.0) == 130, command.output


def test_a_signal_that_is_ignored_from_the_start_stays_so(launch: Any, tmp_path: Path) -> None:
    """As under `nohup`."""
    options = tiny("ppo", total_steps=ENDLESS, checkpoint_every=1024, backend="local")
    args = train_command("ppo", "CartPole-v1", tmp_path / "run", options)
    command = launch("sh", "-c", 'trap "" HUP; exec "$@"', "sh", *args)
    steps = wait_for(lambda: saved_steps(tmp_path / "run"), "a checkpoint")
    command.signal(signal.SIGHUP)
    wait_for(lambda: saved_steps(tmp_path / "run") > steps, "a later checkpoint")
    command.signal(signal.SIGTERM)
    assert command.finish() == 143, command.output


@pytest.mark.parametrize("backend", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_a_closed_reader_of_stderr_ends_a_run_saved(
    launch: Any, tmp_path: Path, no_cluster: None, backend: str
) -> None:
    options = tiny("ppo", total_steps=ENDLESS, checkpoint_every=1024, backend=backend, runners=1)
    args = [arg for arg in train_command("ppo", "CartPole-v1", tmp_path / "run", options) if arg != "--quiet"]
    script = f'"$@" 2> >(until [ -e "{tmp_path}/leave" ]; do sleep 0.1; done); echo "code $?"'
    command = launch("bash", "-c", script, "bash", *args)
    wait_for(lambda: saved_steps(tmp_path / "run"), "a checkpoint")
    (tmp_path / "leave").touch()
    command.finish()
    assert f"code {128 + signal.SIGPIPE}" in command.output
    assert "Traceback" not in command.output
    assert not command.left_behind()
    assert_resumes(tmp_path / "run")


@pytest.mark.ray
def test_five_signals_in_half_a_second_leave_no_actor_on_a_cluster(launch: Any, tmp_path: Path, cluster: Any) -> None:
    command = begin(launch, tmp_path / "run", "ray")
    wait_for(lambda: saved_steps(tmp_path / "run"), "a checkpoint")
    for _ in range(5):
        command.signal(signal.SIGINT)
        time.sleep(0.1)
    assert command.finish() == 130, command.output
    assert not command.left_behind()
    for kind in ("_RunnerActor", "_LearnerActor", "_Keeper"):
        wait_for(lambda kind=kind: not cluster.worker_pids(kind), f"the end of every {kind}")
    assert_resumes(tmp_path / "run")


@pytest.mark.ray
def test_a_stopped_raylet_does_not_hold_a_run_that_is_to_end(launch: Any, tmp_path: Path, no_cluster: None) -> None:
    command = begin(launch, tmp_path / "run", "ray", runners=1)
    wait_for(lambda: saved_steps(tmp_path / "run"), "a checkpoint")
    child(command, "raylet").suspend()
    command.signal(signal.SIGINT)
    time.sleep(0.5)
    command.signal(signal.SIGINT)
    assert command.finish(30.0) == 130, command.output
    assert "Ray did not answer" in command.output
    assert_resumes(tmp_path / "run")


@pytest.mark.ray
def test_when_rays_head_dies_the_run_ends_and_says_how_to_go_on(launch: Any, tmp_path: Path, no_cluster: None) -> None:
    command = begin(launch, tmp_path / "run", "ray", runners=1)
    wait_for(lambda: saved_steps(tmp_path / "run"), "a checkpoint")
    child(command, "gcs_server").kill()
    assert command.finish(30.0) == 1, command.output
    last = " ".join(command.output.splitlines()[-1].split())
    assert last.startswith("wiserl: error: the head process of the Ray cluster")
    assert f"the checkpoint of env step {saved_steps(tmp_path / 'run'):,} stays" in last
    assert f"--resume {tmp_path / 'run'}" in last
    assert "Traceback" not in command.output
    assert not command.left_behind()
    assert_resumes(tmp_path / "run")


def child(command: Command, name: str) -> psutil.Process:
    return next(process for process in psutil.Process(command.pid).children() if process.name().startswith(name))
