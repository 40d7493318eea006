"""DDPG: its losses against numbers computed by hand, where their gradients stop, and its exploration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from tests.fragments import make_fragment, make_spec, random_obs
from wiserl.agent.ddpg import DDPG, DDPGConfig, actor_loss, critic_loss

BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)


class LinearActor(nn.Module):
    """The action is the observation times a weight."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.weight * obs


class LinearCritic(nn.Module):
    """Q(s, a) = v s + w a."""

    def __init__(self, v: float, w: float) -> None:
        super().__init__()
        self.v, self.w = nn.Parameter(torch.tensor(v)), nn.Parameter(torch.tensor(w))

    def forward(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return self.v * obs + self.w * action

    def first(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return self(obs, action).squeeze(1)


def batch(**changes: Any) -> dict[str, Any]:
    """One that goes on, one that terminates, one of two steps that was truncated."""
    return {
        "obs": torch.tensor([[1.0], [2.0], [3.0]]),
        "action": torch.tensor([[0.5], [-0.5], [1.0]]),
        "reward": torch.tensor([1.0, 2.0, -1.0]),
        "next_obs": torch.tensor([[0.2], [0.4], [0.6]]),
        "terminated": torch.tensor([False, True, False]),
        "discount": torch.tensor([0.9, 0.9, 0.81]),
        **changes,
    }


# Online Q: 1 + 0.5, 2 - 0.5, 3 + 1. Next action: half of 0.2 and 0.6; its target Q: 0.4 - 0.1 and 1.2 - 0.3.
ERRORS = [1 + 0.9 * 0.3 - 1.5, 2.0 - 1.5, -1 + 0.81 * 0.9 - 4.0]


def hand_loss(**changes: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return critic_loss(LinearCritic(1.0, 1.0), LinearCritic(2.0, -1.0), LinearActor(0.5), batch(**changes))


def test_the_critics_loss_is_the_mean_squared_error_computed_by_hand():
    total, errors = hand_loss()
    assert errors.tolist() == pytest.approx(ERRORS)
    assert total.item() == pytest.approx(sum(error**2 for error in ERRORS) / 3)


def test_weights_of_prioritised_replay_scale_each_row():
    total, errors = hand_loss(weight=torch.tensor([1.0, 0.5, 0.0]))
    assert errors.tolist() == pytest.approx(ERRORS)
    assert total.item() == pytest.approx((ERRORS[0] ** 2 + 0.5 * ERRORS[1] ** 2) / 3)


def test_the_actors_loss_is_minus_the_value_of_its_own_actions():
    actor = LinearActor(0.5)
    total = actor_loss(actor, LinearCritic(1.0, 3.0).requires_grad_(False), torch.tensor([[1.0], [3.0]]))
    assert total.item() == pytest.approx(-((1 + 3 * 0.5) + (3 + 3 * 1.5)) / 2)
    total.backward()
    assert actor.weight.grad.item() == pytest.approx(-3.0 * (1 + 3) / 2)  # w times the mean observation


def test_no_gradient_of_the_critics_loss_reaches_targets_or_the_next_action():
    critics, target, target_actor, rows = LinearCritic(1.0, 1.0), LinearCritic(2.0, -1.0), LinearActor(0.5), batch()
    rows["next_obs"].requires_grad_()
    total, errors = critic_loss(critics, target, target_actor, rows)
    total.backward()
    assert target.v.grad is target.w.grad is target_actor.weight.grad is rows["next_obs"].grad is None
    assert not errors.requires_grad
    # The slope of a squared error is -2 times the error, times what the weight stands before.
    assert critics.v.grad.item() == pytest.approx(-2 * np.dot(ERRORS, [1, 2, 3]) / 3)
    assert critics.w.grad.item() == pytest.approx(-2 * np.dot(ERRORS, [0.5, -0.5, 1]) / 3)


def make_agent(**config: Any) -> DDPG:
    config = {"learning_starts": 0, "buffer_size": 1000, "hidden_sizes": (8,), "batch_size": 16} | config
    agent = DDPG(spec=make_spec(action=BOX), config=DDPGConfig(**config), num_streams=2, total_steps=1000)
    agent.start_learning()
    return agent


def feed(agent: DDPG, steps: int, **options: Any) -> dict[str, float]:
    agent.env_steps += steps * agent.num_streams
    return agent.update(make_fragment(agent.spec, steps, agent.num_streams, **options))


def test_each_loss_moves_its_own_network_alone():
    agent = make_agent()
    feed(agent, 10)
    rows = {name: torch.from_numpy(np.asarray(value)) for name, value in agent.replay.sample(16).items()}
    for network in (agent.actor, agent.critics):
        network.flat.grad.zero_()
    critic_loss(agent.critics.online, agent.critics.target, agent.actor.target, rows)[0].backward()
    assert agent.critics.flat.grad.any()
    assert not agent.actor.flat.grad.any()
    agent.critics.flat.grad.zero_()
    actor_loss(agent.policy, agent.critics.frozen, rows["obs"]).backward()
    assert agent.actor.flat.grad.any()
    assert not agent.critics.flat.grad.any()


def test_the_actor_climbs_the_newest_critic():
    """Once the critics have stepped, the actor's loss is that of the new ones, which `frozen` shows."""
    agent, seen = make_agent(), []
    feed(agent, 1)
    agent._actor_loss = lambda actor, critics, obs: seen.append(critics) or actor_loss(actor, critics, obs)
    feed(agent, 1)
    assert seen[0] is agent.critics.frozen
    obs, action = torch.randn(4, 3), torch.randn(4, 2)
    assert torch.equal(agent.critics.frozen(obs, action), agent.critics.online(obs, action))


def test_targets_follow_at_every_update():
    agent = make_agent(tau=0.25)
    before = [network.target_flat.clone() for network in (agent.actor, agent.critics)]
    agent.env_steps += 1
    agent.update(make_fragment(agent.spec, 5, 2))
    assert agent.updates == 1
    for network, initial in zip((agent.actor, agent.critics), before, strict=True):
        assert not torch.equal(network.flat, initial)
        torch.testing.assert_close(network.target_flat, initial.lerp(network.flat.detach(), 0.25))


def test_what_is_logged():
    logs = feed(make_agent(), 10)
    assert set(logs) == {"losses/qf_loss", "losses/actor_loss", "charts/learning_rate"}
    assert logs["charts/learning_rate"] == 1e-3


def chosen(agent: DDPG, rows: int = 4000, **options: Any) -> np.ndarray:
    obs = np.broadcast_to(random_obs(agent.spec.observation_space, (1, 1), np.random.default_rng(3)), (rows, 1, 3))
    return agent.choose_action(obs, **options)["action"]


@pytest.mark.parametrize(
    ("kind", "std", "spread"), [("gaussian", 0.1, 0.1), ("none", 0.1, 0.0), ("gaussian", 0.0, 0.0)]
)
def test_noise_of_the_given_spread_is_added_while_training(kind, std, spread):
    agent = make_agent(action_noise=kind, noise_std=std)
    noise = chosen(agent) - chosen(agent, deterministic=True)
    assert noise.std() == pytest.approx(spread, rel=0.03)


def test_ornstein_uhlenbeck_noise_drifts():
    agent = make_agent(action_noise="ornstein_uhlenbeck", noise_theta=0.1)
    obs = np.broadcast_to(random_obs(agent.spec.observation_space, (1, 1), np.random.default_rng(3)), (4000, 1, 3))
    quiet, memory = chosen(agent, deterministic=True), np.zeros((4000, 1, agent.memory_size), np.float32)
    noise = []
    for _ in range(2):
        given = agent.choose_action(obs, memory=memory)
        noise.append(given["action"] - quiet)
        memory = given["memory"]
    assert np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1] > 0.5


def test_actions_are_bounded_however_far_the_actor_and_the_noise_go():
    agent = make_agent(noise_std=3.0)
    with torch.no_grad():
        agent.flat.mul_(100.0)
    action = chosen(agent)
    assert action.dtype == np.float32
    assert np.abs(action).max() == 1.0
