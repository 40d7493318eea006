"""A training run a fragment at a time, in one process: the pieces of `wiserl.train` on the local backend, the loop the user's.

`docs/by-hand.md` shows it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import nn

from wiserl.agent.base.algorithm import Algorithm
from wiserl.agent.base.off_policy import OffPolicy
from wiserl.agent.catalogue import AlgoLike
from wiserl.core.batch import Fragment
from wiserl.core.config import Count, convert
from wiserl.core.tree import Array, tree_map
from wiserl.env.make import EnvLike
from wiserl.experiment.console import Console
from wiserl.experiment.experiment import AGENT, Experiment
from wiserl.experiment.monitor import Monitor
from wiserl.experiment.options import read_options
from wiserl.experiment.signals import StopSignals
from wiserl.net.normalize import normalizers
from wiserl.ops.tensors import to_tensors
from wiserl.policy.evaluation import evaluate
from wiserl.policy.policy import Policy
from wiserl.run_folder.checkpoint import Checkpoint
from wiserl.run_folder.claim import copy_run
from wiserl.run_folder.metrics import MetricsWriter
from wiserl.training.gym_runner import GymRunner
from wiserl.training.training_agent import TrainingAgent
from wiserl.training.transform import Transform
from wiserl.transport.registry import WiseRL
from wiserl.util.errors import InputError
from wiserl.util.seeding import derive_seed


def by_hand(algo: AlgoLike, env: EnvLike, *, config: str | Path | Mapping[str, Any] | None = None, resume: str | Path | None = None,
            transform: Transform | None = None, **options: Any) -> RunByHand:  # fmt: skip
    """A run whose loop is the caller's: everything made, nothing stepped yet.

    Args:
        algo: as for `wiserl.train`, and so are all others. There is one runner, on the local backend; presets apply.
        env: the env.
        config: a file or mapping of options; those given as keywords win.
        resume: a run folder to go on with, from its last checkpoint.
        transform: given each fragment before it is learned from.
        options: run options, hyper-parameters, `env_kwargs` and `network`.

    Raises:
        InputError: something given is wrong, or more than one runner or another backend was asked for.
    """
    run, hyper = read_options(algo, env, config, resume, options)
    if run.runners > 1 or (run.backend == "ray" and resume is None):
        raise InputError(
            f"by hand with runners={run.runners}, backend={run.backend}: expected one runner on the local backend; raise "
            "envs instead, or use wiserl.train"
        )
    run = dataclasses.replace(run, backend="local")
    return RunByHand(Experiment(run, hyper, resume is not None, transform))


@dataclass(frozen=True)
class _Unsaved(Checkpoint):
    """A checkpoint of what is in memory."""

    policy: nn.Module

    def weights(self) -> dict[str, torch.Tensor]:
        return self.policy.state_dict()


class RunByHand:
    """A training run that goes a fragment at a time; what `wiserl.by_hand` returns. A context manager.

    It trains as `wiserl.train` does with the same options, to the same weights, and its folder has the same files.

    Attributes:
        folder: the run folder.
        runner: steps the envs.
        learner: counts, saves, and holds the algorithm that learns.
    """

    def __init__(self, experiment: Experiment) -> None:
        run = experiment.run
        self._experiment = experiment
        self._closed = False
        self._summary: dict[str, Any] | None = None
        self.folder = experiment.folder
        self._wise_rl = WiseRL("local")
        console = Console(run.total_steps, quiet=True)
        with experiment.claimed.undo_on_bad_input():
            self._metrics = MetricsWriter(self.folder, warn=console.warning)
            group = experiment.connect(self._wise_rl, experiment.resume)
        runner, _, self._scope = group.members[0]
        self.runner: GymRunner = runner
        self.learner: TrainingAgent = self._call("itself")
        # Never entered: signals do to the caller's loop what they always do.
        signals = StopSignals()
        self._monitor = Monitor(run, self.folder, console, self._metrics, signals, local=True)
        if experiment.resume:
            self._monitor.forget_after_checkpoint()
        self._monitor.watch(self._call)

    def _call(self, method: str, *args: Any) -> Any:
        return self._wise_rl.call(AGENT, method, *args)

    def _check_open(self, verb: str) -> None:
        if self._closed:
            raise InputError(
                f"{verb}: the run in '{self.folder}' is closed; do it before close() and within the `with` block, or go on with "
                "wiserl.by_hand(..., resume=...)"
            )

    @property
    def algorithm(self) -> Algorithm:
        """The algorithm that learns, to look into: its networks, its replay."""
        return self.learner.algorithm

    @property
    def env_steps(self) -> int:
        """Env steps learned from or stored so far: those of a warm-up count, those of a burn-in do not."""
        return self.algorithm.env_steps

    @property
    def updates(self) -> int:
        """Optimiser steps so far."""
        return self.algorithm.updates

    @property
    def done(self) -> bool:
        """Whether all `total_steps` have been learned from."""
        return self.learner.stop

    def step(self) -> dict[str, float]:
        """Sample one fragment and let the algorithm learn from it.

        Returns:
            What its `update` gave to log, by the names of `metrics.csv`, and the mean return of the last 100 episodes. Nothing
            but that before learning starts.

        Raises:
            InputError: `total_steps` are done, the run is closed, or the transform returned no fragment.
            Diverged: a loss, gradient or weight is infinite or NaN.
        """
        self._check_open("step")
        if self.done:
            raise InputError(
                f"all total_steps={self._experiment.run.total_steps} are done after {self.env_steps} env steps; loop with "
                "`while not run.done`, or give a larger total_steps"
            )
        self._scope.run(self.runner.step)
        self._monitor.poll()
        logs, recent = dict(self.learner.learning.progress.logs), self.learner.status()["train_return_mean"]
        return logs if recent is None else {**logs, "charts/episodic_return": recent}

    def run(self) -> None:
        """Go on to `total_steps`."""
        while not self.done:
            self.step()

    def burn_in(self, env_steps: int) -> None:
        """Fill the running normalisers of observations by random steps, before the first step of training.

        They are steps of episodes of their own, in whole fragments. They do not count as env steps, and nothing else is
        learned from them: training then begins with the episodes it would have begun with anyway. The transform does not see
        them. Scales of rewards are left alone: the returns of random actions say little of those to come.

        Raises:
            InputError: training has begun or the run is closed, the algorithm keeps no such normaliser, or `env_steps` is no
                count.
        """
        self._check_open("burn_in")
        env_steps = convert(env_steps, Count, "env_steps", "burn_in")
        if self.env_steps:
            raise InputError(f"burn_in after {self.env_steps} env steps: expected before the first step")
        found = normalizers(self.algorithm.policy)
        if not found:
            raise InputError(
                f"{self._experiment.run.algo.name} as configured keeps no running normaliser of observations, so there is nothing to "
                "burn in: leave it out, or set normalize_observation=True"
            )
        for fragment in self.runner.random_fragments(env_steps):
            rows = to_tensors(_living(fragment), self.algorithm.device)
            for normalizer in found:
                normalizer.update(rows)
        self._call("_sync_model")
        self.runner.agent.refresh()

    def warm_up(self, env_steps: int) -> None:
        """Fill the replay with random actions, before the first update.

        These are env steps like others: they count, and schedules go on. They pay for no updates: `learning_starts` is raised
        to where the warm-up ends, if it was below that. They come in whole fragments.

        Raises:
            InputError: the algorithm learns from no replay, has learned already, `total_steps` would end in the warm-up, the run
                is closed, or `env_steps` is no count.
        """
        self._check_open("warm_up")
        env_steps = convert(env_steps, Count, "env_steps", "warm_up")
        total, end = self._experiment.run.total_steps, self.env_steps + env_steps
        if not isinstance(self.algorithm, OffPolicy):
            raise InputError(
                f"{self._experiment.run.algo.name} has no replay to warm up: it learns from what it has just sampled"
            )
        if self.updates:
            raise InputError(f"warm_up after {self.updates} updates: expected before the first one")
        if end >= total:
            raise InputError(
                f"warm_up to {end} env steps of total_steps={total}: expected fewer; give a larger total_steps"
            )
        fragment = self.runner.args.steps * self.runner.args.envs
        while self.env_steps < end:
            self._set_warmed_up(self.env_steps + fragment)
            self.step()
        self._set_warmed_up(self.env_steps)

    def _set_warmed_up(self, env_steps: int) -> None:
        for agent in (self.learner, self.runner.policy):
            assert isinstance(agent.algorithm, OffPolicy)
            agent.algorithm.warmed_up = env_steps

    def policy(self) -> Policy:
        """A copy of the policy as it is now, to act with."""
        manifest = {**self.learner.plan.manifest, "env_steps": self.env_steps, "updates": self.updates}
        return Policy(_Unsaved(self.folder, manifest, self.algorithm.policy), trust=True)

    def evaluate(self, episodes: int = 20, deterministic: bool = True) -> Array:
        """Returns `[episodes]` float64 of whole episodes of the policy as it is now, other ones at other `env_steps`."""
        run = self._experiment.run
        seed = derive_seed(run.seed, "evaluation", self.env_steps)
        return evaluate(self.policy(), run.env, run.env_kwargs, episodes, seed, deterministic)

    def save(self, folder: str | Path | None = None) -> Path:
        """Write a checkpoint to act with or to resume from; returns its path.

        Args:
            folder: a new run folder for it (what `wiserl.load` and `resume` take); None: this run's own.

        Raises:
            InputError: `folder` holds a run already, or other files of such names, or this run is closed.
            DiskError: it could not be written.
        """
        self._check_open("save")
        path = Path(self._call("save"))
        if folder is None or Path(folder).resolve() == self.folder.resolve():
            return path
        return copy_run(self.folder, path, Path(folder))

    def close(self) -> dict[str, Any]:
        """Save, write `summary.json`, close envs and files; returns the summary, also when called again.

        Raises:
            InputError: an error has ended the `with` block, which closed the run without saving.
            Diverged: what would be saved is infinite or NaN. Leave the `with` block by this error, and the run is closed.
        """
        if self._summary is None:
            self._check_open("close")
            self._monitor.finish()
            self._summary = self._experiment.finished or self._experiment.summarise(self._monitor, restarts=0)
            self._release()
        return self._summary

    def _release(self) -> None:
        self._closed = True
        self.runner.close()
        self._wise_rl.close()
        self._experiment.claimed.release()
        self._metrics.close()

    def __enter__(self) -> RunByHand:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._release()
        elif not self._closed:
            self.close()


def _living(fragment: Fragment) -> Any:
    """Observations `[N, ...]` of the agents that were alive."""
    alive = fragment.get("alive", np.ones(fragment["reward"].shape, bool))
    return tree_map(lambda leaf: leaf[alive], fragment["obs"])
