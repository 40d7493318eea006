"""What is not valid enters no loss: by numbers worked out by hand, and since nothing changes when its values do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from tests.fragments import make_fragment, make_spec
from wiserl.agent.catalogue import algorithm_class
from wiserl.agent.dqn import DQNConfig, td_loss
from wiserl.agent.ppo import PPOConfig
from wiserl.agent.ppo import loss as ppo_loss
from wiserl.agent.qrdqn import QRDQNConfig, quantile_huber, quantile_loss
from wiserl.agent.sac import discrete_actor_loss, discrete_critic_loss
from wiserl.agent.sarsa import SARSAConfig, targets
from wiserl.core.config import make_config
from wiserl.net.heads import Categorical, MultiCategorical, masked_logits, only_valid
from wiserl.net.q_network import QNetwork
from wiserl.ops.exploration import epsilon_greedy, epsilon_greedy_value
from wiserl.ops.losses import masked_target_entropy

INVALID = 3  # of four actions


class Table(torch.nn.Module):
    """Q-values, or logits, that are the observation itself."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([scale]))

    def forward(self, obs: torch.Tensor, mask: Any = None) -> torch.Tensor:
        return self.weight * obs


def td_batch() -> dict[str, Any]:
    return {
        "obs": torch.tensor([[1.0, 2.0, 9.0], [3.0, 4.0, 5.0]]),
        "action": torch.tensor([0, 1]),
        "reward": torch.tensor([1.0, 2.0]),
        "next_obs": torch.tensor([[5.0, 7.0, 99.0], [1.0, 9.0, 2.0]]),
        "terminated": torch.tensor([False, True]),
        "discount": torch.tensor([0.5, 0.5]),
        "action_mask": torch.tensor([[True, True, False], [True, True, True]]),
        "next_action_mask": torch.tensor([[True, False, False], [True, True, True]]),
    }


@pytest.mark.parametrize("double", [False, True])
def test_the_bootstrap_of_q_learning_is_the_best_valid_value(double):
    # 1 + 0.5 * 5 - 1 = 2.5 and 2 - 4 = -2: Huber losses 2 and 1.5.
    total, errors, _ = td_loss(Table(), Table(), td_batch(), DQNConfig(double=double))
    assert errors.tolist() == [2.5, -2.0]
    assert total.item() == pytest.approx((2.0 + 1.5) / 2)


def test_the_quantiles_aimed_at_are_those_of_the_best_valid_action():
    class Quantiles(Table):
        def outputs(self, obs, mask=None):
            return torch.stack([obs - 1.0, obs + 1.0], -1)

        def values(self, outputs):
            return outputs.mean(-1)

    total, _, values = quantile_loss(Quantiles(), Quantiles(), td_batch(), QRDQNConfig())
    goal = torch.tensor([[1 + 0.5 * 4, 1 + 0.5 * 6], [2.0, 2.0]])
    assert total.item() == pytest.approx(quantile_huber(torch.tensor([[0.0, 2.0], [3.0, 5.0]]), goal).mean().item())
    assert values.tolist() == [1.0, 4.0]


def test_advantages_of_a_dueling_network_are_relative_to_the_valid_ones():
    network = QNetwork(make_spec(action=spaces.Discrete(3)), (8,), "relu", dueling=True, sigma0=None)
    obs, mask = torch.randn(5, 3), torch.tensor([[True, True, False]]).expand(5, 3)
    features = network.encoder(obs)
    advantage = network.advantage(features)
    expected = network.value(features) + advantage - advantage[:, :2].mean(1, keepdim=True)
    torch.testing.assert_close(network(obs, mask), expected)


def test_expected_sarsa_expects_what_epsilon_greedy_does_among_the_valid():
    values, mask = np.array([1.0, 2.0, 50.0, 3.0], np.float32), np.array([1, 1, 0, 1], bool)
    assert epsilon_greedy_value(values, 0.3, mask) == pytest.approx(0.7 * 3 + 0.3 * 2)
    rng = np.random.default_rng(0)
    chosen = epsilon_greedy(np.tile(values, (30_000, 1)), 0.3, rng, np.tile(mask, (30_000, 1)))
    assert np.bincount(chosen, minlength=4) / 30_000 == pytest.approx([0.1, 0.1, 0.0, 0.8], abs=0.01)


def test_sarsas_targets_take_the_expectation_over_the_valid_of_each_observation():
    fragment = make_fragment(make_spec(action=spaces.Discrete(3)), 2, 1, ends={(0, 0, 0): "truncated"})
    fragment["reward"][:] = 1.0
    masks = {"action_mask": [[1, 1, 1], [1, 1, 1]], "last_mask": [[0, 1, 1]], "final_mask": [[1, 0, 1]]}
    shapes = {"action_mask": (2, 1, 1, 3), "last_mask": (1, 1, 3), "final_mask": (1, 1, 3)}
    fragment |= {name: np.array(mask, bool).reshape(shapes[name]) for name, mask in masks.items()}
    q, last, final = (
        np.zeros((2, 1, 1, 3), np.float32),
        np.array([[[9, 2, 4]]], np.float32),
        np.array([[[1, 9, 3]]], np.float32),
    )
    goal = targets(fragment, q, last, final, 0.5, SARSAConfig(gamma=0.5))
    assert goal.ravel() == pytest.approx([1 + 0.5 * (0.5 * 3 + 0.5 * 2), 1 + 0.5 * (0.5 * 4 + 0.5 * 3)])


def test_ppos_probabilities_and_entropy_are_those_of_the_valid():
    class Fixed:
        head = Categorical(4)

        def evaluate(self, batch):
            return batch["obs"], torch.zeros(len(batch["obs"]))

    logits = torch.tensor([[0.0, math.log(3.0), 50.0, 7.0]], requires_grad=True)
    row = {"obs": logits, "action": torch.tensor([1]), "log_prob": torch.tensor([math.log(0.5)]), "advantage": torch.ones(1),
           "value": torch.zeros(1), "target": torch.zeros(1), "action_mask": torch.tensor([[True, True, False, False]])}  # fmt: skip
    total, figures = ppo_loss(Fixed(), row, PPOConfig(clip_range=10.0, ent_coef=0.1))
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert figures[3].item() == pytest.approx(entropy)
    assert total.item() == pytest.approx(-1.5 - 0.1 * entropy)
    total.backward()
    assert logits.grad[0, 2:].tolist() == [0.0, 0.0]
    assert logits.grad[0, :2].abs().min() > 0


def test_masks_of_several_components_stand_side_by_side():
    head, rng = MultiCategorical([2, 3]), np.random.default_rng(0)
    mask = np.tile(np.array([0, 1, 1, 0, 1], bool), (2000, 1))
    actions = head.sample(only_valid(np.zeros((2000, 5), np.float32), mask), rng)
    assert set(map(tuple, actions.tolist())) == {(1, 0), (1, 2)}
    outputs = masked_logits(torch.zeros(2000, 5), torch.from_numpy(mask))
    assert head.log_prob(outputs, torch.from_numpy(actions)).numpy() == pytest.approx(math.log(0.5))
    assert head.entropy(outputs).numpy() == pytest.approx(math.log(2.0))


def test_discrete_sac_takes_expectations_over_the_valid():
    class Both(Table):
        def forward(self, obs):
            return torch.stack([obs, obs + 1.0], -1)

    batch, alpha = td_batch(), torch.tensor([0.5])
    batch["next_action_mask"][0, 1] = True  # values 5 and 7 (of the lower critic), logits 5 and 7
    p = 1 / (1 + math.exp(2.0))
    following = p * (5 - 0.5 * math.log(p)) + (1 - p) * (7 - 0.5 * math.log(1 - p))
    goals = [1 + 0.5 * following, 2.0]
    total, _ = discrete_critic_loss(Both(), Both(), Table(), batch, alpha)
    errors = np.array([[goals[0] - 1, goals[0] - 2], [goals[1] - 4, goals[1] - 5]])
    assert total.item() == pytest.approx(0.5 * (errors**2).sum(1).mean(), rel=1e-5)
    actor = Table(0.0)
    loss, entropy = discrete_actor_loss(actor, Both(), batch["obs"], alpha, batch["action_mask"])
    assert entropy.tolist() == pytest.approx([math.log(2), math.log(3)])
    assert loss.item() == pytest.approx((-0.5 * math.log(2) - 1.5 - 0.5 * math.log(3) - 4.0) / 2)
    loss.backward()
    assert torch.isfinite(actor.weight.grad).all()


def test_the_target_entropy_is_the_same_share_of_what_can_be_reached():
    mask = torch.tensor([[True] * 4, [True, True, False, False], [True, False, False, False]])
    assert masked_target_entropy(0.5 * math.log(4), mask).tolist() == pytest.approx(
        [0.5 * math.log(4), 0.5 * math.log(2), 0.0]
    )


RAINBOW = {"rainbow": True, "v_min": -5.0, "v_max": 5.0}
FROM_REPLAY = {
    "learning_starts": 0,
    "batch_size": 32,
    "hidden_sizes": (8,),
    "train_freq": 8,
    "target_update_interval": 8,
}
ROUNDS = {"n_steps": 20, "batch_size": 16, "n_epochs": 2, "hidden_sizes": (8,)}
CASES = [
    ("ppo", {**ROUNDS, "ent_coef": 0.01}, True),
    ("ppo", {**ROUNDS, "ent_coef": 0.01}, False),
    ("sarsa", {**ROUNDS, "exploration_final_eps": 0.5}, True),
    ("sarsa", {**ROUNDS, "td_lambda": 0.5, "expected": False}, True),
    *(
        ("dqn", {**FROM_REPLAY, name: True}, True)
        for name in ("double", "dueling", "categorical", "noisy", "prioritized")
    ),
    ("dqn", {**FROM_REPLAY, "n_step": 3}, True),
    ("dqn", {**FROM_REPLAY, **RAINBOW}, True),
    ("qrdqn", FROM_REPLAY, True),
    ("qrdqn", {**FROM_REPLAY, "dueling": True, "double": True}, True),
    ("sac", FROM_REPLAY, True),
]


def masked_fragment(spec: Any) -> dict[str, Any]:
    """Three envs of two agents, some of them dead, whose last action is never valid."""
    steps, envs, agents, n = 20, 3, spec.num_agents, int(spec.action_space.n)
    rng = np.random.default_rng(0)
    alive = rng.random((steps, envs, agents)) < 0.8
    gone = alive & ~np.concatenate([alive[1:], alive[-1:]])
    ends = {tuple(at): "terminated" for at in np.argwhere(gone)}
    ends |= {tuple(at): "truncated" for at in np.argwhere(alive & ~gone & (rng.random(alive.shape) < 0.1))}
    fragment = make_fragment(spec, steps, envs, ends=ends)

    def masks(*shape):
        mask = rng.random((*shape, agents, n)) < 0.7
        mask[..., 0], mask[..., INVALID] = True, False
        return mask

    mask = masks(steps, envs)
    mask[~alive] = True
    fragment["action"] = np.where(mask, rng.random(mask.shape), -1.0).argmax(-1)
    finals = masks(len(fragment["final_at"]))
    return {**fragment, "alive": alive, "action_mask": mask, "last_mask": masks(envs), "final_mask": finals}


def learned(algo: str, options: dict[str, Any], sync: bool, shift: float) -> tuple[Any, np.ndarray]:
    """An agent after an update, whose outputs for the invalid action were shifted before it; what it then chose."""
    chosen = algorithm_class(algo)
    spec = make_spec(agents=2)
    agent = chosen(
        sync, spec=spec, config=make_config(chosen.config_class, options, algo), num_streams=3, total_steps=1000
    )
    move(getattr(agent.policy, {"ppo": "actor", "sac": "head"}.get(algo, "advantage")), shift)
    agent.start_learning()
    if algo == "sac":
        for critics in (agent.critics.online, agent.critics.target):
            for head in critics.heads:
                move(head, shift)
    fragment = masked_fragment(spec)
    agent.env_steps = int(fragment["alive"].any(2).sum())
    if algo == "ppo":
        rows = [fragment[name].reshape(60, 2, -1) for name in ("obs", "action_mask")]
        outputs = agent.choose_action(rows[0], mask=rows[1])["outputs"]
        fragment["outputs"] = outputs.reshape(20, 3, 2, -1)
    agent.finish_fragment(fragment)
    logs = agent.update(fragment)
    assert agent.updates > 0
    assert np.isfinite([value for name, value in logs.items() if name.startswith("losses/")]).all()
    agent.reseed(0)
    action = agent.choose_action(fragment["obs"][0], mask=fragment["action_mask"][0])["action"]
    return agent, action[fragment["alive"][0]]


def move(head: torch.nn.Module, shift: float) -> None:
    with torch.no_grad():
        rows = head.bias.view(4, -1)
        rows[INVALID] += shift * (1 + torch.arange(rows.shape[1]))


@pytest.mark.parametrize(("algo", "options", "sync"), CASES)
def test_what_is_said_of_an_action_that_is_never_valid_changes_nothing(algo, options, sync):
    plain, action = learned(algo, options, sync, 0.0)
    moved, same = learned(algo, options, sync, 100.0)
    assert np.array_equal(action, same)
    before, after = dict(plain.policy.named_parameters()), dict(moved.policy.named_parameters())
    for name, leaf in before.items():
        difference = (after[name] - leaf).detach()
        if difference.abs().max() > 50:  # the bias that was moved
            rows = difference.view(4, -1)
            torch.testing.assert_close(rows[INVALID], 100.0 * (1 + torch.arange(rows.shape[1])), atol=1e-2, rtol=0)
            difference = rows[:INVALID]
        torch.testing.assert_close(difference, torch.zeros_like(difference), atol=1e-5, rtol=0)
