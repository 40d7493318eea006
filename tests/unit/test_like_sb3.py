"""From the same weights, on the same batches and noise, an update leaves the weights that Stable-Baselines3's leaves."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from gymnasium import spaces
from stable_baselines3.common.logger import Logger
from torch import nn

from wiserl.agent.base.off_policy import OffPolicy
from wiserl.agent.catalogue import algorithm_class
from wiserl.core.config import make_config
from wiserl.core.spec import EnvSpec

UPDATES, SIZE, GAMMA, RATE = 30, 32, 0.97, 1e-3
OBS = spaces.Box(-np.inf, np.inf, (4,), np.float32)
ACTIONS: dict[str, spaces.Space[Any]] = {
    "dqn": spaces.Discrete(3),
    **dict.fromkeys(("ddpg", "td3", "sac"), spaces.Box(-1.0, 1.0, (2,), np.float32)),
}
# Both clip the gradient, which a test on a few rows may not reach by itself.
OPTIONS: dict[str, dict[str, Any]] = {"dqn": {"max_grad_norm": 0.5, "target_update_interval": 10**6}}
PEER: dict[str, dict[str, Any]] = {
    "dqn": {"max_grad_norm": 0.5, "target_update_interval": 10**6},
    "sac": {"ent_coef": "auto"},
}


class Spaces(gym.Env):
    """Spaces, and nothing else."""

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = OBS, action_space


def batches(action_space: spaces.Space[Any]) -> list[dict[str, torch.Tensor]]:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))

    discrete = isinstance(action_space, spaces.Discrete)
    return [
        {
            "obs": normal(SIZE, 4),
            "next_obs": normal(SIZE, 4),
            "action": torch.from_numpy(rng.integers(3, size=SIZE)) if discrete else torch.tanh(normal(SIZE, 2)),
            "reward": 3 * normal(SIZE),
            "terminated": torch.from_numpy(rng.random(SIZE) < 0.1),
            "discount": torch.full((SIZE,), GAMMA),
        }
        for _ in range(UPDATES)
    ]


def peer_batches(given: list[dict[str, torch.Tensor]]) -> Iterator[Any]:
    for batch in given:
        yield SimpleNamespace(
            observations=batch["obs"],
            actions=batch["action"].reshape(SIZE, -1),
            next_observations=batch["next_obs"],
            dones=batch["terminated"].float()[:, None],
            rewards=batch["reward"][:, None],
            discounts=None,
        )


def linears(module: nn.Module) -> list[nn.Linear]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


def networks(agent: Any, peer: Any) -> list[tuple[list[nn.Linear], list[nn.Linear]]]:
    """Layers of ours and of the peer's, online before target, in pairs of networks."""
    if isinstance(peer, sb3.DQN):
        return [
            (linears(agent.policy), linears(peer.q_net)),
            (linears(agent.network.target), linears(peer.q_net_target)),
        ]
    found = []
    for ours, theirs in ((agent.critics.online, peer.critic), (agent.critics.target, peer.critic_target)):
        for mlp, head, q_network in zip(ours.mlps, ours.heads, theirs.q_networks, strict=True):
            found.append(([*mlp.layers, head], linears(q_network)))
    if isinstance(peer, sb3.SAC):
        return [*found, (linears(agent.policy), linears(peer.actor))]
    found.append((linears(agent.policy), linears(peer.actor)))
    found.append((linears(agent.actor.target), linears(peer.actor_target)))
    return found


def parameters(layers: list[nn.Linear], is_sac_actor: bool) -> list[torch.Tensor]:
    """Weights and biases; the peer's SAC has the two halves of the last layer apart."""
    found = [value.detach() for layer in layers for value in (layer.weight, layer.bias)]
    if is_sac_actor and len(layers) == 4:
        weight, bias, more, rest = found[-4:]
        return [*found[:-4], torch.cat([weight, more]), torch.cat([bias, rest])]
    return found


def make_pair(algo: str) -> tuple[OffPolicy, Any]:
    space = ACTIONS[algo]
    common = {"learning_rate": RATE, "gamma": GAMMA, "batch_size": SIZE}
    chosen = algorithm_class(algo)
    config = make_config(chosen.config_class, {**common, "hidden_sizes": (16, 16), **OPTIONS.get(algo, {})}, algo)
    agent: Any = chosen(spec=EnvSpec("spaces", OBS, space), config=config, num_streams=1, total_steps=1000)
    agent.start_learning()
    peer = getattr(sb3, algo.upper())(
        "MlpPolicy", Spaces(space), device="cpu", **common, **PEER.get(algo, {}),
        policy_kwargs={"net_arch": [16, 16], "activation_fn": nn.ReLU},
    )  # fmt: skip
    peer.set_logger(Logger(None, []))
    with torch.no_grad():
        for ours, theirs in networks(agent, peer):
            if len(theirs) == len(ours):
                for mine, other in zip(ours, theirs, strict=True):
                    other.weight.copy_(mine.weight), other.bias.copy_(mine.bias)
            else:
                for mine, other in zip(ours[:-1], theirs[:-2], strict=True):
                    other.weight.copy_(mine.weight), other.bias.copy_(mine.bias)
                for part, other in zip((slice(2), slice(2, 4)), theirs[-2:], strict=True):
                    other.weight.copy_(ours[-1].weight[part]), other.bias.copy_(ours[-1].bias[part])
    return agent, peer


@pytest.mark.parametrize("algo", ACTIONS)
def test_updates_are_the_peers(algo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, peer = make_pair(algo)
    given = batches(ACTIONS[algo])
    replay = peer_batches(given)
    peer.replay_buffer = SimpleNamespace(sample=lambda size, env: next(replay))

    # Of the same noise each gets the same share, in the order in which it asks: SAC's peer draws the present action first.
    noise = torch.randn(UPDATES, 2, SIZE, 2, generator=torch.Generator().manual_seed(0))
    wanted = iter(noise.flip(1).flatten(0, 1) if algo == "sac" else noise[:, 0])
    monkeypatch.setattr(torch, "randn", lambda *shape, **options: next(wanted))
    drawn = iter(noise.flatten(0, 1))
    monkeypatch.setattr(torch.distributions.normal, "_standard_normal", lambda *shape, **options: next(drawn))
    target_noise = iter(noise[:, 0])
    monkeypatch.setattr(torch.Tensor, "normal_", lambda self, mean, std: self.copy_(next(target_noise) * std))

    for batch in given:
        agent.learn(batch, RATE)
        agent.updates += 1
    peer.train(UPDATES, SIZE)

    for ours, theirs in networks(agent, peer):
        is_actor = algo == "sac" and ours == linears(agent.policy)
        for mine, other in zip(parameters(ours, False), parameters(theirs, is_actor), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5)
    if algo == "sac":
        torch.testing.assert_close(agent.temperature.log_alpha.detach(), peer.log_ent_coef.detach())
    assert agent.updates == UPDATES
