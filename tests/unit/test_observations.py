"""wiserl.core.observations: what an env observed is what its space says, or refused."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from wiserl.core.observations import ObservationReader
from wiserl.core.spaces import observation_zeros
from wiserl.core.tree import tree_leaves
from wiserl.util.errors import EnvError

BOX = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([6.0, 10.0], np.float32))
BYTES = spaces.Box(0, 255, (2,), np.uint8)
NESTED = spaces.Dict({"vector": BOX, "pair": spaces.Tuple((spaces.Discrete(3, start=5), spaces.MultiBinary(2)))})


def read(space, obs):
    buffers = observation_zeros(space, (1, 1))
    ObservationReader(space).write(buffers, (0, 0), obs, "it")
    leaves = [leaf[0, 0] for _, leaf in tree_leaves(buffers)]
    return leaves[0] if len(leaves) == 1 else leaves


def test_nested_observations_are_written_at_their_index_with_discrete_counted_from_0():
    buffers = observation_zeros(NESTED, (2, 3))
    obs = {"vector": np.array([1.0, 2.0]), "pair": (6, np.array([0, 1]))}
    ObservationReader(NESTED).write(buffers, (1, 2), obs, "it")
    assert buffers["vector"][1, 2].tolist() == [1.0, 2.0]
    assert buffers["pair"]["0"][1, 2] == 1
    assert buffers["pair"]["1"][1, 2].tolist() == [0, 1]
    assert sum(abs(leaf).sum() for leaf in (buffers["vector"], *buffers["pair"].values())) == 5


@pytest.mark.parametrize(
    ("obs", "said"),
    [
        ({"x": np.zeros(3, np.float32)}, r"entry 'x' of it has shape \(3,\), its space says \(2,\)"),
        ({"x": np.zeros(2, np.complex64)}, "entry 'x' of it has dtype complex64"),
        ({"y": np.zeros(2, np.float32)}, "lacks 'x'; it has y"),
        (np.zeros(2), "lacks 'x'; it has type ndarray"),
    ],
)
def test_an_observation_unlike_its_space_is_refused_with_what_differs(obs, said):
    with pytest.raises(EnvError, match=said):
        read(spaces.Dict({"x": BOX}), obs)


@pytest.mark.parametrize(
    ("space", "obs", "said"),
    [
        (BOX, np.ones(1, np.float32), r"has shape \(1,\), its space says \(2,\)"),
        (BOX, 1.0, r"has shape \(\) \(float\)"),
        (BOX, None, r"has shape \(\) \(NoneType\)"),
        (BOX, [[1.0], [2.0, 3.0]], "is a list that makes no array"),
        (BOX, ["1", "2"], "has dtype <U1"),
        (BYTES, np.array([0.5, 0.5]), "has dtype float64, its space says uint8"),
        (BYTES, np.array([300, 0], np.uint16), r"has 300 \(dtype uint16\), its space says uint8"),
        (BYTES, [300, 0], "has dtype int64, its space says uint8"),
        (spaces.Box(-3, 4, (1,), np.int8), np.array([300]), r"has 300 \(dtype int64\), its space says int8"),
        (spaces.Discrete(3), 1.7, "has dtype float64, its space says int64"),
        (spaces.Discrete(3), 3, "is 3, its space says 0 to 2"),
        (spaces.Discrete(3, start=-1), -2, "is -2, its space says -1 to 1"),
        (spaces.Discrete(3), np.array([1]), r"has shape \(1,\), its space says \(\)"),
        (spaces.Discrete(3), np.array(7), "is 7, its space says 0 to 2"),
        (spaces.MultiDiscrete([3, 2], start=[0, 5]), np.array([0, 7]), r"is 7 at index \[1\], its space says 5 to 6"),
        (spaces.MultiDiscrete([3, 2]), np.array([-1, 0]), r"is -1 at index \[0\], its space says 0 to 2"),
        (spaces.MultiBinary(2), np.array([2, 0], np.int8), r"is 2 at index \[0\], its space says 0 to 1"),
        (spaces.MultiBinary(2), np.array([-1, 0], np.int8), r"is -1 at index \[0\], its space says 0 to 1"),
        (NESTED, {"vector": np.zeros(2), "pair": (5,)}, "entry 'pair' of it lacks '1'; it has type tuple"),
        (NESTED, {"vector": np.zeros(2), "pair": (9, [0, 1])}, "entry 'pair.0' of it is 9, its space says 5 to 7"),
    ],
)
def test_what_numpy_would_broadcast_cut_or_wrap_is_refused(space, obs, said):
    with pytest.raises(EnvError, match=said):
        read(space, obs)


@pytest.mark.parametrize(
    ("space", "obs", "kept"),
    [
        (BOX, np.array([1.0, 2.0]), [1.0, 2.0]),
        (BOX, [1, 2], [1.0, 2.0]),
        (BOX, np.array([1, 2], ">f4"), [1.0, 2.0]),
        (BYTES, np.array([True, False]), [1, 0]),
        (BYTES, np.array([255, 0], np.uint32), [255, 0]),
        (spaces.Box(-3, 4, (1,), np.int32), np.array([4]), [4]),
        (spaces.Box(-1, 1, (), np.float64), 0.5, 0.5),
        (spaces.Discrete(3, start=5), np.uint8(7), 2),
        (spaces.Discrete(3), np.array(2), 2),
        (spaces.Discrete(201, start=-100), np.int8(100), 200),
        (spaces.Discrete(201, start=-100), np.uint8(3), 103),
        (spaces.Discrete(2), True, 1),
        (spaces.MultiDiscrete([3, 2], start=[0, 5]), [2, 6], [2, 1]),
        (spaces.MultiBinary(2), [True, False], [1, 0]),
    ],
)
def test_what_says_the_same_in_another_type_is_taken(space, obs, kept):
    assert read(space, obs).tolist() == kept


@given(st.sampled_from([BOX, BYTES, NESTED, spaces.MultiDiscrete([[3, 2], [4, 5]]), spaces.Discrete(4, start=-2)]))
def test_every_sample_of_a_space_is_taken(space):
    read(space, space.sample())
