"""Q-functions: of an observation and a continuous action, or of an observation for each Discrete action."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from gymnasium import spaces
from torch import Tensor, nn

from wiserl.core.spec import EnvSpec
from wiserl.core.tree import Nested
from wiserl.net.choice import Activation, Net, NetworkConfig, make_encoder
from wiserl.net.encoder import MLP
from wiserl.net.normalize import ObservationNormalizer


class _Ensemble(nn.Module):
    """`count` MLPs with a linear head each, on the features of an observation and `more` numbers beside them."""

    def __init__(
        self,
        spec: EnvSpec,
        count: int,
        hidden_sizes: Sequence[int],
        activation: Activation,
        net: Net,
        normalizer: ObservationNormalizer | None,
        more: int,
        outputs: int,
    ) -> None:
        super().__init__()
        # What an MLP does, the MLPs below do; the activation is that of the entries of a Dict or Tuple.
        config = NetworkConfig(net, hidden_sizes=(), activation=activation)
        self.encoder = make_encoder(spec.observation_space, config, normalizer=normalizer)
        mlps = [MLP([self.encoder.size + more, *hidden_sizes], activation) for _ in range(count)]
        self.mlps: Iterable[MLP] = nn.ModuleList(mlps)  # type: ignore[assignment]  # it is one, of MLPs
        self.heads = nn.ModuleList(nn.Linear(mlp.size, outputs) for mlp in mlps)

    def _values(self, features: Tensor) -> list[Tensor]:
        """`[N, outputs]` of each."""
        return [head(mlp.forward(features)) for mlp, head in zip(self.mlps, self.heads, strict=True)]


class Critics(_Ensemble):
    """`count` independent Q-functions; whatever encodes observations but for an MLP is shared between them, as the CNN of
    Stable-Baselines3 is.

    Args:
        spec: of the env, whose actions are Box.
        count: how many.
        hidden_sizes: widths of each one's MLP, on the features of the observation and the action side by side.
        activation: a key of `net.encoder.ACTIVATIONS`.
        net: which network encodes observations, as in `NetworkConfig`.
        normalizer: of observations, as for `make_encoder`: the one of what acts.
    """

    def __init__(self, spec: EnvSpec, count: int, hidden_sizes: Sequence[int], activation: Activation,
                 net: Net = "auto", normalizer: ObservationNormalizer | None = None) -> None:  # fmt: skip
        more = math.prod(spec.action_space.shape or ())
        super().__init__(spec, count, hidden_sizes, activation, net, normalizer, more, 1)

    def forward(self, obs: Nested, action: Tensor) -> Tensor:
        """Values `[N, count]` of actions `[N, ...]`."""
        return torch.cat(self._values(self._features(obs, action)), 1)

    def first(self, obs: Nested, action: Tensor) -> Tensor:
        """Values `[N]` of the first Q-function alone."""
        values: Tensor = self.heads[0](next(iter(self.mlps)).forward(self._features(obs, action)))
        return values.squeeze(1)

    def _features(self, obs: Nested, action: Tensor) -> Tensor:
        return torch.cat([self.encoder(obs), action.reshape(len(action), -1)], 1)


class DiscreteCritics(_Ensemble):
    """As `Critics`, for Discrete actions: each Q-function has a value for every action."""

    def __init__(self, spec: EnvSpec, count: int, hidden_sizes: Sequence[int], activation: Activation,
                 net: Net = "auto", normalizer: ObservationNormalizer | None = None) -> None:  # fmt: skip
        assert isinstance(spec.action_space, spaces.Discrete)
        super().__init__(spec, count, hidden_sizes, activation, net, normalizer, 0, int(spec.action_space.n))

    def forward(self, obs: Nested) -> Tensor:
        """Values `[N, n, count]`."""
        return torch.stack(self._values(self.encoder(obs)), -1)
