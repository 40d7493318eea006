"""wiserl.core.spaces: layout of observations, actions to and from the env, spaces as JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wiserl.core.actions import ActionCodec, action_to_env
from wiserl.core.spaces import (
    batched_observation,
    observation_zeros,
    space_from_json,
    space_to_json,
)
from wiserl.core.spec import EnvSpec
from wiserl.util.errors import InputError

BOX = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([6.0, 10.0], np.float32))
HALF_OPEN = spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([3.0, np.inf], np.float32))
SPACES = [
    BOX,
    HALF_OPEN,
    spaces.Box(0, 255, (4, 4, 3), np.uint8),
    spaces.Box(-np.inf, np.inf, (), np.float64),
    spaces.Box(-3, 4, (2, 2), np.int32),
    spaces.Discrete(4),
    spaces.Discrete(3, start=-1),
    spaces.MultiDiscrete([3, 2]),
    spaces.MultiDiscrete([[3, 2], [4, 5]], start=[[1, 1], [0, 2]]),
    spaces.MultiBinary(3),
    spaces.MultiBinary([2, 2]),
    spaces.Dict({"image": spaces.Box(0, 255, (2, 2), np.uint8), "inner": spaces.Tuple((BOX, spaces.Discrete(3)))}),
]
ACTION_SPACES = [space for space in SPACES if not isinstance(space, spaces.Dict)]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_space_survives_strict_json(space):
    text = json.dumps(space_to_json(space), allow_nan=False)
    assert space_from_json(json.loads(text)) == space


def test_bounds_of_an_image_space_are_one_number_each():
    data = space_to_json(spaces.Box(0, 255, (84, 84, 3), np.uint8))
    assert (data["low"], data["high"]) == (0, 255)


def test_an_env_spec_survives_json():
    spec = EnvSpec("x", SPACES[-1], BOX, ("a", "b"))
    again = EnvSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    assert again.num_agents == 2


def test_an_env_spec_with_an_entry_missing_is_refused_by_name():
    with pytest.raises(InputError, match="lacks 'agents'"):
        EnvSpec.from_json({"id": "x", "observation_space": space_to_json(BOX), "action_space": space_to_json(BOX)})


@pytest.mark.parametrize("call", [space_to_json, lambda s: observation_zeros(s, (1,)), ActionCodec])
def test_an_unsupported_space_is_refused_with_the_supported_ones(call):
    with pytest.raises(InputError, match=r"not supported; supported: Box, Discrete"):
        call(spaces.Text(3))


def test_a_dict_action_space_is_refused():
    with pytest.raises(InputError, match="action space"):
        ActionCodec(spaces.Dict({"a": BOX}))


def test_an_unknown_space_type_in_json_is_refused():
    with pytest.raises(InputError, match="type 'Sphere' is not known"):
        space_from_json({"type": "Sphere"})


@pytest.mark.parametrize(
    ("space", "shape", "dtype"),
    [
        (spaces.Box(0, 1, (2,), np.float64), (3, 2), np.float32),
        (spaces.Box(0, 255, (2, 2), np.uint8), (3, 2, 2), np.uint8),
        (spaces.Discrete(4), (3,), np.int64),
        (spaces.MultiDiscrete([3, 2]), (3, 2), np.int64),
        (spaces.MultiBinary(3), (3, 3), np.int8),
    ],
)
def test_a_leaf_is_kept_in_its_declared_shape_and_dtype(space, shape, dtype):
    zeros = observation_zeros(space, (3,))
    assert zeros.shape == shape
    assert zeros.dtype == dtype
    assert not zeros.any()


def test_batched_observations_get_an_agent_axis_and_the_kept_dtype():
    space = spaces.Dict({"x": spaces.Box(0, 1, (2,), np.float64), "d": spaces.Discrete(3, start=2)})
    nested = batched_observation(space, {"x": np.ones((4, 2)), "d": np.array([2, 3, 4, 2])})
    assert nested["x"].shape == (4, 1, 2)
    assert nested["x"].dtype == np.float32
    assert nested["d"].tolist() == [[0], [1], [2], [0]]


def test_box_actions_are_scaled_to_finite_bounds_and_clipped():
    actions = np.array([[-1, -1], [0, 0], [1, 1], [-5, 9]], np.float32)
    expected = [[-2, 0], [2, 5], [6, 10], [-2, 10]]
    assert ActionCodec(BOX).to_env(actions).tolist() == expected


def test_box_actions_pass_as_they_are_where_a_bound_is_infinite():
    actions = np.array([[0, 700], [0, -4]], np.float32)
    assert ActionCodec(HALF_OPEN).to_env(actions).tolist() == [[1, 700], [1, 0]]


def test_a_box_of_one_point_goes_back_to_zero():
    assert ActionCodec(spaces.Box(1.0, 1.0, (1,))).from_env(np.array([1.0])).tolist() == [0.0]


def test_integer_boxes_get_rounded_actions():
    env_actions = action_to_env(spaces.Box(-3, 4, (1,), np.int32), np.array([[-1], [0.1], [1]], np.float32))
    assert env_actions.dtype == np.int32
    assert env_actions.tolist() == [[-3], [1], [4]]


def test_the_widest_float32_bounds_do_not_overflow():
    big = np.finfo(np.float32).max
    env_actions = ActionCodec(spaces.Box(-big, big, (1,), np.float32)).to_env(np.array([[1.0], [-1.0]], np.float32))
    assert env_actions.tolist() == [[big], [-big]]


def test_discrete_and_multidiscrete_actions_count_from_start():
    assert ActionCodec(spaces.Discrete(3, start=-1)).to_env(np.array([0, 2])).tolist() == [-1, 1]
    codec = ActionCodec(spaces.MultiDiscrete([[3, 2], [4, 5]], start=[[1, 1], [0, 2]]))
    assert codec.shape == (4,)
    assert codec.to_env(np.array([[0, 1, 3, 4]])).tolist() == [[[1, 2], [3, 6]]]


@pytest.mark.parametrize("space", ACTION_SPACES, ids=str)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_actions_are_valid_and_survive_the_way_to_the_env_and_back(space, seed):
    codec = ActionCodec(space)
    actions = codec.random(np.random.default_rng(seed), (5, 2))
    assert actions.shape == (5, 2, *codec.shape)
    assert actions.dtype == codec.dtype
    env_actions = codec.to_env(actions)
    for row in env_actions.reshape(10, *space.shape):
        assert space.contains(row if isinstance(space, spaces.Discrete) else np.asarray(row))
    again = codec.to_env(codec.from_env(env_actions))
    np.testing.assert_allclose(again, env_actions, rtol=1e-4, atol=1e-5)
    if codec.dtype == np.int64:
        assert (codec.from_env(env_actions) == actions).all()


@given(
    bounds=hnp.arrays(np.float32, 2, elements=st.floats(-1e6, 1e6, width=32)),
    action=st.floats(-1e3, 1e3, width=32),
)
def test_no_action_leaves_the_bounds_by_rounding(bounds, action):
    low, high = sorted(bounds.tolist())
    space = spaces.Box(low, high, (1,), np.float32)
    assert space.contains(ActionCodec(space).to_env(np.array([action], np.float32)))


def test_random_discrete_actions_are_uniform():
    actions = ActionCodec(spaces.Discrete(4)).random(np.random.default_rng(0), (4000, 1))
    counts = np.bincount(actions[:, 0], minlength=4)
    assert (abs(counts - 1000) < 150).all()
