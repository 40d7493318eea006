"""Action masks of an env, as `wiserl check-env` looks at them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from wiserl.core.actions import ActionCodec
from wiserl.core.masks import ENTRY, MaskLayout
from wiserl.core.spaces import Space
from wiserl.core.tree import Array
from wiserl.env.make import EnvLike
from wiserl.env.vector.inline import InlineVector
from wiserl.util.errors import EnvError

_STEPS = 200


class MaskCheck:
    """Looks at the masks of one env, of each agent at each reset and step.

    Attributes:
        valid: by agent, the mask `[n]` of its last observation, where there is one that leaves an action.
    """

    def __init__(self, say: Callable[[str, str, str], None]) -> None:
        self.valid: dict[str, Array] = {}
        self._say = say
        self._given: bool | None = None

    def look(self, agent: str, action_space: Space, obs: Any, info: Any, when: str, acts: bool = True) -> None:
        """Note what is wrong with a mask. `acts`: whether an action follows, or a bootstrap is taken from one."""
        self.valid.pop(agent, None)
        layout = MaskLayout(action_space)
        found = [each[ENTRY] for each in (obs, info) if isinstance(each, Mapping) and ENTRY in each]
        if not layout.size:
            if isinstance(info, Mapping) and ENTRY in info:
                what = f"info of {when} has {ENTRY}, but the actions are {action_space}"
                self._say("mask", what, "make them Discrete or MultiDiscrete, or leave the mask out")
            return
        if self._given is None:
            self._given = bool(found)
        if bool(found) != self._given and (found or acts):
            has, had = (
                ("has", "that of the first reset had none") if found else ("has no", "that of the first reset had one")
            )
            self._say("mask", f"info of {when} {has} {ENTRY}, {had}", "give one at each reset and step, or none at all")
        if not found:
            return
        try:
            mask = layout.read(found[0], when)
        except EnvError as error:
            self._say("mask", str(error), "return np.array([...], np.int8), 1 where the action is valid")
            return
        if layout.has_choice(mask):
            self.valid[agent] = mask
        elif acts:
            what = f"{ENTRY} of {when} leaves no valid action: {mask.astype(int).tolist()}"
            self._say("mask", what, "return terminated where no action is left, or have one that does nothing")


def masks_line(env: EnvLike, kwargs: Mapping[str, Any]) -> str:
    """One sentence on the masks of an env that keeps its contract: whether it gives some, and what an invalid action does."""
    random, shares = np.random.default_rng(0), []
    with InlineVector(env, kwargs, 1) as vector:
        vector.reset([0])
        codec, mask = ActionCodec(vector.spec.action_space), vector.mask
        if mask is None:
            return "no action masks"
        answer = "no action was invalid in the steps tried"
        for _ in range(_STEPS):
            shares.append(mask.mean())
            wrong = _wrong_ones(mask, codec.masks.sizes)
            if not (wrong == mask).all():
                answer = _try(vector, codec.random(random, mask.shape[:2], wrong))
                break
            step = vector.step(codec.random(random, mask.shape[:2], mask))
            assert step.mask is not None
            mask = step.mask
        where = "observation" if vector.spec.masks else "info"
    return f"action masks in its {where}, {np.mean(shares):.0%} of the actions valid; {answer}"


def _try(vector: InlineVector, action: Array) -> str:
    try:
        vector.step(action)
    except Exception as error:
        return f"an invalid action is refused ({type(error).__name__})"
    return "the env does not refuse an invalid action: it makes the step"


def _wrong_ones(mask: Array, sizes: tuple[int, ...]) -> Array:
    """Of masks `[..., n]` the opposite, but for components of which all choices are valid."""
    parts = np.split(mask, np.cumsum(sizes)[:-1], axis=-1)
    return np.concatenate([np.where(part.all(-1, keepdims=True), part, ~part) for part in parts], axis=-1)
