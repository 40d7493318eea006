"""SARSA: its targets and its loss against numbers computed by hand, what it learns from, and how it explores."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from tests.fragments import make_fragment, make_spec, random_obs
from wiserl.agent.sarsa import SARSA, SARSAConfig, loss, targets
from wiserl.util.errors import InputError

# Two actions, epsilon 0.5, gamma 0.5: the expectation of (a, b) is 0.75 max + 0.25 min.
Q = np.array([[4, 0], [8, 4], [0, 16]], np.float32).reshape(3, 1, 1, 2)
LAST = np.array([[[40.0, 0.0]]], np.float32)  # expectation 30
FINAL = np.array([[[0.0, 80.0]]], np.float32)  # expectation 60
EXPECTED = {"td_lambda": 0.0, "expected": True}
SAMPLED = {"td_lambda": 0.0, "expected": False}


def hand_targets(ends: dict[tuple[int, int, int], str] | None = None, **config: Any) -> list[float]:
    """Targets of three steps of one env with rewards 1, 2, 3 and actions 0, 1, 0."""
    fragment = make_fragment(make_spec(action=spaces.Discrete(2)), 3, 1, ends=ends)
    fragment["action"] = np.array([0, 1, 0]).reshape(3, 1, 1)
    fragment["reward"] = np.array([1, 2, 3], np.float32).reshape(3, 1, 1)
    final = FINAL if ends else FINAL[:0]
    found = targets(fragment, Q, LAST, final, 0.5, SARSAConfig(gamma=0.5, **config))
    assert found.dtype == np.float32
    return found.ravel().tolist()


def test_expected_targets_take_the_expectation_under_the_policy_that_explores():
    assert hand_targets(**EXPECTED) == [1 + 0.5 * 7, 2 + 0.5 * 12, 3 + 0.5 * 30]


def test_sampled_targets_take_the_action_that_followed_and_after_the_last_step_the_expectation():
    assert hand_targets(**SAMPLED) == [1 + 0.5 * 4, 2 + 0.5 * 0, 3 + 0.5 * 30]


@pytest.mark.parametrize(("mode", "first"), [(EXPECTED, 1 + 0.5 * 7), (SAMPLED, 1 + 0.5 * 4)])
def test_a_termination_cuts_the_bootstrap_and_a_truncation_takes_the_expectation_at_the_true_end(mode, first):
    assert hand_targets({(1, 0, 0): "terminated"}, **mode) == [first, 2.0, 18.0]
    assert hand_targets({(1, 0, 0): "truncated"}, **mode) == [first, 2 + 0.5 * 60, 18.0]
    assert hand_targets({(2, 0, 0): "terminated"}, **mode)[2] == 3.0
    assert hand_targets({(2, 0, 0): "truncated"}, **mode)[2] == 3 + 0.5 * 60


def test_lambda_returns_mix_the_bootstrap_with_the_return_that_followed():
    # From the last step backwards; each bootstrap is the mean of the value (12, then 7) and the return (18, then 9.5).
    assert hand_targets(td_lambda=0.5) == [1 + 0.5 * (7 + 9.5) / 2, 9.5, 18.0]
    # The values of the actions taken are 0 and 4.
    assert hand_targets(td_lambda=0.5, expected=False) == [1 + 0.5 * (4 + 6.5) / 2, 6.5, 18.0]
    # With 1 they are sums of rewards up to the fragment's end, in either mode.
    assert hand_targets(td_lambda=1.0) == hand_targets(td_lambda=1.0, expected=False) == [1 + 0.5 * 11, 2 + 9, 18.0]


def test_lambda_returns_do_not_cross_the_end_of_an_episode():
    assert hand_targets({(1, 0, 0): "terminated"}, td_lambda=0.5) == [1 + 0.5 * (7 + 2) / 2, 2.0, 18.0]
    assert hand_targets({(1, 0, 0): "truncated"}, td_lambda=0.5) == [1 + 0.5 * (7 + 32) / 2, 32.0, 18.0]


def plain_target(
    fragment: Any, q: Any, last: Any, final: Any, where: Any, epsilon: float, config: SARSAConfig
) -> float:
    """The recursion of Sutton and Barto 2018, section 12.8, for one step."""
    t, e, a = where
    bonus = config.gamma * config.td_lambda

    def expectation(values: Any) -> float:
        probability = np.full(len(values), epsilon / len(values))
        probability[np.argmax(values)] += 1 - epsilon
        return float(probability @ values)

    if fragment["terminated"][where]:
        return float(fragment["reward"][where])
    if fragment["truncated"][where]:
        row = next(k for k, at in enumerate(fragment["final_at"]) if tuple(at) == (t, e))
        return float(fragment["reward"][where]) + config.gamma * expectation(final[row, a])
    if t + 1 == len(q):
        return float(fragment["reward"][where]) + config.gamma * expectation(last[e, a])
    ahead = (t + 1, e, a)
    value = expectation(q[ahead]) if config.expected else float(q[ahead][fragment["action"][ahead]])
    following = plain_target(fragment, q, last, final, ahead, epsilon, config)
    return float(fragment["reward"][where]) + (config.gamma - bonus) * value + bonus * following


@given(
    steps=st.integers(1, 8),
    seed=st.integers(0, 9999),
    end_rate=st.sampled_from([0.0, 0.3, 1.0]),
    epsilon=st.sampled_from([0.0, 0.3, 1.0]),
    config=st.builds(
        SARSAConfig,
        gamma=st.sampled_from([0.0, 0.9, 1.0]),
        td_lambda=st.sampled_from([0.0, 0.6, 1.0]),
        expected=st.booleans(),
    ),
)
def test_targets_are_those_of_the_plain_recursion(steps, seed, end_rate, epsilon, config):
    fragment = make_fragment(make_spec(agents=2), steps, 2, seed, end_rate)
    rng = np.random.default_rng(seed)
    shapes = [(steps, 2, 2), (2, 2), (len(fragment["final_at"]), 2)]
    values = [rng.standard_normal((*shape, 4)).astype(np.float32) for shape in shapes]
    found = targets(fragment, *values, epsilon, config)
    for where in np.ndindex(found.shape):
        assert found[where] == pytest.approx(plain_target(fragment, *values, where, epsilon, config), abs=1e-4)


class Table(torch.nn.Module):
    """Q-values that are the observation itself, times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.weight * obs


def test_the_loss_is_half_the_mean_squared_error_and_its_gradient_the_classic_update():
    network = Table()
    batch = {
        "obs": torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True),
        "action": torch.tensor([0, 1]),
        "target": torch.tensor([3.0, 1.0], requires_grad=True),
    }
    total, taken = loss(network, batch | {"target": batch["target"].detach()})
    assert taken.tolist() == [1.0, 4.0]
    assert not taken.requires_grad
    assert total.item() == pytest.approx((4 + 9) / 4)
    total.backward()
    # the gradient by Q(s, a) is -(target - Q) / N; that of an action not taken is 0
    assert batch["obs"].grad.tolist() == [[-1.0, 0.0], [0.0, 1.5]]
    assert network.weight.grad.item() == pytest.approx(-1.0 * 1.0 + 1.5 * 4.0)


def make_agent(spec: Any = None, streams: int = 2, total_steps: int = 100, seed: int = 0, **config: Any) -> SARSA:
    config = {"batch_size": 1000, "hidden_sizes": (8,)} | config
    agent = SARSA(
        spec=spec or make_spec(), config=SARSAConfig(**config), num_streams=streams, total_steps=total_steps, seed=seed
    )
    agent.start_learning()
    return agent


def spy_on_batches(agent: SARSA) -> list[dict[str, Any]]:
    batches, original = [], agent._loss

    def spy(network: Any, batch: dict[str, Any]) -> Any:
        batches.append(batch)
        return original(network, batch)

    agent._loss = spy
    return batches


def q_of(agent: SARSA, rows: np.ndarray) -> np.ndarray:
    values = agent.policy(torch.from_numpy(rows).reshape(-1, 3)).detach().numpy()
    return values.reshape(*rows.shape[:-1], -1)


@pytest.mark.parametrize("expected", [True, False])
def test_an_update_aims_at_targets_of_its_own_network_its_present_epsilon_and_the_true_final_observations(expected):
    spec = make_spec(agents=2)
    agent = make_agent(spec, expected=expected, td_lambda=0.5, exploration_fraction=1.0, exploration_final_eps=0.0)
    agent.env_steps = 75
    fragment = make_fragment(spec, 6, 2, ends={(2, 1, 0): "terminated", (4, 0, 1): "truncated", (5, 1, 1): "truncated"})
    values = [q_of(agent, fragment[name]) for name in ("obs", "last_obs", "final_obs")]
    wanted = targets(fragment, *values, 0.25, agent.config)
    batches = spy_on_batches(agent)
    logs = agent.update(fragment)
    assert logs["charts/epsilon"] == pytest.approx(0.25)
    batch = batches[0]
    assert not batch["target"].requires_grad
    found = {
        tuple(obs): row for obs, *row in zip(*(batch[n].tolist() for n in ("obs", "action", "target")), strict=True)
    }
    assert len(found) == wanted.size
    for where in np.ndindex(wanted.shape):
        action, target = found[tuple(fragment["obs"][where].tolist())]
        assert action == fragment["action"][where]
        assert target == pytest.approx(wanted[where], abs=1e-5)
    taken = np.take_along_axis(values[0], fragment["action"][..., None], -1)[..., 0]
    assert logs["losses/td_loss"] == pytest.approx(0.5 * np.mean((wanted - taken) ** 2), rel=1e-4)
    assert logs["losses/q_values"] == pytest.approx(taken.mean(), abs=1e-5)


def test_an_update_follows_the_gradient_of_q_of_the_actions_taken_and_of_nothing_else():
    """Against gradients by hand of one linear layer: the error times the observation, for the action taken."""
    agent = make_agent(hidden_sizes=(), max_grad_norm=float("inf"))
    fragment = make_fragment(steps=4, ends={(1, 0, 0): "truncated"})
    batches = spy_on_batches(agent)
    before = copy.deepcopy(agent.policy)
    agent.update(fragment)
    obs, action, target = (batches[0][name] for name in ("obs", "action", "target"))
    error = before(obs).gather(1, action[:, None]).squeeze(1).detach() - target
    weight, bias = torch.zeros(4, 3), torch.zeros(4)
    weight.index_add_(0, action, error[:, None] * obs / len(obs))
    bias.index_add_(0, action, error / len(obs))
    torch.testing.assert_close(agent.policy.advantage.weight.grad, weight)
    torch.testing.assert_close(agent.policy.advantage.bias.grad, bias)


def test_targets_stay_as_they_were_before_the_rounds_first_update():
    agent = make_agent(n_epochs=3, learning_rate=0.1)
    batches = spy_on_batches(agent)
    agent.update(make_fragment())
    first, *later = (
        {tuple(o): t for o, t in zip(b["obs"].tolist(), b["target"].tolist(), strict=True)} for b in batches
    )
    assert len(later) == 2
    assert all(epoch == first for epoch in later)


def test_every_epoch_uses_every_row_once_in_minibatches_of_the_size_asked_for():
    agent = make_agent(n_epochs=3, batch_size=4)
    batches = spy_on_batches(agent)
    fragment = make_fragment(steps=5, envs=2)
    agent.update(fragment)
    assert [len(batch["target"]) for batch in batches] == [4, 4, 2] * 3
    assert agent.updates == 9
    rows = sorted(fragment["obs"].reshape(-1, 3).tolist())
    orders = []
    for epoch in range(3):
        used = [row for batch in batches[3 * epoch : 3 * epoch + 3] for row in batch["obs"].tolist()]
        assert sorted(used) == rows
        orders.append(used)
    assert orders[0] != orders[1] != orders[2]


def test_the_gradient_is_clipped():
    agent = make_agent(max_grad_norm=0.01)
    agent.update(make_fragment())
    assert agent.flat.grad.norm().item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(("decay", "expected"), [("none", 1e-3), ("linear", 0.75e-3)])
def test_the_learning_rate_falls_with_progress_where_that_is_asked_for(decay, expected):
    agent = make_agent(learning_rate=1e-3, learning_rate_decay=decay)
    agent.env_steps = 25
    assert agent.update(make_fragment())["charts/learning_rate"] == pytest.approx(expected)
    assert agent.optimizer.learning_rate == pytest.approx(expected)


def fragment_with_the_dead(seed: int, garbage: int) -> dict[str, Any]:
    """Two agents over six steps: one ends at step 2 and is gone, the other joins at step 1. Dead rows hold garbage."""
    spec = make_spec(agents=2)
    fragment = make_fragment(spec, 6, 1, seed, ends={(2, 0, 0): "truncated"})
    alive = np.ones((6, 1, 2), bool)
    alive[3:, 0, 0] = alive[0, 0, 1] = False
    noise = make_fragment(spec, 6, 1, garbage)
    for name in ("obs", "action"):
        fragment[name][~alive] = noise[name][~alive]
    fragment["last_obs"][0, 0] = noise["last_obs"][0, 0]
    fragment["final_obs"][0, 1] = noise["last_obs"][0, 1]
    fragment["reward"][~alive] = 0.0
    fragment["alive"] = alive
    return fragment


@pytest.mark.parametrize("expected", [True, False])
def test_rows_of_agents_that_are_gone_are_not_learned_from(expected):
    weights, logs = [], []
    for garbage in (101, 102):
        agent = make_agent(make_spec(agents=2), 1, expected=expected, td_lambda=0.9, batch_size=4)
        logs.append([agent.update(fragment_with_the_dead(seed, garbage)) for seed in range(2)])
        weights.append(agent.flat.detach())
    assert torch.equal(*weights)
    assert logs[0] == logs[1]


def test_a_batch_holds_the_living_rows_once_each():
    agent = make_agent(make_spec(agents=2), 1)
    batches = spy_on_batches(agent)
    fragment = fragment_with_the_dead(0, 101)
    agent.update(fragment)
    assert sorted(batches[0]["obs"].tolist()) == sorted(fragment["obs"][fragment["alive"]].tolist())


def test_a_fragment_of_dead_rows_alone_teaches_nothing():
    agent = make_agent()
    before = agent.flat.detach().clone()
    assert agent.update(make_fragment(steps=1) | {"alive": np.zeros((1, 2, 1), bool)}) == {}
    assert torch.equal(agent.flat, before)
    assert agent.updates == 0


def test_epsilon_falls_in_a_line_over_its_share_of_training():
    agent = make_agent(exploration_fraction=0.5, exploration_initial_eps=0.8, exploration_final_eps=0.2)
    found = []
    for agent.env_steps in (0, 25, 50, 100, 200):
        found.append(agent.epsilon)
    assert found == pytest.approx([0.8, 0.5, 0.2, 0.2, 0.2])


def test_a_share_of_epsilon_of_the_actions_is_random_and_the_rest_is_greedy():
    agent = make_agent(exploration_initial_eps=0.4, exploration_final_eps=0.4)
    obs = np.broadcast_to(make_fragment()["obs"][:1, 0], (20_000, 1, 3))
    greedy = agent.choose_action(obs, deterministic=True)["action"]
    assert np.array_equal(greedy, q_of(agent, obs.copy()).argmax(-1))
    differs = (agent.choose_action(obs)["action"] != greedy).mean()
    assert differs == pytest.approx(0.4 * 3 / 4, abs=0.02)  # a random action is the greedy one in a quarter of cases


def test_deterministic_actions_draw_nothing():
    agent = make_agent()
    state = agent.rng.bit_generator.state
    agent.choose_action(make_fragment()["obs"][0], deterministic=True)
    assert agent.rng.bit_generator.state == state


OBSERVATIONS = [
    spaces.Box(-1.0, 1.0, (3,), np.float32),
    spaces.Box(-1.0, 1.0, (2, 2), np.float64),
    spaces.Discrete(3),
    spaces.MultiBinary([2, 2]),
    spaces.Box(0, 255, (10, 10, 1), np.uint8),
    spaces.Dict({"image": spaces.Box(0, 255, (8, 8, 3), np.uint8), "more": spaces.Tuple((spaces.Discrete(2),))}),
]


@pytest.mark.parametrize("end_rate", [0.0, 0.3])
@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_it_acts_on_and_learns_from_every_kind_of_observation(observation, end_rate):
    agent = make_agent(make_spec(observation, spaces.Discrete(4), agents=2))
    obs = random_obs(observation, (5, 2), np.random.default_rng(0))
    actions = [agent.choose_action(obs, deterministic)["action"] for deterministic in (False, True)]
    assert {(action.shape, action.dtype.str) for action in actions} == {((5, 2), "<i8")}
    logs = agent.update(make_fragment(agent.spec, end_rate=end_rate))
    assert agent.updates == 1
    assert all(np.isfinite(value) for value in logs.values())


def test_acting_follows_weights_that_are_taken_in():
    agent, replica = make_agent(seed=0), make_agent(seed=1)
    replica.move_to("cpu")  # gives the parameters other memory
    obs = make_fragment(steps=40)["obs"][:, 0]
    assert not np.array_equal(agent.choose_action(obs, True)["action"], replica.choose_action(obs, True)["action"])
    replica._update_model(agent.weights())
    assert np.array_equal(agent.choose_action(obs, True)["action"], replica.choose_action(obs, True)["action"])


def test_a_restored_learner_goes_on_bit_for_bit():
    config = {"n_epochs": 2, "batch_size": 3, "td_lambda": 0.7, "learning_rate_decay": "linear"}
    agent, restored = make_agent(**config), make_agent(seed=1, **config)
    agent.update(make_fragment(end_rate=0.1))
    restored.policy.load_state_dict(agent.policy.state_dict())
    restored.load_learner_state(copy.deepcopy(agent.learner_state()))
    restored.rng.bit_generator.state = agent.rng.bit_generator.state
    restored.updates = agent.updates
    for each in (agent, restored):
        each.env_steps = 50
        each.update(make_fragment(seed=1, end_rate=0.1))
    assert agent.updates == restored.updates == 16
    assert torch.equal(agent.flat, restored.flat)


@pytest.mark.parametrize(("sync", "runners", "envs"), [(True, 1, 1), (False, 2, 8)])
def test_a_fragment_has_n_steps_of_each_env(sync, runners, envs):
    assert SARSA.steps_per_fragment(SARSAConfig(n_steps=7), sync, runners, envs) == 7


def test_an_env_it_cannot_act_in_is_refused_with_one_that_can():
    with pytest.raises(InputError, match=r"sarsa cannot act in Box.*needs a Discrete action space. ppo does Box"):
        SARSA(spec=make_spec(action=spaces.Box(-1, 1, (1,), np.float32)), config=SARSAConfig())
