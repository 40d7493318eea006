"""Flat parameters, Adam on them with the same numbers as PyTorch's own, networks with a target and a frozen view."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from wiserl.net import optim
from wiserl.net.optim import FlatAdam, TrainedNetwork, flatten_parameters, frozen_view


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


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("max_grad_norm", [0.5, 1e6, float("inf")])
def test_steps_are_those_of_torch_adam_with_clipping(max_grad_norm, kernel, monkeypatch):
    if not kernel:
        monkeypatch.delattr("torch._fused_adam_")
        monkeypatch.setattr(optim, "_has_fused_adam", optim._has_fused_adam.__wrapped__)
    assert optim._has_fused_adam() == kernel
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


@pytest.mark.parametrize("set_to_none", [True, False])
def test_it_learns_on_after_the_modules_gradients_were_cleared(set_to_none):
    ours, theirs = make_network(), make_network()
    optimizer = FlatAdam(ours, flatten_parameters(ours), 1e-2)
    reference = torch.optim.Adam(theirs.parameters(), lr=1e-2)
    for step in range(3):
        ours.zero_grad(set_to_none=set_to_none)
        make_loss(ours, step).backward()  # a user's own look at the gradients: it must not be added to the next
        optimizer.step(make_loss(ours, step), 1e-2)
        ours.zero_grad(set_to_none=set_to_none)
        reference.zero_grad()
        make_loss(theirs, step).backward()
        reference.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_what_is_frozen_stays_and_what_is_not_moves_on():
    ours, theirs = make_network(), make_network()
    optimizer = FlatAdam(ours, flatten_parameters(ours), 1e-2)
    reference = torch.optim.Adam(theirs.parameters(), lr=1e-2)
    for step in range(6):
        if step == 3:  # with momentum, which would carry it on
            for network in (ours, theirs):
                network[0].requires_grad_(False)
            before = [parameter.detach().clone() for parameter in ours[0].parameters()]
            moments = {name: moment.clone() for name, moment in optimizer.state_dict().items()}
        optimizer.step(make_loss(ours, step), 1e-2)
        reference.zero_grad()
        make_loss(theirs, step).backward()
        reference.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert all(torch.equal(a, b) for a, b in zip(ours[0].parameters(), before, strict=True))
    frozen = sum(parameter.numel() for parameter in ours[0].parameters())
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(optimizer.state_dict()[name][:frozen], moments[name][:frozen])
    ours[0].requires_grad_(True)
    optimizer.step(make_loss(ours, 6), 1e-2)
    assert not any(torch.equal(a, b) for a, b in zip(ours[0].parameters(), before, strict=True))


def test_what_is_frozen_has_no_part_in_the_norm_of_the_gradient():
    network = make_network()
    optimizer = FlatAdam(network, flatten_parameters(network), 1e-2, max_grad_norm=1.0)
    optimizer.step(make_loss(network, 0), 1e-2)
    network[0].requires_grad_(False)
    optimizer.step(make_loss(network, 1), 1e-2)
    norm = torch.linalg.vector_norm(torch.cat([parameter.grad.flatten() for parameter in network[2].parameters()]))
    assert norm.item() == pytest.approx(1.0, rel=1e-4)


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


class Scaled(nn.Module):
    """A module with a buffer: weight * scale * inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0]))
        self.register_buffer("scale", torch.tensor([3.0]))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.weight * self.scale * inputs


def test_a_frozen_view_passes_gradient_to_its_input_and_none_to_the_parameters():
    network = Scaled()
    flat = flatten_parameters(network)
    flat.grad = torch.zeros_like(flat)
    network.weight.grad = flat.grad
    inputs = torch.tensor([5.0], requires_grad=True)
    view = frozen_view(network)
    output = view(inputs)
    output.backward()
    assert not view.weight.requires_grad
    assert output.item() == 30.0
    assert inputs.grad.item() == 6.0
    assert flat.grad.item() == 0.0
    assert network.weight.requires_grad


def test_a_frozen_view_is_the_same_memory():
    network = Scaled()
    flat = flatten_parameters(network)
    view = frozen_view(network)
    with torch.no_grad():
        flat.fill_(4.0)
        network.scale.fill_(1.0)
    assert view(torch.ones(1)).item() == 4.0
    assert sum(parameter.numel() for parameter in view.parameters()) == 1


def make_trained(seed: int = 0) -> TrainedNetwork[nn.Module]:
    network = make_network(seed)
    return TrainedNetwork(network, flatten_parameters(network), 1e-2, float("inf"))


def test_a_step_moves_the_network_and_its_frozen_view_but_not_the_target():
    trained = make_trained()
    before = trained.flat.detach().clone()
    trained.optimizer.step(make_loss(trained.online, 0), 1e-2)
    inputs = torch.randn(4, 3)
    assert not torch.equal(trained.flat, before)
    assert torch.equal(trained.frozen(inputs), trained.online(inputs))
    assert torch.equal(trained.target_flat, before)
    assert not torch.equal(trained.target(inputs), trained.online(inputs))


@pytest.mark.parametrize(("tau", "expected"), [(0.0, 1.0), (0.25, 2.0), (1.0, 5.0)])
def test_the_target_follows_by_its_share(tau, expected):
    trained = make_trained()
    with torch.no_grad():
        trained.flat.fill_(5.0)
        trained.target_flat.fill_(1.0)
    trained.follow(tau)
    assert all((parameter == expected).all() for parameter in trained.target.parameters())
    assert all((parameter == 5.0).all() for parameter in trained.online.parameters())


def test_no_gradient_reaches_a_target():
    trained = make_trained()
    loss = trained.target(torch.randn(4, 3)).sum()
    assert not loss.requires_grad
    assert not any(parameter.requires_grad for parameter in trained.target.parameters())


def test_a_restored_network_goes_on_bit_for_bit_with_target_and_frozen_view():
    trained, restored = make_trained(), make_trained(seed=1)
    trained.optimizer.step(make_loss(trained.online, 0), 1e-2)
    trained.follow(0.3)
    restored.load_state_dict(copy.deepcopy(trained.state_dict()))
    for each in (trained, restored):
        each.optimizer.step(make_loss(each.online, 1), 1e-2)
        each.follow(0.3)
    inputs = torch.randn(4, 3)
    for name in ("online", "frozen", "target"):
        assert torch.equal(getattr(trained, name)(inputs), getattr(restored, name)(inputs))
