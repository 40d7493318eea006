"""The numpy path of acting gives PyTorch's values, follows its weights, and steps aside where it does not apply."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from wiserl.net.acting import numpy_forward
from wiserl.net.encoder import Encoder

VECTOR = spaces.Box(-1.0, 1.0, (3, 2), np.float32)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("hidden", [(), (8,), (8, 6)])
def test_it_gives_the_networks_values_and_follows_changes_in_place(activation, hidden):
    torch.manual_seed(0)
    encoder = Encoder(VECTOR, hidden, activation)
    head = nn.Linear(encoder.size, 4)
    forward = numpy_forward(encoder, head)
    obs = np.random.default_rng(0).standard_normal((5, 3, 2)).astype(np.float32)
    for _ in range(2):
        given = obs.copy()
        expected = head(encoder(torch.from_numpy(obs))).detach().numpy()
        np.testing.assert_allclose(forward(given), expected, rtol=1e-5, atol=1e-6)
        assert np.array_equal(given, obs), "the observation was written to"
        with torch.no_grad():
            for parameter in (*encoder.parameters(), *head.parameters()):
                parameter.mul_(1.5)


@pytest.mark.parametrize(
    ("space", "activation"),
    [(VECTOR, "gelu"), (spaces.Discrete(3), "tanh"), (spaces.Box(0, 255, (10, 10, 1), np.uint8), "relu")],
)
def test_it_steps_aside_for_what_it_does_not_cover(space, activation):
    encoder = Encoder(space, (8,), activation)
    assert numpy_forward(encoder, nn.Linear(encoder.size, 2)) is None
