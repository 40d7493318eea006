"""Policy and value networks of on-policy algorithms."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from wiserl.core.spec import EnvSpec
from wiserl.core.tree import Nested
from wiserl.net.acting import Plain
from wiserl.net.choice import NetworkConfig, make_encoder
from wiserl.net.encoder import Features, orthogonal_
from wiserl.net.heads import ActionHead, DiagonalGaussian
from wiserl.net.images import is_image
from wiserl.net.normalize import ObservationNormalizer
from wiserl.net.recurrent import RecurrentEncoder


class ActorCritic(nn.Module):
    """Policy and value networks: apart for vectors, on one shared CNN for images. Each has a memory of its own, if there is any.

    Args:
        spec: of the env.
        config: which networks.
        head: what the policy's outputs mean.
        normalize: whether observations are normalised by their running mean and variance.
        ortho_init: orthogonal initial weights; gain 0.01 for the policy's outputs.
        log_std_init: initial log standard deviation of Box actions.

    Attributes:
        memory_size: M, numbers that they remember of each row, the policy's first; 0 without memory.
    """

    def __init__(self, spec: EnvSpec, config: NetworkConfig, head: ActionHead, normalize: bool, ortho_init: bool,
                 log_std_init: float) -> None:  # fmt: skip
        super().__init__()
        space = spec.observation_space
        self.head = head
        self.normalizer = ObservationNormalizer(space) if normalize else None
        self.actor_encoder = make_encoder(space, config)
        self.critic_encoder = self.actor_encoder if is_image(space) else copy.deepcopy(self.actor_encoder)
        gaussian = isinstance(self.head, DiagonalGaussian)
        self.actor = nn.Linear(self.actor_encoder.size, self.head.num_outputs // (2 if gaussian else 1))
        self.critic = nn.Linear(self.actor_encoder.size, 1)
        self.log_std = nn.Parameter(torch.full((self.actor.out_features,), log_std_init)) if gaussian else None
        if ortho_init:
            for part, gain in ((self.actor_encoder, 2**0.5), (self.critic_encoder, 2**0.5), (self.actor, 0.01)):
                orthogonal_(part, gain)
            orthogonal_(self.critic, 1.0)
        elif self.critic_encoder is not self.actor_encoder:
            self.critic_encoder = make_encoder(space, config)  # not the actor's weights

    @property
    def memory_size(self) -> int:
        return sum(encoder.memory_size for encoder in self._encoders)

    @property
    def _encoders(self) -> list[Features]:
        """The policy's, and the value network's if it is another one."""
        shared = self.critic_encoder is self.actor_encoder
        return [self.actor_encoder] if shared else [self.actor_encoder, self.critic_encoder]

    def _memory_parts(self, memory: Tensor) -> list[tuple[RecurrentEncoder, Tensor]]:
        """Each encoder with its part of the memory `[N, M]`."""
        encoders = [encoder for encoder in self._encoders if isinstance(encoder, RecurrentEncoder)]
        return list(zip(encoders, torch.split(memory, [encoder.memory_size for encoder in encoders], 1), strict=True))

    def plain(self) -> Plain | None:
        """What the policy comes down to without normaliser and learned deviation."""
        if self.normalizer is not None or self.log_std is not None:
            return None
        return Plain(self.actor_encoder, self.actor, beside=tuple(self._encoders[1:]) if self.memory_size else ())

    def normalize(self, obs: Nested) -> Nested:
        """Observations as the networks want them."""
        return obs if self.normalizer is None else self.normalizer(obs)

    def forward(self, obs: Nested) -> Tensor:
        """Outputs of the policy for observations as the env gives them."""
        return self.outputs(self.normalize(obs))

    def outputs(self, obs: Nested) -> Tensor:
        """Outputs of the policy `[N, num_outputs]` for normalised observations; their meaning is the head's."""
        return self.outputs_of(self.actor_encoder(obs))

    def outputs_of(self, features: Tensor) -> Tensor:
        """Outputs of the policy for features `[N, F]` of its encoder."""
        out: Tensor = self.actor(features)
        return out if self.log_std is None else torch.cat([out, self.log_std.expand_as(out)], -1)

    def value(self, obs: Nested, memory: Tensor | None = None) -> Tensor:
        """Values `[N]` for normalised observations, after what is remembered `[N, M]`."""
        if memory is None:
            return self.value_of(self.critic_encoder(obs))
        encoder, own = self._memory_parts(memory)[-1]
        return self.value_of(encoder.step(obs, own)[0])

    def value_of(self, features: Tensor) -> Tensor:
        """Values `[N]` for features `[N, F]` of the critic's encoder."""
        value: Tensor = self.critic(features)
        return value.squeeze(-1)

    def step(self, obs: Nested, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs of the policy for observations as the env gives them, and what is remembered then `[N, M]`."""
        normal = self.normalize(obs)
        features, after = zip(*(encoder.step(normal, own) for encoder, own in self._memory_parts(memory)), strict=True)
        return self.outputs_of(features[0]), torch.cat(after, 1)

    def unroll(self, obs: Nested, memory: Tensor, reset: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Through sequences of normalised observations `[T, N, ...]`, in parts of so many steps.

        Returns:
            Outputs `[T * N, num_outputs]`, values `[T * N]`, and what is remembered before each part, `[parts * N, M]`.
        """
        found = [encoder.unroll_in_parts(obs, own, reset, length) for encoder, own in self._memory_parts(memory)]
        features = [part.flatten(0, 1) for part, _ in found]
        return self.outputs_of(features[0]), self.value_of(features[-1]), torch.cat([starts for _, starts in found], 1)

    def evaluate(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Outputs and values of a batch of rows, or of the living steps of its sequences (`ops.sequences`)."""
        if "memory" not in batch:
            return self.outputs(batch["obs"]), self.value(batch["obs"])
        found = [encoder.unroll(batch["obs"], own)[0] for encoder, own in self._memory_parts(batch["memory"])]
        features = [each.flatten(0, 1).index_select(0, batch["living"]) for each in found]
        return self.outputs_of(features[0]), self.value_of(features[-1])
