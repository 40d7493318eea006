"""The episodes that a runner's envs are in: begins, steps and counts them, and goes on with them after a resume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wiserl.core.memory import RowMemory
from wiserl.core.tree import Array, tree_leaves, tree_map
from wiserl.env.vector.base import VectorEnv, VectorStep
from wiserl.training.position import Continuation, Position

_STEPS_AT_ONCE = 64
"""Steps that an env is brought forward by in one call, so that a slow one is not taken for one that hangs."""


@dataclass(slots=True)
class Ends:
    """Episodes that ended at a step.

    Attributes:
        final: what `now` gives, at the ends of the episodes of `VectorStep.final_envs`: copies.
        finished: return and length of the episodes of whole envs that ended.
    """

    final: dict[str, Any]
    finished: list[tuple[float, int]]


class Episodes:
    """A vector of envs in mid-episode, and what is known of each episode so far.

    Args:
        envs: E envs, each with A agents.
        env: their name, for messages.
        memory_size: M, numbers that acting remembers of each row.

    Attributes:
        obs: `[E, A, ...]`, what the next actions are chosen on.
        alive: bool `[E, A]`, which rows act next; None: all, always.
        mask: bool `[E, A, n]`, which actions are valid then; None: the env gives no masks.
        vector_steps: steps made so far, of each env.
        fresh: whether the steps to come continue no fragment.
    """

    def __init__(self, envs: VectorEnv, env: str, memory_size: int) -> None:
        self.envs = envs
        self.obs: Any = None
        self.alive: Array | None = None
        self.mask: Array | None = None
        self.vector_steps = 0
        self.fresh = True
        self._env = env
        self._returns = np.zeros(envs.num_envs)
        self._begun = np.zeros(envs.num_envs, np.int64)  # vector steps at which the episodes going began
        self._idle = np.zeros(envs.num_envs, np.int64)  # those of their steps at which no row acted
        self._memory = RowMemory(memory_size, envs.num_envs, envs.spec.num_agents)

    def begin(self, seeds: Sequence[int]) -> None:
        """Begin a new episode in each env, whatever was going; one seed per env."""
        self.obs, self.alive = self.envs.reset(seeds)
        self.mask = self.envs.mask
        self.fresh = True
        self._returns[:] = 0.0
        self._begun[:] = self.vector_steps
        self._idle[:] = 0
        self._memory.restart(self.alive)

    def memory(self) -> dict[str, Array]:
        """What acting remembers, `[E, A, M]`, by that name; nothing where it remembers nothing."""
        return self._memory.arguments()

    def arguments(self) -> dict[str, Any]:
        """What `choose_action` is given besides the observations, arrays `[E, A, ...]` by name."""
        if self._memory.value is None and self.mask is None:
            return {}  # at each step of most envs
        return self.memory() if self.mask is None else {**self.memory(), "mask": self.mask}

    def remember(self, chosen: dict[str, Array]) -> None:
        """Take out of what `choose_action` returned what it is given again at the next step."""
        self._memory.take(chosen)

    def now(self) -> dict[str, Any]:
        """All that the next actions are chosen on, by name."""
        return {"obs": self.obs, **self.arguments()}

    def step(self, actions: Array) -> tuple[VectorStep, Ends | None]:
        """Step each env once, by actions `[E, A, ...]`. Gives what came of it, and the episodes that ended, if any did."""
        if self.alive is not None:  # the envs write over their own array in `step`
            self._idle += ~self.alive.any(axis=1)
        step = self.envs.step(actions)
        self.vector_steps += 1
        self._returns += step.reward[:, 0] if step.reward.shape[1] == 1 else step.reward.sum(axis=1)
        ends = self._end(step) if step.final_envs else None
        if self._memory.value is not None:
            self._memory.forget(step.terminated | step.truncated, step.alive)
        self.obs, self.alive, self.mask = step.obs, step.alive, step.mask
        return step, ends

    def _end(self, step: VectorStep) -> Ends:
        final: dict[str, Any] = {"obs": tree_map(np.copy, step.final_obs)}
        if self._memory.value is not None:
            final["memory"] = self._memory.value[step.final_envs]
        if step.final_mask is not None:
            final["mask"] = step.final_mask
        finished = []
        for env in step.env_ended:
            finished.append((self._returns[env], self.vector_steps - self._begun[env] - self._idle[env]))
            self._returns[env] = self._idle[env] = 0
            self._begun[env] = self.vector_steps
        return Ends(final, finished)

    def position(self, rank: int, actions: Array) -> Position:
        """Where the envs of this runner stand, after a fragment of these actions."""
        episodes, memory = self.envs.episodes, self._memory.value
        return Position(
            rank=rank,
            vector_steps=self.vector_steps,
            episodes=None if episodes is None else episodes.copy(),
            ages=self.vector_steps - self._begun,  # rows that are being reset count
            actions=actions,
            obs=tree_map(np.copy, self.obs),
            memory=None if memory is None else memory.copy(),
            returns=self._returns.copy(),
        )

    def go_on(self, going: Continuation | None) -> str | None:
        """Bring the envs to where they were. Returns what is in the way of that, if anything: then `begin`."""
        if self.envs.episodes is None:
            return "the native vector version of an env cannot be brought back into its episodes (--vector inline can)"
        if going is None or len(going.episodes) != self.envs.num_envs:
            return "the checkpoint does not hold what the envs had done"
        self.obs, self.alive = self.envs.begin(going.episodes.tolist())
        self._returns[:] = 0.0
        for done in range(0, max(map(len, going.actions)), _STEPS_AT_ONCE):
            rewards = self.envs.advance([actions[done : done + _STEPS_AT_ONCE] for actions in going.actions])
            for env, of_steps in enumerate(rewards):
                self._returns[env] = sum(of_steps, self._returns[env])  # in the order of `step`: equal to the last bit
        self.mask = self.envs.mask
        self._begun[:] = [self.vector_steps - len(actions) for actions in going.actions]
        self._idle[:] = 0
        same = all(
            np.array_equal(found, saved, equal_nan=found.dtype.kind == "f")
            for (_, found), (_, saved) in zip(tree_leaves(self.obs), tree_leaves(going.obs), strict=True)
        )
        if going.returns is not None:
            same = same and np.array_equal(self._returns, going.returns)
        if not same or not np.array_equal(self.envs.episodes, going.episodes):
            return f"env '{self._env}' did something else when its seed and actions were repeated"
        self._memory.restart(self.alive, going.memory)
        self.fresh = False
        return None
