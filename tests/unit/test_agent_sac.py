"""SAC: its distribution against torch.distributions and an integral, its losses by hand, its temperature."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn
from torch.distributions import Categorical, Independent, Normal, TanhTransform, TransformedDistribution

from tests.fragments import make_fragment, make_spec, random_obs
from wiserl.agent.sac import (
    SAC,
    SACConfig,
    actor_loss,
    critic_loss,
    discrete_actor_loss,
    discrete_critic_loss,
    temperature_loss,
)
from wiserl.core.config import make_config, to_plain
from wiserl.net.heads import squash
from wiserl.util.errors import InputError

BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
ALPHA = torch.tensor([0.4])

# ---- the squashed Gaussian ----


def test_log_probabilities_are_those_of_torch_distributions():
    outputs, noise = torch.randn(50, 6, dtype=torch.float64).clamp(-1, 0.5), torch.randn(50, 3, dtype=torch.float64)
    action, log_prob = squash(outputs, noise)
    mean, std = outputs[:, :3], outputs[:, 3:].exp()
    raw = TransformedDistribution(Normal(mean, std), [TanhTransform(cache_size=1)])
    torch.testing.assert_close(action, torch.tanh(mean + std * noise))
    torch.testing.assert_close(log_prob, Independent(raw, 1).log_prob(action), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (0.7, -1.0), (-1.5, 0.5)])
def test_the_density_of_an_action_integrates_to_one(mean, log_std):
    noise = torch.linspace(-9, 9, 200_001, dtype=torch.float64).unsqueeze(1)
    action, log_prob = squash(torch.tensor([[mean, log_std]], dtype=torch.float64).expand(len(noise), 2), noise)
    assert torch.trapezoid(log_prob.exp(), action.squeeze(1)).item() == pytest.approx(1.0, abs=1e-6)


def test_log_probabilities_stay_finite_where_tanh_is_one():
    outputs = torch.tensor([[30.0, -3.0], [-30.0, 2.0]], requires_grad=True)
    action, log_prob = squash(outputs, torch.tensor([[1.0], [-1.0]]))
    assert action.abs().tolist() == [[1.0], [1.0]]
    # 1 - tanh(x)^2 goes to 4 exp(-2 |x|), which 1 - action * action has lost.
    raw = [30 + math.exp(-3), 30 + math.exp(2)]
    expected = [
        2 * raw[i] - math.log(4) - log_std - 0.5 - 0.5 * math.log(2 * math.pi) for i, log_std in ((0, -3), (1, 2))
    ]
    assert log_prob.tolist() == pytest.approx(expected, rel=1e-5)
    log_prob.sum().backward()
    assert outputs.grad.isfinite().all()


@pytest.mark.parametrize(("log_std", "counts_as"), [(5.0, 2.0), (-50.0, -20.0)])
def test_standard_deviations_are_bounded(log_std, counts_as):
    given, bounded = (squash(torch.tensor([[0.1, value]]), torch.ones(1, 1)) for value in (log_std, counts_as))
    assert torch.equal(given[0], bounded[0])
    assert torch.equal(given[1], bounded[1])


# ---- losses for continuous actions ----


class LinearActor(nn.Module):
    """Mean: the observation times a weight; the log standard deviation is always the same."""

    def __init__(self, weight: float, log_std: float) -> None:
        super().__init__()
        self.weight, self.log_std = nn.Parameter(torch.tensor(weight)), nn.Parameter(torch.tensor(log_std))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.weight * obs, self.log_std.expand_as(obs)], 1)


class LinearCritics(nn.Module):
    """Two values s + w_i a."""

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
        "next_obs": torch.tensor([[0.2], [-0.8], [0.6]]),
        "terminated": torch.tensor([False, False, True]),
        "discount": torch.tensor([0.9, 0.81, 0.9]),
        **changes,
    }


NOISE = torch.tensor([[0.5], [-1.0], [2.0]])
LOG_STD = -0.5


def by_hand(mean: float, noise: float) -> tuple[float, float]:
    """An action and its log-probability, in plain arithmetic."""
    action = math.tanh(mean + math.exp(LOG_STD) * noise)
    normal = -0.5 * noise**2 - LOG_STD - 0.5 * math.log(2 * math.pi)
    return action, normal - math.log(1 - action**2)


def hand_errors() -> np.ndarray:
    """TD errors `[3, 2]`: target values s + 2 a and s - a, online s + a and s + 3 a."""
    errors = []
    for obs, action, reward, following, noise, discount in [
        (1.0, 0.5, 1.0, 0.2, 0.5, 0.9), (2.0, -0.5, 2.0, -0.8, -1.0, 0.81), (3.0, 1.0, -1.0, 0.6, 2.0, 0.0),
    ]:  # fmt: skip
        chosen, log_prob = by_hand(following, noise)
        goal = reward + discount * (min(following + 2 * chosen, following - chosen) - 0.4 * log_prob)
        errors.append([goal - (obs + action), goal - (obs + 3 * action)])
    return np.array(errors)


def hand_loss(**changes: Any) -> tuple[torch.Tensor, torch.Tensor]:
    networks = LinearCritics(1.0, 3.0), LinearCritics(2.0, -1.0), LinearActor(1.0, LOG_STD)
    return critic_loss(*networks, batch(**changes), ALPHA, NOISE)


def test_the_critics_loss_is_half_the_squared_soft_errors_computed_by_hand():
    total, errors = hand_loss()
    assert total.item() == pytest.approx(0.5 * (hand_errors() ** 2).sum() / 3, rel=1e-5)
    assert errors.tolist() == pytest.approx(np.abs(hand_errors()).mean(1).tolist(), rel=1e-5)


def test_weights_of_prioritised_replay_scale_each_row():
    total, _ = hand_loss(weight=torch.tensor([1.0, 0.5, 0.0]))
    assert total.item() == pytest.approx(0.5 * ((hand_errors() ** 2).sum(1) @ [1, 0.5, 0]) / 3, rel=1e-5)


def test_no_gradient_of_the_critics_loss_reaches_target_actor_or_temperature():
    critics, target, actor, rows = LinearCritics(1.0, 3.0), LinearCritics(2.0, -1.0), LinearActor(1.0, LOG_STD), batch()
    rows["next_obs"].requires_grad_()
    alpha = ALPHA.clone().requires_grad_()
    total, errors = critic_loss(critics, target, actor, rows, alpha, NOISE)
    total.backward()
    assert target.weights.grad is actor.weight.grad is actor.log_std.grad is alpha.grad is rows["next_obs"].grad is None
    assert not errors.requires_grad
    expected = -np.array([0.5, -0.5, 1.0]) @ hand_errors() / 3  # half a square: its slope is the error
    assert critics.weights.grad.tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_the_actors_loss_weighs_entropy_against_the_smaller_value():
    total, entropy = actor_loss(LinearActor(1.0, LOG_STD), LinearCritics(2.0, -1.0), batch()["next_obs"], ALPHA, NOISE)
    rows = [(obs, *by_hand(obs, noise)) for obs, noise in ((0.2, 0.5), (-0.8, -1.0), (0.6, 2.0))]
    expected = [0.4 * log_prob - min(obs + 2 * action, obs - action) for obs, action, log_prob in rows]
    assert total.item() == pytest.approx(np.mean(expected), rel=1e-5)
    assert entropy.tolist() == pytest.approx([-log_prob for _, _, log_prob in rows], rel=1e-5)
    assert not entropy.requires_grad


def test_the_actors_gradient_goes_through_its_action():
    """The slope of the loss, against a difference quotient."""
    losses = []
    for shift in (0.0, 1e-3, -1e-3):
        actor = LinearActor(1.0 + shift, LOG_STD).double()
        obs, noise = batch()["next_obs"].double(), NOISE.double()
        losses.append(actor_loss(actor, LinearCritics(2.0, -1.0).double(), obs, ALPHA.double(), noise)[0])
        if not shift:
            losses[0].backward()
            slope = actor.weight.grad.item()
    assert slope == pytest.approx(((losses[1] - losses[2]) / 2e-3).item(), rel=1e-4)


# ---- losses for discrete actions ----


class Table(nn.Module):
    """Logits or values that are the observation itself, times a weight."""

    def __init__(self, critics: bool = False) -> None:
        super().__init__()
        self.weight, self.critics = nn.Parameter(torch.ones(1)), critics

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        # The second Q-function has the values in reverse order.
        return self.weight * (torch.stack([obs, obs.flip(1)], -1) if self.critics else obs)


def discrete_batch(**changes: Any) -> dict[str, Any]:
    return {
        "obs": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        "action": torch.tensor([1, 0]),
        "reward": torch.tensor([0.5, -1.0]),
        "next_obs": torch.tensor([[0.0, math.log(3.0)], [5.0, 7.0]]),
        "terminated": torch.tensor([False, True]),
        "discount": torch.tensor([0.81, 0.9]),
        **changes,
    }


# Probabilities 1/4 and 3/4; the smaller of both critics' values is 0 for either action.
SOFT_VALUE = 0.4 * (0.25 * math.log(4) + 0.75 * math.log(4 / 3))
DISCRETE_ERRORS = np.array([[0.5 + 0.81 * SOFT_VALUE - 2, 0.5 + 0.81 * SOFT_VALUE - 1], [-1.0 - 3, -1.0 - 4]])


def test_the_discrete_critics_loss_takes_the_expectation_over_the_next_action():
    total, errors = discrete_critic_loss(Table(True), Table(True), Table(), discrete_batch(), ALPHA)
    assert total.item() == pytest.approx(0.5 * (DISCRETE_ERRORS**2).sum() / 2)
    assert errors.tolist() == pytest.approx(np.abs(DISCRETE_ERRORS).mean(1).tolist())
    weighted, _ = discrete_critic_loss(
        Table(True), Table(True), Table(), discrete_batch(weight=torch.tensor([0.0, 0.5])), ALPHA
    )
    assert weighted.item() == pytest.approx(0.5 * 0.5 * (DISCRETE_ERRORS[1] ** 2).sum() / 2)


def test_no_gradient_of_the_discrete_critics_loss_reaches_target_actor_or_temperature():
    critics, target, actor, alpha = Table(True), Table(True), Table(), ALPHA.clone().requires_grad_()
    total, errors = discrete_critic_loss(critics, target, actor, discrete_batch(), alpha)
    total.backward()
    assert target.weight.grad is actor.weight.grad is alpha.grad is None
    assert not errors.requires_grad
    taken = np.array([[2, 1], [3, 4]])
    assert critics.weight.grad.item() == pytest.approx(-(DISCRETE_ERRORS * taken).sum() / 2)


def test_the_discrete_actors_loss_is_the_expectation_over_its_actions():
    actor, critics = Table(), Table(True)
    obs = torch.tensor([[math.log(3.0), 0.0, 0.0]])  # probabilities 3/5, 1/5, 1/5; smaller values 0, 0, 0
    p = np.array([3, 1, 1]) / 5
    total, entropy = discrete_actor_loss(actor, critics, obs, ALPHA)
    assert entropy.item() == pytest.approx(-(p * np.log(p)).sum())
    assert total.item() == pytest.approx(0.4 * (p * np.log(p)).sum())
    shifted, _ = discrete_actor_loss(actor, critics, obs + 2.0, ALPHA)  # the same policy, all values 2 more
    assert shifted.item() == pytest.approx(total.item() - 2.0, rel=1e-5)
    total.backward()
    assert critics.weight.grad is None
    assert actor.weight.grad.abs().item() > 0.1
    assert not entropy.requires_grad


def test_the_discrete_entropy_is_that_of_torch_distributions():
    logits = torch.randn(9, 5)
    _, entropy = discrete_actor_loss(Table(), Table(True), logits, ALPHA)
    torch.testing.assert_close(entropy, Categorical(logits=logits).entropy())


# ---- the temperature ----


@pytest.mark.parametrize(("entropy", "sign"), [(-3.0, 1.0), (1.0, -1.0)])
def test_the_temperature_rises_while_there_is_too_little_entropy(entropy, sign):
    log_alpha = torch.zeros(1, requires_grad=True)
    temperature_loss(log_alpha, torch.tensor([entropy, entropy - 1.0]), -2.0).backward()
    assert -log_alpha.grad.item() == pytest.approx(-(entropy - 0.5 + 2.0))  # a step goes against the gradient
    assert math.copysign(1.0, -log_alpha.grad.item()) == sign


def make_agent(action: spaces.Space = BOX, **config: Any) -> SAC:
    config = {"learning_starts": 0, "buffer_size": 1000, "hidden_sizes": (8,), "batch_size": 16} | config
    agent = SAC(spec=make_spec(action=action), config=make_config(SACConfig, config, "sac"), num_streams=2)
    agent.total_steps = 1000
    agent.start_learning()
    return agent


def feed(agent: SAC, steps: int = 10, **options: Any) -> dict[str, float]:
    agent.env_steps += steps * agent.num_streams
    return agent.update(make_fragment(agent.spec, steps, agent.num_streams, **options))


ACTIONS = pytest.mark.parametrize("action", [BOX, spaces.Discrete(4)], ids=["Box", "Discrete"])


@ACTIONS
@pytest.mark.parametrize(("target", "rises"), [(5.0, True), (-50.0, False)])
def test_training_moves_the_temperature_towards_its_target(action, target, rises):
    agent = make_agent(action, target_entropy=target, ent_coef_init=0.5)
    assert agent.alpha.item() == pytest.approx(0.5)
    alphas = [feed(agent)["losses/alpha"] for _ in range(3)]
    assert all((after > before) == rises for before, after in zip([0.5, *alphas], alphas, strict=False))


@ACTIONS
@pytest.mark.parametrize("given", [0.0, 0.1, 3.0])
def test_a_given_temperature_is_exactly_that_and_stays(action, given):
    agent = make_agent(action, ent_coef=given)
    seen = []
    loss = agent._critic_loss
    agent._critic_loss = lambda *args: seen.append(args[4]) or loss(*args)
    for _ in range(2):
        feed(agent)
    assert {alpha.item() for alpha in seen} == {np.float32(given)}
    assert agent.alpha.item() == np.float32(given)


def test_without_a_temperature_the_target_is_the_plain_smaller_value():
    agent = make_agent(ent_coef=0)
    total, _ = critic_loss(LinearCritics(1.0, 3.0), LinearCritics(2.0, -1.0), LinearActor(1.0, LOG_STD),
                           batch(discount=torch.ones(3)), agent.alpha, torch.zeros(3, 1))  # fmt: skip
    a, b = math.tanh(0.2), math.tanh(-0.8)
    goals = [1 + 0.2 - a, 2 - 0.8 + 2 * b, -1.0]
    squares = [(goals[i] - q) ** 2 for i, values in enumerate(((1.5, 2.5), (1.5, 0.5), (4, 6))) for q in values]
    assert total.item() == pytest.approx(0.5 * sum(squares) / 3)


@pytest.mark.parametrize(
    ("action", "given", "expected"),
    [
        (BOX, "auto", -2.0),
        (spaces.Box(-1.0, 1.0, (2, 3), np.float32), "auto", -6.0),
        (spaces.Discrete(4), "auto", 0.5 * math.log(4)),
        (BOX, "-1.5", -1.5),
        (BOX, 3, 3.0),
        (spaces.Discrete(4), "0.2", 0.2),
    ],
)
def test_the_target_entropy_is_what_was_given_or_follows_from_the_actions(action, given, expected):
    assert make_agent(action, target_entropy=given).target_entropy == pytest.approx(expected)


@pytest.mark.parametrize("key", ["ent_coef", "target_entropy"])
@pytest.mark.parametrize(("given", "expected"), [("auto", "auto"), ("0.1", 0.1), ("1e-3", 1e-3), (1, 1.0), (0, 0.0)])
def test_a_number_or_auto_is_taken_from_python_the_command_line_and_a_checkpoint(key, given, expected):
    config = make_config(SACConfig, {key: given}, "sac")
    assert getattr(config, key) == expected
    assert type(getattr(config, key)) is type(expected)
    assert make_config(SACConfig, to_plain(config), "sac") == config


@pytest.mark.parametrize(("key", "given"), [("ent_coef", "foo"), ("ent_coef", -1), ("target_entropy", "foo")])
def test_anything_else_is_refused_in_one_line(key, given):
    with pytest.raises(InputError, match=f"sac: {key}={given} is not valid: expected a number or auto") as caught:
        make_config(SACConfig, {key: given}, "sac")
    assert "\n" not in str(caught.value)


# ---- the agent ----


def tensors(rows: dict[str, Any]) -> dict[str, Any]:
    return {name: torch.from_numpy(np.asarray(value)) for name, value in rows.items()}


@ACTIONS
def test_each_loss_moves_its_own_network_alone(action):
    agent = make_agent(action)
    feed(agent)
    rows = tensors(agent.replay.sample(16))
    actor, critics, temperature = agent.flat, agent.critics.flat, agent.temperature.log_alpha

    def reached(loss: torch.Tensor) -> list[bool]:
        grads = (agent.actor_optimizer.flat.grad, agent.critics.optimizer.flat.grad, temperature.grad)
        for grad in grads:
            grad.zero_()
        loss.backward()
        return [bool(grad.any()) for grad in grads]

    noise = agent._noise(rows)
    assert actor is not critics
    values = agent._critic_loss(agent.critics.online, agent.critics.target, agent.policy, rows, agent.alpha, *noise)
    assert reached(values[0]) == [False, True, False]
    policy, entropy = agent._actor_loss(agent.policy, agent.critics.frozen, rows["obs"], agent.alpha, *noise)
    assert reached(policy) == [True, False, False]
    assert reached(temperature_loss(temperature, entropy, agent.target_entropy)) == [False, False, True]


@ACTIONS
@pytest.mark.parametrize("interval", [1, 3])
def test_the_targets_of_the_critics_follow_at_their_interval(action, interval):
    agent = make_agent(action, target_update_interval=interval, tau=0.25)
    agent.update(make_fragment(agent.spec, 10, 2))
    moved = []
    for step in range(6):
        before = agent.critics.target_flat.clone()
        agent.env_steps += 1
        agent.update(make_fragment(agent.spec, 1, 2, seed=step))
        moved.append(not torch.equal(agent.critics.target_flat, before))
        if moved[-1]:
            torch.testing.assert_close(agent.critics.target_flat, before.lerp(agent.critics.flat.detach(), 0.25))
    assert moved == [(step + 1) % interval == 0 for step in range(6)]


@ACTIONS
def test_what_is_logged(action):
    logs = feed(make_agent(action))
    names = {"losses/qf_loss", "losses/actor_loss", "losses/entropy", "losses/alpha", "charts/learning_rate"}
    assert set(logs) == names
    assert logs["losses/alpha"] == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("given", ["auto", 0.5])
def test_the_noise_of_each_action_is_drawn_anew(given):
    agent = make_agent(ent_coef=given)
    seen: list[torch.Tensor] = []
    for name in ("_critic_loss", "_actor_loss"):
        loss = getattr(agent, name)
        setattr(agent, name, lambda *args, loss=loss: seen.append(args[-1]) or loss(*args))
    feed(agent, 2)
    assert len(seen) == 2 * 4
    assert len({tuple(noise.ravel().tolist()) for noise in seen}) == 8
    assert torch.cat(seen).std().item() == pytest.approx(1.0, abs=0.15)


def chosen(agent: SAC, rows: int = 20_000, **options: Any) -> np.ndarray:
    obs = np.broadcast_to(random_obs(agent.spec.observation_space, (1, 1), np.random.default_rng(3)), (rows, 1, 3))
    return agent.choose_action(obs, **options)["action"]


def test_actions_are_those_of_the_distribution_that_is_learned():
    """Log-probabilities of what numpy draws, as the loss would see them, average to minus the entropy of the policy."""
    agent = make_agent()
    obs = torch.from_numpy(random_obs(agent.spec.observation_space, (1, 1), np.random.default_rng(3))).flatten(0, 1)
    outputs = agent.policy(obs).detach().expand(200_000, -1)
    expected = torch.atanh(squash(outputs, torch.randn(200_000, 2))[0]).numpy()
    found = np.arctanh(chosen(agent)[:, 0])
    np.testing.assert_allclose(found.mean(0), expected.mean(0), atol=0.03)
    np.testing.assert_allclose(found.std(0), expected.std(0), rtol=0.03)
    np.testing.assert_allclose(found.mean(0), outputs[0, :2], atol=0.03)


def test_noise_of_the_kind_asked_for_is_added_to_actions_while_training():
    agents = [make_agent(action_noise=kind, noise_std=0.1, noise_theta=0.1) for kind in ("none", "ornstein_uhlenbeck")]
    for agent in agents:
        with torch.no_grad():  # the same action whatever the observation, and hardly a deviation of its own
            agent.policy.head.weight.zero_()
            agent.policy.head.bias.copy_(torch.tensor([0.0, 0.5, -20.0, -20.0]))
    quiet, noisy = agents
    np.testing.assert_allclose(chosen(quiet, 100)[:, 0], np.tanh([[0.0, 0.5]] * 100), atol=1e-6)
    memory, noise = np.zeros((20_000, 1, noisy.memory_size), np.float32), []
    for _ in range(2):
        given = noisy.choose_action(np.zeros((20_000, 1, 3), np.float32), memory=memory)
        noise.append(given["action"][:, 0] - np.tanh([0.0, 0.5]))
        memory = given["memory"]
    assert noise[0].std() == pytest.approx(0.1, rel=0.03)
    assert np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1] > 0.5
    np.testing.assert_allclose(chosen(noisy, 100, deterministic=True)[:, 0], np.tanh([[0.0, 0.5]] * 100), atol=1e-6)
    noisy.reseed(7)
    again = chosen(noisy)
    noisy.reseed(7)
    assert np.array_equal(chosen(noisy), again)
    assert np.abs(again).max() <= 1.0


def test_noise_on_discrete_actions_is_refused():
    with pytest.raises(InputError, match="action_noise=gaussian: noise is added to Box actions"):
        make_agent(spaces.Discrete(4), action_noise="gaussian")


def test_discrete_actions_are_drawn_with_their_probabilities():
    agent = make_agent(spaces.Discrete(4))
    obs = torch.from_numpy(random_obs(agent.spec.observation_space, (1, 1), np.random.default_rng(3))).flatten(0, 1)
    probabilities = agent.policy(obs).softmax(1)[0].detach().numpy()
    found = np.bincount(chosen(agent).ravel(), minlength=4) / 20_000
    np.testing.assert_allclose(found, probabilities, atol=0.015)
    assert (chosen(agent, 5, deterministic=True) == probabilities.argmax()).all()


def test_deterministic_actions_are_the_squashed_mean():
    agent = make_agent()
    obs = torch.from_numpy(random_obs(agent.spec.observation_space, (1, 1), np.random.default_rng(3))).flatten(0, 1)
    expected = torch.tanh(agent.policy(obs)[:, :2]).detach().numpy()
    np.testing.assert_allclose(chosen(agent, 1, deterministic=True)[0], expected, rtol=1e-5)
