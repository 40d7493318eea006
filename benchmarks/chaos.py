"""Training among random faults: `python -m benchmarks.chaos [--algo ppo] [--minutes 10] [--seed 0] [--faults all|exact]`.

A cluster of two nodes on this machine, and a run on it that a fault hits every ten seconds, drawn from a seed: a killed runner,
learner, env worker or raylet (of the second node, which is then started again), or a runner that is stopped for 20 seconds. With
`--faults exact` no raylet is killed, and the weights must be those of the undisturbed run.

The report says what hit, what the run reached beside the undisturbed one, how each process's memory grew, and what was left
behind. It becomes a row of `benchmarks/results/chaos.json`, in place of an older one of the same command.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
from rich.console import Console

from benchmarks.process import ROOT, environment, last_json, wiserl_command
from benchmarks.report import machine, versions
from benchmarks.scores import commit

RESULTS = Path(__file__).resolve().parent / "results" / "chaos.json"
MARK = "WISERL_CHAOS"
EVERY_SECONDS = 10.0
STOPPED_SECONDS = 20.0
SAMPLE_SECONDS = 5.0
STEPS_PER_MINUTE = {"ppo": 160_000, "dqn": 10_000}  # what a disturbed run does, about
RUNNER, LEARNER = "ray::_RunnerActor", "ray::_LearnerActor"
EXACT = ("learner", "runner", "worker", "stopped runner")
ALL = (*EXACT, "raylet")


def marked(mark: str) -> list[psutil.Process]:
    """All living processes that inherited a mark."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


class Cluster:
    """Two nodes on this machine, begun by `ray start` in a folder of their own.

    Attributes:
        address: of the head.
        mark: what all its processes and those of its runs have in their environment.
    """

    def __init__(self) -> None:
        self.mark = uuid.uuid4().hex
        self.folder = tempfile.mkdtemp(prefix="wc", dir="/tmp")  # short: Ray's sockets have their names in it
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{sock.getsockname()[1]}"
        self.variables = {
            **environment(), MARK: self.mark, "RAY_TMPDIR": self.folder, "TMPDIR": self.folder, "RAY_AUTH_MODE": "disabled",
            "RAY_worker_niceness": "0",  # as in a cluster that wiserl starts
        }  # fmt: skip
        self._start("--head", f"--port={self.address.split(':')[1]}", "--include-dashboard=false")
        self._second: list[psutil.Process] = []
        self.add_node()

    def add_node(self) -> None:
        """Start the second node; what a killed one has left ends, as with its machine: Ray's log monitor would stay for ever."""
        for process in self._second:
            with contextlib.suppress(psutil.Error):
                process.kill()
        before = self._of_nodes()
        self._start(f"--address={self.address}")
        self._second = [process for process in self._of_nodes() if process not in before]

    def second(self) -> list[psutil.Process]:
        """The second node's raylet, if it is alive."""
        return [process for process in self._second if process.is_running() and process.name() == "raylet"]

    def titled(self, title: str) -> list[psutil.Process]:
        """Ray's workers of that title, by pid."""
        found = []
        for process in marked(self.mark):
            with contextlib.suppress(psutil.Error):
                if (process.cmdline() or [""])[0].startswith(title):
                    found.append(process)
        return sorted(found, key=lambda process: process.pid)

    def close(self) -> None:
        """End all of it."""
        processes = marked(self.mark)
        for process in list(processes):
            with contextlib.suppress(psutil.Error):
                processes += process.children(recursive=True)
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(processes, timeout=10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _of_nodes(self) -> list[psutil.Process]:
        """What `ray start` leaves running for each node; the rest are children of its raylet and end with it."""
        found = []
        for process in marked(self.mark):
            with contextlib.suppress(psutil.Error):
                if process.name() == "raylet" or any("log_monitor" in part for part in process.cmdline()):
                    found.append(process)
        return found

    def _start(self, *arguments: str) -> None:
        ray = Path(sys.executable).with_name("ray")
        command = [ray, "start", *arguments, "--num-cpus=2", "--disable-usage-stats", "--dashboard-agent-listen-port=0"]
        subprocess.run(command, env=self.variables, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=120)


@dataclass
class Chaos:
    """Hits a run every few seconds, and watches its memory meanwhile.

    Attributes:
        hits: how often each kind of fault found somebody.
        memory: per process, (seconds, bytes) of its own memory.
    """

    cluster: Cluster
    kinds: tuple[str, ...]
    draw: random.Random
    hits: Counter[str] = field(default_factory=Counter)
    memory: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    _stopped: list[tuple[float, psutil.Process]] = field(default_factory=list)

    def watch(self, run: subprocess.Popen[str]) -> None:
        """Until the run ends."""
        next_hit = time.monotonic() + EVERY_SECONDS
        next_sample = time.monotonic()
        while run.poll() is None:
            now = time.monotonic()
            if now >= next_sample:
                next_sample = now + SAMPLE_SECONDS
                self._sample(run.pid, now)
            if self.kinds and now >= next_hit:
                next_hit = now + EVERY_SECONDS
                self._hit(self.draw.choice(self.kinds))
            self._wake(now)
            time.sleep(0.2)
        self._wake(float("inf"))

    def _hit(self, kind: str) -> None:
        victims = self._victims(kind)
        if not victims:  # it has just died
            return
        victim = self.draw.choice(victims)
        with contextlib.suppress(psutil.NoSuchProcess):
            if kind == "stopped runner":
                victim.suspend()
                self._stopped.append((time.monotonic() + STOPPED_SECONDS, victim))
            else:
                victim.kill()
            self.hits[kind] += 1
        if kind == "raylet":
            self.cluster.add_node()

    def _victims(self, kind: str) -> list[psutil.Process]:
        if kind == "raylet":
            return self.cluster.second()
        if kind == "learner":
            return self.cluster.titled(LEARNER)
        runners = self.cluster.titled(RUNNER)
        if kind != "worker":
            return runners
        with contextlib.suppress(psutil.Error):
            return [child for runner in runners for child in runner.children()]
        return []

    def _wake(self, now: float) -> None:
        for until, process in list(self._stopped):
            if now >= until:
                self._stopped.remove((until, process))
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()

    def _sample(self, script: int, now: float) -> None:
        named = [("script", psutil.Process(script))]
        named += [("learner", process) for process in self.cluster.titled(LEARNER)]
        named += [("runner", process) for process in self.cluster.titled(RUNNER)]
        for name, process in named:
            with contextlib.suppress(psutil.Error):
                self.memory.setdefault(f"{name} {process.pid}", []).append((now, process.memory_info().rss))

    def slopes(self) -> dict[str, float]:
        """MB in ten minutes by process: of those that lived two minutes, without the first."""
        found = {}
        for name, samples in self.memory.items():
            later = np.array([sample for sample in samples if sample[0] > samples[0][0] + 60.0])
            if len(later) > 12:
                found[name] = float(np.polyfit(later[:, 0], later[:, 1], 1)[0]) * 600.0 / 1e6
        return found


def train(cluster: Cluster, algo: str, steps: int, folder: Path, seed: int, watch: Callable[[subprocess.Popen[str]], None]
          ) -> dict[str, Any]:  # fmt: skip
    """A run of `steps` env steps on the cluster, watched; returns its summary, and the last of its messages if it failed."""
    command = [
        wiserl_command(), "train", algo, "CartPole-v1", "--backend", "ray", "--runners", "2", "--vector", "process", "--seed",
        str(seed), "--total-steps", str(steps), "--checkpoint-every", str(max(steps // 40, 1000)), "--run-dir", str(folder),
        "--eval-every", "0", "--set", "max_restarts=1000", "--json", "--quiet",
    ]  # fmt: skip
    variables = {**cluster.variables, "RAY_ADDRESS": cluster.address}
    # Files and no pipes: Ray tells of each death, and nobody reads before the end.
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        run = subprocess.Popen(
            command, env=variables, cwd=ROOT, stdout=output, stderr=errors, text=True, start_new_session=True
        )
        try:
            watch(run)
        except BaseException:
            os.killpg(run.pid, signal.SIGTERM)
            raise
        said = []
        for file in (output, errors):
            file.seek(0)
            said.append(file.read())
    if run.returncode:
        return {"exit_code": run.returncode, "said": said[1][-2000:]}
    return {"exit_code": 0, **last_json(said[0])}


@contextlib.contextmanager
def started() -> Iterator[Cluster]:
    """A cluster, closed at the end."""
    cluster = Cluster()
    try:
        yield cluster
    finally:
        cluster.close()


def leftovers(cluster: Cluster, before: set[str]) -> list[str]:
    """What a run left behind: its processes, shared memory, temporary files."""
    time.sleep(10.0)
    processes = [process for title in (RUNNER, LEARNER, "ray::_Keeper") for process in cluster.titled(title)]
    memory = {f"/dev/shm/{name}" for name in os.listdir("/dev/shm")} - before
    files = [name for name in os.listdir(cluster.folder) if name != "ray" and not name.startswith("wiserl-chaos")]
    return [f"process {process.pid}" for process in processes] + sorted(memory) + files


def weights(folder: Path) -> bytes:
    """The file of a run's last weights."""
    return (folder / "checkpoints" / "last" / "weights.safetensors").read_bytes()


def read_rows() -> list[dict[str, Any]]:
    """What was measured so far."""
    found: list[dict[str, Any]] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    return found


@click.command(help=__doc__)
@click.option("--algo", type=click.Choice(sorted(STEPS_PER_MINUTE)), default="ppo")
@click.option("--minutes", type=float, default=10.0, help="How long the disturbed run takes, about.")
@click.option("--seed", type=int, default=0, help="Of the faults and of the run.")
@click.option("--faults", type=click.Choice(["all", "exact"]), default="all")
def main(algo: str, minutes: float, seed: int, faults: str) -> None:
    """Run undisturbed, then disturbed; exit code 1 if the disturbed one failed, fell short, or left something."""
    console = Console(stderr=True)
    steps = max(round(STEPS_PER_MINUTE[algo] * minutes), 1)
    kinds = EXACT if faults == "exact" else ALL
    with started() as cluster, tempfile.TemporaryDirectory(prefix="wiserl-chaos-", dir=cluster.folder) as parent:
        console.print(f"{algo}, {steps:,} env steps undisturbed")
        calm = Chaos(cluster, (), random.Random(seed))
        alone = train(cluster, algo, steps, Path(parent) / "calm", seed, calm.watch)
        before = {f"/dev/shm/{name}" for name in os.listdir("/dev/shm")}
        console.print(f"the same among {', '.join(kinds)}, one every {EVERY_SECONDS:.0f} s")
        chaos = Chaos(cluster, kinds, random.Random(seed))
        begun = time.monotonic()
        hit = train(cluster, algo, steps, Path(parent) / "chaos", seed, chaos.watch)
        seconds = time.monotonic() - begun
        left = leftovers(cluster, before)
        same = hit["exit_code"] == 0 and weights(Path(parent) / "calm") == weights(Path(parent) / "chaos")
    names = ("exit_code", "said", "env_steps", "eval_return_mean", "runner_restarts", "learner_restarts")
    row = {
        "algo": algo, "faults": faults, "seed": seed, "steps": steps, "seconds": round(seconds), "hits": dict(chaos.hits),
        "undisturbed": {name: alone.get(name) for name in names}, "disturbed": {name: hit.get(name) for name in names},
        "same_weights": same, "memory_mb_in_ten_minutes": chaos.slopes(), "left_behind": left,
        "command": f"python -m benchmarks.chaos --algo {algo} --minutes {minutes:g} --seed {seed} --faults {faults}",
        "commit": commit(), "machine": machine(), "versions": versions(), "measured_at": time.strftime("%Y-%m-%d %H:%M:%S"),
    }  # fmt: skip
    others = [other for other in read_rows() if other["command"] != row["command"]]
    RESULTS.write_text(json.dumps([*others, row], indent=1) + "\n", encoding="utf-8")
    console.print_json(data=row)
    reached = hit["exit_code"] == 0 and hit["eval_return_mean"] >= 0.95 * alone["eval_return_mean"]
    if not reached or left or (faults == "exact" and not same):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
