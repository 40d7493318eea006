"""What watches a run from the script's process: logs, evaluates checkpoints, keeps the best, passes signals on."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from wiserl.experiment.console import Console
from wiserl.experiment.signals import StopSignals
from wiserl.ops.pacing import steps_of_round
from wiserl.policy.evaluation import run_episodes
from wiserl.policy.policy import Policy
from wiserl.run_folder.checkpoint import can_resume, open_checkpoint, point_to
from wiserl.run_folder.metrics import MetricsWriter, read_metrics
from wiserl.training.plan import RunConfig
from wiserl.util.errors import Interrupted
from wiserl.util.seeding import derive_seed

POLL_SECONDS = 0.1
STOP_SECONDS = 20.0
_EVAL = "eval/return_mean"


class Monitor:
    """Polls the learner for events and acts on them.

    Attributes:
        status: the learner's counters as last seen.
        final: the final evaluation's figures.
        learner_restarts: how often the learner's process had to be replaced.
    """

    def __init__(
        self, run: RunConfig, folder: Path, console: Console, metrics: MetricsWriter, signals: StopSignals, local: bool
    ) -> None:
        self._run, self._folder, self._console, self._metrics, self._signals = run, folder, console, metrics, signals
        self._local = local
        self._checkpoints = folder / "checkpoints"
        self._call: Callable[..., Any] = lambda method, *arguments: None
        self._next_poll = 0.0
        self._stop_asked_at: float | None = None
        self._best = -math.inf
        self.status: dict[str, Any] = {}
        self.final: dict[str, Any] = {"eval_return_mean": None, "eval_return_std": None}
        self.learner_restarts = 0

    def watch(self, call: Callable[..., Any]) -> None:
        """Begin to watch a learner; `call(method, *arguments)` reaches its `TrainingAgent`."""
        self._call = call
        self._stop_asked_at = None
        self._signals.orderly = True

    def begin(self, longest: int) -> None:
        """Show where the run stands, and what is waited for: the first round may take minutes.

        Args:
            longest: steps of each env in a fragment.
        """
        self._look()
        run, done = self._run, self.status["env_steps"]
        if done >= run.total_steps:
            return
        envs = run.runners * run.envs
        steps = steps_of_round(done, run.total_steps, envs, longest)
        in_round = envs if run.sync else run.envs
        self._console.message(
            f"sampling the first round of {steps * in_round:,} env steps ({steps:,} in each of {in_round:,} envs)"
        )

    def poll(self) -> None:
        """Look at the learner, unless it was looked at a moment ago."""
        now = time.monotonic()
        if now < self._next_poll:
            return
        if self._signals.received is not None:
            self._ask_to_stop(now)
        self._look()
        self._next_poll = time.monotonic() + POLL_SECONDS

    def _ask_to_stop(self, now: float) -> None:
        if self._stop_asked_at is None:
            self._stop_asked_at = now
            self._console.message("stopping after this round, then saving; a second signal stops at once")
            self._call("request_stop")
        elif now - self._stop_asked_at > STOP_SECONDS:
            self._call("save")
            self._console.warning(
                f"runners did not stop in {STOP_SECONDS:.0f} s; a checkpoint was saved and they are ended"
            )
            assert self._signals.received is not None
            raise Interrupted(self._signals.received)

    def _look(self) -> None:
        for event in self._call("drain"):
            if event.kind == "metrics":
                self._metrics.write(event.env_steps, event.content)
                self._console.update(event.env_steps, event.content)
            elif event.kind == "message":
                self._console.message(event.content)
            elif event.kind == "warning":
                self._console.warning(event.content)
            elif self._signals.received is None:
                begun = time.monotonic()
                self._evaluate_on_the_way(Path(event.content), event.env_steps)
                if self._local:
                    self._call("note_pause", time.monotonic() - begun)
        self.status = self._call("status")
        row = {"charts/SPS": self.status["steps_per_second"], "charts/policy_lag_mean": self.status["policy_lag_mean"]}
        if self.status["train_return_mean"] is not None:
            row["charts/episodic_return"] = self.status["train_return_mean"]
        self._console.update(self.status["env_steps"], row)

    def finish(self) -> None:
        """The runners are done: save, and take in what is left."""
        self._call("save")
        self._look()
        self._signals.orderly = False

    def _evaluate_on_the_way(self, path: Path, env_steps: int) -> None:
        # If a signal interrupts it, the next poll asks training to stop.
        with contextlib.suppress(Interrupted):
            self._evaluate(path, env_steps, derive_seed(self._run.seed, "evaluation", env_steps))
        self._signals.interrupting = False
        self._call("note_evaluation", str(path))

    def _evaluate(self, path: Path, env_steps: int, seed: int) -> dict[str, float]:
        """Figures by name; with `success_rate` where the env tells of success.

        Each evaluation has a seed of its own: over the same episodes each time, the best would be what these few favour.
        """
        run = self._run
        # Raised inside a library's own code while it reads a file, an interrupt could come out as another error.
        before, self._signals.orderly = self._signals.orderly, True
        try:
            policy = Policy(open_checkpoint(path))
        finally:
            self._signals.orderly = before
        with self._signals.at_once():
            returns, success = run_episodes(policy, run.env, run.env_kwargs, run.eval_episodes, seed)
        mean = float(returns.mean())
        figures = {"return_mean": mean, "return_std": float(returns.std())}
        if success is not None:
            figures["success_rate"] = float(success.mean())
        self._metrics.write(env_steps, {f"eval/{name}": value for name, value in figures.items()})
        self._console.update(env_steps, {_EVAL: mean})
        if mean >= self._best and path.exists():
            self._best = mean
            point_to(self._checkpoints, "best", path)
        return figures

    def evaluate_final(self) -> None:
        """Evaluate the last checkpoint, over other episodes than any evaluation on the way."""
        path, env_steps = (self._checkpoints / "last").resolve(), self.status["env_steps"]
        self._console.message(f"evaluating the final policy over {self._run.eval_episodes} episodes")
        figures = self._evaluate(path, env_steps, derive_seed(self._run.seed, "final evaluation", env_steps))
        self.final = {f"eval_{name}": value for name, value in figures.items()}
        self.final["eval_episodes"] = self._run.eval_episodes

    def note_learner_restart(self, message: str) -> None:
        """The learner had to be replaced: say so, and forget what it had done since its last checkpoint."""
        self.learner_restarts += 1
        self._console.warning(message)
        self.forget_after_checkpoint()

    def forget_after_checkpoint(self) -> None:
        """Drop the metrics after the last checkpoint (or all), since they will be measured again; remember the best evaluation."""
        steps = open_checkpoint(self._folder, "last").manifest["env_steps"] if can_resume(self._folder) else -1
        self._metrics.truncate_after(steps)
        self._console.begin_at(max(steps, 0))
        evaluations = read_metrics(self._folder).get(_EVAL, np.array([]))
        self._best = float(np.max(evaluations[np.isfinite(evaluations)], initial=-math.inf))
