"""A user's own function of each fragment, and a check of what it returned."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from wiserl.core.batch import Fragment, check_fragment
from wiserl.core.tree import tree_leaves
from wiserl.util.errors import InputError

Transform: TypeAlias = Callable[[Fragment], Fragment]


def apply_transform(fragment: Fragment, transform: Transform) -> Fragment:
    """What `transform` makes of a fragment.

    Raises:
        InputError: it is no fragment of the same steps, envs and agents.
    """
    shape = fragment["reward"].shape
    changed = transform(fragment)
    if not isinstance(changed, dict):
        raise InputError(
            f"transform returned {changed!r}; expected the fragment, a dict of arrays: does it say `return fragment`?"
        )
    for path, leaf in tree_leaves(changed):
        if not isinstance(leaf, np.ndarray):
            raise InputError(f"transform returned a {type(leaf).__name__} as {path}; expected an array")
        if leaf.dtype.kind == "f" and not np.isfinite(leaf).all():
            raise InputError(f"transform returned NaN or infinity in {path}; expected finite numbers")
    try:
        check_fragment(changed)
    except ValueError as error:
        raise InputError(f"transform returned what is no fragment: {error}") from error
    if changed["reward"].shape != shape:
        raise InputError(
            f"transform returned [T, E, A] = {list(changed['reward'].shape)} steps of {list(shape)}; expected all of them"
        )
    return {**changed, "reward": changed["reward"].astype(np.float32, copy=False)}
