"""Q-functions of an observation and a continuous action."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from wiserl.core.batch import Nested
from wiserl.env.spaces import EnvSpec
from wiserl.net.encoder import MLP, Encoder


class Critics(nn.Module):
    """`count` independent Q-functions; an image's or a Dict's encoder is shared between them, as in Stable-Baselines3.

    Args:
        spec: of the env, whose actions are Box.
        count: how many.
        hidden_sizes: widths of each one's MLP, on the features of the observation and the action side by side.
        activation: a key of `net.encoder.ACTIVATIONS`.
    """

    def __init__(self, spec: EnvSpec, count: int, hidden_sizes: Sequence[int], activation: str) -> None:
        super().__init__()
        self.encoder = Encoder(spec.observation_space, (), activation)
        inputs = self.encoder.size + math.prod(spec.action_space.shape or ())
        mlps = [MLP([inputs, *hidden_sizes], activation) for _ in range(count)]
        self.mlps: Iterable[MLP] = nn.ModuleList(mlps)  # type: ignore[assignment]  # it is one, of MLPs
        self.heads = nn.ModuleList(nn.Linear(mlp.size, 1) for mlp in mlps)

    def forward(self, obs: Nested, action: Tensor) -> Tensor:
        """Values `[N, count]` of actions `[N, ...]`."""
        features = torch.cat([self.encoder(obs), action.flatten(1)], 1)
        return torch.cat([head(mlp.forward(features)) for mlp, head in zip(self.mlps, self.heads, strict=True)], 1)

    def first(self, obs: Nested, action: Tensor) -> Tensor:
        """Values `[N]` of the first Q-function alone."""
        features = torch.cat([self.encoder(obs), action.flatten(1)], 1)
        values: Tensor = self.heads[0](next(iter(self.mlps)).forward(features))
        return values.squeeze(1)
