"""Networks of a user's own, found by the tests as `tests.networks:NAME`."""

from __future__ import annotations

import torch
from torch import nn


class Wide(nn.Module):
    """Features 7 wide, whose first weights are ones."""

    def __init__(self, space):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(7), nn.Tanh())
        self.layers(torch.zeros(1, *space.shape))
        nn.init.ones_(self.layers[1].weight)

    def forward(self, obs):
        return self.layers(obs.float())


class Entries(nn.Module):
    """Of a Dict observation, with a layer that normalises over batches."""

    def __init__(self, space):
        super().__init__()
        self.size = sum(entry.shape[0] for entry in space.values())
        self.norm = nn.BatchNorm1d(self.size)

    def forward(self, obs):
        return self.norm(torch.cat([obs[name] for name in sorted(obs)], 1))


def made(space):
    return nn.Sequential(nn.Flatten(), nn.Linear(space.shape[0], 5))


def too_narrow(space):
    return nn.Linear(space.shape[0] + 1, 5)


def without_features(space):
    return nn.Identity()


class Double(nn.Module):
    """Computes in float64."""

    def __init__(self, space):
        super().__init__()
        self.layer = nn.Linear(space.shape[0], 5).double()

    def forward(self, obs):
        return self.layer(obs.double())


def no_module(space):
    return space


NOTHING = 3
