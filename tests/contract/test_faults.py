"""What breaks in mid-run: it is mended or told, with its traceback, and never a hang."""

from __future__ import annotations

import csv
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import wiserl
from tests.contract.agents import Failing, Placer, Stepper, Tally
from tests.contract.harness import GATED, tiny, train_command, wait_for
from wiserl import WiseRL
from wiserl.util.errors import ActorLost, InputError, PlacementError

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
    options = tiny("ppo", total_steps=4096, checkpoint_every=1024, backend="ray", env_kwargs={"folder": str(tmp_path), "after": 600}, **changes)
    meanwhile = Meanwhile(lambda: kill_in_mid_step(tmp_path, find_victim))
    summary = wiserl.train("ppo", GATED, run_dir=str(tmp_path / "run"), quiet=True, **options)
    meanwhile.done()
    return summary


@pytest.mark.ray
@pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])
def test_a_runner_killed_in_mid_run_is_restarted_and_the_run_reaches_its_steps(tmp_path: Path, cluster: Any, sync: bool) -> None:
    summary = train_through(tmp_path, lambda runner_pid: runner_pid, sync=sync)
    assert summary["env_steps"] >= 4096
    assert (summary["runner_restarts"], summary["learner_restarts"]) == (1, 0)


@pytest.mark.ray
def test_a_learner_killed_in_mid_run_is_restarted_from_its_last_checkpoint(tmp_path: Path, cluster: Any) -> None:
    summary = train_through(tmp_path, lambda runner_pid: cluster.worker_pids("_LearnerActor")[0])
    assert summary["env_steps"] == 4096
    assert summary["learner_restarts"] == 1
    with (tmp_path / "run" / "metrics.csv").open() as file:
        steps = [int(row["env_steps"]) for row in csv.DictReader(file) if row["losses/policy_loss"]]
    assert steps == sorted(set(steps)), "rows of the time before the kill were left, or written twice"
    # With what it had learned until the checkpoint, which the same seed makes what it would be without the kill.
    options = tiny("ppo", total_steps=4096, checkpoint_every=1024, backend="local", env_kwargs={"folder": str(tmp_path), "after": 600})
    wiserl.train("ppo", GATED, run_dir=str(tmp_path / "unharmed"), quiet=True, **options)
    weights = [(tmp_path / run / "checkpoints" / "last" / "weights.safetensors").read_bytes() for run in ("run", "unharmed")]
    assert weights[0] == weights[1]


@pytest.mark.ray
def test_a_runner_that_keeps_dying_ends_in_an_error_and_not_in_a_loop(tmp_path: Path, cluster: Any) -> None:
    with pytest.raises(ActorLost, match="all 1 restarts are used up"):
        wiserl.train("ppo", "tests.contract.envs:suicidal", run_dir=str(tmp_path / "run"), quiet=True, max_restarts=1, **tiny("ppo", backend="ray"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("where", ["constructor", "acting", "update"])
def test_an_exception_in_a_users_agent_comes_out_with_its_traceback(on: Any, tmp_path: Path, backend: str, where: str) -> None:
    wise_rl = WiseRL(on(backend))
    try:
        runners = wise_rl.make_runner("stepper", Stepper, {"agent": Failing, "kwargs": {"where": where}, "folder": str(tmp_path)}, num=2)
        with pytest.raises(LookupError, match="no luck in") as caught:
            wise_rl.start_all_runners(runners)
    except LookupError as error:  # local: the runners are constructed at once
        assert (backend, where) == ("local", "constructor")
        caught = pytest.ExceptionInfo.from_exception(error)
    finally:
        wise_rl.close()
    traceback = str(caught.getrepr(style="native"))
    assert "agents.py" in traceback
    assert 'raise LookupError("no luck' in traceback


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_exception_in_a_users_env_ends_the_command_with_its_traceback_and_1(on: Any, launch: Any, tmp_path: Path, backend: str) -> None:
    command = launch(*train_command("ppo", "tests.envs:raising_env", tmp_path / "run", tiny("ppo", backend=on(backend))))
    assert command.finish() == 1, command.output
    assert 'raise RuntimeError(f"broken at step {self._steps}")' in command.output
    assert "RuntimeError: broken at step 5" in command.output
    assert not command.left_behind()


@pytest.mark.parametrize("error", ["EOFError", "BrokenPipeError", "SystemExit"])
def test_no_kind_of_exception_of_an_env_is_taken_for_something_else(launch: Any, tmp_path: Path, error: str) -> None:
    options = tiny("ppo", backend="local", runners=1, **{"env.error": error})
    command = launch(*train_command("ppo", "tests.contract.envs:raising", tmp_path / "run", options))
    assert command.finish() == (3 if error == "SystemExit" else 1), command.output
    assert error == "SystemExit" or f"{error}: " in command.output


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("what", ["obs", "reward"])
def test_an_env_that_returns_nan_ends_the_command_with_env_step_and_entry_named(
    on: Any, launch: Any, tmp_path: Path, backend: str, what: str
) -> None:
    options = tiny("ppo", backend=on(backend), total_steps=2048, checkpoint_every=256, **{"env.folder": tmp_path, "env.after": 150, "env.what": what})
    command = launch(*train_command("ppo", "tests.contract.envs:infinite", tmp_path / "run", options))
    assert command.finish() == 1, command.output
    told = " ".join(command.output.split())
    # Rounds of 64 steps per env: the third is refused whole. Step 149, counted from 0, is what the 150th call returned.
    entry = "reward[agent, ...] = [0]" if what == "reward" else "obs[agent, ...] = [0, 2]"
    step = 149 if what == "reward" else 150
    assert f"wiserl: error: env 'tests.contract.envs:infinite' returned inf as {'reward' if what == 'reward' else 'observation'} at step {step} of env" in told
    assert entry in told
    assert "Traceback" not in command.output
    # No weight was touched: what was saved after two rounds is the newest there is, and finite.
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step_*")) == ["step_256", "step_512"]


@pytest.mark.ray
@pytest.mark.parametrize("what", ["agent", "agent in a runner", "runner"])
def test_an_actor_that_cannot_be_placed_is_reported_with_what_exists(cluster: Any, tmp_path: Path, what: str) -> None:
    wise_rl = WiseRL("ray")
    begun = time.monotonic()
    try:
        with pytest.raises(PlacementError, match=r"asked \{'GPU': 8\}.*1 node\(s\) have \[\{.*'CPU': 2\.0") as caught:
            if what == "agent":
                wise_rl.make_agent("agent", Tally, resource={"num_gpus": 8})
            else:
                resource = {"num_gpus": 8} if what == "runner" else {}
                wise_rl.start_all_runners(wise_rl.make_runner("runner", Placer, {"num_gpus": 8}, num=2, resource=resource))
    finally:
        wise_rl.close()
    assert time.monotonic() - begun < 20.0
    assert ("runner 0 of 'runner'" if what == "runner" else "the learner of agent 'agent'") in str(caught.value)


@pytest.mark.ray
def test_a_ray_address_where_nothing_answers_is_an_error_and_not_a_cluster_of_our_own(no_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(InputError, match=r"RAY_ADDRESS is 127\.0\.0\.1:9, but nothing answers there"):
        WiseRL("ray").make_agent("agent", Tally)


@pytest.mark.ray
def test_a_cluster_that_has_died_without_ray_stop_does_not_hold_up_the_next_run(
    no_cluster: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    note = Path(os.environ["RAY_TMPDIR"], "ray", "ray_current_cluster")
    note.parent.mkdir()
    note.write_text("127.0.0.1:9")
    wise_rl = WiseRL("ray")
    try:
        wise_rl.make_agent("agent", Tally)
        assert wise_rl.get_agent("agent").choose_action()[0] == 0
    finally:
        wise_rl.close()
    assert "the cluster that `ray start` began at 127.0.0.1:9 is gone" in caplog.text
