"""Memory: unrolling through time is stepping, numpy is torch, and no reset lets anything through."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from wiserl.net.choice import NetworkConfig, make_encoder
from wiserl.net.optim import flatten_parameters
from wiserl.net.recurrent import Recurrent, numpy_step

CELLS = ("lstm", "gru")


def a_core(cell, inputs=3, units=4, seed=0):
    torch.manual_seed(seed)
    core = Recurrent(cell, inputs, units)
    for parameter in core.parameters():  # biases as well
        nn.init.normal_(parameter, std=units**-0.5)
    return core


def stepped(core, features, memory, reset):
    outputs = []
    for values, begins in zip(features, reset, strict=True):
        out, memory = core.step(values, memory * ~begins.unsqueeze(1))
        outputs.append(out)
    return torch.stack(outputs), memory


@given(
    st.sampled_from(CELLS),
    st.integers(1, 12),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    st.integers(0, 999),
)
def test_unrolling_is_stepping_forward_and_backward(cell, steps, rows, share, seed):
    core = a_core(cell, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(steps, rows, 3, generator=generator)
    memory = torch.randn(rows, core.memory_size, generator=generator)
    reset = torch.rand(steps, rows, generator=generator) < share
    weights = torch.randn(steps, rows, 4, generator=generator)
    results = []
    for way in (core.unroll, lambda *given: stepped(core, *given)):
        inputs = [features.clone().requires_grad_(), memory.clone().requires_grad_()]
        out, after = way(*inputs, reset)
        loss = (out * weights).sum()
        with_memory = loss + (after * after).sum()
        wanted = [*inputs, *core.parameters()]
        results.append(
            (out, after, torch.autograd.grad(loss, wanted, retain_graph=True), torch.autograd.grad(with_memory, wanted))
        )
    (out, after, gradients, all_gradients), (expected, last, of_steps, all_of_steps) = results
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(out, expected, **close)
    torch.testing.assert_close(after, last, **close)
    for mine, stepwise in ((gradients, of_steps), (all_gradients, all_of_steps)):
        for one, other in zip(mine, stepwise, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_a_sequence_cut_in_two_goes_on_with_what_was_remembered(cell):
    core = a_core(cell)
    features, memory = torch.randn(9, 2, 3), torch.randn(2, core.memory_size)
    reset = torch.zeros(9, 2, dtype=torch.bool)
    reset[2, 0] = reset[6, 1] = True
    whole, after = core.unroll(features, memory, reset)
    first, between = core.unroll(features[:4], memory, reset[:4])
    second, last = core.unroll(features[4:], between, reset[4:])
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(last, after)


@pytest.mark.parametrize("cell", CELLS)
def test_nothing_passes_a_reset(cell):
    core = a_core(cell)
    features, memory = torch.randn(6, 2, 3, requires_grad=True), torch.randn(2, core.memory_size, requires_grad=True)
    reset = torch.zeros(6, 2, dtype=torch.bool)
    reset[3] = True
    out, after = core.unroll(features, memory, reset)
    (out[3:].sum() + after.sum()).backward()
    assert not features.grad[:3].any()
    assert not memory.grad.any()
    assert features.grad[3:].all()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("shape", [(0, 2), (3, 0), (0, 0)])
def test_nothing_to_unroll_gives_nothing(cell, shape):
    core = a_core(cell)
    memory = torch.randn(shape[1], core.memory_size)
    out, after = core.unroll(torch.zeros(*shape, 3), memory, torch.zeros(shape, dtype=torch.bool))
    assert out.shape == (*shape, 4)
    torch.testing.assert_close(after, memory)
    assert core.unroll(torch.zeros(*shape, 3), memory)[0].shape == (*shape, 4)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_network_runs_once(cell, share, monkeypatch):
    core = a_core(cell)
    calls = []
    monkeypatch.setattr(
        core.rnn, "forward", lambda *given: calls.append(given[0].shape) or type(core.rnn).forward(core.rnn, *given)
    )
    reset = torch.rand(20, 3, generator=torch.Generator().manual_seed(1)) < share
    core.unroll(torch.randn(20, 3, 3), torch.zeros(3, core.memory_size), reset)
    assert len(calls) == 1
    if not share:
        assert calls == [(20, 3, 3)], "sequences without a reset are neither cut nor padded"


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("rows", [0, 1, 8])
def test_the_numpy_step_is_torchs_and_follows_its_weights(cell, rows):
    core = a_core(cell, 5, 64)
    flatten_parameters(core)
    step, rng = numpy_step(core), np.random.default_rng(0)
    features, memory = (rng.standard_normal((rows, size)).astype(np.float32) for size in (5, core.memory_size))
    for _ in range(2):
        given = features.copy(), memory.copy()
        out, after = step(*given)
        assert all(map(np.array_equal, given, (features, memory))), "what was given was written to"
        with torch.no_grad():
            expected, remembered = core.step(torch.from_numpy(features), torch.from_numpy(memory))
            for parameter in core.parameters():
                parameter.mul_(0.5)
        np.testing.assert_allclose(out, expected.numpy(), atol=1e-6)
        np.testing.assert_allclose(after, remembered.numpy(), atol=1e-6)
        assert (out.dtype, after.dtype) == (np.float32, np.float32)


def test_the_numpy_step_steps_aside_for_what_it_does_not_know():
    class Leaky(Recurrent):
        def step(self, features, memory):
            out, after = super().step(features, memory)
            return out, 0.9 * after

    assert numpy_step(Leaky("gru", 3, 4)) is None
    other = a_core("lstm")
    other.rnn = nn.LSTM(3, 4, num_layers=2)
    assert numpy_step(other) is None


@pytest.mark.parametrize("cell", CELLS)
def test_every_gate_begins_orthogonal(cell):
    core = Recurrent(cell, 8, 8)
    for name, parameter in core.rnn.named_parameters():
        if name.startswith("bias"):
            assert not parameter.any()
        else:
            for gate in parameter.split(8):
                torch.testing.assert_close(gate @ gate.T, torch.eye(8))


@pytest.mark.parametrize(
    ("net", "cell", "space", "memory"),
    [
        ("rnn", "gru", spaces.Box(-1.0, 1.0, (3,)), 6),
        ("rnn", "lstm", spaces.Dict(a=spaces.Discrete(3), b=spaces.Box(-1.0, 1.0, (2,))), 12),
        ("cnn_rnn", "gru", spaces.Box(0, 255, (9, 9, 3), np.uint8), 6),
        ("lstm_cnn", "lstm", spaces.Box(0, 255, (9, 9, 3), np.uint8), 12),
    ],
)
def test_an_encoder_with_memory_unrolls_as_it_steps(net, cell, space, memory):
    torch.manual_seed(0)
    encoder = make_encoder(space, NetworkConfig(net=net, cell=cell, memory_units=6))
    assert (encoder.size, encoder.memory_size) == (6, memory)
    space.seed(0)

    def draw():
        sample = [[space.sample() for _ in range(2)] for _ in range(5)]
        if isinstance(space, spaces.Dict):
            return {
                name: torch.from_numpy(np.array([[entry[name] for entry in row] for row in sample])) for name in space
            }
        return torch.from_numpy(np.array(sample))

    obs, reset = draw(), torch.zeros(5, 2, dtype=torch.bool)
    reset[2, 1] = True
    out, after = encoder.unroll(obs, torch.zeros(2, memory), reset)
    remembered = torch.zeros(2, memory)
    for step in range(5):
        now = {name: leaf[step] for name, leaf in obs.items()} if isinstance(obs, dict) else obs[step]
        one, remembered = encoder.step(now, remembered * ~reset[step].unsqueeze(1))
        torch.testing.assert_close(one, out[step])
    torch.testing.assert_close(remembered, after)


@pytest.mark.gpu
@pytest.mark.parametrize("cell", CELLS)
def test_on_a_gpu_it_is_what_it_is_on_the_cpu(cell):
    core = a_core(cell)
    features, memory = torch.randn(12, 3, 3), torch.randn(3, core.memory_size)
    reset = torch.rand(12, 3) < 0.2
    expected = core.unroll(features, memory, reset)
    there = copy.deepcopy(core).cuda()
    flatten_parameters(there)
    assert numpy_step(there) is None
    found = there.unroll(features.cuda(), memory.cuda(), reset.cuda())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-4, atol=1e-4)
    found[0].sum().backward()
    assert all(parameter.grad is not None for parameter in there.parameters())
