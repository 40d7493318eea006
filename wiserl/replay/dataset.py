"""A user's own transitions as fragments, which a replay can `add`: from an `.npz` file, or a Minari data set.

Arrays of an `.npz`, N transitions in the order in which they were made, one episode after the other:

- `observations [N, ...]`; for Dict and Tuple spaces one array per entry, `observations/KEY` (Tuple: `observations/0`)
- `actions [N, ...]`, in the env's own units
- `rewards [N]`
- `terminations [N]` and `truncations [N]`, bool (`terminals` and `timeouts`, D4RL's names, are understood)
- `next_observations [N, ...]`, like observations; may be left out
- if the env gives action masks: `action_masks [N, n]`, bool, and beside next_observations `next_action_masks [N, n]`

Arrays named by `extras` are read, too, `[N, ...]`; others are ignored. With `next_observations` all transitions are
used, in whatever order they are: where one is not what the next transition begins with, the episode counts as truncated
there. Without them the next observation of a transition is the observation of the one after it. A truncated transition then
has none, and neither has the file's last one; they are dropped, and the transition before such a one counts as truncated. A
terminated one needs none: it is not bootstrapped, and its own observation stands in.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wiserl.core.batch import Fragment
from wiserl.core.spec import EnvSpec
from wiserl.core.tree import Array, Nested, tree_leaves, tree_map
from wiserl.replay.dataset_arrays import UNREADABLE, ArrayReader
from wiserl.util.errors import InputError

MINARI = "minari:"
FRAGMENT_STEPS = 1000
_ONCE = frozenset(
    ("last_obs", "final_obs", "final_at", "version", "rank", "stream", "fresh")
)  # of a fragment, not of each step


def load_dataset(source: str, spec: EnvSpec, extras: Sequence[str] = ()) -> Iterator[Fragment]:
    """Transitions from outside as fragments of one stream, stream 0, of at most 1,000 steps each.

    Args:
        source: the path of an `.npz` (`~` is one's home), or "minari:" and the id of a data set on this machine.
        spec: of the env that they come from; it must have one agent.
        extras: what the algorithm stores beside the usual fields. A Minari data set has none.

    Returns:
        An iterator over fragments (`core.batch`), in order. A file is read and checked as a whole before the first one, and
        held until the last; a Minari data set is read and checked episode by episode.

    Raises:
        InputError: there is no such file or data set; an array is missing or does not fit `spec`, has NaN or actions out of
            bounds; no transition has a next observation; or the package minari is not installed.
    """
    if spec.num_agents != 1:
        raise InputError(f"data set '{source}': env '{spec.id}' has {spec.num_agents} agents; expected one")
    if source.startswith(MINARI):
        if extras:
            raise InputError(
                f"data set '{source}' has no {', '.join(extras)}, which the algorithm stores; use an .npz with them"
            )
        return _from_minari(source, spec)
    return _fragments(_read_npz(source, spec, extras))


def spread(fragments: Sequence[Fragment], num_streams: int, whole_episodes: bool = False) -> Iterator[Fragment]:
    """The same transitions over several streams, in order, as many in each but for the last ones.

    Args:
        fragments: of one stream, at least one.
        num_streams: numbers of streams go from 0 to this.
        whole_episodes: a stream begins where an episode does, and may have more than its part. Otherwise an episode that goes
            on where a stream ends counts as truncated there.
    """
    quota = -(-sum(len(fragment["reward"]) for fragment in fragments) // num_streams)
    stream, room = 0, quota
    for rest in fragments:
        while len(rest["reward"]):
            cut = max(room, 1)
            if whole_episodes:
                ended = (rest["terminated"] | rest["truncated"])[cut - 1 :, 0, 0]
                cut += int(ended.argmax()) if ended.any() else len(ended)
            first, rest = _split(rest, cut)
            if room == quota:
                first["fresh"] = np.array([True])
            yield {**first, "stream": np.array([stream])}
            room -= len(first["reward"])
            over = first["terminated"][-1, 0, 0] | first["truncated"][-1, 0, 0]
            if room <= 0 and (over or not whole_episodes):
                stream, room = stream + 1, quota


def _split(fragment: Fragment, at: int) -> tuple[Fragment, Fragment]:
    """The first `at` steps and the others, of a fragment that may have fewer."""
    early = fragment["final_at"][:, 0] < at
    parts = []
    for steps, ends, shift in ((slice(at), early, 0), (slice(at, None), ~early, at)):
        along = {
            name: tree_map(lambda leaf, steps=steps: leaf[steps], fragment[name]) for name in fragment.keys() - _ONCE
        }
        final = tree_map(lambda leaf, ends=ends: leaf[ends], fragment["final_obs"])
        once = {name: fragment[name] for name in _ONCE}
        parts.append({**once, **along, "final_obs": final, "final_at": fragment["final_at"][ends] - [shift, 0]})
    if len(parts[1]["reward"]):
        # What follows a step that goes on is what the next one begins with; after an end nobody looks.
        parts[0]["last_obs"] = tree_map(lambda leaf: leaf[at], fragment["obs"])
        parts[1]["fresh"] = np.array([False])
    return parts[0], parts[1]


@dataclass(frozen=True)
class _Transitions:
    """Transitions in order, each field `[N, ...]` in the layout of fragments, and which of them to use.

    Attributes:
        next_obs: what the entries of `next_at` point into.
        next_at: int64 `[N]`, where the observation after each transition is.
        rows: int64 `[M]`, the transitions to use; each is followed by the next one, or is an end.
        extras: further arrays `[N, ...]` by name.
    """

    obs: Nested
    next_obs: Nested
    next_at: Array
    action: Array
    reward: Array
    terminated: Array
    truncated: Array
    rows: Array
    extras: dict[str, Array]

    @classmethod
    def read(cls, where: str, arrays: Mapping[str, Array], spec: EnvSpec, extras: Sequence[str] = ()) -> _Transitions:
        """Check and convert arrays by name; `where` they are from is for messages."""
        reader = ArrayReader(where, arrays, spec)
        reward, terminated, truncated = reader.steps()
        total = len(reward)
        goes_on = ~(terminated | truncated)
        goes_on[-1] = False
        obs = reader.observations("observations")
        if reader.has_next:
            next_obs = reader.observations("next_observations")
            next_at, used = np.arange(total), np.ones(total, np.bool_)
            for (_, after), (_, leaf) in zip(tree_leaves(next_obs), tree_leaves(obs), strict=True):
                goes_on[:-1] &= (after[:-1] == leaf[1:]).all(axis=tuple(range(1, leaf.ndim)))
        else:
            next_obs, next_at, used = obs, np.arange(total) + goes_on, goes_on | terminated
            goes_on[:-1] &= used[1:]
        if not used.any():
            raise InputError(f"{where}: none of its {total} transitions has a next observation; add next_observations")
        truncated = ~(terminated | goes_on)
        more = {name: reader.extra(name) for name in extras}
        if spec.masks:
            more["action_mask"] = mask = reader.masks("action_masks")
            more["next_action_mask"] = (
                reader.masks("next_action_masks", not_after=terminated) if reader.has_next else mask[next_at]
            )
        return cls(obs, next_obs, next_at, reader.actions(), reward, terminated, truncated, used.nonzero()[0], more)


def _fragments(data: _Transitions) -> Iterator[Fragment]:
    for start in range(0, len(data.rows), FRAGMENT_STEPS):
        rows = data.rows[start : start + FRAGMENT_STEPS]
        ends = (data.terminated[rows] | data.truncated[rows]).nonzero()[0]
        names = ("obs", "action", "reward", "terminated", "truncated")
        fields = {**data.extras, **{name: getattr(data, name) for name in names}}
        after = {"last_obs": data.next_at[rows[-1:]], "final_obs": data.next_at[rows[ends]]}
        yield {
            **{name: tree_map(lambda leaf, at=rows: leaf[at][:, None, None], field) for name, field in fields.items()},
            **{name: tree_map(lambda leaf, at=at: leaf[at][:, None], data.next_obs) for name, at in after.items()},
            **{name: np.zeros(1, np.int64) for name in ("version", "rank", "stream")},
            "final_at": np.stack([ends, np.zeros_like(ends)], axis=1),
            "fresh": np.array([start == 0]),
        }


def _read_npz(source: str, spec: EnvSpec, extras: Sequence[str]) -> _Transitions:
    path = Path(source).expanduser()
    if not path.is_file():
        raise InputError(f"data set '{path}' is no file; expected the path of an .npz, or minari:DATASET_ID")
    try:
        file = np.load(path, allow_pickle=False)
    except UNREADABLE as error:
        raise InputError(f"data set '{path}' cannot be read ({error}); expected an .npz of numeric arrays") from error
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise InputError(f"data set '{path}' is a single array; expected an .npz of several")
    with file:
        return _Transitions.read(f"data set '{path}'", file, spec, extras)


def _from_minari(source: str, spec: EnvSpec) -> Iterator[Fragment]:
    try:
        minari = importlib.import_module("minari")
    except ImportError as error:
        raise InputError(
            f"data set '{source}' needs a package that is not installed: pip install 'wiserl[minari]'"
        ) from error
    name = source.removeprefix(MINARI)
    try:
        episodes = iter(minari.load_dataset(name).iterate_episodes())
    except FileNotFoundError as error:
        raise InputError(f"Minari data set '{name}' is not on this machine: run `minari download {name}`") from error
    except (ImportError, ValueError, OSError) as error:
        raise InputError(f"Minari data set '{name}' cannot be read: {error}") from error
    return _from_episodes(source, episodes, spec)


def _from_episodes(source: str, episodes: Iterable[Any], spec: EnvSpec) -> Iterator[Fragment]:
    for number, episode in enumerate(episodes):
        names = ("actions", "rewards", "terminations", "truncations")
        arrays = {name: np.asarray(getattr(episode, name)) for name in names}
        for path, leaf in _named_arrays("", episode.observations):
            arrays[f"observations{path}"] = leaf[:-1]
            arrays[f"next_observations{path}"] = leaf[1:]
        where = f"data set '{source}', episode {number}"
        yield from _fragments(_Transitions.read(where, arrays, spec))


def _named_arrays(path: str, tree: Any) -> Iterator[tuple[str, Array]]:
    """Leaves of nested dicts and tuples, each with the names that lead to it: "/position", "/0"; "" for a bare array."""
    if isinstance(tree, (Mapping, tuple)):
        for key, child in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from _named_arrays(f"{path}/{key}", child)
    else:
        yield path, np.asarray(tree)
