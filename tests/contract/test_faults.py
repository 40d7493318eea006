"""What breaks in mid-run: it is fixed or told, with its traceback, and never a hang."""

from __future__ import annotations

import csv
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import wiserl
from tests.contract.agents import Failing, Placer, Stepper, Tally
from tests.contract.conftest import started_cluster
from tests.contract.harness import GATED, tiny, train_command, wait_for
from wiserl import WiseRL
from wiserl.cli.main import main
from wiserl.transport.cluster import find_cluster
from wiserl.transport.token import check_token
from wiserl.util.errors import ActorLost, Diverged, InputError, PlacementError, WaitTimeout

BACKENDS = ["local", pytest.param("ray", marks=pytest.mark.ray)]


@pytest.fixture
def on(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """The name of a backend, with the cluster to join if it is ray."""

    def prepare(backend: str) -> str:
        if backend == "ray":
            request.getfixturevalue("cluster")
        return backend

    return prepare


class Meanwhile(threading.Thread):
    """Does something beside a run in the main thread, and passes on what went wrong."""

    def __init__(self, action: Callable[[], None]) -> None:
        super().__init__()
        self.action, self.error = action, None
        self.start()

    def run(self) -> None:
        try:
            self.action()
        except BaseException as error:
            self.error = error

    def done(self) -> None:
        self.join()
        if self.error is not None:
            raise self.error


def kill_in_mid_step(gate: Path, find_victim: Callable[[int], int]) -> None:
    """Wait until a runner waits in a step, SIGKILL what `find_victim` names given the runner's pid, and open the gate."""
    waiting = wait_for(lambda: list(gate.glob("waiting-*")), "a runner in the midst of a step")
    os.kill(find_victim(int(waiting[0].name.split("-")[1])), signal.SIGKILL)
    (gate / "closed").unlink()


def train_through(tmp_path: Path, find_victim: Callable[[int], int], **changes: Any) -> dict[str, Any]:
    """A run on Ray of which one process is killed in the second half."""
    (tmp_path / "closed").touch()
    options = tiny(
        "ppo",
        total_steps=4096,
        checkpoint_every=1024,
        backend="ray",
        env_kwargs={"folder": str(tmp_path), "after": 600},
        **changes,
    )
    meanwhile = Meanwhile(lambda: kill_in_mid_step(tmp_path, find_victim))
    summary = wiserl.train("ppo", GATED, run_dir=str(tmp_path / "run"), quiet=True, **options)
    meanwhile.done()
    return summary


@pytest.mark.ray
@pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])
def test_a_runner_killed_in_mid_run_is_restarted_and_the_run_reaches_its_steps(
    tmp_path: Path, cluster: Any, sync: bool
) -> None:
    summary = train_through(tmp_path, lambda runner_pid: runner_pid, sync=sync)
    assert summary["env_steps"] >= 4096
    assert (summary["runner_restarts"], summary["learner_restarts"]) == (1, 0)
    if sync:
        check_unharmed(tmp_path)


@pytest.mark.ray
def test_a_killed_worker_of_envs_costs_its_runner_a_restart(tmp_path: Path, cluster: Any) -> None:
    summary = train_through(tmp_path, lambda worker_pid: worker_pid, vector="process")
    assert summary["env_steps"] == 4096
    assert (summary["runner_restarts"], summary["learner_restarts"]) == (1, 0)
    check_unharmed(tmp_path)


@pytest.mark.ray
def test_a_learner_killed_in_mid_run_is_restarted_from_its_last_checkpoint(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wiserl.transport import ray_connection

    connect = mock.Mock(side_effect=ray_connection.connect)
    monkeypatch.setattr(ray_connection, "connect", connect)
    summary = train_through(tmp_path, lambda runner_pid: cluster.worker_pids("_LearnerActor")[0])
    assert connect.call_count == 1, "each connection costs seconds, and leaves a file open for ever"
    assert summary["env_steps"] == 4096
    assert summary["learner_restarts"] == 1
    with (tmp_path / "run" / "metrics.csv").open() as file:
        steps = [int(row["env_steps"]) for row in csv.DictReader(file) if row["losses/policy_loss"]]
    assert steps == sorted(set(steps)), "rows of the time before the kill were left, or written twice"
    check_unharmed(tmp_path)


def check_unharmed(tmp_path: Path) -> None:
    """The weights are those of the run in which nothing was killed."""
    options = tiny(
        "ppo",
        total_steps=4096,
        checkpoint_every=1024,
        backend="local",
        env_kwargs={"folder": str(tmp_path), "after": 600},
    )
    wiserl.train("ppo", GATED, run_dir=str(tmp_path / "unharmed"), quiet=True, **options)
    weights = [
        (tmp_path / run / "checkpoints" / "last" / "weights.safetensors").read_bytes() for run in ("run", "unharmed")
    ]
    assert weights[0] == weights[1]


@pytest.mark.ray
def test_a_runner_that_keeps_dying_ends_in_an_error_and_not_in_a_loop(tmp_path: Path, cluster: Any) -> None:
    with pytest.raises(ActorLost, match="its 1 restarts are used up"):
        wiserl.train(
            "ppo",
            "tests.contract.envs:suicidal",
            run_dir=str(tmp_path / "run"),
            quiet=True,
            max_restarts=1,
            **tiny("ppo", backend="ray", runners=1),
        )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("where", ["constructor", "acting", "update"])
def test_an_exception_in_a_users_agent_comes_out_with_its_traceback(
    on: Any, tmp_path: Path, backend: str, where: str
) -> None:
    def run(wise_rl: WiseRL) -> None:
        wise_rl.make_agent("agent", Failing, where=where)
        wise_rl.start_all_runners(wise_rl.make_runner("stepper", Stepper, {"folder": str(tmp_path)}))

    with closing(WiseRL(on(backend))) as wise_rl, pytest.raises(LookupError, match="no luck in") as caught:
        run(wise_rl)
    traceback = str(caught.getrepr(style="native"))
    assert "agents.py" in traceback
    assert 'raise LookupError("no luck' in traceback


def test_an_exception_in_a_users_env_ends_the_command_with_its_traceback_and_1(launch: Any, tmp_path: Path) -> None:
    command = launch(*train_command("ppo", "tests.envs:raising_env", tmp_path / "run", tiny("ppo", backend="local")))
    assert command.finish() == 1, command.output
    assert 'raise RuntimeError(f"broken at step {self._steps}")' in command.output
    assert "RuntimeError: broken at step 5" in command.output


@pytest.mark.ray
def test_an_exception_in_a_users_env_comes_out_of_ray_with_its_traceback(tmp_path: Path, cluster: Any) -> None:
    options = tiny("ppo", backend="ray", runners=1)
    with pytest.raises(RuntimeError, match="broken at step 5") as caught:
        wiserl.train("ppo", "tests.envs:raising_env", run_dir=str(tmp_path / "run"), quiet=True, **options)
    assert 'raise RuntimeError(f"broken at step {self._steps}")' in str(caught.getrepr(style="native"))


@pytest.mark.ray
@pytest.mark.parametrize("sync", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["sync", "async"])
def test_a_training_that_diverges_on_ray_says_so_and_is_not_started_again(
    tmp_path: Path, cluster: Any, sync: bool
) -> None:
    options = tiny("ppo", backend="ray", runners=1, total_steps=4096, learning_rate=1e30, sync=sync)
    with pytest.raises(Diverged, match=r"ppo has diverged: .* after update [0-9]+, at env step [0-9]+"):
        wiserl.train("ppo", "CartPole-v1", run_dir=str(tmp_path / "run"), quiet=True, **options)
    assert not list((tmp_path / "run" / "checkpoints").glob("step_*"))


def run_command(args: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A command in this process."""
    monkeypatch.setattr(sys, "argv", args)
    monkeypatch.setattr(sys, "path", list(sys.path))
    main()


@pytest.mark.parametrize("error", [EOFError, BrokenPipeError])
def test_no_kind_of_exception_of_an_env_is_taken_for_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    options = tiny("ppo", backend="local", runners=1, **{"env.error": error.__name__})
    with pytest.raises(error) as caught:
        run_command(train_command("ppo", "tests.contract.envs:raising", tmp_path / "run", options), monkeypatch)
    assert "the simulator's" in str(caught.value)


@pytest.mark.parametrize("vector", ["inline", "process"])
def test_an_env_that_calls_sys_exit_ends_the_command_with_1_and_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], vector: str
) -> None:
    options = tiny("ppo", backend="local", runners=1, vector=vector, **{"env.error": "SystemExit"})
    with pytest.raises(SystemExit) as ended:
        run_command(train_command("ppo", "tests.contract.envs:raising", tmp_path / "run", options), monkeypatch)
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert "in step\n" in told.split("SystemExit: the simulator's exit")[0]
    assert told.splitlines()[-1].startswith("wiserl: error: code of the env or of the algorithm called sys.exit(")


@pytest.mark.parametrize(
    ("backend", "what"), [("local", "obs"), ("local", "reward"), pytest.param("ray", "obs", marks=pytest.mark.ray)]
)
def test_an_env_that_returns_inf_ends_the_command_with_env_step_and_entry_named(
    on: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    backend: str,
    what: str,
) -> None:
    env = {"env.folder": tmp_path, "env.after": 150, "env.what": what}
    options = tiny("ppo", backend=on(backend), total_steps=2048, checkpoint_every=256, **env)
    with pytest.raises(SystemExit) as ended:
        run_command(train_command("ppo", "tests.contract.envs:infinite", tmp_path / "run", options), monkeypatch)
    assert ended.value.code == 1
    told = capsys.readouterr().err
    # What the 150th step returned, counted from 0, is its reward, and the observation before step 150.
    kind, step, entry = (
        ("reward", 149, "reward[agent, ...] = [0]")
        if what == "reward"
        else ("observation", 150, "obs[agent, ...] = [0, 2]")
    )
    assert f"wiserl: error: env 'tests.contract.envs:infinite' returned inf as {kind} at step {step} of env" in told
    assert entry in told
    assert "Traceback" not in told
    # Rounds of 64 steps of each env: the third was refused whole, and what was saved after two is the newest there is.
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step_*")) == ["step_256", "step_512"]


@pytest.mark.ray
@pytest.mark.parametrize("what", ["agent", "agent in a runner", "runner"])
def test_an_actor_that_cannot_be_placed_is_reported_with_what_exists(
    cluster: Any, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    from wiserl.transport import ray_places

    monkeypatch.setattr(ray_places, "PLACEMENT_GRACE_SECONDS", 1.0)  # here; in a runner it is what it is
    gpus = {"num_gpus": 8}

    def place(wise_rl: WiseRL) -> None:
        if what == "agent":
            wise_rl.make_agent("agent", Tally, resource=gpus)
        else:
            runners = wise_rl.make_runner("runner", Placer, gpus, num=1, resource=gpus if what == "runner" else {})
            wise_rl.start_all_runners(runners)

    begun = time.monotonic()
    told = r"asked \{'GPU': 8\}.*1 node\(s\) have \[\{.*'CPU': 2\.0"
    with closing(WiseRL("ray")) as wise_rl, pytest.raises(PlacementError, match=told) as caught:
        place(wise_rl)
    assert time.monotonic() - begun < 20.0
    assert ("runner 0 of 'runner'" if what == "runner" else "the learner of agent 'agent'") in str(caught.value)


@pytest.mark.ray
def test_a_ray_address_where_nothing_answers_is_an_error_and_not_a_cluster_of_our_own(
    no_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    monkeypatch.setattr("wiserl.transport.cluster.CONNECT_SECONDS", 0.5)
    with pytest.raises(InputError, match=r"RAY_ADDRESS is 127\.0\.0\.1:9, but nothing answers there"):
        WiseRL("ray").make_agent("agent", Tally)


@pytest.mark.ray
def test_a_cluster_that_asks_for_a_token_says_at_once_what_to_set(
    no_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ray alone prints the same line each second, for 20 s, and then does not say what is wrong."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))

    def refused(said: str) -> None:
        begun = time.monotonic()
        with pytest.raises(InputError, match=said):
            WiseRL("ray").make_agent("agent", Tally)
        assert time.monotonic() - begun < 10.0
        assert "Failed to get cluster ID" not in "".join(capfd.readouterr())

    with started_cluster(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="a" * 64) as cluster:
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        refused("asks for a token, and is shown none: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the cluster's")
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("a" * 64)
        refused(r"asks for a token, and is shown none: set RAY_AUTH_MODE=token \(")
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.setenv("RAY_AUTH_TOKEN", "b" * 200)
        refused("asks for a token, and does not take the one found here: set RAY_AUTH_TOKEN to the cluster's")
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
        monkeypatch.delenv("RAY_AUTH_TOKEN")
        refused("asks for a token, and is shown none: set RAY_AUTH_TOKEN to the cluster's")
        monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
        check_token(cluster.address)
        monkeypatch.delenv("RAY_AUTH_MODE")
        monkeypatch.delenv("RAY_ADDRESS")
        check_token(cluster.address)  # what `ray start` noted gets the token of its own accord


def test_what_does_not_answer_as_a_cluster_does_is_left_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wiserl.transport.token.ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for address in (f"127.0.0.1:{silent.getsockname()[1]}", "127.0.0.1:9", "ray://127.0.0.1:9", "somewhere"):
            check_token(address)


def test_a_cluster_that_has_died_without_ray_stop_does_not_hold_up_the_next_run(
    no_cluster: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("wiserl.transport.cluster.CONNECT_SECONDS", 0.5)
    note = Path(os.environ["RAY_TMPDIR"], "ray", "ray_current_cluster")
    note.parent.mkdir()
    note.write_text("127.0.0.1:9")
    assert find_cluster() is None
    assert "the cluster that `ray start` began at 127.0.0.1:9 is gone" in caplog.text


@pytest.mark.ray
def test_a_round_that_is_never_complete_ends_in_an_error_that_names_who_is_waited_for(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WISERL_WAIT_SECONDS", "3")
    with closing(WiseRL("ray")) as wise_rl:
        wise_rl.make_agent("agent", Tally)
        runners = wise_rl.make_runner("stepper", Stepper, {"folder": str(tmp_path), "wait_at": 0}, num=2)
        with pytest.raises(WaitTimeout, match=r"no answer from agent 'agent' in 3 s; it waits for runners \[0\]"):
            wise_rl.start_all_runners(runners)
