"""Checkpoints of a training: what they hold, when they are written, and how a run goes on from one."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from wiserl.agent.base.algorithm import Algorithm
from wiserl.agent.base.divergence import DivergenceWatch
from wiserl.run_folder.checkpoint import Checkpoint, drop_replay, open_checkpoint, save_checkpoint
from wiserl.run_folder.inventory import NAMES, is_guessed, named, point_to, prune
from wiserl.run_folder.writing import writing
from wiserl.training.plan import Event, TrainPlan
from wiserl.training.position import Positions
from wiserl.training.progress import Progress
from wiserl.util.errors import DiskError, InputError

RETRY_SECONDS = 10.0


class Saver:
    """Writes the checkpoints of a training, and loads the one that a resumed run goes on from.

    Args:
        plan: of the training; where it says so, the last checkpoint of its folder is loaded at once.
        algorithm: what is saved, ready to learn.
        watch: says whether it is fit to be saved.
        progress: saved with it.
        positions: saved with it.
        events: gets what the user should be told of.
    """

    def __init__(self, plan: TrainPlan, algorithm: Algorithm, watch: DivergenceWatch, progress: Progress,
                 positions: Positions, events: list[Event]) -> None:  # fmt: skip
        self._plan, self._algorithm, self._watch = plan, algorithm, watch
        self._progress, self._positions, self._events = progress, positions, events
        self._folder = Path(plan.run_dir) / "checkpoints"
        self._to_evaluate: set[str] = set()
        self._retry_at: float | None = None  # after a checkpoint that could not be written
        if plan.resume:
            checkpoint = open_checkpoint(plan.run_dir, "last")
            self._load(checkpoint)
            self._tell_of_names(checkpoint)
        steps = algorithm.env_steps
        self._saved_at = steps if plan.resume else -1
        self._next_save = _after(steps, plan.checkpoint_every)
        self._next_evaluation = _after(steps, plan.eval_every) if plan.eval_every else None

    def save_if_due(self) -> None:
        """After a round: write the checkpoints that are due, if any. One to evaluate becomes an event.

        One that cannot be written is a warning; it is tried again some seconds later.
        """
        plan, steps = self._plan, self._algorithm.env_steps
        at_end = steps >= plan.total_steps
        try:
            if (
                at_end
                or steps >= self._next_save
                or (self._retry_at is not None and time.monotonic() >= self._retry_at)
            ):
                self._next_save = _after(steps, plan.checkpoint_every)
                self.save()
            if self._next_evaluation is not None and steps >= self._next_evaluation and not at_end:
                self._next_evaluation = _after(steps, plan.eval_every)
                self._tell("evaluate", str(self._write_to_evaluate()))
        except DiskError as error:
            if not at_end and self._retry_at is None:
                self._tell("warning", f"{error}; training goes on, and it is tried again from time to time")
            self._retry_at = time.monotonic() + RETRY_SECONDS

    def _write_to_evaluate(self) -> Path:
        # Before there is a checkpoint to resume from, the first one evaluated is such.
        path = self._write(with_replay=False) if self._saved_at >= 0 else self.save()
        self._to_evaluate.add(path.name)
        return path

    def note_evaluation(self, path: str | Path) -> None:
        """A checkpoint to evaluate is needed no longer."""
        self._to_evaluate.discard(Path(path).name)

    def save(self) -> Path:
        """Write a checkpoint to resume from, unless the newest one is of this very step; returns its path.

        Raises:
            DiskError: it could not be written. The one before it is whole.
        """
        steps = self._algorithm.env_steps
        if self._saved_at != steps:
            before = named(self._folder, "last")
            path = self._write(with_replay=self._plan.save_replay)
            with writing("what names the last checkpoint,", self._folder / "last.txt"):
                point_to(self._folder, "last", path)
            self._saved_at = steps
            if self._retry_at is not None:
                self._retry_at = None
                self._tell("message", f"checkpoint '{path}' is written, after those before it could not be")
            self._tidy(before, path)
        return self._folder / f"step_{steps}"

    def _tidy(self, before: Path | None, path: Path) -> None:
        try:
            with writing("older checkpoints in", self._folder):
                prune(self._folder, self._plan.keep_checkpoints, self._to_evaluate)
                if before is not None and before.resolve() != path.resolve() and before.name.startswith("step_"):
                    drop_replay(before)
        except DiskError as error:
            self._tell("warning", f"{error}; they take more room than they should")

    def _tell(self, kind: str, content: str) -> None:
        self._events.append(Event(kind, self._algorithm.env_steps, content))

    def _tell_of_names(self, checkpoint: Checkpoint) -> None:
        """Say what is odd about the way in which the last checkpoint was found."""
        if is_guessed(self._folder):
            self._tell(
                "warning",
                f"nothing in '{self._folder}' says which checkpoint is the last: going on from {checkpoint.path.name}",
            )
            if self._plan.save_replay and self._algorithm.replay_state() is not None and checkpoint.replay() is None:
                self._tell(
                    "warning", f"{checkpoint.path.name} was saved without its replay: the run goes on with an empty one"
                )
        for name in NAMES:
            if (self._folder / name).is_dir() and not (self._folder / name).is_symlink():
                self._tell(
                    "message",
                    f"'{self._folder / name}' is a copy made with links followed, and is not kept up to date: {name}.txt tells which "
                    "checkpoint it is; the copy may be removed",
                )

    def _write(self, with_replay: bool) -> Path:
        algorithm = self._algorithm
        if self._saved_at == algorithm.env_steps:
            return self._folder / f"step_{algorithm.env_steps}"
        self._watch.check()  # after an error that was caught, or a change that a user made to the weights
        manifest = {**self._plan.manifest, "env_steps": algorithm.env_steps, "updates": algorithm.updates}
        training = {
            "rng": json.dumps(algorithm.rng.bit_generator.state),
            "positions": self._positions.state_list(),
            "course": algorithm.course(),
            **self._progress.state_dict(),
        }
        state = {"algorithm": algorithm.learner_state(), "training": training}
        replay = algorithm.replay_state() if with_replay else None
        return save_checkpoint(self._folder, manifest, algorithm.policy.state_dict(), state, replay)

    def _load(self, checkpoint: Checkpoint) -> None:
        try:
            self._take_in(checkpoint)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"checkpoint '{checkpoint.path}' holds nothing that a training can go on with ({type(error).__name__}: {error}): put "
                "the run's own back, or train anew"
            ) from error

    def _take_in(self, checkpoint: Checkpoint) -> None:
        plan, algorithm, state = self._plan, self._algorithm, checkpoint.state()
        self._load_weights(checkpoint, state["algorithm"])
        self._watch.check()  # older versions saved weights that had diverged
        replay = checkpoint.replay()
        if replay is not None:
            algorithm.load_replay_state(replay)
        training = state["training"]
        algorithm.rng.bit_generator.state = json.loads(training["rng"])
        algorithm.env_steps, algorithm.updates = checkpoint.manifest["env_steps"], checkpoint.manifest["updates"]
        self._progress.load_state_dict(training)
        self._positions.load_state_list(training.get("positions", ()))
        # Older checkpoints have no `course`; what they know of it is elsewhere.
        before = {"total_steps": plan.saved_total_steps or plan.total_steps, "warmed_up": training.get("warmed_up", 0)}
        told = algorithm.resume_course({**before, **training.get("course", {})}, checkpoint.manifest["config"])
        told = [*self._other_arguments(checkpoint), *told]
        for kind, line in told:
            self._tell(kind, line)

    def _load_weights(self, checkpoint: Checkpoint, learner_state: dict[str, Any]) -> None:
        saved, run = checkpoint.manifest, self._plan.manifest
        if (saved["algo"], saved["env"]) != (run["algo"], run["env"]):
            raise InputError(
                f"checkpoint '{checkpoint.path}' was saved by {saved['algo']} on {saved['env']}, this run trains {run['algo']} on "
                f"{run['env']}: put the run's own checkpoints back, or train anew"
            )
        try:
            self._algorithm.policy.load_state_dict(checkpoint.weights())
            self._algorithm.load_learner_state(learner_state)
        except (RuntimeError, ValueError, KeyError) as error:
            raise InputError(
                f"checkpoint '{checkpoint.path}' holds another network than this run's: {error}. Resume without the options "
                "that changed it"
            ) from None

    def _other_arguments(self, checkpoint: Checkpoint) -> list[tuple[str, str]]:
        """A warning where the checkpoint is of the same env with other arguments, which may be another task of equal shapes."""
        saved, now = checkpoint.manifest["env_kwargs"], json.loads(json.dumps(self._plan.manifest["env_kwargs"]))
        if saved == now:
            return []
        return [
            ("warning", f"the checkpoint was trained with env_kwargs={saved}, this run goes on with env_kwargs={now}")
        ]


def _after(steps: int, every: int) -> int:
    """The first multiple of `every` above `steps`."""
    return (steps // every + 1) * every
