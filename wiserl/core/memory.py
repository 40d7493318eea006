"""What acting remembers from one step to the next, carried by whoever acts: a runner, an evaluation, a policy in use."""

from __future__ import annotations

from typing import Any

import numpy as np

from wiserl.core.tree import Array


class RowMemory:
    """Memory of rows `[E, A]`, zero at the start of an episode.

    Args:
        size: M, numbers per row; 0: there is none, and nothing is done.
        envs: E.
        agents: A.

    Attributes:
        value: float32 `[E, A, M]`, or None.
    """

    def __init__(self, size: int, envs: int, agents: int) -> None:
        self.value: Array | None = np.zeros((envs, agents, size), np.float32) if size else None
        self._absent: Array | None = None  # rows that did not act: what a network made of them is not theirs

    def arguments(self) -> dict[str, Any]:
        """What `choose_action` is given besides the observations."""
        return {} if self.value is None else {"memory": self.value}

    def take(self, chosen: dict[str, Array]) -> None:
        """Take the next memory out of what `choose_action` returned."""
        if self.value is not None:
            self.value = chosen.pop("memory")

    def forget(self, ended: Array, alive: Array | None) -> None:
        """After a step: zero the rows whose episode ended, those that did not act and those that do not act next.

        Args:
            ended: bool `[E, A]`.
            alive: bool `[E, A]`, which rows act next; None: all, always.
        """
        if self.value is None:
            return
        gone = ended if self._absent is None else ended | self._absent
        self._absent = None if alive is None else ~alive
        gone = gone if self._absent is None else gone | self._absent
        if gone.any():
            self.value = np.where(gone[..., None], np.float32(0), self.value)

    def restart(self, alive: Array | None, value: Array | None = None) -> None:
        """Remember nothing, or `value`; `alive` says which rows act next, as in `forget`."""
        if self.value is not None:
            self.value = np.zeros_like(self.value) if value is None else value.copy()
            self._absent = None if alive is None else ~alive
