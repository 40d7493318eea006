"""wiserl.env.vector.process: worker processes that die, hang, raise, and never outlive their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.envs import BoxObs, DyingAgents
from wiserl.env.vector.process import ProcessVector
from wiserl.util.errors import ActorLost, EnvError, InputError, WaitTimeout
from wiserl.util.failure import RemoteTraceback

ROOT = Path(__file__).parents[2]
ACTIONS = np.zeros((2, 1), np.int64)


def wait_gone(pids, seconds=15.0):
    """The pids that still run after at most `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        running = [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
        if not running:
            return []
        time.sleep(0.05)
    return running


def test_closing_ends_the_workers_and_a_second_close_does_nothing():
    vector = ProcessVector("CartPole-v1", {}, 3, 2)
    pids = vector.pids
    assert len(pids) == 2
    assert all(psutil.pid_exists(pid) for pid in pids)
    vector.close()
    vector.close()
    assert wait_gone(pids) == []
    with pytest.raises(ActorLost, match="make a new one"):
        vector.step(np.zeros((3, 1), np.int64))


def test_there_are_never_more_workers_than_envs():
    with ProcessVector("CartPole-v1", {}, 2, 5) as vector:
        assert len(vector.pids) == 2


def test_a_worker_that_is_killed_is_reported_and_the_others_are_ended():
    vector = ProcessVector("CartPole-v1", {}, 2, 2)
    pids = vector.pids
    vector.reset([0, 1])
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(ActorLost, match=rf"worker 1 \(pid {pids[1]}, envs 1 to 1\) died \(killed by signal 9\)"):
        vector.step(ACTIONS)
    assert wait_gone(pids) == []


def test_a_worker_that_hangs_is_reported_within_the_time_out_and_ended():
    vector = ProcessVector("tests.envs:sleepy_env", {"ms": 60_000}, 1, 1)
    pids = vector.pids
    vector.reset([0])
    # Only now: starting the interpreter may take seconds on a busy machine.
    vector._workers[0].sock.settimeout(0.3)
    with pytest.raises(WaitTimeout, match=r"worker 0 .* did not finish stepping its envs"):
        vector.step(ACTIONS[:1])
    assert wait_gone(pids) == []


def test_the_time_out_is_that_of_the_environment_and_the_message_says_so(monkeypatch):
    monkeypatch.setenv("WISERL_WAIT_SECONDS", "0.05")
    with pytest.raises(WaitTimeout, match=r"within 0\.05 s: .* or set WISERL_WAIT_SECONDS to more"):
        ProcessVector("tests.envs:sleepy_env", {"ms": 60_000}, 1, 1)


def test_the_traceback_in_the_worker_comes_with_the_exception():
    with ProcessVector("tests.envs:raising_env", {"step": 1}, 1, 1) as vector:
        vector.reset([0])
        with pytest.raises(RuntimeError, match="broken at step 1") as caught:
            vector.step(ACTIONS[:1])
    cause = caught.value.__cause__
    assert isinstance(cause, RemoteTraceback)
    assert "envs.py" in str(cause)
    assert "in worker 0" in str(cause)


def test_an_exception_that_cannot_be_pickled_still_says_what_it_was():
    class Stubborn(Exception):
        def __init__(self, first, second):
            super().__init__(f"{first} {second}")

    class Raising(BoxObs):
        def step(self, action):
            raise Stubborn("no", "way")

    with ProcessVector(Raising, {}, 1, 1) as vector:
        vector.reset([0])
        with pytest.raises(EnvError, match="Stubborn: no way"):
            vector.step(ACTIONS[:1])


def test_an_exception_class_of_the_caller_is_the_same_class_here():
    class Mine(Exception):
        pass

    class Raising(BoxObs):
        def step(self, action):
            raise Mine("here")

    with ProcessVector(Raising, {}, 1, 1) as vector:
        vector.reset([0])
        with pytest.raises(Mine, match="here"):
            vector.step(ACTIONS[:1])


def test_info_entries_that_cannot_be_pickled_are_left_out():
    class Informing(BoxObs):
        def step(self, action):
            *rest, _ = super().step(action)
            return *rest, {"number": 3, "generator": (i for i in ())}

    with ProcessVector(Informing, {}, 1, 1) as vector:
        vector.reset([0])
        assert vector.step(ACTIONS[:1]).infos == [(0, {"number": 3})]


@pytest.mark.parametrize(
    ("env", "workers", "said"),
    [("CartPoel-v1", 2, "did you mean 'CartPole-v1'"), ("CartPole-v1", 0, "worker processes is 0; expected 1")],
)
def test_bad_input_is_the_same_error_as_in_this_process(env, workers, said):
    with pytest.raises(InputError, match=said):
        ProcessVector(env, {}, 2, workers)


def test_a_parallel_env_passes_its_alive_rows():
    with ProcessVector(DyingAgents, {"length": 4}, 1, 1) as vector:
        _, alive = vector.reset([0])
        assert alive.tolist() == [[True, True, False]]
        vector.step(np.zeros((1, 3), np.int64))
        assert vector.step(np.zeros((1, 3), np.int64)).alive.tolist() == [[True, True, True]]


SCRIPT = """
import os, sys
import numpy as np
import gymnasium as gym
from wiserl.env.vector.process import ProcessVector

print("imported", os.getpid(), flush=True)

class Mine(gym.Env):
    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}
    def step(self, action):
        if action == 1:
            import time; time.sleep(600)
        return np.ones(1, np.float32), 1.0, False, False, {}

vector = ProcessVector(Mine, {}, 2, 2)
vector.reset([0, 1])
vector.step(np.zeros((2, 1), np.int64))
print("pids", *vector.pids, flush=True)
vector.step(np.full((2, 1), int(sys.argv[1])))
if sys.argv[1] == "0":
    sys.exit(0)
"""


def run_script(tmp_path, argument):
    """Start a script without a __main__ guard that has an env of its own; the process and its workers' pids."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script), argument],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    lines = [process.stdout.readline().split() for _ in range(2)]
    assert lines[0][0] == "imported", lines
    assert lines[1][0] == "pids", "the script was run again in a worker"
    return process, [int(pid) for pid in lines[1][1:]]


def test_a_script_without_main_guard_may_use_its_own_env_and_leaves_no_process(tmp_path):
    process, pids = run_script(tmp_path, "0")
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert rest == ""
    assert wait_gone(pids) == []


def test_workers_stuck_in_an_env_end_when_their_parent_is_killed(tmp_path):
    process, pids = run_script(tmp_path, "1")
    process.kill()
    process.communicate(timeout=60)
    assert wait_gone(pids) == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_process_group_is_the_parents_business(signum):
    with ProcessVector("CartPole-v1", {}, 2, 2) as vector:
        pids = vector.pids
        for pid in pids:
            os.kill(pid, signum)
        vector.reset([0, 1])
        assert vector.step(ACTIONS).reward.tolist() == [[1.0], [1.0]]
    assert wait_gone(pids) == []
