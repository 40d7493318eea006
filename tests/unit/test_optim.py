"""Flat parameters and Adam on them: the same numbers as PyTorch's own, parameter by parameter."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from wiserl.ops.optim import FlatAdam, flatten_parameters


def make_network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def make_loss(network: nn.Module, step: int) -> torch.Tensor:
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
    return 5 * network(inputs).square().sum()


def test_flat_parameters_are_the_module_parameters_both_ways():
    network = make_network()
    before = [parameter.detach().clone() for parameter in network.parameters()]
    flat = flatten_parameters(network)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    with torch.no_grad():
        flat.fill_(7.0)
    assert all((parameter == 7.0).all() for parameter in network.parameters())


def test_flat_parameters_need_one_dtype():
    with pytest.raises(ValueError, match="one dtype on one device"):
        flatten_parameters(nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2).double()]))


@pytest.mark.parametrize("max_grad_norm", [0.5, 1e6, float("inf")])
def test_steps_are_those_of_torch_adam_with_clipping(max_grad_norm):
    ours, theirs = make_network(), make_network()
    optimizer = FlatAdam(ours, flatten_parameters(ours), 1e-2, eps=1e-5, max_grad_norm=max_grad_norm)
    reference = torch.optim.Adam(theirs.parameters(), lr=1e-2, eps=1e-5)
    for step, rate in enumerate([1e-2, 1e-2, 3e-3, 0.0]):
        optimizer.step(make_loss(ours, step), rate)
        reference.zero_grad()
        make_loss(theirs, step).backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), max_grad_norm)
        reference.param_groups[0]["lr"] = rate
        reference.step()
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b)


def test_a_restored_optimiser_goes_on_bit_for_bit():
    network = make_network()
    optimizer = FlatAdam(network, flatten_parameters(network), 1e-2)
    optimizer.step(make_loss(network, 0), 1e-2)
    twin = copy.deepcopy(network)
    restored = FlatAdam(twin, flatten_parameters(twin), 1e-2)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in (1, 2):
        optimizer.step(make_loss(network, step), 1e-2)
        restored.step(make_loss(twin, step), 1e-2)
    assert torch.equal(optimizer.flat, restored.flat)
