"""Weights on the wire: what comes out is what went in, in one array per dtype, apart from the original."""

from __future__ import annotations

import pickle
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from wiserl.transport.weights import pack, unpack

Pair = namedtuple("Pair", ["left", "right"])

SHAPES = st.sampled_from([(), (0,), (3,), (2, 3), (2, 0, 3), (1, 1)])
TORCH_DTYPES = st.sampled_from(
    [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]
)
NUMPY_DTYPES = st.sampled_from([np.float32, np.float64, np.int8, np.uint8, np.bool_, np.complex64])


@st.composite
def tensors(draw):
    shape, dtype = draw(SHAPES), draw(TORCH_DTYPES)
    values = torch.arange(int(np.prod(shape))) + draw(st.integers(-5, 5))
    return values.to(dtype).reshape(shape)


@st.composite
def arrays(draw):
    shape, dtype = draw(SHAPES), draw(NUMPY_DTYPES)
    return (np.arange(int(np.prod(shape))) + draw(st.integers(-5, 5))).astype(dtype).reshape(shape)


LEAVES = tensors() | arrays() | st.sampled_from([None, True, 3, 2.5, "text", np.float32(1.5)])
TREES = st.recursive(
    LEAVES,
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.text("ab", max_size=2) | st.integers(0, 3), children, max_size=3)
        | st.tuples(children, children)
        | st.builds(Pair, children, children)
    ),
    max_leaves=8,
)


def assert_same(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert_same(a, b)
    elif isinstance(expected, (torch.Tensor, np.ndarray)):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert bool((found == expected).all())
    else:
        assert found == expected


@given(TREES, st.booleans())
def test_any_tree_survives_the_journey(tree, pickled):
    packed = pack(tree)
    assert_same(unpack(pickle.loads(pickle.dumps(packed)) if pickled else packed), tree)


def test_leaves_of_one_dtype_share_one_array():
    packed = pack({"a": torch.zeros(3), "b": [torch.ones(2, 2), np.zeros(5)], "c": torch.zeros(2, dtype=torch.int64)})
    assert sorted(len(buffer) for buffer in packed.buffers.values()) == [2, 5, 7]
    assert packed.nbytes == 7 * 4 + 5 * 8 + 2 * 8


@pytest.mark.parametrize("make", [torch.ones, np.ones])
def test_what_was_packed_does_not_follow_its_source(make):
    source = make(3)
    packed = pack({"w": source})
    source *= 5
    assert unpack(packed)["w"].tolist() == [1.0, 1.0, 1.0]


def test_parameters_travel_without_their_graph():
    layer = nn.Linear(2, 2)
    out = unpack(pack({"w": layer.weight, "twice": layer.weight * 2}))
    assert not out["w"].requires_grad
    assert torch.equal(out["twice"], layer.weight.detach() * 2)


def test_a_module_travels_as_its_state():
    layer = nn.BatchNorm1d(3)
    other = nn.BatchNorm1d(3)
    with torch.no_grad():
        layer.weight.fill_(4.0)
    other.load_state_dict(unpack(pack(layer)))
    assert torch.equal(other.weight, layer.weight)


def test_views_and_transposes_travel_by_value():
    matrix = torch.arange(6.0).reshape(2, 3)
    tree = {"t": matrix.T, "row": matrix[1], "every": np.arange(6)[::2]}
    assert_same(unpack(pack(tree)), tree)


def test_read_only_buffers_are_unpacked_to_tensors_that_can_be_written():
    packed = pack(OrderedDict(w=torch.ones(2)))
    for buffer in packed.buffers.values():
        buffer.flags.writeable = False  # as Ray's object store hands them out
    tensor = unpack(packed)["w"]
    tensor += 1
    assert tensor.tolist() == [2.0, 2.0]
    assert unpack(packed)["w"].tolist() == [1.0, 1.0]
