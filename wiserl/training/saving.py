"""Checkpoints of a training: what they hold, when they are written, and how a run goes on from one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wiserl.agent.base.algorithm import Algorithm
from wiserl.agent.base.divergence import DivergenceWatch
from wiserl.run_folder.checkpoint import Checkpoint, drop_replay, open_checkpoint, point_to, prune, save_checkpoint
from wiserl.training.plan import Event, TrainPlan
from wiserl.training.position import Positions
from wiserl.training.progress import Progress
from wiserl.util.errors import InputError


class Saver:
    """Writes the checkpoints of a training, and loads the one that a resumed run goes on from.

    Args:
        plan: of the training; where it says so, the last checkpoint of its folder is loaded at once.
        algorithm: what is saved, ready to learn.
        watch: says whether it is fit to be saved.
        progress: saved with it.
        positions: saved with it.

    Attributes:
        told: what the user should know of what was loaded.
    """

    def __init__(self, plan: TrainPlan, algorithm: Algorithm, watch: DivergenceWatch, progress: Progress,
                 positions: Positions) -> None:  # fmt: skip
        self._plan, self._algorithm, self._watch = plan, algorithm, watch
        self._progress, self._positions = progress, positions
        self._folder = Path(plan.run_dir) / "checkpoints"
        self._to_evaluate: set[str] = set()
        self.told: list[Event] = self._load(open_checkpoint(plan.run_dir, "last")) if plan.resume else []
        steps = algorithm.env_steps
        self._saved_at = steps if plan.resume else -1
        self._next_save = _after(steps, plan.checkpoint_every)
        self._next_evaluation = _after(steps, plan.eval_every) if plan.eval_every else None

    def save_if_due(self) -> Path | None:
        """After a round: write the checkpoints that are due, if any; returns one to evaluate."""
        plan, steps = self._plan, self._algorithm.env_steps
        at_end = steps >= plan.total_steps
        if at_end or steps >= self._next_save:
            self._next_save = _after(steps, plan.checkpoint_every)
            self.save()
        if at_end or self._next_evaluation is None or steps < self._next_evaluation:
            return None
        self._next_evaluation = _after(steps, plan.eval_every)
        path = self._write(with_replay=False)
        self._to_evaluate.add(path.name)
        return path

    def note_evaluation(self, path: str | Path) -> None:
        """A checkpoint to evaluate is needed no longer."""
        self._to_evaluate.discard(Path(path).name)

    def save(self) -> Path:
        """Write a checkpoint to resume from, unless the newest one is of this very step; returns its path."""
        steps = self._algorithm.env_steps
        if self._saved_at != steps:
            last = self._folder / "last"
            before = last.resolve() if last.exists() else None
            path = self._write(with_replay=self._plan.save_replay)
            point_to(self._folder, "last", path)
            self._saved_at = steps
            if before is not None and before != path.resolve():
                drop_replay(before)
            prune(self._folder, self._plan.keep_checkpoints, self._to_evaluate)
        return self._folder / f"step_{steps}"

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

    def _load(self, checkpoint: Checkpoint) -> list[Event]:
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
        return [Event(kind, algorithm.env_steps, line) for kind, line in told]

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
