"""Training of a built-in algorithm, as an agent: what the learner does around `Algorithm.update`.

It counts steps, drops what is too old, measures policy lag, remembers where the runners' envs stand, saves, and tells the
driver. It goes through the same two verbs and the same transport as any user's agent.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wiserl.agent.base.divergence import DivergenceWatch
from wiserl.core.agent import Agent
from wiserl.core.batch import Fragment, check_fragment, concat_by_length, count_env_steps
from wiserl.core.tree import Array, Nested
from wiserl.run_folder.checkpoint import drop_replay, open_checkpoint, point_to, prune, save_checkpoint
from wiserl.training.plan import Event, TrainPlan
from wiserl.training.position import Continuation, Position, Track
from wiserl.util.errors import InputError


class TrainingAgent(Agent):
    """An algorithm under training. What it fires is the algorithm's weights and what runners need to know.

    Attributes:
        logs: what the last round gave to log.
        warmed_up: env steps at the end of a warm-up by hand; 0: there was none.
    """

    ship_every = 1

    def __init__(self, sync: bool = True, *, plan: TrainPlan) -> None:
        super().__init__(sync)
        self.plan = plan
        self.algorithm = plan.algo.algorithm(
            sync,
            spec=plan.spec,
            config=plan.config,
            seed=plan.seed,
            num_streams=plan.runners * plan.envs,
            total_steps=plan.total_steps,
        )
        self.max_inflight = plan.max_inflight
        self.stop = False
        self.version = 0
        self.warmed_up = 0
        self.logs: dict[str, float] = {}

    # ---- on a runner ----

    def choose_action(self, obs: Nested, deterministic: bool = False, **others: Any) -> dict[str, Array]:
        """The algorithm's own."""
        return self.algorithm.choose_action(obs, deterministic, **others)

    def finish_fragment(self, fragment: Fragment) -> None:
        """The algorithm's own."""
        self.algorithm.finish_fragment(fragment)

    def _update_model(self, params: Any) -> None:
        self.algorithm._update_model(params["weights"])
        self.algorithm.env_steps, self.algorithm.updates = params["env_steps"], params["updates"]
        self.algorithm.progress_from = params["progress_from"]
        self.stop, self.version = params["stop"], params["version"]

    # ---- on the learner ----

    def _start_learning(self) -> None:
        plan = self.plan
        self.algorithm.move_to(plan.device)
        self.algorithm._start_learning()
        self._watch = DivergenceWatch(self.algorithm, plan.algo.name)
        self._checkpoints = Path(plan.run_dir) / "checkpoints"
        self._events: list[Event] = []
        self._to_evaluate: set[str] = set()
        self._sums: dict[str, list[float]] = {}
        self._returns: deque[float] = deque(maxlen=100)
        self._lengths: deque[int] = deque(maxlen=100)
        self._episodes = 0
        self._lag = [0, 0, 0]  # sum, count, max
        self._row_lag = [0, 0, 0]
        self._dropped = 0
        self._clock: tuple[float, int] | None = None  # when the first round was done, and its env steps
        self._paused = 0.0
        self._last_round = time.monotonic()
        self._first_update_at: float | None = None
        self._saved_at = -1
        self._tracks: dict[int, Track] = {}  # by rank
        self._told: set[str] = set()
        self._stop_asked = False
        self._checked: set[int] = set()  # ranks
        if plan.resume:
            self._load()
        steps = self.algorithm.env_steps
        self._next_log = steps + plan.log_every
        self._next_checkpoint = _after(steps, plan.checkpoint_every)
        self._next_eval = _after(steps, plan.eval_every) if plan.eval_every else None
        self.stop = steps >= plan.total_steps

    def known(self) -> dict[str, Any]:
        """What replicas take in."""
        return {
            "weights": self.algorithm.weights(),
            "env_steps": self.algorithm.env_steps,
            "updates": self.algorithm.updates,
            "progress_from": self.algorithm.progress_from,
            "stop": self.stop,
            "version": self.version,
        }

    def _sync_model(self) -> None:
        self._fire(self.known())

    def update(self, fragment: Fragment, position: Position | None = None) -> None:
        """Learn from one fragment; `position`: where its runner stands after it."""
        self._update_round([[(fragment, position)]])

    def _update_round(self, shipments: Sequence[Sequence[tuple[Any, ...]]]) -> None:
        if self.algorithm.env_steps >= self.plan.total_steps:
            return
        experiences = [experience for shipment in shipments for experience in shipment]
        for fragment, *position in experiences:
            rank = int(fragment["rank"][0])
            if (
                rank not in self._checked or fragment["fresh"].any()
            ):  # what a runner sends after that has the same fields
                check_fragment(fragment)
                self._checked.add(rank)
            self._follow(*position)
        fragments = [fragment for fragment, *_ in experiences if self._admit(fragment)]
        if not fragments:
            return
        algorithm = self.algorithm
        steps = algorithm.env_steps + sum(map(count_env_steps, fragments))
        at_end = steps >= self.plan.total_steps
        algorithm.env_steps = steps
        for fragment in concat_by_length(fragments):
            self._note(fragment, self._watch.update(fragment))
        self.version += 1
        self.stop = self.stop or at_end or self._stop_asked
        self._sync_model()
        if at_end or steps >= self._next_checkpoint:
            self._next_checkpoint = _after(steps, self.plan.checkpoint_every)
            self.save()
        if self._next_eval is not None and steps >= self._next_eval and not at_end:
            self._next_eval = _after(steps, self.plan.eval_every)
            path = self._write(with_replay=False)
            self._to_evaluate.add(path.name)
            self._events.append(Event("evaluate", steps, str(path)))
        if at_end or steps >= self._next_log:
            self._next_log = steps + self.plan.log_every
            self._events.append(Event("metrics", steps, self._row()))

    def _follow(self, position: Position | None = None) -> None:
        """Keep where a runner stands."""
        if position is None:
            return
        track = self._tracks.get(position.rank)
        if track is None:
            self._tracks[position.rank] = Track(position)
        else:
            track.add(position)

    def _admit(self, fragment: Fragment) -> bool:
        """Whether a fragment is young enough to learn from, where there is a limit; the lag of those that are is measured.

        While a fragment is sampled, every other runner's is learned from: the limit grows with the number of runners.
        """
        lag = self.version - int(fragment["version"].min())
        limit = getattr(self.plan.config, "max_policy_lag", None)  # not every algorithm of one's own has it
        if self.algorithm.on_policy and not self.sync and limit is not None and lag > limit * self.plan.runners:
            self._dropped += 1
            return False
        for counter in (self._lag, self._row_lag):
            counter[:] = [counter[0] + lag, counter[1] + 1, max(counter[2], lag)]
        return True

    def _note(self, fragment: Fragment, logs: dict[str, float]) -> None:
        """Take in what a round gave to log."""
        self.logs = logs
        now = time.monotonic()
        if self._clock is None:
            self._clock = (now, self.algorithm.env_steps)
        self._last_round = now
        if self._first_update_at is None and self.algorithm.updates:
            self._first_update_at = time.time()
        for key, value in logs.items():
            self._sums.setdefault(key, []).append(value)
        returns = fragment.get("episode_return", ())
        self._returns.extend(float(value) for value in returns)
        self._lengths.extend(int(value) for value in fragment.get("episode_length", ()))
        self._episodes += len(returns)

    def _row(self) -> dict[str, float]:
        """One row of metrics: means since the last one."""
        row = {key: float(np.mean(values)) for key, values in self._sums.items()}
        self._sums.clear()
        if self._returns:
            row["charts/episodic_return"] = float(np.mean(self._returns))
            row["charts/episodic_length"] = float(np.mean(self._lengths))
        row["charts/episodes"] = self._episodes
        row["charts/SPS"] = self.steps_per_second()
        row["charts/updates"] = self.algorithm.updates
        total, count, largest = self._row_lag
        row["charts/policy_lag_mean"], row["charts/policy_lag_max"] = total / max(count, 1), largest
        row["charts/fragments_dropped"] = self._dropped
        self._row_lag = [0, 0, 0]
        return row

    def steps_per_second(self) -> float:
        """Env steps per second since the first round was done, evaluation left out (where it took this process's time)."""
        if self._clock is None:
            return 0.0
        begun, steps = self._clock
        return (self.algorithm.env_steps - steps) / max(self._last_round - begun - self._paused, 1e-9)

    # ---- called by runners ----

    def continuation(self, rank: int) -> tuple[int, Continuation | None]:
        """Vector steps that a runner has made, and what it goes on from; None where that is not known."""
        track = self._tracks.get(rank)
        if track is None:
            return self.algorithm.env_steps // (self.plan.runners * self.plan.envs), None
        return track.vector_steps, track.continuation()

    def warn(self, text: str) -> None:
        """Have the driver print a sentence, once."""
        if text not in self._told:
            self._told.add(text)
            self._events.append(Event("warning", self.algorithm.env_steps, text))

    # ---- by hand ----

    def itself(self) -> TrainingAgent:
        """This very object, for a caller in the same process."""
        return self

    def start_learning_at(self, env_steps: int) -> None:
        """After a warm-up: steps before this one were random, and pay for no updates. For learner and replica alike."""
        self.warmed_up = env_steps
        starts = max(self.plan.config.learning_starts, env_steps)
        self.algorithm.config = dataclasses.replace(self.plan.config, learning_starts=starts)

    # ---- called by the driver ----

    def drain(self) -> list[Event]:
        """Events since the last call."""
        events, self._events = self._events, []
        return events

    def status(self) -> dict[str, Any]:
        """Counters and rates as they stand."""
        total, count, largest = self._lag
        return {
            "env_steps": self.algorithm.env_steps,
            "updates": self.algorithm.updates,
            "episodes": self._episodes,
            "steps_per_second": self.steps_per_second(),
            "train_return_mean": float(np.mean(self._returns)) if self._returns else None,
            "policy_lag_mean": total / max(count, 1),
            "policy_lag_max": largest,
            "fragments_dropped": self._dropped,
            "first_update_at": self._first_update_at,
        }

    def note_pause(self, seconds: float) -> None:
        """Leave this time out of the rate: evaluation, where it ran in this process."""
        self._paused += seconds

    def evaluated(self, path: str) -> None:
        """A checkpoint that an event asked to evaluate is needed no longer."""
        self._to_evaluate.discard(Path(path).name)

    def request_stop(self) -> None:
        """End training: runners learn of it with the answer to what they send next; in sync mode all after the same round."""
        self._stop_asked = True
        if not self.sync:
            self.stop = True
            self._sync_model()

    def save(self) -> str:
        """Write a checkpoint to resume from, unless the newest one is of this very step; returns its path."""
        steps = self.algorithm.env_steps
        if self._saved_at != steps:
            last = self._checkpoints / "last"
            before = last.resolve() if last.exists() else None
            path = self._write(with_replay=self.plan.save_replay)
            point_to(self._checkpoints, "last", path)
            self._saved_at = steps
            if before is not None and before != path.resolve():
                drop_replay(before)
            prune(self._checkpoints, self.plan.keep_checkpoints, self._to_evaluate)
        return str(self._checkpoints / f"step_{steps}")

    def _write(self, with_replay: bool) -> Path:
        algorithm = self.algorithm
        if self._saved_at == algorithm.env_steps:
            return self._checkpoints / f"step_{algorithm.env_steps}"
        self._watch.check()  # of an error that was caught, and of a user's own hand on the weights
        counters = {"env_steps": algorithm.env_steps, "updates": algorithm.updates}
        own = {
            "rng": json.dumps(algorithm.rng.bit_generator.state),
            "episodes": self._episodes,
            "returns": list(self._returns),
            "lengths": list(self._lengths),
            "warmed_up": self.warmed_up,
            "version": self.version,
            "positions": [track.state_dict() for track in self._tracks.values()],
            "course": algorithm.course(),
        }
        state = {"algorithm": algorithm.learner_state(), "training": own}
        replay = algorithm.replay_state() if with_replay else None
        return save_checkpoint(
            self._checkpoints, {**self.plan.manifest, **counters}, algorithm.policy.state_dict(), state, replay
        )

    def _load(self) -> None:
        checkpoint = open_checkpoint(self.plan.run_dir, "last")
        algorithm, saved = self.algorithm, checkpoint.manifest["algo"]
        if saved != (name := self.plan.algo.name):
            raise InputError(f"checkpoint '{checkpoint.path}' was saved by {saved}, this run trains {name}")
        state = checkpoint.state()
        try:
            algorithm.policy.load_state_dict(checkpoint.weights())
            algorithm.load_learner_state(state["algorithm"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise InputError(
                f"checkpoint '{checkpoint.path}' holds another network than this run's: {error}. Resume without the options "
                "that changed it"
            ) from None
        self._watch.check()  # runs of before this was looked at have saved what had diverged
        replay = checkpoint.replay()
        if replay is not None:
            algorithm.load_replay_state(replay)
        own = state["training"]
        algorithm.rng.bit_generator.state = json.loads(own["rng"])
        algorithm.env_steps, algorithm.updates = checkpoint.manifest["env_steps"], checkpoint.manifest["updates"]
        self.version = own.get("version", 0)
        self._tracks = {saved["rank"]: Track.from_state(saved) for saved in own.get("positions", ())}
        self._episodes = own["episodes"]
        self._returns.extend(own["returns"])
        self._lengths.extend(own["lengths"])
        self._saved_at = algorithm.env_steps
        if own.get("warmed_up"):
            self.start_learning_at(own["warmed_up"])
        course = {"total_steps": self.plan.saved_total_steps or self.plan.total_steps, **own.get("course", {})}
        told = algorithm.resume_course(course, checkpoint.manifest["config"])
        self._events += [Event(kind, algorithm.env_steps, line) for kind, line in told]


def _after(steps: int, every: int) -> int:
    """The first multiple of `every` above `steps`."""
    return (steps // every + 1) * every
