"""Spaces: how observations become arrays, and spaces as JSON.

Observations are kept as one array, or as a nested dict of arrays for Dict and Tuple spaces; the entries of a Tuple are
named "0", "1", ... All leaves share the leading axes (`[T, E, A]`, or fewer).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from wiserl.core.tree import Array
from wiserl.util.errors import InputError

Space = spaces.Space[Any]

OBSERVATION_KINDS = "Box, Discrete, MultiDiscrete, MultiBinary, Dict, Tuple"
_LARGEST = 2**26  # numbers in a Box that is read from a file
LEAF_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


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
        if math.prod(shape) > _LARGEST:
            raise InputError(f"a Box of shape {list(shape)} is described; expected {_LARGEST} numbers at most")
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


def entries_problem(space: Space) -> str:
    """What is wrong with the entries of a Dict or Tuple space, or of one inside it; empty if nothing is."""
    children = child_spaces(space)
    if children is not None and not children:
        return f"{space} has no entries"
    names = [name for name, _ in leaf_spaces(space)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        return f"two entries of {space} have the name '{twice}' (keys become text, and entries of entries are joined by a dot)"
    return next(filter(None, (entries_problem(child) for _, _, child in children or ())), "")


def with_text_keys(space: Space, obs: Any) -> Any:
    """An observation with keys as `space_to_json` saves them: text. The env's own may be numbers."""
    if isinstance(space, spaces.Dict) and isinstance(obs, Mapping):
        named = {str(key): value for key, value in obs.items()}
        return {
            name: with_text_keys(space[name], value) if name in space.spaces else value for name, value in named.items()
        }
    if isinstance(space, spaces.Tuple) and isinstance(obs, tuple) and len(obs) == len(space):
        return tuple(with_text_keys(child, value) for child, value in zip(space, obs, strict=True))
    return obs


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


def clear_observation(buffers: Any, index: tuple[int, ...]) -> None:
    """Set the observation at `buffers[leaf][index]` to zeros (the row of an agent that is gone)."""
    if isinstance(buffers, dict):
        for child in buffers.values():
            clear_observation(child, index)
    else:
        buffers[index] = 0


def batched_observation(space: Space, obs: Any) -> Any:
    """Observations of a native vector env, leaves `[E, ...]`, as arrays `[E, 1, ...]` in the layout of this module."""
    children = child_spaces(space)
    if children is not None:
        return {name: batched_observation(child, obs[key]) for name, key, child in children}
    array = np.asarray(obs)
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        array = array - space.start
    return array.astype(leaf_layout(space)[1], copy=False)[:, None]
