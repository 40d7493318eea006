"""Action masks: which choices of a Discrete or MultiDiscrete action are valid, as an env says it beside an observation.

A mask is bool `[n]`, True where the choice is valid. For Discrete n is the number of actions; for MultiDiscrete the masks of
its components stand side by side, n is the sum of `nvec`, and each component needs a valid choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import numpy as np
from gymnasium import spaces

from wiserl.core.spaces import Space, leaf_layout
from wiserl.core.spec import EnvSpec
from wiserl.core.tree import Array
from wiserl.util.errors import EnvError, InputError

ENTRY = "action_mask"
"""Under this name an env gives a mask: in its info, or as an entry of a Dict observation."""


class MaskLayout:
    """The masks of one action space.

    Attributes:
        sizes: choices of each component; () for a space that has no masks.
        size: n, their sum.
    """

    def __init__(self, space: Space) -> None:
        self.sizes: tuple[int, ...] = ()
        self._is_single = isinstance(space, spaces.Discrete)
        if isinstance(space, spaces.Discrete):
            self.sizes = (int(space.n),)
        elif isinstance(space, spaces.MultiDiscrete):
            self.sizes = tuple(int(n) for n in space.nvec.reshape(-1))
        self.size = sum(self.sizes)
        self._starts = [0, *accumulate(self.sizes[:-1])]

    def read(self, given: Any, who: str) -> Array:
        """A mask as bool `[n]`, from what an env gave: bool, or integers 0 and 1. Whether a choice is left is not looked at.

        Raises:
            EnvError: it has another shape or dtype.
        """
        mask = np.asarray(given)
        if mask.shape != (self.size,) or mask.dtype.kind not in "biu":
            raise EnvError(
                f"{ENTRY} of {who} is {mask.dtype} {list(mask.shape)}; expected bool or integers of 0 and 1, [{self.size}]"
                f"{' (the masks of all components side by side)' if len(self.sizes) > 1 else ''}"
            )
        valid: Array = mask.astype(np.bool_)
        if mask.dtype.kind != "b" and not np.array_equal(mask, valid):
            raise EnvError(f"{ENTRY} of {who} has {mask[mask != valid][0]}; expected 1 (valid) or 0 (not valid)")
        return valid

    def has_choice(self, mask: Array) -> Array:
        """Of masks `[..., n]`, whether each component has a valid choice: bool `[...]`."""
        found: Array = np.asarray(np.logical_or.reduceat(mask, self._starts, axis=-1).all(-1))
        return found

    def random(self, rng: np.random.Generator, mask: Array) -> Array:
        """Uniform choices among the valid ones of masks `[..., n]`: int64 `[...]`, for MultiDiscrete `[..., k]`."""
        if self._is_single:
            return random_choice(rng, mask)
        return np.stack([random_choice(rng, part) for part in np.split(mask, self._starts[1:], axis=-1)], -1)


def random_choice(rng: np.random.Generator, mask: Array) -> Array:
    """A choice for each mask `[..., n]`, uniform among the valid ones: int64 `[...]`."""
    return np.asarray(np.where(mask, rng.random(mask.shape), -1.0).argmax(-1))


def take_mask(observation: Space, action: Space) -> tuple[Space, str, str]:
    """What of an observation space networks see, if an entry of it is the action mask.

    Returns:
        The space without that entry; if but one other is left, that one's own space. Then `masks` and `only_entry` as `EnvSpec`
        has them.

    Raises:
        InputError: the entry is no mask of that action space.
    """
    size = MaskLayout(action).size
    if not isinstance(observation, spaces.Dict) or ENTRY not in observation.spaces or not size:
        return observation, "", ""
    given = observation.spaces[ENTRY]
    if not isinstance(given, (spaces.Box, spaces.MultiBinary)) or leaf_layout(given)[0] != (size,) or (
        leaf_layout(given)[1].kind not in "biu"
    ):  # fmt: skip
        raise InputError(
            f"the observation's entry '{ENTRY}' is {given}; expected MultiBinary({size}) or Box(0, 1, ({size},), int8), a mask "
            f"of the actions {action}: give it another name if it is none"
        )
    rest = {key: space for key, space in observation.spaces.items() if key != ENTRY}
    if not rest:
        raise InputError(f"the observation has no entry but '{ENTRY}'; expected one more, for the policy to see")
    if len(rest) == 1:
        ((key, space),) = rest.items()
        return space, "observation", str(key)
    return spaces.Dict(rest), "observation", ""


def split_observation(spec: EnvSpec, obs: Any, who: str) -> tuple[Any, Any]:
    """An observation as the env gave it, whose spec has masks "observation": what networks see of it, and the mask.

    Raises:
        EnvError: it lacks the mask, or the only other entry.
    """
    wanted = (ENTRY, spec.only_entry) if spec.only_entry else (ENTRY,)
    for name in wanted:
        if not isinstance(obs, Mapping) or name not in obs:
            has = ", ".join(map(str, obs)) if isinstance(obs, Mapping) else f"type {type(obs).__name__}"
            raise EnvError(f"observation of {who} lacks '{name}'; it has {has}: return all entries of its space")
    rest = obs[spec.only_entry] if spec.only_entry else {key: value for key, value in obs.items() if key != ENTRY}
    return rest, obs[ENTRY]


def following_masks(mask: Array, last: Array, final: Array, final_at: Array, ended: Array) -> Array:
    """Masks of the observation that followed each step of a fragment, `[T, E, A, n]`, for the bootstrap.

    Args:
        mask: `[T, E, A, n]`, of the observations.
        last: `[E, A, n]`, of the observation after the last step.
        final: `[K, A, n]`, of the true final observations.
        final_at: `[K, 2]`, the (t, e) of each of them.
        ended: bool `[T, E, A]`, where an agent's episode ended.
    """
    following = np.concatenate([mask[1:], last[None]])
    steps, envs = final_at[:, 0], final_at[:, 1]
    here = ended[steps, envs]
    following[steps, envs] = np.where(here[..., None], final, following[steps, envs])
    return following
