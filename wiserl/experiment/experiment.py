"""A training run, from its options to its summary. `Experiment.connect` is the whole data path; its diagram is in
`docs/architecture.md`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wiserl.agent.catalogue import AlgoLike, algorithm_class, algorithm_name
from wiserl.core.config import to_plain
from wiserl.core.spec import EnvSpec
from wiserl.env.goal_reward import GoalReward
from wiserl.env.make import EnvLike, env_id, make_env
from wiserl.env.masks import with_masks
from wiserl.env.rows import read_spec
from wiserl.env.vector.choose import choose_vector
from wiserl.experiment.console import Console
from wiserl.experiment.monitor import Monitor
from wiserl.experiment.options import (
    RunConfig,
    backend_for,
    learner_device,
    preset_for,
    read_config_file,
    resolve,
    run_options_of,
    with_defaults,
)
from wiserl.experiment.signals import StopSignals
from wiserl.run_folder.checkpoint import can_resume
from wiserl.run_folder.claim import SUMMARY, claim, finished, reopen, write_json
from wiserl.run_folder.metrics import MetricsWriter
from wiserl.training.gym_runner import GymRunner, GymRunnerArgs
from wiserl.training.plan import TrainPlan
from wiserl.training.training_agent import TrainingAgent
from wiserl.training.transform import Transform
from wiserl.transport.backend import RunnerGroup
from wiserl.transport.registry import WiseRL
from wiserl.util.cores import available_cores
from wiserl.util.errors import InputError, Interrupted, LearnerLost

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
    """
    run, hyper = read_options(algo, env, config, resume, options)
    return Experiment(run, hyper, resume is not None, transform).execute(quiet, json_summary)


def read_options(algo: AlgoLike, env: EnvLike, config: str | Path | Mapping[str, Any] | None, resume: str | Path | None,
                 options: Mapping[str, Any]) -> tuple[RunConfig, Any]:  # fmt: skip
    """The run's options and the algorithm's configuration that these arguments of `train` come to."""
    given = read_config_file(config) if isinstance(config, str | Path) else dict(config or {})
    given.update(options)
    if resume is not None:
        saved_algo, saved_env, given = run_options_of(Path(resume), given)
        name = algorithm_name(algo)
        if (name, env_id(env)) != (saved_algo, saved_env):
            raise InputError(
                f"the run in '{resume}' trains {saved_algo} on {saved_env}, not {name} on {env_id(env)}; resume it with those names"
            )
    return resolve(algo, env, given, use_preset=resume is None)


class Experiment:
    """One run: its resolved options, its folder, and what happens in it.

    Attributes:
        run: its options, what depends on the machine filled in.
        claimed: the run folder.
        folder: its path.
        backend: `local` or `ray`.
        resume: whether it goes on from a checkpoint.
        finished: the summary of a resumed run that has no env steps left to do; None where there are some.
    """

    def __init__(self, run: RunConfig, hyper: Any, resume: bool, transform: Transform | None = None) -> None:
        self._begun = time.time()
        GymRunnerArgs.check_transform(transform)
        self._hyper, self.resume, self._transform = hyper, resume, transform
        algorithm = algorithm_class(run.algo)
        probe = make_env(run.env, run.env_kwargs)
        spec = with_masks(read_spec(probe, run.env), probe)
        self._spec: EnvSpec = dataclasses.replace(spec, goal_reward=GoalReward(run.env, run.env_kwargs))
        probe.close()
        algorithm(spec=self._spec, config=hyper)  # an env it cannot do is refused here, before anything is started
        self._vector_reason = ""
        if run.vector == "auto":
            cores = max(available_cores() // run.runners, 1)  # of other machines nothing is known yet
            vector, self._vector_reason = choose_vector(run.env, run.env_kwargs, run.envs, cores)
            run = dataclasses.replace(run, vector=vector)
        self._steps = algorithm.steps_per_fragment(hyper, run.sync, run.runners, run.envs)
        inflight = run.max_inflight or (1 if algorithm.on_policy else 2)
        self.backend = backend_for(run)
        device = learner_device(run, self.backend)
        run = with_defaults(run, self._steps * run.runners * run.envs, device)
        self.run = dataclasses.replace(run, max_inflight=inflight)
        self.finished: dict[str, Any] | None = None
        if resume:
            path = Path(str(run.run_dir))
            self.finished = finished(path, run.total_steps)
            self.claimed = reopen(path, self._config(path), self.finished is not None)
        else:
            name = run.run_dir or "runs/" + re.sub("[/:]", "-", f"{run.algo}-{env_id(run.env)}-s{run.seed}")
            self.claimed = claim(name, not run.run_dir, self._config)
        self.folder = self.claimed.path

    def _config(self, folder: Path) -> dict[str, Any]:
        """What `config.json` holds."""
        run = self.run
        return {
            "run": {**to_plain(dataclasses.replace(run, env=env_id(run.env))), "run_dir": str(folder)},
            "hyperparameters": to_plain(self._hyper),
            "algo": run.algo,
            "env": env_id(run.env),
            "backend": self.backend,
            "transform": env_id(self._transform) if self._transform else None,
        }

    def execute(self, quiet: bool, json_summary: bool) -> dict[str, Any]:
        """Train, evaluate, write the summary."""
        run, folder = self.run, self.folder
        if self.finished is not None and self.finished.get("eval_return_mean") is not None:
            return self._nothing_to_do(self.finished, Console(run.total_steps, quiet, json_summary))
        with StopSignals() as signals, self.claimed.undone_by_bad_input(), MetricsWriter(folder) as metrics:
            console = Console(run.total_steps, quiet, json_summary)
            with console:
                if run.preset and not self.resume and preset_for(run.algo, run.env):
                    console.message(
                        f"preset: {run.algo} on {env_id(run.env)} (`wiserl list presets` has its options; without it: --no-preset, in "
                        "Python preset=False)"
                    )
                if self._vector_reason:
                    console.message(f"vector env: {self._vector_reason}")
                monitor = Monitor(run, folder, console, metrics, signals, local=self.backend == "local")
                if self.resume:
                    monitor.forget_after_checkpoint()
                    if not can_resume(folder):
                        console.message("nothing was saved before that run ended: training begins at the start")
                restarts = self._train(monitor)
                with contextlib.suppress(Interrupted):
                    if signals.received is None:
                        monitor.evaluate_final()
                signum = signals.received
            summary = self.summarise(monitor, restarts)
        if signum is not None:
            console.warning(f"stopped at {summary['env_steps']:,} env steps and saved; go on with "
                            f"`wiserl train {run.algo} {env_id(run.env)} --resume {folder}`")  # fmt: skip
            raise Interrupted(signum)
        console.summary(summary, folder)
        if not summary["updates"]:
            starts = getattr(self._hyper, "learning_starts", None)
            later = "" if starts is None else f" (learning_starts={starts})"
            console.warning(
                f"nothing was learned: training ended after {summary['env_steps']:,} env steps, before the first update{later}; "
                "train for longer"
            )
        return summary

    def _nothing_to_do(self, summary: dict[str, Any], console: Console) -> dict[str, Any]:
        console.message(
            f"nothing to do: the run in '{self.folder}' has done {summary['env_steps']:,} env steps and was asked for "
            f"{self.run.total_steps:,}; its files stay as they are. Give a larger total_steps to go on"
        )
        console.summary(summary, self.folder)
        return summary

    def _train(self, monitor: Monitor) -> int:
        """Train to the end; a learner that dies is restarted from its last checkpoint. Returns the runners' restarts."""
        for attempt in range(self.run.max_restarts + 1):
            wise_rl = WiseRL(self.backend)
            try:
                runners = self.connect(wise_rl, self.resume or attempt > 0)
                monitor.watch(lambda method, *arguments, to=wise_rl: to.call(AGENT, method, *arguments))
                monitor.begin(self._steps)
                restarts = wise_rl.start_all_runners(runners, poll=monitor.poll, max_restarts=self.run.max_restarts)
                monitor.finish()
                return restarts
            except LearnerLost as error:
                resume = can_resume(self.folder)
                if attempt == self.run.max_restarts:
                    raise
                where = "its last checkpoint" if resume else "the start, since there is no checkpoint yet"
                monitor.learner_restarted(f"{error}; restarting it from {where}")
            finally:
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
        wise_rl.make_agent(
            AGENT, TrainingAgent, sync=run.sync, resource=resource, plan=self._plan(resume and can_resume(self.folder))
        )
        args = GymRunnerArgs(
            AGENT, run.env, run.envs, self._steps, run.seed, run.vector, run.env_kwargs, self._transform,
            workers=max(wise_rl.backend.cores() // run.runners, 1),
        )  # fmt: skip
        return wise_rl.make_runner("runner", GymRunner, args, num=run.runners)

    def _plan(self, resume: bool) -> TrainPlan:
        run = self.run
        manifest = {
            "algo": run.algo,
            "env": env_id(run.env),
            "env_kwargs": run.env_kwargs,
            "spec": self._spec.to_json(),
            "config": to_plain(self._hyper),
            "seed": run.seed,
        }
        return TrainPlan(
            algo=algorithm_class(run.algo),  # the class: where the learner runs, its name may mean nothing
            spec=self._spec,
            config=self._hyper,
            total_steps=run.total_steps,
            runners=run.runners,
            envs=run.envs,
            seed=run.seed,
            device=run.device,
            run_dir=str(self.folder.absolute()),
            manifest=manifest,
            checkpoint_every=run.checkpoint_every,
            eval_every=run.eval_every,
            keep_checkpoints=run.keep_checkpoints,
            save_replay=run.save_replay,
            max_inflight=run.max_inflight,
            log_every=max(run.total_steps // 200, 1),
            resume=resume,
            saved_total_steps=self.claimed.before["run"]["total_steps"] if self.claimed.before else 0,
        )

    def summarise(self, monitor: Monitor, restarts: int) -> dict[str, Any]:
        """Write `summary.json`; returns what it holds."""
        run, status = self.run, dict(monitor.status)
        first_update_at = status.pop("first_update_at")
        summary = {
            "algo": run.algo,
            "env": env_id(run.env),
            "seed": run.seed,
            "backend": self.backend,
            "sync": run.sync,
            "vector": run.vector,
            "runners": run.runners,
            "envs_per_runner": run.envs,
            **status,
            "wall_seconds": time.time() - self._begun,
            "first_update_at": first_update_at,
            "first_update_seconds": first_update_at - self._begun if first_update_at else None,
            **monitor.final,
            "runner_restarts": restarts,
            "learner_restarts": monitor.learner_restarts,
            "run_dir": str(self.folder),
        }
        write_json(self.folder / SUMMARY, summary)
        return summary
