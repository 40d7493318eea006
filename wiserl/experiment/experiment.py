"""A training run, from its options to its summary. `Experiment.connect` is the whole data path; its diagram is in
`docs/architecture.md`.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wiserl.agent.catalogue import AlgoLike
from wiserl.env.make import EnvLike, env_id
from wiserl.experiment.console import Console
from wiserl.experiment.monitor import Monitor
from wiserl.experiment.options import preset_for, read_options
from wiserl.experiment.prepare import prepare, take_folder
from wiserl.experiment.signals import StopSignals
from wiserl.run_folder.checkpoint import open_checkpoint
from wiserl.run_folder.claim import SUMMARY, write_json
from wiserl.run_folder.inventory import can_resume
from wiserl.run_folder.metrics import MetricsWriter
from wiserl.training.gym_runner import GymRunner, GymRunnerArgs
from wiserl.training.plan import RunConfig
from wiserl.training.training_agent import TrainingAgent
from wiserl.training.transform import Transform
from wiserl.transport.backend import RunnerGroup
from wiserl.transport.registry import WiseRL
from wiserl.util.errors import DiskError, HeadLost, Interrupted, LearnerLost

AGENT = "learner"


def train(algo: AlgoLike, env: EnvLike, *, config: str | Path | Mapping[str, Any] | None = None, resume: str | Path | None = None,
          transform: Transform | None = None, quiet: bool = False, json_summary: bool = False, **options: Any
          ) -> dict[str, Any]:  # fmt: skip
    """Train an agent and return the summary (what `summary.json` holds).

    Args:
        algo: name of an algorithm (`wiserl list algos`), `module:Class` of your own, or the class.
        env: gymnasium id, `package/module` of a PettingZoo env, `module:function`, or a callable that makes the env.
        config: a YAML or JSON file, or a mapping, of options; those given as keywords win.
        resume: a run folder to go on with, from its last checkpoint.
        transform: given each fragment on the runner before it is shipped (`core.batch` has its fields); what it returns is
            learned from. It stays the same when the run is resumed.
        quiet: print warnings only.
        json_summary: print the summary as one line of JSON at the end.
        options: run options (`total_steps`, `runners`, ...: `RunConfig`), hyper-parameters of the algorithm, `env_kwargs`, and
            `network`, a class or function of your own (docs/networks.md).

    Raises:
        InputError: something given is wrong; the message names the valid choice.
        EnvError: the env returned something that is not finite.
        Interrupted: a signal asked training to stop; a checkpoint was saved.
        DiskError: the last checkpoint, rows of metrics or the summary could not be written. On the way that is a warning.
    """
    run, hyper = read_options(algo, env, config, resume, options)
    return Experiment(run, hyper, resume is not None, transform).execute(quiet, json_summary)


class Experiment:
    """One run: its resolved options, its folder, and what happens in it.

    Attributes:
        prepared: what was decided before it begins.
        run: its options, nothing left open.
        backend: `local` or `ray`.
        resume: whether it goes on from a checkpoint.
        claimed: the run folder.
        folder: its path.
        finished: the summary of a resumed run that has no env steps left to do; None where there are some.
    """

    def __init__(self, run: RunConfig, config: Any, resume: bool, transform: Transform | None = None) -> None:
        self._begun = time.monotonic()
        self._home = Path.cwd()  # before an env is made, which may change it
        self.prepared = prepare(run, config, transform)
        self.run, self.backend, self.resume = self.prepared.run, self.prepared.backend, resume
        self.claimed, self.finished = take_folder(self.prepared, resume, self._home)
        self.folder = self.claimed.path

    def execute(self, quiet: bool, json_summary: bool) -> dict[str, Any]:
        """Train, evaluate, write the summary."""
        try:
            with StopSignals() as signals:
                gone = functools.partial(signals.request, signal.SIGPIPE)
                return self._execute(signals, Console(self.run.total_steps, quiet, json_summary, closed=gone))
        except DiskError as error:
            raise DiskError(f"{error}; {self._what_is_saved()}; free some room and {self._how_to_go_on()}") from error
        finally:
            self.claimed.release()

    def _execute(self, signals: StopSignals, console: Console) -> dict[str, Any]:
        run, folder = self.run, self.folder
        if self.finished is not None and self.finished.get("eval_return_mean") is not None:
            return self._nothing_to_do(self.finished, console)
        with self.claimed.undo_on_bad_input(), MetricsWriter(folder, warn=console.warning) as metrics:
            with console:
                if run.preset and not self.resume and preset_for(run.algo, run.env):
                    console.message(
                        f"preset: {run.algo.name} on {env_id(run.env)} (`wiserl list presets` has its options; without it: --no-preset, in "
                        "Python preset=False)"
                    )
                if self.prepared.vector_reason:
                    console.message(f"vector env: {self.prepared.vector_reason}")
                monitor = Monitor(run, folder, console, metrics, signals, local=self.backend == "local")
                if self.resume:
                    monitor.forget_after_checkpoint()
                    if not can_resume(folder):
                        console.message("nothing was saved before that run ended: training begins at the start")
                try:
                    restarts = self._train(monitor, signals)
                except KeyboardInterrupt:
                    console.warning(f"stopped at once; {self._what_is_saved()}; {self._how_to_go_on()}")
                    raise
                except HeadLost as error:
                    raise HeadLost(f"{error}; {self._what_is_saved()}; {self._how_to_go_on()}") from None
                with contextlib.suppress(Interrupted):
                    if signals.received is None:
                        monitor.evaluate_final()
                signum = signals.received
            summary = self.summarise(monitor, restarts)
        if signum is not None:
            console.warning(f"stopped at {summary['env_steps']:,} env steps and saved; {self._how_to_go_on()}")
            raise Interrupted(signum)
        console.summary(summary, Path(self._shown()))
        if not summary["updates"]:
            starts = getattr(self.prepared.config, "learning_starts", None)
            later = "" if starts is None else f" (learning_starts={starts})"
            console.warning(
                f"nothing was learned: training ended after {summary['env_steps']:,} env steps, before the first update{later}; "
                "train for longer"
            )
        return summary

    def _what_is_saved(self) -> str:
        if not can_resume(self.folder):
            return "nothing was saved yet"
        return f"the checkpoint of env step {open_checkpoint(self.folder, 'last').manifest['env_steps']:,} stays"

    def _how_to_go_on(self) -> str:
        return f"go on with `wiserl train {self.run.algo.name} {env_id(self.run.env)} --resume {self._shown()}`"

    def _shown(self) -> str:
        """The folder's path as it was given; from the root if the process is in another folder by now."""
        if Path(self.run.run_dir or "runs").is_absolute():
            return str(self.folder)
        try:
            moved = Path.cwd() != self._home
        except FileNotFoundError:  # an env went into a folder that is gone
            moved = True
        return str(self.folder if moved else self.folder.relative_to(self._home))

    def _nothing_to_do(self, summary: dict[str, Any], console: Console) -> dict[str, Any]:
        console.message(
            f"nothing to do: the run in '{self._shown()}' has done {summary['env_steps']:,} env steps and was asked for "
            f"{self.run.total_steps:,}; its files stay as they are. Give a larger total_steps to go on"
        )
        console.summary(summary, Path(self._shown()))
        return summary

    def _train(self, monitor: Monitor, signals: StopSignals) -> int:
        """Train to the end; a learner that dies is restarted from its last checkpoint. Returns the runners' restarts."""
        following = WiseRL(self.backend)
        for attempt in range(self.run.max_restarts + 1):
            wise_rl = following
            try:
                runners = self.connect(wise_rl, self.resume or attempt > 0)
                monitor.watch(lambda method, *arguments, to=wise_rl: to.call(AGENT, method, *arguments))
                monitor.begin(self.prepared.steps)
                restarts = wise_rl.start_all_runners(runners, poll=monitor.poll, max_restarts=self.run.max_restarts)
                monitor.finish()
                return restarts
            except LearnerLost as error:
                resume = can_resume(self.folder)
                if attempt == self.run.max_restarts:
                    raise
                where = "its last checkpoint" if resume else "the start, since there is no checkpoint yet"
                monitor.note_learner_restart(f"{error}; restarting it from {where}")
                # Before the other one ends: the connection, and a cluster of our own, which takes seconds to start, go on.
                following = WiseRL(self.backend)
                following.start()
            finally:
                with signals.kept():
                    wise_rl.close()
        raise AssertionError("unreachable")

    def connect(self, wise_rl: WiseRL, resume: bool) -> RunnerGroup:
        """The data path:  envs -> GymRunner x N -> fragments -> learner -> weights -> GymRunner x N.

        A monitor looks on from this process: it logs, evaluates checkpoints, and asks the learner to stop.

        Args:
            wise_rl: where agent and runners are made.
            resume: go on from the run folder's last checkpoint, if there is one.
        """
        run = self.run
        resource = {"num_gpus": run.learner_gpus} if run.learner_gpus else None
        plan = self.prepared.plan(self.claimed, resume and can_resume(self.folder))
        wise_rl.make_agent(AGENT, TrainingAgent, sync=run.sync, resource=resource, plan=plan)
        args = GymRunnerArgs(
            AGENT, run.env, run.envs, self.prepared.steps, run.seed, run.vector, run.env_kwargs,
            self.prepared.transform, workers=max(wise_rl.backend.cores() // run.runners, 1),
        )  # fmt: skip
        return wise_rl.make_runner("runner", GymRunner, args, num=run.runners)

    def summarise(self, monitor: Monitor, restarts: int) -> dict[str, Any]:
        """Write `summary.json`; returns what it holds."""
        run, status = self.run, dict(monitor.status)
        first_update_at, since = status.pop("first_update_at"), status.pop("since_first_update")
        summary = {
            **run.names,
            "seed": run.seed,
            "backend": self.backend,
            "sync": run.sync,
            "vector": run.vector,
            "runners": run.runners,
            "envs_per_runner": run.envs,
            **status,
            "wall_seconds": time.monotonic() - self._begun,
            "first_update_at": first_update_at,
            "first_update_seconds": None if since is None else monitor.looked_at - self._begun - since,
            **monitor.final,
            "runner_restarts": restarts,
            "learner_restarts": monitor.learner_restarts,
            "run_dir": self._shown(),
        }
        write_json(self.folder / SUMMARY, summary)
        return summary
