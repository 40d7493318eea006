"""Action masks as one env gives them: found, checked, and written beside its observations."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from wiserl.core.masks import ENTRY, MaskLayout, split_observation
from wiserl.core.spec import EnvSpec
from wiserl.core.tree import Array
from wiserl.env.contract import check_dicts, reset_parts
from wiserl.env.make import is_parallel
from wiserl.util.errors import EnvError


def with_masks(spec: EnvSpec, env: Any) -> EnvSpec:
    """The spec of a made env, which `read_spec` gave, with what only its first info tells: whether that has a mask.

    The env is reset for it. What it raises comes through.

    Raises:
        EnvError: `reset` returned something else than observation and info.
    """
    if spec.masks or not MaskLayout(spec.action_space).size:
        return spec
    who = f"reset() of env '{spec.id}'"
    obs, info = reset_parts(env.reset(seed=0), who)
    if is_parallel(env):
        check_dicts((obs, info), ("observations", "infos"), who)
    infos = info.values() if is_parallel(env) else (info,)
    return dataclasses.replace(spec, masks="info") if has_mask(infos) else spec


def has_mask(infos: Iterable[Any]) -> bool:
    """Whether one of these infos has a mask."""
    return any(isinstance(info, dict) and ENTRY in info for info in infos)


def late_mask(env: str) -> EnvError:
    """The error for a mask of an env that gave none at its first reset."""
    return EnvError(
        f"env '{env}' gave info['{ENTRY}'] in a step, but none at its first reset; expected one at each reset and each step, or "
        "none at all"
    )


def mixed_masks(env: str) -> EnvError:
    """The error for copies of an env of which some give masks."""
    return EnvError(
        f"some copies of env '{env}' give an {ENTRY} and others do not; expected one of all of them, or of none"
    )


class MaskReader:
    """Reads the masks of one env into `masks [A, n]` and `finals [A, n]`.

    Attributes:
        given: whether the env gives masks; None: not known before its first reset.
    """

    def __init__(self, spec: EnvSpec, masks: Array, finals: Array) -> None:
        self.given: bool | None = True if spec.masks == "observation" else None
        self._spec, self._masks, self._finals = spec, masks, finals
        self._layout = MaskLayout(spec.action_space)
        self._steps = 0

    def begin(self, infos: Iterable[Any]) -> None:
        """Note that an episode begins, with these infos.

        Raises:
            EnvError: they have masks, and the actions are such that there are none.
        """
        self._steps = 0
        if self.given is None:
            self.given = has_mask(infos)
            if self.given and not self._layout.size:
                self.given = None
                raise EnvError(
                    f"env '{self._spec.id}' gives info['{ENTRY}'], but its actions are {self._spec.action_space}; expected "
                    "Discrete or MultiDiscrete ones: make them so, or leave the mask out of its info"
                )
        if self.given:
            self._masks[:] = True

    def count(self) -> None:
        """Note that a step is made, to name it."""
        self._steps += 1
        self._masks[:] = True

    def refuse_late(self, infos: Iterable[Any]) -> None:
        """Refuse masks of an env that gave none at its first reset.

        Raises:
            EnvError: there is one.
        """
        if has_mask(infos):
            raise late_mask(self._spec.id)

    def bare(self, obs: Any, who: str) -> Any:
        """An observation without its mask."""
        return split_observation(self._spec, obs, who)[0] if self._spec.masks == "observation" else obs

    def take(self, obs: Any, info: Any, row: int) -> Any:
        """Keep the mask that came with an observation to act on; returns the observation without it.

        Raises:
            EnvError: there is none, it has another shape or dtype, or no action is valid.
        """
        obs, mask = self._read(obs, info, row)
        if mask is None:
            raise EnvError(f"{self._who(row)} gave no info['{ENTRY}']; expected one at each reset and each step")
        if not self._layout.has_choice(mask):
            raise EnvError(
                f"{ENTRY} of {self._who(row)} leaves no valid action: {mask.astype(int).tolist()}; expected one at least"
                f"{' of each component' if len(self._layout.sizes) > 1 else ''}. End the episode where there is none "
                "(terminated), or have an action that does nothing"
            )
        self._masks[row] = mask
        return obs

    def take_final(self, obs: Any, info: Any, row: int, terminated: bool) -> Any:
        """The same for a final observation. Where the episode terminated nobody acts on it: it needs no mask.

        Raises:
            EnvError: it was truncated, so that a bootstrap is taken from valid actions, and there are none.
        """
        obs, mask = self._read(obs, info, row)
        if terminated:
            self._finals[row] = True
        elif mask is None or not self._layout.has_choice(mask):
            what = f"gave no {ENTRY}" if mask is None else f"left no valid action in its {ENTRY}"
            raise EnvError(
                f"{self._who(row)} was truncated and {what}; expected one with a valid action (the bootstrap is taken from it): "
                "give it, or return terminated where no action is left"
            )
        else:
            self._finals[row] = mask
        return obs

    def clear_final(self, row: int) -> None:
        """Set the final mask of an agent whose episode did not end, or that has no final observation."""
        self._finals[row] = True

    def _read(self, obs: Any, info: Any, row: int) -> tuple[Any, Array | None]:
        if self._spec.masks == "observation":
            obs, given = split_observation(self._spec, obs, self._who(row))
        elif isinstance(info, dict) and ENTRY in info:
            given = info[ENTRY]
        else:
            return obs, None
        return obs, self._layout.read(given, self._who(row))

    def _who(self, row: int) -> str:
        agent = f", agent {self._spec.agents[row]}" if self._spec.num_agents > 1 else ""
        return f"env '{self._spec.id}'{agent}, at step {self._steps} of its episode,"


class BatchedMasks:
    """Reads the masks of a native vector env, which come for all its envs at once."""

    def __init__(self, spec: EnvSpec) -> None:
        self._spec, self._layout = spec, MaskLayout(spec.action_space)

    def read(self, obs: Any, info: dict[str, Any], terminated: Array) -> tuple[Any, Array]:
        """Observations `[E, ...]` without their masks, and these as bool `[E, 1, n]`; all True where `terminated [E]`.

        Raises:
            EnvError: there are none, one has another shape or dtype, or leaves no valid action.
        """
        who = f"the native vector version of env '{self._spec.id}'"
        if self._spec.masks == "observation":
            obs, given = split_observation(self._spec, obs, who)
        elif ENTRY in info:
            given = info[ENTRY]
        else:
            raise EnvError(f"{who} gave no info['{ENTRY}']; expected one at each reset and each step")
        masks = np.stack([self._layout.read(mask, f"{who}, copy {env}") for env, mask in enumerate(given)])
        masks |= terminated[:, None]
        left = self._layout.has_choice(masks)
        if not left.all():
            env = int(left.argmin())
            raise EnvError(f"{ENTRY} of {who} leaves no valid action in copy {env}: expected one at least")
        return obs, masks[:, None]
