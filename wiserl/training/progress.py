"""How a training goes, as the learner sees it: episodes, rates, policy lag, and the rows of metrics made of them."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import numpy as np

from wiserl.agent.base.algorithm import Algorithm
from wiserl.core.batch import Fragment


class _Lag:
    """Mean and largest policy lag of the fragments learned from."""

    def __init__(self) -> None:
        self._sum, self._count, self.largest = 0, 0, 0

    def add(self, lag: int) -> None:
        self._sum, self._count, self.largest = self._sum + lag, self._count + 1, max(self.largest, lag)

    @property
    def mean(self) -> float:
        return self._sum / max(self._count, 1)


class Progress:
    """What is counted and measured around an algorithm's updates.

    Attributes:
        logs: what the last update gave to log.
        returns, lengths: of the last 100 episodes, summed over agents; in env steps.
        episodes: how many have ended.
    """

    def __init__(self, algorithm: Algorithm) -> None:
        self._algorithm = algorithm
        self.logs: dict[str, float] = {}
        self.returns: deque[float] = deque(maxlen=100)
        self.lengths: deque[int] = deque(maxlen=100)
        self.episodes = 0
        self._sums: dict[str, list[float]] = {}
        self._lag, self._row_lag = _Lag(), _Lag()
        self._dropped = 0
        self._clock: tuple[float, int] | None = None  # when the first round was done, and its env steps
        self._last_round = time.monotonic()
        self._paused = 0.0
        self._first_update_at: float | None = None  # a time stamp
        self._first_update: float | None = None  # the same on the clock that cannot be set

    def note_lag(self, lag: int) -> None:
        """Count a fragment that is learned from and is so many versions old."""
        self._lag.add(lag)
        self._row_lag.add(lag)

    def note_drop(self) -> None:
        """Count a fragment that was too old."""
        self._dropped += 1

    def note_update(self, fragment: Fragment, logs: dict[str, float]) -> None:
        """Take in what an update learned from, and what it gave to log."""
        self.logs = logs
        now = time.monotonic()
        if self._clock is None:
            self._clock = (now, self._algorithm.env_steps)
        self._last_round = now
        if self._first_update_at is None and self._algorithm.updates:
            self._first_update_at, self._first_update = time.time(), now
        for key, value in logs.items():
            self._sums.setdefault(key, []).append(value)
        returns = fragment.get("episode_return", ())
        self.returns.extend(float(value) for value in returns)
        self.lengths.extend(int(value) for value in fragment.get("episode_length", ()))
        self.episodes += len(returns)

    def note_pause(self, seconds: float) -> None:
        """Leave this time out of the rate."""
        self._paused += seconds

    def steps_per_second(self) -> float:
        """Env steps per second since the first round was done, pauses left out."""
        if self._clock is None:
            return 0.0
        begun, steps = self._clock
        return (self._algorithm.env_steps - steps) / max(self._last_round - begun - self._paused, 1e-9)

    def row(self) -> dict[str, float]:
        """One row of metrics: means since the last one."""
        row = {key: float(np.mean(values)) for key, values in self._sums.items()}
        if self.returns:
            row["charts/episodic_return"] = float(np.mean(self.returns))
            row["charts/episodic_length"] = float(np.mean(self.lengths))
        row["charts/episodes"] = self.episodes
        row["charts/SPS"] = self.steps_per_second()
        row["charts/updates"] = self._algorithm.updates
        row["charts/policy_lag_mean"], row["charts/policy_lag_max"] = self._row_lag.mean, self._row_lag.largest
        row["charts/fragments_dropped"] = self._dropped
        self._sums.clear()
        self._row_lag = _Lag()
        return row

    def status(self) -> dict[str, Any]:
        """Counters and rates as they stand, over the whole training."""
        return {
            "env_steps": self._algorithm.env_steps,
            "updates": self._algorithm.updates,
            "episodes": self.episodes,
            "steps_per_second": self.steps_per_second(),
            "train_return_mean": float(np.mean(self.returns)) if self.returns else None,
            "policy_lag_mean": self._lag.mean,
            "policy_lag_max": self._lag.largest,
            "fragments_dropped": self._dropped,
            "first_update_at": self._first_update_at,
            "since_first_update": None if self._first_update is None else time.monotonic() - self._first_update,
        }

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"episodes": self.episodes, "returns": list(self.returns), "lengths": list(self.lengths)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take in what `state_dict` gave; other keys are left alone."""
        self.episodes = state["episodes"]
        self.returns.extend(state["returns"])
        self.lengths.extend(state["lengths"])
