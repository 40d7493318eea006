"""TD3: its loss against numbers computed by hand, its delay, and the noise on the target action."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from tests.fragments import make_fragment, make_spec
from wiserl.agent.td3 import TD3, TD3Config, critic_loss

BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)


class LinearActor(nn.Module):
    """The action is the observation times a weight."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.weight * obs


class LinearCritics(nn.Module):
    """Two values w_i a + s."""

    def __init__(self, first: float, second: float) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([first, second]))

    def forward(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return obs + self.weights * action


def batch(**changes: Any) -> dict[str, Any]:
    """Two that go on (the second by two steps, to a truncation), one that terminates."""
    return {
        "obs": torch.tensor([[1.0], [2.0], [3.0]]),
        "action": torch.tensor([[0.5], [-0.5], [1.0]]),
        "reward": torch.tensor([1.0, 2.0, -1.0]),
        "next_obs": torch.tensor([[0.9], [-0.3], [0.6]]),
        "terminated": torch.tensor([False, False, True]),
        "discount": torch.tensor([0.9, 0.81, 0.9]),
        **changes,
    }


NOISE = torch.tensor([[0.3], [-3.0], [0.0]])
# Next action: 0.9 + 0.3, clipped to 1; -0.3 + the noise clipped to -0.5. The smaller of s + 2 a and s - a:
FOLLOWING = [min(0.9 + 2.0, 0.9 - 1.0), min(-0.3 - 1.6, -0.3 + 0.8), 0.0]
GOALS = [1 + 0.9 * FOLLOWING[0], 2 + 0.81 * FOLLOWING[1], -1.0]
# Online s + a and s + 3 a.
ERRORS = np.array([[GOALS[0] - 1.5, GOALS[0] - 2.5], [GOALS[1] - 1.5, GOALS[1] - 0.5], [GOALS[2] - 4, GOALS[2] - 6]])


def hand_loss(**changes: Any) -> tuple[torch.Tensor, torch.Tensor]:
    networks = LinearCritics(1.0, 3.0), LinearCritics(2.0, -1.0), LinearActor(1.0)
    return critic_loss(*networks, batch(**changes), NOISE, 0.5)


def test_the_loss_sums_the_squared_errors_of_both_critics_against_the_smaller_value():
    total, errors = hand_loss()
    assert total.item() == pytest.approx((ERRORS**2).sum() / 3)
    assert errors.tolist() == pytest.approx(np.abs(ERRORS).mean(1).tolist())


def test_errors_of_opposite_sign_do_not_cancel_in_the_priority():
    _, errors = hand_loss(
        reward=torch.tensor([1.0, 1.0 + 0.81 * 1.9, -1.0])
    )  # the second goal is 1: errors -0.5 and 0.5
    assert errors[1].item() == pytest.approx(0.5)


def test_weights_of_prioritised_replay_scale_each_row():
    total, _ = hand_loss(weight=torch.tensor([1.0, 0.5, 0.0]))
    assert total.item() == pytest.approx(((ERRORS[0] ** 2).sum() + 0.5 * (ERRORS[1] ** 2).sum()) / 3, rel=1e-5)


def test_no_gradient_reaches_targets_or_the_target_action():
    critics, target, target_actor, rows = LinearCritics(1.0, 3.0), LinearCritics(2.0, -1.0), LinearActor(1.0), batch()
    rows["next_obs"].requires_grad_()
    noise = NOISE.clone().requires_grad_()
    total, errors = critic_loss(critics, target, target_actor, rows, noise, 0.5)
    total.backward()
    assert target.weights.grad is target_actor.weight.grad is rows["next_obs"].grad is noise.grad is None
    assert not errors.requires_grad
    actions = np.array([0.5, -0.5, 1.0])
    assert critics.weights.grad.tolist() == pytest.approx((-2 * actions @ ERRORS / 3).tolist())


def make_agent(**config: Any) -> TD3:
    config = {"learning_starts": 0, "buffer_size": 1000, "hidden_sizes": (8,), "batch_size": 16} | config
    agent = TD3(spec=make_spec(action=BOX), config=TD3Config(**config), num_streams=1, total_steps=1000)
    agent.start_learning()
    agent.update(make_fragment(agent.spec, 20, 1))
    return agent


def one_update(agent: TD3) -> dict[str, float]:
    agent.env_steps += 1
    return agent.update(make_fragment(agent.spec, 1, 1, seed=agent.env_steps))


def test_actor_and_targets_move_at_every_third_update_with_a_delay_of_three():
    agent = make_agent(policy_delay=3)
    names = ("actor", "actor target", "critics", "critics target")

    def flats() -> list[torch.Tensor]:
        networks = (agent.actor, agent.critics)
        return [flat.detach().clone() for network in networks for flat in (network.flat, network.target_flat)]

    moved, logged = [], []
    for _ in range(6):
        before = flats()
        logged.append("losses/actor_loss" in one_update(agent))
        moved.append([name for name, a, b in zip(names, before, flats(), strict=True) if not torch.equal(a, b)])
    assert moved == [["critics"], ["critics"], list(names)] * 2
    assert logged == [False, False, True] * 2


def test_the_delay_counts_over_rounds_of_several_updates():
    agent = make_agent(policy_delay=2)
    calls, loss = [], agent._actor_loss
    agent._actor_loss = lambda *args: calls.append(agent.updates) or loss(*args)
    for steps in (3, 3):
        agent.env_steps += steps
        agent.update(make_fragment(agent.spec, steps, 1))
    assert calls == [1, 3, 5]  # the second, fourth and sixth


def test_the_noise_on_the_target_action_has_its_spread_and_differs_from_update_to_update():
    agent = make_agent(target_policy_noise=0.3, target_noise_clip=0.4, batch_size=2000)
    seen: list[Any] = []

    def spy(*args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(args[4:])
        return critic_loss(*args)

    agent._critic_loss = spy
    one_update(agent)
    one_update(agent)
    assert [clip for _, clip in seen] == [0.4, 0.4]
    assert seen[0][0].shape == (2000, 2)
    assert seen[0][0].std().item() == pytest.approx(0.3, rel=0.03)
    assert not torch.equal(seen[0][0], seen[1][0])


def test_without_noise_delay_and_second_critic_the_target_is_that_of_ddpg():
    """One critic's value is its own minimum."""
    critics, target, actor = LinearCritics(1.0, 1.0), LinearCritics(2.0, 2.0), LinearActor(1.0)
    total, errors = critic_loss(critics, target, actor, batch(), torch.zeros(3, 1), 0.5)
    goals = torch.tensor([1 + 0.9 * 2.7, 2 - 0.81 * 0.9, -1.0])
    expected = goals - torch.tensor([1.5, 1.5, 4.0])
    torch.testing.assert_close(errors, expected.abs())
    assert total.item() == pytest.approx(2 * (expected**2).mean().item())


def test_the_actor_climbs_the_first_critic():
    agent = make_agent()
    obs = torch.randn(5, 3)
    expected = -agent.critics.online(obs, agent.policy(obs))[:, 0].mean()
    torch.testing.assert_close(agent._actor_loss(agent.policy, agent.critics.frozen, obs), expected)
