"""Q-networks for Discrete actions: one number for each action, or several that describe the distribution of its return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from wiserl.core.spec import EnvSpec
from wiserl.core.tree import Nested
from wiserl.net.acting import Plain
from wiserl.net.choice import Activation, Net, NetworkConfig, make_encoder
from wiserl.net.noisy import make_noisy
from wiserl.net.normalize import ObservationNormalizer


class QNetwork(nn.Module):
    """Values of all actions. Subclasses have several outputs for each, and say what value they amount to.

    Args:
        spec: of the env, whose actions are Discrete.
        hidden_sizes: widths of the MLP on the observation's entries.
        activation: a key of `net.encoder.ACTIVATIONS`.
        dueling: streams for the state's value and the actions' advantages (Wang et al. 2016, equation 9), each with K outputs.
        sigma0: initial scale of the noise on the weights of all linear layers; None: they have none.
        outputs: K, numbers for each action.
        net: which network encodes observations, as in `NetworkConfig`.
        normalizer: of observations, as for `make_encoder`.
    """

    def __init__(self, spec: EnvSpec, hidden_sizes: Sequence[int], activation: Activation, dueling: bool,
                 sigma0: float | None, outputs: int = 1, net: Net = "auto",
                 normalizer: ObservationNormalizer | None = None) -> None:  # fmt: skip
        super().__init__()
        assert isinstance(spec.action_space, spaces.Discrete)
        self.shape = (-1, int(spec.action_space.n), outputs)
        config = NetworkConfig(net, hidden_sizes=tuple(hidden_sizes), activation=activation)
        self.encoder = make_encoder(spec.observation_space, config, normalizer=normalizer)
        self.advantage = nn.Linear(self.encoder.size, self.shape[1] * outputs)
        self.value = nn.Linear(self.encoder.size, outputs) if dueling else None
        if sigma0 is not None:
            make_noisy(self, sigma0)

    def plain(self) -> Plain | None:
        """What it comes down to without a stream for the state's value."""
        return Plain(self.encoder, self.advantage) if self.value is None and self.shape[2] == 1 else None

    def outputs(self, obs: Nested, mask: Tensor | None = None) -> Tensor:
        """What is learned about each action, `[N, n, K]`.

        Advantages are relative to their mean over the actions that are valid by `mask`, bool `[N, n]`; None: over all.
        """
        features = self.encoder(obs)
        advantage: Tensor = self.advantage(features).view(self.shape)
        if self.value is None:
            return advantage
        value: Tensor = self.value(features).unsqueeze(1)
        if mask is None:
            return value + advantage - advantage.mean(1, keepdim=True)
        valid = mask.unsqueeze(2)
        return value + advantage - (advantage * valid).sum(1, keepdim=True) / valid.sum(1, keepdim=True)

    def values(self, outputs: Tensor) -> Tensor:
        """Q-values `[...]` of outputs `[..., K]`; K is 1."""
        return outputs.squeeze(-1)

    def forward(self, obs: Nested, mask: Tensor | None = None) -> Tensor:
        """Q-values `[N, n]`."""
        return self.values(self.outputs(obs) if mask is None else self.outputs(obs, mask))


class CategoricalNetwork(QNetwork):
    """Outputs are the logits of the probabilities that the return is at each atom (Bellemare et al. 2017).

    Attributes:
        support: the atoms `[K]`, evenly spaced from `v_min` to `v_max`.
    """

    support: Tensor

    def __init__(self, spec: EnvSpec, hidden_sizes: Sequence[int], activation: Activation, dueling: bool,
                 sigma0: float | None, outputs: int, v_min: float, v_max: float, net: Net = "auto",
                 normalizer: ObservationNormalizer | None = None) -> None:  # fmt: skip
        super().__init__(spec, hidden_sizes, activation, dueling, sigma0, outputs, net, normalizer)
        self.register_buffer("support", torch.linspace(v_min, v_max, outputs), persistent=False)

    def values(self, outputs: Tensor) -> Tensor:
        """Means of the distributions."""
        return outputs.softmax(-1) @ self.support


class QuantileNetwork(QNetwork):
    """Outputs are quantiles of the return, at the midpoints of K equal shares of probability (Dabney et al. 2018)."""

    def values(self, outputs: Tensor) -> Tensor:
        """Means of the quantiles."""
        return outputs.mean(-1)


def inputs(batch: dict[str, Any]) -> tuple[tuple[Any, ...], tuple[Any, ...], Tensor | None]:
    """What Q-networks are given for a batch, before its steps and after them, and the mask of what is valid after them.

    A network is given masks only if there are some; then that of after the steps is bool `[N, n]`, otherwise None.
    """
    if "action_mask" not in batch:
        return (batch["obs"],), (batch["next_obs"],), None
    mask = batch["next_action_mask"]
    return (batch["obs"], batch["action_mask"]), (batch["next_obs"], mask), mask


def best(values: Tensor, mask: Tensor | None) -> Tensor:
    """Of values `[N, n]` the action with the largest one in each row, `[N]`, among those that are valid by `mask` bool `[N, n]`."""
    return (values if mask is None else values.masked_fill(~mask, -torch.inf)).argmax(1)


def outputs_at(outputs: Tensor, action: Tensor) -> Tensor:
    """Of outputs `[N, n, K]`, those of each row's action `[N]`: `[N, K]`."""
    return outputs.gather(1, action[:, None, None].expand(-1, 1, outputs.shape[2])).squeeze(1)
