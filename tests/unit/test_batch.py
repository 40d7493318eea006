"""The data schema: what it refuses, and that joining and cutting keep every step in its place."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from tests.fragments import VECTOR, make_fragment, make_spec, trees_equal
from wiserl.core.batch import FIELDS, check_finite, check_fragment, concat_fragments, count_env_steps
from wiserl.core.tree import tree_leaves, tree_map
from wiserl.util.errors import EnvError

DICT = spaces.Dict({"pixels": spaces.Box(0, 255, (4, 4, 1), np.uint8), "pair": spaces.Tuple((VECTOR, VECTOR))})


def test_trees_are_mapped_and_listed_by_dotted_path():
    tree = {"a": np.array([1, 2]), "b": {"c": np.array([3])}}
    summed = tree_map(lambda x, y: x + y, tree, tree)
    assert [(path, leaf.tolist()) for path, leaf in tree_leaves(summed)] == [("a", [2, 4]), ("b.c", [6])]
    assert tree_leaves(np.array(5), "obs")[0][0] == "obs"


@pytest.mark.parametrize("observation", [VECTOR, DICT, spaces.Discrete(3)])
def test_a_fragment_of_any_observation_space_passes_the_check(observation):
    check_fragment(make_fragment(make_spec(observation, agents=2), end_rate=0.3))


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if field.required and name != "reward"])
def test_a_missing_field_is_named(name):
    fragment = make_fragment()
    del fragment[name]
    with pytest.raises(ValueError, match=rf"fragment lacks {name}\b"):
        check_fragment(fragment)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("terminated", np.zeros((5, 3, 1), bool), r"terminated has shape \(5, 3, 1\), expected \['T', 'E', 'A'\]"),
        ("obs", np.zeros((4, 2, 1, 3), np.float32), r"obs has shape \(4, 2, 1, 3\)"),
        ("last_obs", np.zeros((3, 1, 3), np.float32), "last_obs has shape"),
        ("final_obs", np.zeros((1, 1, 3), np.float32), "final_obs has shape"),
        ("stream", np.zeros(3, np.int64), "stream has shape"),
        ("terminated", np.zeros((5, 2, 1), np.int64), "terminated has dtype int64, expected one of kinds 'b'"),
        ("reward", np.zeros((5, 2, 1), np.int64), "reward has dtype int64"),
        ("reward", np.zeros((5, 2), np.float32), r"reward has shape \(5, 2\)"),
        ("alive", np.zeros((5, 2, 1)), "alive has dtype float64"),
        ("mine", np.zeros((2, 5, 1)), r"mine has shape \(2, 5, 1\)"),
    ],
)
def test_a_field_of_wrong_shape_or_dtype_is_named(name, value, message):
    with pytest.raises(ValueError, match=message):
        check_fragment(make_fragment(**{name: value}))


def test_a_wrong_entry_of_a_nested_observation_is_named():
    fragment = make_fragment(make_spec(DICT))
    fragment["obs"]["pair"]["1"] = fragment["obs"]["pair"]["1"][:-1]
    with pytest.raises(ValueError, match=r"obs\.pair\.1 has shape"):
        check_fragment(fragment)


def test_nan_and_infinity_are_refused_with_env_step_and_entry():
    clean = make_fragment(ends={(2, 1, 0): "truncated"}, rank=np.array([4, 4]))
    check_finite(clean, "Foo-v0", 100)

    def message(name, where, value):
        fragment = clean | {name: clean[name].copy()}
        fragment[name][where] = value
        with pytest.raises(EnvError) as error:
            check_finite(fragment, "Foo-v0", 100)
        return str(error.value)

    assert "env 'Foo-v0' returned nan as observation at step 103 of env 1 of runner 4" in message(
        "obs", (3, 1, 0, 2), np.nan
    )
    assert "[0, 2]" in message("obs", (3, 1, 0, 2), np.nan)
    assert "returned inf as reward at step 104 of env 0 of runner 4" in message("reward", (4, 0, 0), np.inf)
    assert "observation at step 105 of env 1 of runner 4" in message("last_obs", (1, 0, 0), -np.inf)
    assert "observation at step 102 of env 1 of runner 4" in message("final_obs", (0, 0, 1), np.nan)


def test_nan_is_found_in_entries_of_nested_observations_and_integers_pass():
    fragment = make_fragment(make_spec(DICT))
    check_finite(fragment, "env", 0)
    fragment["obs"]["pair"]["0"][1, 0, 0, 2] = np.nan
    with pytest.raises(EnvError, match=r"entry obs\.pair\.0\[agent, \.\.\.\] = \[0, 2\]"):
        check_finite(fragment, "env", 0)


def test_one_fragment_is_joined_to_itself_without_a_copy():
    fragment = make_fragment()
    assert concat_fragments([fragment]) is fragment


@given(sizes=st.lists(st.integers(1, 3), min_size=2, max_size=4), seed=st.integers(0, 99))
def test_joining_keeps_every_envs_steps_and_endings(sizes, seed):
    parts = []
    for number, envs in enumerate(sizes):
        part = make_fragment(
            make_spec(DICT, agents=2), 4, envs, seed + number, end_rate=0.2, rank=np.full(envs, number)
        )
        part["episode_return"] = np.full(number, float(number), np.float32)
        part["mine"] = np.full((4, envs, 2), number)
        parts.append(part)
    joined = concat_fragments(parts)
    check_fragment(joined)
    assert joined["episode_return"].tolist() == [number for number in range(len(sizes)) for _ in range(number)]
    first = 0
    for part, envs in zip(parts, sizes, strict=True):
        own = slice(first, first + envs)
        for name in ("obs", "action", "reward", "terminated", "truncated", "mine"):
            assert trees_equal(tree_map(lambda leaf, own=own: leaf[:, own], joined[name]), part[name])
        for name in ("last_obs", "version", "rank", "stream", "fresh"):
            assert trees_equal(tree_map(lambda leaf, own=own: leaf[own], joined[name]), part[name])
        mine = (joined["final_at"][:, 1] >= first) & (joined["final_at"][:, 1] < first + envs)
        assert (joined["final_at"][mine] - [0, first]).tolist() == part["final_at"].tolist()
        assert trees_equal(tree_map(lambda leaf, mine=mine: leaf[mine], joined["final_obs"]), part["final_obs"])
        first += envs


def test_env_steps_are_counted_once_whatever_the_number_of_agents():
    fragment = make_fragment(make_spec(agents=3), steps=5, envs=2)
    assert count_env_steps(fragment) == 10
    alive = np.ones((5, 2, 3), bool)
    alive[3, 0] = False  # nobody acted: an env being reset
    alive[2, 1, :2] = False
    assert count_env_steps(fragment | {"alive": alive}) == 9
