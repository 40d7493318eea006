"""Estimators of returns and advantages: pure functions of arrays `[T, ...]`."""

from __future__ import annotations

import math

import numpy as np

from wiserl.core.batch import Fragment
from wiserl.core.tree import Array


def gae(
    reward: Array, value: Array, next_value: Array, terminated: Array, truncated: Array, gamma: float, gae_lambda: float
) -> Array:
    """Generalised advantage estimation (Schulman et al. 2016, equation 16).

    Args:
        reward: `[T, ...]` float32.
        value: `[T, ...]` V of the observation at t.
        next_value: `[T, ...]` V of the observation that followed t in the same episode: where an episode ended at t, that is
            the true final observation, not the first of the next episode.
        terminated: `[T, ...]` bool; cuts the bootstrap.
        truncated: `[T, ...]` bool; ends the sum but keeps the bootstrap.
        gamma: discount per step.
        gae_lambda: weight of longer sums, 0 to 1.

    Returns:
        Advantages `[T, ...]` float32.
    """
    return _advantages(reward, value, next_value, terminated, truncated, None, gamma, gae_lambda)


def vtrace(
    reward: Array, value: Array, next_value: Array, terminated: Array, truncated: Array, ratio: Array, gamma: float,
    gae_lambda: float,
) -> tuple[Array, Array]:  # fmt: skip
    """V-trace (Espeholt et al. 2018, equation 1 and section 4.2), with lambda (their remark 2) and both bounds at 1.

    Where the policy that acted is the one that learns, so that all ratios are 1, these are `gae` and the targets that go with it.

    Args:
        reward: `[T, ...]` float32.
        value: `[T, ...]`, as for `gae`.
        next_value: `[T, ...]`, as for `gae`.
        terminated: `[T, ...]` bool; cuts the bootstrap.
        truncated: `[T, ...]` bool; ends the sum but keeps the bootstrap.
        ratio: `[T, ...]` probability of the action under the policy that learns over that under the policy that acted; what is
            above 1 counts as 1.
        gamma: discount per step.
        gae_lambda: weight of longer sums, 0 to 1.

    Returns:
        Advantages `[T, ...]` of the actions taken (`q_t - V`, not yet times their own ratio), and targets of V, both float32.
    """
    ratio = np.minimum(ratio, np.float32(1.0))
    advantage = _advantages(reward, value, next_value, terminated, truncated, ratio, gamma, gae_lambda)
    return advantage, ratio * advantage + value


def _advantages(
    reward: Array, value: Array, next_value: Array, terminated: Array, truncated: Array, ratio: Array | None, gamma: float,
    gae_lambda: float,
) -> Array:  # fmt: skip
    """The sums of both, backwards; without ratios all of them are 1."""
    delta = reward + gamma * next_value * ~terminated - value
    decay = (gamma * gae_lambda * ~(terminated | truncated)).astype(np.float32)
    advantage = np.empty_like(delta, dtype=np.float32)
    running = np.zeros(reward.shape[1:], np.float32)
    for t in range(len(reward) - 1, -1, -1):
        running = delta[t] + decay[t] * running
        advantage[t] = running
        if ratio is not None:
            running = ratio[t] * running
    return advantage


def next_values(fragment: Fragment, value: Array, last_value: Array, final_value: Array) -> Array:
    """V of what followed each step, `[T, E, A]`: the next row's, `last_value [E, A]` after the last row, and
    `final_value [K, A]` where an episode ended.
    """
    following = np.concatenate([value[1:], last_value[None]])
    ended = fragment["terminated"] | fragment["truncated"]
    steps, envs = fragment["final_at"][:, 0], fragment["final_at"][:, 1]
    here = ended[steps, envs]
    following[steps, envs] = np.where(here, final_value, following[steps, envs])
    return following


def explained_variance(target: Array, value: Array) -> float:
    """Share of the variance of the targets `[...]` that the values explain; NaN where there is none."""
    variance = float(np.var(target)) if target.size else 0.0
    return 1.0 - float(np.var(target - value)) / variance if variance > 0 else math.nan


class ReturnScale:
    """Running standard deviation of discounted returns, to scale rewards by (the VecNormalize of OpenAI baselines).

    State: one running return per stream and agent, and the moments of all of them. Rows that are not alive do not count.
    """

    def __init__(self, num_streams: int, num_agents: int, gamma: float) -> None:
        self.gamma = gamma
        self.running: Array = np.zeros((num_streams, num_agents), np.float64)
        self.mean, self.var, self.count = 0.0, 1.0, 1e-4

    def scale(self, fragment: Fragment) -> Array:
        """Take the fragment's rewards in; returns them divided by the new standard deviation, clipped to ±10, `[T, E, A]`."""
        self.take_in(fragment)
        return self.divide(fragment["reward"])

    def divide(self, reward: Array, steps: int = 1) -> Array:
        """Rewards `[...]`, or sums of them over up to `steps` steps, by the standard deviation, clipped to ±10 for each step."""
        scaled: Array = np.clip(reward / np.float32(np.sqrt(self.var + 1e-8)), -10.0 * steps, 10.0 * steps)
        return scaled

    def take_in(self, fragment: Fragment) -> None:
        """Count the returns that the fragment's rewards `[T, E, A]` go on to."""
        reward = fragment["reward"]
        ended = fragment["terminated"] | fragment["truncated"]
        running = self.running[fragment["stream"]] * ~fragment["fresh"][:, None]
        returns = np.empty(reward.shape, np.float64)
        for t in range(len(reward)):
            running = running * self.gamma + reward[t]
            returns[t] = running
            running = running * ~ended[t]
        self.running[fragment["stream"]] = running
        counted = returns[fragment["alive"]] if "alive" in fragment else returns
        if counted.size:
            self.mean, self.var, self.count = merge_moments(
                self.mean, self.var, self.count, float(counted.mean()), float(counted.var()), counted.size
            )

    def state_dict(self) -> dict[str, object]:
        """JSON-able state."""
        return {"running": self.running.tolist(), "mean": self.mean, "var": self.var, "count": self.count}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Take a saved state in."""
        self.running = np.array(state["running"], np.float64).reshape(self.running.shape)
        self.mean, self.var, self.count = (float(state[key]) for key in ("mean", "var", "count"))  # type: ignore[arg-type]


def merge_moments(
    mean: float, var: float, count: float, new_mean: float, new_var: float, new_count: float
) -> tuple[float, float, float]:
    """Mean, variance and count of two samples together (Chan et al. 1979, equation 2.1)."""
    total = count + new_count
    delta = new_mean - mean
    merged = var * count + new_var * new_count + delta**2 * count * new_count / total
    return mean + delta * new_count / total, merged / total, total
