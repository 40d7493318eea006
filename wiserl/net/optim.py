"""Parameters in one contiguous tensor: one optimiser kernel, one norm, one target update, whatever the network."""

from __future__ import annotations

import contextlib
import copy
import functools
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from wiserl.net.normalize import normalizers

ModuleT = TypeVar("ModuleT", bound=nn.Module)
_BETA1, _BETA2 = 0.9, 0.999
"""Decay of Adam's running means, of the gradient and of its square."""


def flatten_parameters(module: nn.Module) -> nn.Parameter:
    """Make all parameters of `module` views into one flat parameter, which is returned. The module is on its device."""
    parameters = list(module.parameters())
    if len({(parameter.dtype, parameter.device) for parameter in parameters}) != 1:
        raise ValueError("flatten_parameters needs parameters of one dtype on one device")
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
    for parameter, view in zip(parameters, _views(flat, parameters), strict=True):
        parameter.data = view
    return nn.Parameter(flat)


def is_flattened(module: nn.Module, flat: Tensor) -> bool:
    """Whether all parameters of `module` are views into `flat`, and all of it is theirs: none was exchanged or added since."""
    parameters, begin = list(module.parameters()), flat.data_ptr()
    inside = range(begin, begin + max(flat.nbytes, 1))
    return sum(each.numel() for each in parameters) == flat.numel() and all(
        each.data_ptr() in inside for each in parameters if each.numel()
    )


def frozen_view(module: ModuleT) -> ModuleT:
    """A copy of `module` that shares its parameters and buffers, the same memory, and passes them no gradient.

    For a pass whose gradient goes through a network to its input: the actor's through the critics, say. It follows changes
    that are made in place; parameters must not be moved to other memory (`flatten_parameters`) afterwards.
    """
    shared: dict[int, Tensor] = {id(buffer): buffer for buffer in module.buffers()}
    for parameter in module.parameters():
        shared[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    return copy.deepcopy(module, shared)


def _views(flat: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    parts = torch.split(flat, [parameter.numel() for parameter in parameters])
    return [part.view_as(parameter) for part, parameter in zip(parts, parameters, strict=True)]


class FlatAdam:
    """Adam on the flattened parameters of a module, with the gradient's norm clipped.

    Parameters that are frozen (`requires_grad_(False)`) stay as they are, and so do their moments. The count of steps, by which
    Adam corrects its first ones, is one for all.

    It calls PyTorch's kernel itself: making a `torch.optim.Optimizer` imports the compiler, a second on every start, and its
    functional form sorts the one tensor there is by device and type at each step.

    Args:
        module: what the loss is computed with.
        flat: its `flatten_parameters`.
        learning_rate: step size.
        eps: Adam's epsilon.
        max_grad_norm: bound on the gradient's L2 norm; infinity: none.
    """

    def __init__(self, module: nn.Module, flat: nn.Parameter, learning_rate: float, eps: float = 1e-8,
                 max_grad_norm: float = float("inf")) -> None:  # fmt: skip
        self.flat = flat
        self.max_grad_norm = max_grad_norm
        self.flat.grad = torch.zeros_like(flat)
        self._parameters = list(module.parameters())
        self._gradients = _views(self.flat.grad, self._parameters)
        self.learning_rate = learning_rate
        self._eps = eps
        self._moments = {"exp_avg": torch.zeros_like(flat), "exp_avg_sq": torch.zeros_like(flat)}
        self._moments["step"] = torch.zeros((), dtype=torch.float32, device=flat.device)

    def step(self, loss: Tensor, learning_rate: float) -> None:
        """One update by the gradient of `loss`."""
        gradient = self.flat.grad
        assert gradient is not None
        gradient.zero_()
        frozen = []
        for index, (parameter, view) in enumerate(zip(self._parameters, self._gradients, strict=True)):
            if parameter.grad is not view:  # at first, and after a `zero_grad` of the module's
                parameter.grad = view  # backward adds into the flat gradient
            if not parameter.requires_grad:
                frozen.append(index)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.max_grad_norm != float("inf"):
            norm = torch.linalg.vector_norm(gradient)
            gradient.mul_((self.max_grad_norm / (norm + 1e-6)).clamp_(max=1.0))
        self.learning_rate = learning_rate
        moments = self._moments
        with torch.no_grad():
            kept = self._copies(frozen)
            moments["step"] += 1
            mean, square = moments["exp_avg"], moments["exp_avg_sq"]
            _adam_(self.flat, gradient, mean, square, moments["step"], learning_rate, self._eps)
            for place, before in kept:
                place.copy_(before)

    def _copies(self, indices: list[int]) -> list[tuple[Tensor, Tensor]]:
        """Of these parameters and their moments: where they are, and what is there now."""
        if not indices:
            return []
        views = [
            _views(each, self._parameters)
            for each in (self.flat, self._moments["exp_avg"], self._moments["exp_avg_sq"])
        ]
        return [(view[index], view[index].clone()) for view in views for index in indices]

    def state_dict(self) -> dict[str, Any]:
        """The running moments of the gradient and the number of steps, tensors by name."""
        return dict(self._moments)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a saved state in."""
        for name, moment in self._moments.items():
            moment.copy_(state[name])


def _adam_(
    parameters: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, step: Tensor, rate: float, eps: float
) -> None:
    """Adam's step (Kingma and Ba 2015, algorithm 1) in place: by PyTorch's own kernel, or where there is none by public functions.

    Args:
        parameters: `[P]`, as are the gradient and its running mean and mean square.
        gradient: of the loss.
        mean: of the gradients so far.
        square: of their squares.
        step: how many steps there were, this one included; a scalar.
        rate: step size.
        eps: keeps the divisor above 0.
    """
    if _has_fused_adam():
        torch._fused_adam_(
            [parameters], [gradient], [mean], [square], [], [step], lr=rate, beta1=_BETA1, beta2=_BETA2, weight_decay=0.0,
            eps=eps, amsgrad=False, maximize=False,
        )  # fmt: skip
        return
    mean.lerp_(gradient, 1.0 - _BETA1)
    square.mul_(_BETA2).addcmul_(gradient, gradient, value=1.0 - _BETA2)
    divisor = (square / (1.0 - _BETA2**step)).sqrt_().add_(eps)
    parameters.addcdiv_(mean / (1.0 - _BETA1**step), divisor, value=-rate)


@functools.cache
def _has_fused_adam() -> bool:
    """Whether the kernel, which is no public one, is there and takes what it is given here."""
    one, step = torch.ones(1, dtype=torch.float32), torch.ones((), dtype=torch.float32)
    with contextlib.suppress(AttributeError, RuntimeError, TypeError):
        torch._fused_adam_(
            [one], [one], [one], [one], [], [step], lr=0.0, beta1=_BETA1, beta2=_BETA2, weight_decay=0.0, eps=1.0,
            amsgrad=False, maximize=False,
        )  # fmt: skip
        return True
    return False


class TrainedNetwork(Generic[ModuleT]):
    """A network on the learner with its optimiser and its target network.

    Attributes:
        online: what is learned.
        flat: its flattened parameters.
        frozen: the same network, through which no gradient reaches the parameters.
        target: a copy that `follow` moves; `target_flat` are its parameters. A normaliser of observations is the same in both.
        optimizer: of `online`.
    """

    def __init__(self, online: ModuleT, flat: nn.Parameter, learning_rate: float, max_grad_norm: float) -> None:
        self.online, self.flat = online, flat
        self.frozen = frozen_view(online)
        # One set of statistics for both, or they would not see the same observations.
        shared = {id(normalizer): normalizer for normalizer in normalizers(online)}
        self.target = copy.deepcopy(online, shared).requires_grad_(False)
        self.target_flat = flatten_parameters(self.target)
        self.optimizer = FlatAdam(online, flat, learning_rate, max_grad_norm=max_grad_norm)

    def follow(self, tau: float) -> None:
        """Move the target by the share `tau` towards the online network."""
        with torch.no_grad():
            self.target_flat.lerp_(self.flat, tau)

    def state_dict(self) -> dict[str, Any]:
        """Tensors by name; the flat parameters, since the networks' own are views into them."""
        return {
            "online": self.flat.detach(),
            "target": self.target_flat.detach(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a saved state in."""
        with torch.no_grad():
            self.flat.copy_(state["online"])
            self.target_flat.copy_(state["target"])
        self.optimizer.load_state_dict(state["optimizer"])
