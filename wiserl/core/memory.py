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

    def arguments(self) -> dict[str, Any]:
        """What `choose_action` is given besides the observations."""
        return {} if self.value is None else {"memory": self.value}

    def take(self, chosen: dict[str, Array]) -> None:
        """Take the next memory out of what `choose_action` returned."""
        if self.value is not None:
            self.value = chosen.pop("memory")

    def forget(self, ended: Array, alive: Array | None) -> None:
        """Zero the rows whose episode ended, and those that do not act next; both bool `[E, A]`."""
        if self.value is not None:
            gone = ended if alive is None else ended | ~alive
            if gone.any():
                self.value = np.where(gone[..., None], np.float32(0), self.value)

    def restart(self, value: Array | None = None) -> None:
        """Remember nothing, or this."""
        if self.value is not None:
            self.value = np.zeros_like(self.value) if value is None else value.copy()
