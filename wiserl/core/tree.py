"""Nested dicts of arrays, as observations are, and how to walk, cut and join them.

An observation is one array, or a nested dict of arrays for Dict and Tuple spaces (a Tuple's entries are named "0", "1",
...); all its leaves share the leading axes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Nested: TypeAlias = Any  # Array | dict[str, Nested]; recursive aliases defeat mypy's narrowing


def take_rows(tree: Nested, rows: Array) -> Nested:
    """Rows of each leaf, `[len(rows), ...]`, copied; indices beyond the end wrap around."""
    if isinstance(tree, dict):
        return {key: take_rows(value, rows) for key, value in tree.items()}
    return tree.take(rows, 0, mode="wrap")


def set_rows(tree: Nested, rows: Array | slice, values: Nested) -> None:
    """Write `values [len(rows), ...]` into the rows of each leaf, in place."""
    if isinstance(tree, dict):
        for key, leaf in tree.items():
            set_rows(leaf, rows, values[key])
    else:
        tree[rows] = values


def leaf_paths(tree: Nested, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The keys that lead to each leaf."""
    if not isinstance(tree, dict):
        return [prefix]
    return [path for key, value in tree.items() for path in leaf_paths(value, (*prefix, key))]


def leaves_at(tree: Nested, paths: list[tuple[str, ...]]) -> list[Array]:
    """The leaves at `paths`, in that order whatever the order of keys in `tree`; KeyError where there is none."""
    leaves = []
    for path in paths:
        leaf = tree
        for key in path:
            leaf = leaf[key]
        leaves.append(leaf)
    return leaves


def name_leaves(tree: Nested, name: str, into: dict[str, Any]) -> Nested:
    """Put each leaf into the flat dict `into` under a dotted name; returns the tree of these names."""
    if isinstance(tree, dict):
        return {key: name_leaves(value, f"{name}.{key}", into) for key, value in tree.items()}
    into[name] = tree
    return name


def leading_axes(obs: Nested) -> tuple[int, int]:
    """(E, A) of an observation `[E, A, ...]`."""
    while isinstance(obs, dict):
        obs = next(iter(obs.values()))
    return obs.shape[0], obs.shape[1]


def tree_map(function: Callable[..., Any], tree: Nested, *others: Nested) -> Nested:
    """Apply `function` to each leaf of a nested dict (and to the leaves of `others` at the same place)."""
    if isinstance(tree, dict):
        return {key: tree_map(function, value, *(other[key] for other in others)) for key, value in tree.items()}
    return function(tree, *others)


def tree_leaves(tree: Nested, prefix: str = "") -> list[tuple[str, Any]]:
    """The leaves of a nested dict with their dotted paths; a bare array has the path `prefix`."""
    if not isinstance(tree, dict):
        return [(prefix, tree)]
    return [
        leaf for key, value in tree.items() for leaf in tree_leaves(value, f"{prefix}.{key}" if prefix else str(key))
    ]
