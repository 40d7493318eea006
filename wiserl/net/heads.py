"""Action heads of stochastic policies: how a network's outputs become actions, log-probabilities and entropies.

Acting (`sample`, `mode`) is numpy, since it happens once per env step on few rows; learning (`log_prob`, `entropy`) is torch.
No distribution objects: they cost more than the arithmetic.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from gymnasium import spaces
from torch import Tensor

from wiserl.core.tree import Array
from wiserl.util.errors import InputError

_LOG_2PI = math.log(2 * math.pi)

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0

MASKED_LOGIT = -1e8
"""Of choices that are not valid: their probability is 0 in float32, and 0 times its logarithm is 0, not NaN as with -inf."""


def masked_logits(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Logits `[N, n]`, those of choices that are not valid by `mask` bool `[N, n]` so low that nothing depends on them.

    None: there are no masks, and the logits come back as they are. The logits of several components stand side by side.
    """
    return logits if mask is None else logits.masked_fill(~mask, MASKED_LOGIT)


def only_valid(outputs: Array, mask: Array | None) -> Array:
    """The same to act on, `[..., n]`: -inf, which no draw can make the largest."""
    return outputs if mask is None else np.where(mask, outputs, np.float32(-np.inf))


class ActionHead(ABC):
    """Meaning of the outputs of a policy network, `[..., num_outputs]`."""

    num_outputs: int

    @abstractmethod
    def sample(self, outputs: Array, rng: np.random.Generator) -> Array:
        """Actions `[..., *action shape]` drawn from the policy."""

    @abstractmethod
    def mode(self, outputs: Array) -> Array:
        """The likeliest actions."""

    @abstractmethod
    def log_prob(self, outputs: Tensor, action: Tensor) -> Tensor:
        """Log-probability `[N]` of actions `[N, ...]` under outputs `[N, num_outputs]`."""

    @abstractmethod
    def entropy(self, outputs: Tensor) -> Tensor:
        """Entropy `[N]` in nats."""


class Categorical(ActionHead):
    """One choice among n: logits."""

    def __init__(self, n: int) -> None:
        self.num_outputs = n

    def sample(self, outputs: Array, rng: np.random.Generator) -> Array:
        # Gumbel-max: the argmax of logits plus Gumbel noise is a sample of the softmax. float32 draws can be 0.
        choice: Array = (outputs - np.log(rng.standard_exponential(outputs.shape, np.float32) + 1e-20)).argmax(-1)
        return choice

    def mode(self, outputs: Array) -> Array:
        return np.asarray(outputs.argmax(-1))

    def log_prob(self, outputs: Tensor, action: Tensor) -> Tensor:
        return -F.cross_entropy(outputs, action.long(), reduction="none")

    def entropy(self, outputs: Tensor) -> Tensor:
        log_p = F.log_softmax(outputs, -1)
        return -(log_p.exp() * log_p).sum(-1)


class MultiCategorical(ActionHead):
    """Several independent choices: logits side by side."""

    def __init__(self, sizes: list[int]) -> None:
        self.parts = [Categorical(n) for n in sizes]
        self.sizes = sizes
        self.num_outputs = sum(sizes)

    def _split(self, outputs: Array) -> list[Array]:
        return np.split(outputs, np.cumsum(self.sizes)[:-1], axis=-1)

    def sample(self, outputs: Array, rng: np.random.Generator) -> Array:
        return np.stack(
            [part.sample(logits, rng) for part, logits in zip(self.parts, self._split(outputs), strict=True)], -1
        )

    def mode(self, outputs: Array) -> Array:
        return np.stack([logits.argmax(-1) for logits in self._split(outputs)], -1)

    def log_prob(self, outputs: Tensor, action: Tensor) -> Tensor:
        logits = torch.split(outputs, self.sizes, -1)
        return torch.stack([part.log_prob(logits[i], action[:, i]) for i, part in enumerate(self.parts)]).sum(0)

    def entropy(self, outputs: Tensor) -> Tensor:
        logits = torch.split(outputs, self.sizes, -1)
        return torch.stack([part.entropy(logits[i]) for i, part in enumerate(self.parts)]).sum(0)


class Bernoulli(ActionHead):
    """n independent bits: logits of 1."""

    def __init__(self, n: int) -> None:
        self.num_outputs = n

    def sample(self, outputs: Array, rng: np.random.Generator) -> Array:
        return (outputs + rng.logistic(size=outputs.shape) > 0).astype(np.int64)

    def mode(self, outputs: Array) -> Array:
        return (outputs > 0).astype(np.int64)

    def log_prob(self, outputs: Tensor, action: Tensor) -> Tensor:
        return -F.binary_cross_entropy_with_logits(outputs, action.to(outputs.dtype), reduction="none").sum(-1)

    def entropy(self, outputs: Tensor) -> Tensor:
        p = torch.sigmoid(outputs)
        return F.binary_cross_entropy_with_logits(outputs, p, reduction="none").sum(-1)


class DiagonalGaussian(ActionHead):
    """A normal distribution per entry of a Box action: means, then log standard deviations."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.size = math.prod(shape)
        self.num_outputs = 2 * self.size

    def sample(self, outputs: Array, rng: np.random.Generator) -> Array:
        mean, log_std = outputs[..., : self.size], outputs[..., self.size :]
        action: Array = mean + np.exp(log_std) * rng.standard_normal(mean.shape, np.float32)
        return action.reshape(*outputs.shape[:-1], *self.shape)

    def mode(self, outputs: Array) -> Array:
        return outputs[..., : self.size].reshape(*outputs.shape[:-1], *self.shape)

    def log_prob(self, outputs: Tensor, action: Tensor) -> Tensor:
        mean, log_std = outputs.chunk(2, -1)
        z = (action.reshape(len(action), -1) - mean) * torch.exp(-log_std)
        return -(0.5 * z * z + log_std).sum(-1) - 0.5 * _LOG_2PI * self.size

    def entropy(self, outputs: Tensor) -> Tensor:
        log_std: Tensor = outputs[..., self.size :]
        return log_std.sum(-1) + 0.5 * (1 + _LOG_2PI) * self.size


def make_head(space: spaces.Space[object], algorithm: str) -> ActionHead:
    """The head for an action space. Tables of choices or bits are flattened, as `ActionCodec` expects them.

    Raises:
        InputError: the space has none; the message names those that do.
    """
    if isinstance(space, spaces.Discrete):
        return Categorical(int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return MultiCategorical([int(n) for n in space.nvec.reshape(-1)])
    if isinstance(space, spaces.MultiBinary):
        return Bernoulli(math.prod(space.shape))
    if isinstance(space, spaces.Box) and space.dtype is not None and space.dtype.kind == "f":
        return DiagonalGaussian(space.shape)
    raise InputError(
        f"{algorithm} cannot act in {space}: it needs a Discrete, MultiDiscrete, MultiBinary or (float) Box action space"
    )


def squash(outputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Actions `tanh(mean + std * noise)` `[N, size]` and their log-probabilities `[N]` (appendix C)."""
    mean, log_std = outputs.chunk(2, 1)
    log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
    raw = mean + log_std.exp() * noise
    # log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2 x)), which does not lose the small numbers
    correction = 2.0 * (math.log(2.0) - raw - F.softplus(-2.0 * raw))
    log_prob = -(0.5 * noise * noise + log_std + 0.5 * math.log(2 * math.pi) + correction).sum(1)
    return torch.tanh(raw), log_prob
