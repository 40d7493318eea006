"""The interface of a user's own agents and runners: the same script on every backend, and what is promised about it."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.contract.agents import Batched, Getter, Stepper, Tally, Unfollowed
from tests.contract.conftest import RayCluster
from tests.contract.harness import kill_when_there, marked, wait_for
from wiserl import WiseRL
from wiserl.util.errors import InputError

SCRIPTS = Path(__file__).parent / "scripts"
SCRIPT = SCRIPTS / "user_ddpg.py"


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def wise_rl(request: pytest.FixtureRequest) -> Iterator[WiseRL]:
    """A `WiseRL` on either backend."""
    if request.param == "ray":
        request.getfixturevalue("cluster")
    wise_rl = WiseRL(request.param)
    yield wise_rl
    wise_rl.close()


def run_steppers(wise_rl: WiseRL, folder: Path, num: int, **args: Any) -> list[dict[str, Any]]:
    """Run `Stepper`s to their end; returns their reports, by rank."""
    runners = wise_rl.make_runner("stepper", Stepper, {"folder": str(folder), **args}, num=num)
    wise_rl.start_all_runners(runners)
    return [ast.literal_eval((folder / f"report-{rank}").read_text()) for rank in range(num)]


def assert_learned(folder: Path, processes: int) -> None:
    reports = [(folder / f"runner-{rank}").read_text().split() for rank in range(2)]
    assert len({pid for pid, *_ in reports}) == processes
    for _, version, change, niceness in reports:
        assert int(niceness) == os.nice(0), "beside any other busy process it would hardly run"
        assert int(version) > 0
        assert float(change) > 0.0, "the replica's weights are those it began with"


@pytest.mark.parametrize("flags", [[], ["--no-wait"]], ids=["sync", "async"])
def test_a_users_script_runs_with_wiserl_backend_local(launch: Any, tmp_path: Path, flags: list[str]) -> None:
    command = launch(sys.executable, SCRIPT, *flags, WISERL_BACKEND="local")
    assert command.finish() == 0, command.output
    assert (tmp_path / "end").exists()
    assert_learned(tmp_path, processes=1)


@pytest.mark.ray
def test_a_users_script_runs_where_there_is_no_cluster_and_leaves_none(
    launch: Any, tmp_path: Path, no_cluster: None
) -> None:
    command = launch(sys.executable, SCRIPT)
    assert command.finish() == 0, command.output
    assert (tmp_path / "end").exists()
    assert_learned(tmp_path, processes=2)
    assert not command.left_behind()


@pytest.mark.ray
def test_a_users_script_joins_what_ray_start_began_and_does_not_stop_it(
    launch: Any, tmp_path: Path, cluster: Any
) -> None:
    before = {process.pid for process in marked(cluster.mark) if process.name() in ("raylet", "gcs_server")}
    command = launch(sys.executable, SCRIPT, "--out", tmp_path, "--no-wait")
    assert command.finish() == 0, command.output
    assert_learned(tmp_path, processes=2)
    runner_pids = {int((tmp_path / f"runner-{rank}").read_text().split()[0]) for rank in range(2)}
    assert not runner_pids & {process.pid for process in marked(command.mark)}, "the runners were not the cluster's"
    assert not command.left_behind()
    assert len(before) == 2
    assert before <= {process.pid for process in marked(cluster.mark)}


@pytest.mark.ray
@pytest.mark.parametrize(("backend", "num"), [("local", 2), ("ray", 1)])
def test_a_wiserl_object_in_a_module_works_in_the_runners(
    launch: Any, tmp_path: Path, cluster: Any, backend: str, num: int
) -> None:
    command = launch(sys.executable, SCRIPTS / "uses_library.py", tmp_path, str(num), WISERL_BACKEND=backend)
    assert command.finish() == 0, command.output
    assert [(tmp_path / f"runner-{rank}").read_text() for rank in range(num)] == [str(128 * num)] * num


def test_a_breakpoint_in_update_stops_on_the_local_backend(tmp_path: Path) -> None:
    line = next(
        number for number, text in enumerate(SCRIPT.read_text().splitlines(), 1) if "self.memory.append" in text
    )
    typed = f"b {SCRIPT}:{line}\nc\np 'reward is', reward\nclear 1\nc\nq\n"
    environment = {**os.environ, "WISERL_BACKEND": "local"}
    done = subprocess.run(
        [sys.executable, "-m", "pdb", SCRIPT, "--episodes", "1"],
        input=typed, text=True, capture_output=True, cwd=tmp_path, env=environment, timeout=60, check=False,
    )  # fmt: skip
    assert "-> self.memory.append" in done.stdout, done.stdout + done.stderr
    assert re.search(r"\('reward is', np.float64\(-\d", done.stdout), done.stdout
    assert (tmp_path / "end").exists()


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])
def test_no_remote_call_happens_per_step_and_an_agent_that_never_publishes_is_followed(
    wise_rl: WiseRL, tmp_path: Path, sync: bool
) -> None:
    num = 2 if sync else 1
    wise_rl.make_agent("agent", Tally, sync=sync)
    for report in run_steppers(wise_rl, tmp_path, num):
        assert report["calls"] == {"ship": Stepper.STEPS // Tally.ship_every}
        assert report["acted_in"] == report["pid"]
        assert report["seen"] > report["first"] == 0
        if sync:
            assert report["seen"] == num * (Stepper.STEPS - Tally.ship_every)


@pytest.mark.parametrize(("sync", "in_init"), [(True, True), (False, True), (False, False)])
def test_an_agent_may_be_got_many_times_and_every_update_is_learned_from(
    wise_rl: WiseRL, sync: bool, in_init: bool
) -> None:
    wise_rl.make_agent("agent", Batched, sync=sync)
    wise_rl.start_all_runners(wise_rl.make_runner("getter", Getter, (in_init, sync), num=2))
    assert wise_rl.get_agent("agent").choose_action()[0] == 200


@pytest.mark.ray
def test_runners_on_ray_share_the_cores_of_the_cluster(cluster: RayCluster) -> None:
    import ray

    with closing(WiseRL("ray")) as wise_rl:
        assert wise_rl.backend.cores() == int(ray.cluster_resources()["CPU"])


def test_a_call_of_an_agent_that_is_not_there_names_those_that_are(wise_rl: WiseRL) -> None:
    wise_rl.make_agent("agent", Tally)
    with pytest.raises(InputError, match=r"no agent named 'agnet' .*did you mean 'agent'"):
        wise_rl.call("agnet", "choose_action")


@pytest.mark.parametrize(
    ("variable", "given"),
    [
        *(("WISERL_THREADS", given) for given in ("abc", "0", "1.5", "")),
        *(("WISERL_WAIT_SECONDS", given) for given in ("abc", "0", "-1", "nan", "inf")),
    ],
)
@pytest.mark.parametrize("backend", ["local", "ray"])
def test_a_variable_that_is_no_number_is_refused_by_name_before_anything_is_started(
    monkeypatch: pytest.MonkeyPatch, backend: str, variable: str, given: str
) -> None:
    monkeypatch.setenv(variable, given)
    with pytest.raises(
        InputError, match=rf"environment variable {variable} is '{given}'; expected a .*number .*above 0"
    ):
        WiseRL(backend).make_agent("agent", Tally)


def test_a_sync_agent_is_got_in_init_or_not_at_all(wise_rl: WiseRL) -> None:
    wise_rl.make_agent("agent", Batched)
    runners = wise_rl.make_runner("getter", Getter, (False, True), num=2)
    with pytest.raises(InputError, match=r"runner \d got agent 'agent' in run for the first time: get it in __init__"):
        wise_rl.start_all_runners(runners)


def test_the_script_gets_the_newest_weights_each_time(wise_rl: WiseRL) -> None:
    wise_rl.make_agent("agent", Batched)
    before = wise_rl.get_agent("agent")
    assert before.choose_action()[0] == 0
    wise_rl.start_all_runners(wise_rl.make_runner("getter", Getter, (True, True)))
    after = wise_rl.get_agent("agent")
    assert after is before
    assert after.choose_action()[0] == 100


def test_an_agent_without_hooks_acts_on_the_learner_and_that_is_said_once(
    wise_rl: WiseRL, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    wise_rl.make_agent("agent", Unfollowed)
    (report,) = run_steppers(wise_rl, tmp_path, num=1)
    assert report["calls"]["act"] == Stepper.STEPS + 1
    assert report["seen"] == Stepper.STEPS - Unfollowed.ship_every
    assert (report["acted_in"] != report["pid"]) == (wise_rl.backend.name == "ray")
    told = ""

    def is_told() -> bool:
        nonlocal told
        told += capfd.readouterr().err
        return "so it acts on the learner" in caplog.text + told

    # What a worker of Ray says takes a moment to arrive.
    wait_for(is_told, "the word that the agent acts on the learner")
    assert (caplog.text + told).count("so it acts on the learner: one remote call per step") == 1


@pytest.mark.ray
def test_an_agent_made_inside_runner_0_survives_it(cluster: Any, tmp_path: Path) -> None:
    wise_rl = WiseRL("ray")
    killer = threading.Thread(target=kill_when_there, args=(tmp_path / "pid",))
    killer.start()
    try:
        reports = run_steppers(wise_rl, tmp_path, num=2, make=Tally, wait_at=200)
    finally:
        killer.join()
        wise_rl.close()
    assert [report["incarnation"] for report in reports] == [1, 0]
    # Three shipments of the dead incarnation had been learned from before the next one began.
    assert reports[0]["first"] >= 3 * Tally.ship_every
    assert reports[0]["seen"] >= 3 * Tally.ship_every + Stepper.STEPS - Tally.ship_every


def test_runners_that_were_started_before_are_refused_and_new_ones_go_on(wise_rl: WiseRL, tmp_path: Path) -> None:
    wise_rl.make_agent("agent", Tally)
    runners = wise_rl.make_runner("stepper", Stepper, {"folder": str(tmp_path)})
    wise_rl.start_all_runners(runners)
    with pytest.raises(InputError, match=r"runners 'stepper' were started before.*make new ones with make_runner"):
        wise_rl.start_all_runners(runners)
    run_steppers(wise_rl, tmp_path, 1)


class NeverFires(Tally):
    """Overrides both hooks, and publishes nothing."""

    def _sync_model(self) -> None:
        pass


def test_an_agent_whose_sync_model_never_fires_is_told_once_by_name(
    wise_rl: WiseRL, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    wise_rl.make_agent("agent", NeverFires)
    run_steppers(wise_rl, tmp_path, 2)

    def told() -> int:
        said = caplog.text + "".join(capfd.readouterr())
        return said.count("agent 'agent' (NeverFires) has learned, but its _sync_model has not fired")

    assert wait_for(told, "the warning", 30.0) == 1
