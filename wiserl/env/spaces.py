"""Spaces: how observations become arrays, how a policy's actions become what an env expects, and spaces as JSON.

Observations are kept as one array, or as a nested dict of arrays for Dict and Tuple spaces; the entries of a Tuple are
named "0", "1", ... All leaves share the leading axes (`[T, E, A]`, or fewer).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from wiserl.core.batch import Array
from wiserl.util.errors import EnvError, InputError

Space = spaces.Space[Any]

OBSERVATION_KINDS = "Box, Discrete, MultiDiscrete, MultiBinary, Dict, Tuple"
ACTION_KINDS = "Box, Discrete, MultiDiscrete, MultiBinary"
LEAF_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


@dataclass(frozen=True)
class EnvSpec:
    """What the learner must know of an env: no env object, so that it can be sent, saved and opened anywhere.

    Attributes:
        id: readable name of the env.
        observation_space: of one agent.
        action_space: of one agent.
        agents: names in the order of the agent axis; `("agent_0",)` for a gymnasium env.
        frame_stack: k, where an observation `[k, ...]` is the last k frames, oldest first; 0 where it is not.
        frame_padding: what is below the first frame of an episode: "reset" that frame again, "zero" zeros.
        make: what `env.make.make_env` takes to make it, where that is known; it is neither saved nor compared.
    """

    id: str
    observation_space: Space
    action_space: Space
    agents: tuple[str, ...] = ("agent_0",)
    frame_stack: int = 0
    frame_padding: str = "reset"
    make: tuple[Any, Mapping[str, Any]] | None = field(default=None, compare=False, repr=False)

    @property
    def num_agents(self) -> int:
        """Length of the agent axis."""
        return len(self.agents)

    def to_json(self) -> dict[str, Any]:
        """The spec as JSON values; `from_json` reads it back."""
        return {
            "id": self.id,
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
            "agents": list(self.agents),
            "frame_stack": self.frame_stack,
            "frame_padding": self.frame_padding,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EnvSpec:
        """Read what `to_json` wrote.

        Raises:
            InputError: an entry is missing, or a space is of unknown type.
        """
        try:
            return cls(
                id=data["id"],
                observation_space=space_from_json(data["observation_space"]),
                action_space=space_from_json(data["action_space"]),
                agents=tuple(data["agents"]),
                frame_stack=data.get("frame_stack", 0),
                frame_padding=data.get("frame_padding", "reset"),
            )
        except KeyError as error:
            raise InputError(f"description of an env lacks {error}; it has {', '.join(data)}") from error


def _bounds_to_json(bounds: Array) -> Any:
    """One number where all bounds are equal (image spaces), else nested lists; infinities as "inf" and "-inf"."""

    def number(value: Any) -> Any:
        if isinstance(value, list):
            return [number(item) for item in value]
        return str(value) if isinstance(value, float) and not np.isfinite(value) else value

    same = bounds.size > 0 and bool((bounds == bounds.flat[0]).all())
    return number(bounds.flat[0].item() if same else bounds.tolist())


def _bounds_from_json(data: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    def number(value: Any) -> Any:
        if isinstance(value, list):
            return [number(item) for item in value]
        return float(value) if isinstance(value, str) else value

    bounds: Array = np.broadcast_to(np.array(number(data), dtype=dtype), shape).copy()
    return bounds


def space_to_json(space: Space) -> dict[str, Any]:
    """A space as JSON values: type, sizes, bounds, dtype (its random state is left out).

    Raises:
        InputError: the space is none of Box, Discrete, MultiDiscrete, MultiBinary, Dict, Tuple.
    """
    if isinstance(space, spaces.Box):
        return {
            "type": "Box",
            "low": _bounds_to_json(space.low),
            "high": _bounds_to_json(space.high),
            "shape": list(space.shape),
            "dtype": str(space.dtype),
        }
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        start = space.start.tolist()
        return {"type": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": start, "dtype": str(space.dtype)}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": list(space.shape)}
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": {str(key): space_to_json(child) for key, child in space.spaces.items()}}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "spaces": [space_to_json(child) for child in space.spaces]}
    raise InputError(f"space {space} is not supported; supported: {OBSERVATION_KINDS}. A wrapper can turn it into one")


def space_from_json(data: Mapping[str, Any]) -> Space:
    """Read what `space_to_json` wrote.

    Raises:
        InputError: `type` is unknown.
    """
    kind = data.get("type")
    if kind == "Box":
        shape, dtype = tuple(data["shape"]), np.dtype(data["dtype"])
        low, high = (_bounds_from_json(data[name], shape, dtype) for name in ("low", "high"))
        return spaces.Box(low, high, shape, dtype.type)
    if kind == "Discrete":
        return spaces.Discrete(data["n"], start=data["start"])
    if kind == "MultiDiscrete":
        dtype = np.dtype(data["dtype"])
        return spaces.MultiDiscrete(np.array(data["nvec"], dtype), dtype.type, start=np.array(data["start"], dtype))
    if kind == "MultiBinary":
        size = data["n"]
        return spaces.MultiBinary(size[0] if len(size) == 1 else size)
    if kind == "Dict":
        return spaces.Dict([(key, space_from_json(child)) for key, child in data["spaces"].items()])
    if kind == "Tuple":
        return spaces.Tuple([space_from_json(child) for child in data["spaces"]])
    raise InputError(f"a space of type {kind!r} is not known; known: {OBSERVATION_KINDS}")


def child_spaces(space: Space) -> list[tuple[str, Any, Space]] | None:
    """The entries of a Dict or Tuple space as (name, key into an observation, space); None for a leaf."""
    if isinstance(space, spaces.Dict):
        return [(str(key), key, child) for key, child in space.spaces.items()]
    if isinstance(space, spaces.Tuple):
        return [(str(i), i, child) for i, child in enumerate(space.spaces)]
    return None


def leaf_spaces(space: Space, prefix: str = "") -> Iterator[tuple[str, Space]]:
    """The leaf spaces with their dotted paths ("" for a space that is itself a leaf)."""
    children = child_spaces(space)
    if children is None:
        yield prefix, space
        return
    for name, _, child in children:
        yield from leaf_spaces(child, f"{prefix}.{name}" if prefix else name)


def leaf_layout(space: Space) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype in which observations of one leaf space are kept.

    A Box keeps its dtype, but float64 becomes float32; Discrete is an int64 scalar and MultiDiscrete int64, both counted
    from 0; MultiBinary is int8.

    Raises:
        InputError: the space is not supported.
    """
    if isinstance(space, spaces.Box):
        return space.shape, np.dtype(np.float32) if space.dtype == np.float64 else np.dtype(space.dtype)
    if isinstance(space, spaces.Discrete):
        return (), np.dtype(np.int64)
    if isinstance(space, spaces.MultiDiscrete):
        return space.shape, np.dtype(np.int64)
    if isinstance(space, spaces.MultiBinary):
        return space.shape, np.dtype(np.int8)
    raise InputError(
        f"observation space {space} is not supported; supported: {OBSERVATION_KINDS}. A wrapper can turn it into one"
    )


def observation_zeros(space: Space, leading: tuple[int, ...]) -> Any:
    """Zeroed arrays for observations: each leaf `[*leading, *shape]`, dtypes as in `leaf_layout`.

    Raises:
        InputError: a leaf space is not supported.
    """
    children = child_spaces(space)
    if children is not None:
        return {name: observation_zeros(child, leading) for name, _, child in children}
    shape, dtype = leaf_layout(space)
    return np.zeros(leading + shape, dtype)


def write_observation(space: Space, buffers: Any, index: tuple[int, ...], obs: Any) -> None:
    """Put the observation of one agent, as the env gave it, at `buffers[leaf][index]`."""
    children = child_spaces(space)
    if children is not None:
        for name, key, child in children:
            write_observation(child, buffers[name], index, obs[key])
    elif isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        buffers[index] = obs - space.start
    else:
        buffers[index] = obs


def clear_observation(buffers: Any, index: tuple[int, ...]) -> None:
    """Set the observation at `buffers[leaf][index]` to zeros (the row of an agent that is gone)."""
    if isinstance(buffers, dict):
        for child in buffers.values():
            clear_observation(child, index)
    else:
        buffers[index] = 0


def check_observation(space: Space, obs: Any, who: str, path: str = "") -> None:
    """Check keys, shape and dtype kind of one observation; its values are not looked at.

    Raises:
        EnvError: naming env, entry, what it has and what its space says.
    """
    hint = "make the env return what its observation_space says (`wiserl check-env` helps)"
    entry = f" entry '{path}'" if path else ""
    children = child_spaces(space)
    if children is not None:
        for name, key, child in children:
            try:
                value = obs[key]
            except (KeyError, IndexError, TypeError):
                has = ", ".join(map(str, obs)) if isinstance(obs, Mapping) else f"type {type(obs).__name__}"
                raise EnvError(f"observation{entry} of {who} lacks '{name}'; it has {has}: {hint}") from None
            check_observation(child, value, who, f"{path}.{name}" if path else name)
        return
    shape, dtype = leaf_layout(space)
    given = np.asarray(obs)
    if given.shape != shape:
        raise EnvError(f"observation{entry} of {who} has shape {given.shape}, its space says {shape}: {hint}")
    if not np.can_cast(given.dtype, dtype, "same_kind"):
        raise EnvError(f"observation{entry} of {who} has dtype {given.dtype}, its space says {space.dtype}: {hint}")


def batched_observation(space: Space, obs: Any) -> Any:
    """Observations of a native vector env, leaves `[E, ...]`, as arrays `[E, 1, ...]` in the layout of this module."""
    children = child_spaces(space)
    if children is not None:
        return {name: batched_observation(child, obs[key]) for name, key, child in children}
    array = np.asarray(obs)
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        array = array - space.start
    return array.astype(leaf_layout(space)[1], copy=False)[:, None]


def bounded_action_size(space: Space, algorithm: str) -> int:
    """Number of entries of a Box action whose bounds are all finite: a policy's actions are then in [-1, 1].

    Raises:
        InputError: it is another space, which `algorithm` cannot act in.
    """
    is_float = isinstance(space, spaces.Box) and np.dtype(space.dtype).kind == "f"
    if not (is_float and np.isfinite(space.low).all() and np.isfinite(space.high).all()):  # type: ignore[attr-defined]
        raise InputError(
            f"{algorithm} cannot act in {space}: it needs a Box action space of floats with finite bounds. dqn and sac do Discrete; "
            "ppo does MultiDiscrete, MultiBinary and unbounded Box; gymnasium.wrappers.RescaleAction gives a Box finite bounds"
        )
    return int(np.prod(space.shape or ()))


class ActionCodec:
    """Turns a policy's actions into those an env expects, and back.

    A policy emits: Discrete an int64 scalar counted from 0; MultiDiscrete int64 `[k]`, each counted from 0; MultiBinary
    int64 `[k]` of 0 and 1; Box float32 of the space's shape, in [-1, 1] where both bounds are finite and in the env's
    own units where not. What lies outside the bounds is clipped.

    Attributes:
        space: the action space of one agent.
        shape: trailing shape of a policy's action.
        dtype: dtype of a policy's action, int64 or float32.
    """

    def __init__(self, space: Space) -> None:
        """Raises:
        InputError: the space is not supported.
        """
        self.space = space
        self.shape: tuple[int, ...] = ()
        self.dtype: np.dtype[Any] = np.dtype(np.int64)
        self._start: Any = 0
        if isinstance(space, spaces.Discrete):
            self._start = int(space.start)
        elif isinstance(space, spaces.MultiDiscrete):
            self.shape = (int(space.nvec.size),)
            self._start = space.start.astype(np.int64).reshape(-1)
        elif isinstance(space, spaces.MultiBinary):
            self.shape = (int(np.prod(space.shape)),)
        elif isinstance(space, spaces.Box):
            self.shape, self.dtype = space.shape, np.dtype(np.float32)
            self._prepare_box(space)
        else:
            raise InputError(
                f"action space {space} is not supported; supported: {ACTION_KINDS}. "
                "A wrapper with an action() method (gymnasium.ActionWrapper) can turn it into one"
            )

    def _prepare_box(self, space: spaces.Box) -> None:
        self._compute_dtype = np.dtype(np.float32 if space.dtype == np.float32 else np.float64)
        self._low = space.low.astype(self._compute_dtype)
        self._high = space.high.astype(self._compute_dtype)
        self._finite = np.isfinite(self._low) & np.isfinite(self._high)
        # Halved before the subtraction: high - low overflows where the bounds are those of the dtype.
        half_low, half_high = np.where(self._finite, self._low, 0) / 2, np.where(self._finite, self._high, 0) / 2
        self._scale = np.where(self._finite, half_high - half_low, 1).astype(self._compute_dtype)
        self._offset = (half_high + half_low).astype(self._compute_dtype)
        self._is_identity = bool((self._scale == 1).all() and (self._offset == 0).all())

    def to_env(self, actions: Array) -> Array:
        """What the env's `step` expects.

        Args:
            actions: policy actions `[..., *self.shape]`.

        Returns:
            `[..., *space.shape]` in the space's dtype; may share memory with `actions`.
        """
        space = self.space
        if isinstance(space, spaces.Discrete):
            return actions + self._start if self._start else actions
        if isinstance(space, spaces.Box):
            actions = actions.astype(self._compute_dtype, copy=False)
            if not self._is_identity:
                actions = actions * self._scale + self._offset
            # Clipped last, to catch what rounding pushed past a bound; np.clip's wrapper costs more than these two.
            values: Array = np.minimum(np.maximum(actions, self._low), self._high)
            if values.dtype != space.dtype:
                values = (np.rint(values) if np.dtype(space.dtype).kind in "iu" else values).astype(space.dtype)
            return values
        shape = space.shape or ()
        if isinstance(space, spaces.MultiDiscrete):
            actions = actions + self._start
        reshaped: Array = actions.astype(space.dtype, copy=False).reshape(actions.shape[:-1] + shape)
        return reshaped

    def from_env(self, action: Any) -> Array:
        """The inverse of `to_env`: env actions `[..., *space.shape]` to policy actions `[..., *self.shape]`."""
        space = self.space
        given = np.asarray(action)
        if isinstance(space, spaces.Box):
            centred = given.astype(self._compute_dtype) - self._offset
            normalised: Array = (centred / np.where(self._scale == 0, 1, self._scale)).astype(self.dtype)
            return normalised
        leading = given.shape[: given.ndim - len(space.shape or ())]
        counted: Array = given.astype(self.dtype).reshape(leading + self.shape) - self._start
        return counted

    def random(self, rng: np.random.Generator, leading: tuple[int, ...]) -> Array:
        """Uniform policy actions `[*leading, *self.shape]`; standard normal where a Box has an infinite bound."""
        size = leading + self.shape
        if isinstance(self.space, spaces.Box):
            uniform: Array = rng.uniform(-1.0, 1.0, size)
            if not self._finite.all():
                uniform = np.where(self._finite, uniform, rng.standard_normal(size))
            return uniform.astype(self.dtype)
        high: Any = 2
        if isinstance(self.space, spaces.Discrete):
            high = int(self.space.n)
        elif isinstance(self.space, spaces.MultiDiscrete):
            high = self.space.nvec.reshape(-1)
        integers: Array = rng.integers(high, size=size)
        return integers


def action_to_env(space: gym.Space[Any], action: Array) -> Array:
    """`ActionCodec(space).to_env(action)`, for a single use; keep the codec where it is called per step."""
    return ActionCodec(space).to_env(action)
