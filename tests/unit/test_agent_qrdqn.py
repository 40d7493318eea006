"""QR-DQN: its loss against numbers computed by hand and against quantiles of samples, and what it shares with DQN."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from tests.fragments import make_fragment, make_spec, random_obs
from wiserl.agent.qrdqn import QRDQN, QRDQNConfig, quantile_huber, quantile_loss
from wiserl.ops.tensors import to_tensors
from wiserl.util.errors import InputError


def test_the_quantile_huber_loss_computed_by_hand():
    # Estimate 1 (share 1/4) is below both samples: 1/4 of 0.5 and of 1. Estimate 3 (share 3/4) is above: 1/4 of 0.5 and 0.125.
    found = quantile_huber(torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, 2.5]]))
    assert found.tolist() == pytest.approx([(0.125 + 0.125 + 0.25 + 0.03125) / 2])
    found = quantile_huber(torch.tensor([[3.0, 1.0]]), torch.tensor([[2.0]]))  # on the wrong sides: 3/4 each
    assert found.tolist() == pytest.approx([0.75])


def test_its_minimum_is_at_the_quantiles():
    samples = torch.linspace(0.0, 1000.0, 1001).unsqueeze(0)
    quantiles = torch.full((1, 4), 500.0, requires_grad=True)
    optimizer = torch.optim.Adam([quantiles], 5.0)
    for _ in range(300):
        optimizer.zero_grad()
        quantile_huber(quantiles, samples).sum().backward()
        optimizer.step()
    np.testing.assert_allclose(quantiles.detach().numpy()[0], [125.0, 375.0, 625.0, 875.0], atol=5.0)


class Quantiles(torch.nn.Module):
    """Two quantiles of each of two actions that are the observation itself, times a weight; a target's in reverse order."""

    def __init__(self, flip: bool = False) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.flip = flip

    def outputs(self, obs: torch.Tensor) -> torch.Tensor:
        return self.weight * (obs.flip(1) if self.flip else obs)

    def values(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs.mean(-1)


def batch(**changes: Any) -> dict[str, Any]:
    """Quantiles taken: (1, 3) and (0, 0). Next, by the target: (2, 4) or (6, 0.5); the network has it the other way round."""
    return {
        "obs": torch.tensor([[[9.0, 9.0], [1.0, 3.0]], [[0.0, 0.0], [9.0, 9.0]]]),
        "action": torch.tensor([1, 0]),
        "reward": torch.tensor([1.0, 2.0]),
        "next_obs": torch.tensor([[[6.0, 0.5], [2.0, 4.0]]] * 2),
        "terminated": torch.tensor([False, True]),
        "discount": torch.tensor([0.5, 0.5]),
        **changes,
    }


@pytest.mark.parametrize(
    ("double", "goal"),
    [
        (False, (4.0, 1.25)),  # 1 + (6, 0.5) / 2: the target's better action
        (True, (2.0, 3.0)),  # 1 + (2, 4) / 2: the target's quantiles of the action that the network prefers
    ],
)
def test_the_loss_aims_at_the_targets_quantiles_computed_by_hand(double, goal):
    total, losses, values = quantile_loss(Quantiles(), Quantiles(flip=True), batch(), QRDQNConfig(double=double))
    first = quantile_huber(torch.tensor([[1.0, 3.0]]), torch.tensor([goal])).item()
    last = (0.25 + 0.75) * 1.5  # both estimates are 2 below the last reward
    assert losses.tolist() == pytest.approx([first, last])
    assert total.item() == pytest.approx((first + last) / 2)
    assert values.tolist() == [2.0, 0.0]


def test_importance_weights_scale_each_row_and_not_its_priority():
    arguments = Quantiles(), Quantiles(flip=True)
    _, plain, _ = quantile_loss(*arguments, batch(), QRDQNConfig())
    total, losses, _ = quantile_loss(*arguments, batch(weight=torch.tensor([1.0, 0.5])), QRDQNConfig())
    assert torch.equal(losses, plain)
    assert total.item() == pytest.approx((plain[0].item() + 0.5 * plain[1].item()) / 2)


@pytest.mark.parametrize("double", [False, True])
def test_no_gradient_flows_into_what_is_aimed_at(double):
    network, target, rows = Quantiles(), Quantiles(flip=True), batch()
    rows["next_obs"].requires_grad_()
    total, losses, values = quantile_loss(network, target, rows, QRDQNConfig(double=double))
    total.backward()
    assert target.weight.grad is None
    assert rows["next_obs"].grad is None
    assert not losses.requires_grad
    assert not values.requires_grad
    assert network.weight.grad.abs().item() > 0.0


def make_agent(spec: Any = None, seed: int = 0, **config: Any) -> QRDQN:
    common = {"learning_starts": 0, "train_freq": 1, "buffer_size": 1000, "hidden_sizes": (8,), "batch_size": 16}
    config = QRDQNConfig(**(common | {"n_quantiles": 5} | config))
    agent = QRDQN(spec=spec or make_spec(), config=config, num_streams=2, total_steps=1000, seed=seed)
    agent.start_learning()
    return agent


def feed(agent: QRDQN, steps: int = 5, **options: Any) -> dict[str, float]:
    agent.env_steps += steps * agent.num_streams
    return agent.update(make_fragment(agent.spec, steps, agent.num_streams, **options))


OBSERVATIONS = [
    spaces.Box(-1.0, 1.0, (3,), np.float32),
    spaces.Discrete(3),
    spaces.Dict({"image": spaces.Box(0, 255, (8, 8, 3), np.uint8), "more": spaces.Tuple((spaces.Discrete(2),))}),
]


@pytest.mark.parametrize("switches", [{}, {"dueling": True, "noisy": True, "prioritized": True}], ids=str)
@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_it_acts_and_learns_whatever_the_observation(observation, switches):
    agent = make_agent(make_spec(observation, spaces.Discrete(4), agents=2), **switches)
    obs = random_obs(observation, (5, 2), np.random.default_rng(0))
    assert agent.policy.outputs(random_tensors(observation)).shape == (3, 4, 5)
    for deterministic in (False, True):
        action = agent.choose_action(obs, deterministic)["action"]
        assert (action.shape, action.dtype.str) == ((5, 2), "<i8")
    assert {"losses/td_loss", "losses/q_values"} <= set(feed(agent, 10))


def random_tensors(space: spaces.Space) -> Any:
    return to_tensors(random_obs(space, (3,), np.random.default_rng(0)), torch.device("cpu"))


def test_deterministic_actions_are_those_of_the_largest_mean():
    agent = make_agent()
    obs = make_fragment(steps=50)["obs"][:, 0]
    quantiles = agent.policy.outputs(torch.from_numpy(obs).flatten(0, 1)).detach().numpy()
    assert np.array_equal(agent.choose_action(obs, True)["action"].ravel(), quantiles.mean(2).argmax(1))


def test_quantiles_find_both_sides_of_a_coin():
    """Reward 0 in a quarter of cases and 8 in all others, and then the end: quantiles below and above."""
    spec = make_spec(action=spaces.Discrete(2))
    agent = make_agent(spec, learning_rate=0.05, n_quantiles=4, gradient_steps=4, train_freq=1)
    ends = {(t, env, 0): "terminated" for t in range(100) for env in range(2)}
    reward = np.where(np.arange(200) % 4 == 0, 0.0, 8.0).astype(np.float32).reshape(100, 2, 1)
    obs = np.ones((100, 2, 1, 3), np.float32)
    feed(agent, 100, ends=ends, reward=reward, obs=obs)
    quantiles = agent.policy.outputs(torch.ones(1, 3)).detach().numpy()[0]
    np.testing.assert_allclose(quantiles, [[0.0, 8.0, 8.0, 8.0]] * 2, atol=1.0)


def test_a_restored_learner_goes_on_bit_for_bit():
    config = {"prioritized": True, "noisy": True, "n_step": 3, "tau": 0.5, "target_update_interval": 3}
    agent, restored = make_agent(**config), make_agent(**config)
    feed(agent, 20, end_rate=0.1)
    feed(restored, 7, seed=2)
    restored.policy.load_state_dict(agent.policy.state_dict())
    restored.load_learner_state(copy.deepcopy(agent.learner_state()))
    restored.load_replay_state(copy.deepcopy(agent.replay_state()))
    restored.env_steps, restored.updates = agent.env_steps, agent.updates
    for each in (agent, restored):
        feed(each, 10, seed=1, end_rate=0.1)
    assert agent.updates == 60
    assert torch.equal(agent.flat, restored.flat)
    assert torch.equal(agent.network.target_flat, restored.network.target_flat)


def test_an_env_it_cannot_act_in_is_refused():
    with pytest.raises(InputError, match=r"^qrdqn cannot act in Box.*needs a Discrete action space"):
        QRDQN(spec=make_spec(action=spaces.Box(-1, 1, (1,), np.float32)), config=QRDQNConfig())
