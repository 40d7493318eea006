"""Rows of nested dicts of arrays: taking, setting, flattening and naming their leaves."""

from __future__ import annotations

from typing import Any

from wiserl.core.batch import Array, Nested


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
