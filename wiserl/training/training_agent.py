"""Training of a built-in algorithm, as an agent: it goes through the same two verbs and the same transport as any user's agent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wiserl.agent.base.algorithm import Algorithm
from wiserl.agent.base.divergence import DivergenceWatch
from wiserl.core.agent import Agent
from wiserl.core.batch import Fragment, check_fragment, concat_by_length, count_env_steps
from wiserl.core.tree import Array, Nested
from wiserl.net.optim import is_flattened
from wiserl.training.plan import Event, TrainPlan
from wiserl.training.position import Collected, Position, Positions, Start
from wiserl.training.progress import Progress
from wiserl.training.saving import Saver
from wiserl.util.errors import InputError, WiserlError


class Learning:
    """What the learner has and a replica has not.

    Attributes:
        watch: ends training that has diverged.
        progress: what is counted and measured.
        positions: where the runners' envs stand.
        saver: writes checkpoints.
        events: what the driver is to be told.
        stop_asked: whether training is to end after the next round.
    """

    def __init__(self, agent: TrainingAgent) -> None:
        plan, algorithm = agent.plan, agent.algorithm
        algorithm.move_to(plan.device)
        algorithm.start_learning()
        _check_flattened(algorithm)
        self.watch = DivergenceWatch(algorithm, plan.algo.name)
        self.progress = Progress(algorithm)
        self.positions = Positions()
        self.events: list[Event] = []
        self.saver = Saver(plan, algorithm, self.watch, self.progress, self.positions, self.events)
        self.stop_asked = False
        self.next_row = algorithm.env_steps + plan.log_every
        self._checked: set[int] = set()
        self._warned: set[str] = set()

    def check(self, fragment: Fragment) -> None:
        """Check the first fragment of each runner, and those that continue no other; what it sends after them has the same fields."""
        rank = int(fragment["rank"][0])
        if rank not in self._checked or fragment["fresh"].any():
            check_fragment(fragment)
            self._checked.add(rank)

    def warn(self, text: str, env_steps: int) -> None:
        """Have the driver print a sentence, once."""
        if text not in self._warned:
            self._warned.add(text)
            self.events.append(Event("warning", env_steps, text))


class TrainingAgent(Agent):
    """An algorithm under training. Its weights are the algorithm's, and what else runners need to know.

    Attributes:
        algorithm: acts on a replica, learns on the learner.
        stop: whether training has ended, as far as is known here.
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
        _check_flattened(self.algorithm)
        self.max_inflight = plan.max_inflight
        self.stop = False
        self._learning: Learning | None = None

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
        self.stop = params["stop"]

    # ---- on the learner ----

    def start_learning(self) -> None:
        self._learning = Learning(self)
        self.stop = self.algorithm.env_steps >= self.plan.total_steps

    @property
    def learning(self) -> Learning:
        """The learner's part.

        Raises:
            WiserlError: this is a replica, or learning has not started.
        """
        if self._learning is None:
            raise WiserlError("this agent does not learn: ask the one on the learner, after start_learning()")
        return self._learning

    def weights(self) -> dict[str, Any]:
        """What travels to the runners: the algorithm's weights, and what else replicas have to know."""
        return {
            "weights": self.algorithm.weights(),
            "env_steps": self.algorithm.env_steps,
            "updates": self.algorithm.updates,
            "progress_from": self.algorithm.progress_from,
            "stop": self.stop,
        }

    def _sync_model(self) -> None:
        self._fire(self.weights())

    def update(self, fragment: Fragment, position: Position | None = None) -> None:
        """Learn from one fragment; `position`: where its runner stands after it."""
        self._update_round([(fragment, position)])

    def _update_round(self, experiences: Sequence[tuple[Any, ...]]) -> bool:
        learning, algorithm = self.learning, self.algorithm
        if algorithm.env_steps >= self.plan.total_steps:
            return False
        collected = [Collected(*experience) for experience in experiences]
        for fragment, position in collected:
            learning.check(fragment)
            learning.positions.follow(position)
        fragments = [fragment for fragment, _ in collected if self._admit(fragment)]
        if not fragments:
            return False
        algorithm.env_steps += sum(map(count_env_steps, fragments))
        for fragment in concat_by_length(fragments):
            learning.progress.note_update(fragment, learning.watch.update(fragment))
        at_end = algorithm.env_steps >= self.plan.total_steps
        self.stop = self.stop or at_end or learning.stop_asked
        self._sync_model()
        learning.saver.save_if_due()
        if at_end or algorithm.env_steps >= learning.next_row:
            learning.next_row = algorithm.env_steps + self.plan.log_every
            learning.events.append(Event("metrics", algorithm.env_steps, learning.progress.row()))
        return True

    def _admit(self, fragment: Fragment) -> bool:
        """Whether a fragment is young enough to learn from, where there is a limit; the lag of those that are is measured.

        While a fragment is sampled, every other runner's is learned from: the limit grows with the number of runners.
        """
        lag = self.weights_version - int(fragment["version"].min())
        limit = self.algorithm.max_policy_lag
        if self.algorithm.on_policy and not self.sync and limit is not None and lag > limit * self.plan.runners:
            self.learning.progress.note_drop()
            self.warn(
                f"fragments of runner {int(fragment['rank'].min())} are dropped where their weights are older than "
                f"max_policy_lag={limit} versions per runner; fragments_dropped counts them"
            )
            return False
        self.learning.progress.note_lag(lag)
        return True

    # ---- on the learner, called by runners ----

    def start_of(self, rank: int, incarnation: int) -> Start:
        """From where a runner begins, by what was learned from its place so far."""
        steps_of_all = self.algorithm.env_steps // (self.plan.runners * self.plan.envs)
        return self.learning.positions.start(rank, incarnation, steps_of_all)

    def warn(self, text: str) -> None:
        """Have the driver print a sentence, once."""
        self.learning.warn(text, self.algorithm.env_steps)

    # ---- on the learner, called by the driver ----

    def itself(self) -> TrainingAgent:
        """This very object, for a caller in the same process."""
        return self

    def drain(self) -> list[Event]:
        """Events since the last call."""
        events = list(self.learning.events)
        self.learning.events.clear()
        return events

    def status(self) -> dict[str, Any]:
        """Counters and rates as they stand."""
        return self.learning.progress.status()

    def note_pause(self, seconds: float) -> None:
        """Leave this time out of the rate: evaluation, where it ran in this process."""
        self.learning.progress.note_pause(seconds)

    def save(self) -> str:
        """Write a checkpoint to resume from, unless the newest one is of this very step; returns its path."""
        return str(self.learning.saver.save())

    def note_evaluation(self, path: str) -> None:
        """A checkpoint that an event asked to evaluate is needed no longer."""
        self.learning.saver.note_evaluation(path)

    def request_stop(self) -> None:
        """End training: runners learn of it with the answer to what they send next; in sync mode all after the same round.

        A single runner is told at once. It may be between two rounds, and nobody waits for it in the next one.
        """
        self.learning.stop_asked = True
        if not self.sync or self.plan.runners == 1:
            self.stop = True
            self._sync_model()


def _check_flattened(algorithm: Algorithm) -> None:
    """Raise InputError if a layer of the policy was exchanged or added after `_build`: it would not be learned, or not be sent."""
    if type(algorithm).weights is Algorithm.weights and not is_flattened(algorithm.policy, algorithm.flat):
        raise InputError(
            f"{type(algorithm).__name__} has exchanged or added layers of its policy after _build, so they would not be learned, or "
            "not be sent to the runners: do it in _build, on what super()._build() gives"
        )
