"""Many envs stepped at once, one interface: in this process, by an env's own vector version, or by worker processes.

Same-step autoreset: in the step in which an episode ends the env is reset and the new episode's observation returned,
while the true final observation is kept apart in `final_obs`. The one exception is a native vector env that resets one
step later: the step in between is a row that is not alive.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np

from wiserl.core.spec import EnvSpec
from wiserl.core.tree import Array, tree_map
from wiserl.env.row_buffers import RowBuffers
from wiserl.util.errors import InputError
from wiserl.util.seeding import first_episode

VectorT = TypeVar("VectorT", bound="VectorEnv")
VectorKind = Literal["inline", "native", "process"]
VECTOR_KINDS: tuple[VectorKind, ...] = ("inline", "native", "process")


@dataclass(slots=True)
class VectorStep:
    """What one step of all envs gave. The next step may overwrite the arrays: copy what you keep.

    Attributes:
        obs: nested arrays `[E, A, ...]` to act on next, after any autoreset.
        reward: float32 `[E, A]`.
        terminated: bool `[E, A]`: the agent's episode ended in a terminal state.
        truncated: bool `[E, A]`: it ended otherwise; never True together with `terminated`.
        alive: bool `[E, A]`, which rows act next (those of `obs`); None: all rows, always.
        final_envs: the envs in which the episode of at least one agent ended at this step, ascending.
        env_ended: those of them whose own episode is over, reset at this step. Where agents join as others leave, the
            episode of an agent, even of all that acted, ends in mid-episode of the env.
        final_obs: nested arrays `[len(final_envs), A, ...]`: true final observations; None while no episode ended.
        infos: (env, info) of the envs that gave a non-empty info.
        mask: bool `[E, A, n]`, which actions are valid on `obs` (`core.masks`), all True in rows that do not act; None: the env
            gives no masks.
        final_mask: the same for `final_obs`, `[len(final_envs), A, n]`; all True where the episode terminated.
    """

    obs: Any
    reward: Array
    terminated: Array
    truncated: Array
    alive: Array | None
    final_envs: list[int] = field(default_factory=list)
    env_ended: list[int] = field(default_factory=list)
    final_obs: Any = None
    infos: list[tuple[int, Mapping[str, Any]]] = field(default_factory=list)
    mask: Array | None = None
    final_mask: Array | None = None


class VectorEnv(ABC):
    """Several copies of one env, stepped together.

    Attributes:
        spec: spaces and agents of one env.
        num_envs: `E`.
        kind: "inline", "native" or "process".
        episodes: uint64 `[E]`, the episode going in each env, as `util.seeding` numbers them; None where the envs cannot be
            seeded one by one.
        mask: which actions are valid on what `begin` gave, or on what `advance` led to, as in `VectorStep`; None: the env gives no
            masks, or has not begun.
    """

    spec: EnvSpec
    num_envs: int
    kind: VectorKind
    episodes: Array | None
    mask: Array | None = None

    def reset(self, seeds: Sequence[int]) -> tuple[Any, Array | None]:
        """Start a new episode in each env, seeded. The seeds of those that follow it are functions of its seed.

        Args:
            seeds: one per env, in [0, 2**32).

        Returns and raises as `begin`.
        """
        return self.begin([first_episode(seed) for seed in seeds])

    @abstractmethod
    def begin(self, episodes: Sequence[int]) -> tuple[Any, Array | None]:
        """Start the episode of this number in each env.

        Args:
            episodes: one per env, as `util.seeding` numbers them.

        Returns:
            nested observations `[E, A, ...]` and `alive` bool `[E, A]` (None: all, always). The next step may overwrite
            them.

        Raises:
            InputError: not one seed per env.
            EnvError: what an env returned is not what it promised.
        """

    @abstractmethod
    def step(self, actions: Array) -> VectorStep:
        """Step each env once. `reset` or `begin` comes first.

        Args:
            actions: `[E, A, *action shape]` as a policy emits them (see `ActionCodec`).

        Raises:
            EnvError: what an env returned is not what it promised; the message names the env, by its number, and the entry.
            Exception: what an env raises comes through unchanged; `reset` makes the vector usable again.
        """

    @abstractmethod
    def advance(self, actions: Sequence[Array]) -> list[list[float]]:
        """Step each env through actions of its own, more in some than in others: `obs` and `alive` of the last `begin` change.

        Args:
            actions: for each env `[n, A, *action shape]`, as `step` takes them; n may be 0.

        Returns:
            For each env, the rewards of these steps, summed over agents: n numbers.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the envs; a second call does nothing."""

    def _check_episodes(self, episodes: Sequence[int]) -> None:
        if len(episodes) != self.num_envs:
            raise InputError(f"reset got {len(episodes)} seeds for {self.num_envs} envs; give one per env")

    def __enter__(self: VectorT) -> VectorT:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def step_result(
    buffers: RowBuffers, alive: Array | None, infos: list[tuple[int, Mapping[str, Any]]], mask: Array | None
) -> VectorStep:
    """What the buffers say of the step just made, the final observations picked where `ended`."""
    final_envs, env_ended, final_obs, final_mask = [], [], None, None
    flags = (buffers.terminated, buffers.truncated)
    if np.count_nonzero(buffers.ended):  # Several times as fast as any() on a few envs.
        final_envs = np.nonzero(buffers.ended)[0].tolist()
        env_ended = np.nonzero(buffers.env_ended)[0].tolist()
        final_obs = tree_map(lambda leaf: leaf[final_envs], buffers.final_obs)
        final_mask = None if mask is None else buffers.final_mask[final_envs]
    return VectorStep(
        buffers.obs, buffers.reward, *flags, alive, final_envs, env_ended, final_obs, infos, mask, final_mask
    )
