"""DQN: its loss against numbers computed by hand, its switches, its pace, and what replay hands it."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from tests.fragments import make_fragment, make_spec, random_obs
from wiserl.agent.dqn import DQN, DQNConfig, categorical_loss, td_loss
from wiserl.core.config import make_config, to_plain
from wiserl.experiment.options import resolve
from wiserl.replay.prioritized import PrioritizedReplay
from wiserl.util.errors import InputError


class Table(torch.nn.Module):
    """Q-values that are the observation itself, times a weight, in reverse order for a target."""

    def __init__(self, flip: bool = False) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.flip = flip

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.weight * (obs.flip(1) if self.flip else obs)


def batch(**changes: Any) -> dict[str, Any]:
    """Q-values taken: 1, 4 and 1. Next: 7 (double: 5), terminal, 1.5 (double: 1)."""
    return {
        "obs": torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 9.0]]),
        "action": torch.tensor([0, 1, 0]),
        "reward": torch.tensor([1.0, 1.0, 0.75]),
        "next_obs": torch.tensor([[5.0, 7.0], [1.0, 9.0], [1.0, 1.5]]),
        "terminated": torch.tensor([False, True, False]),
        "discount": torch.tensor([0.5, 0.25, 0.5]),
        **changes,
    }


def hand_loss(batch: dict[str, Any], **switches: bool) -> list[Any]:
    total, errors, values = td_loss(Table(), Table(flip=True), batch, DQNConfig(**switches))
    assert values.tolist() == [1.0, 4.0, 1.0]
    return [total.item(), (values + errors).tolist()]


def test_the_loss_is_the_huber_of_the_temporal_difference_computed_by_hand():
    # Errors -3.5, 3 and -0.5: 3.5 - 0.5, 3 - 0.5 and 0.5 * 0.25.
    total, goal = hand_loss(batch())
    assert goal == [1 + 0.5 * 7, 1.0, 0.75 + 0.5 * 1.5]
    assert total == pytest.approx((3.0 + 2.5 + 0.125) / 3)


def test_double_takes_the_online_networks_choice_at_the_targets_value():
    total, goal = hand_loss(batch(), double=True)
    assert goal == [1 + 0.5 * 5, 1.0, 0.75 + 0.5 * 1.0]
    assert total == pytest.approx((2.0 + 2.5 + 0.5 * 0.25**2) / 3)


def test_an_n_step_window_bootstraps_with_its_own_discount():
    _, goal = hand_loss(batch(discount=torch.tensor([0.9**5, 0.9, 0.9**2])))
    assert goal == pytest.approx([1 + 0.9**5 * 7, 1.0, 0.75 + 0.9**2 * 1.5])


def test_importance_weights_scale_each_row():
    total, _ = hand_loss(batch(weight=torch.tensor([1.0, 0.5, 0.0])))
    assert total == pytest.approx((3.0 + 0.5 * 2.5) / 3)


@pytest.mark.parametrize("double", [False, True])
def test_no_gradient_flows_into_what_is_aimed_at(double):
    network, target, rows = Table(), Table(flip=True), batch()
    rows["next_obs"].requires_grad_()
    total, errors, values = td_loss(network, target, rows, DQNConfig(double=double))
    total.backward()
    assert target.weight.grad is None
    assert rows["next_obs"].grad is None
    assert not errors.requires_grad
    assert not values.requires_grad
    # Huber's slope is the sign of errors beyond 1: -1 * 1 (Q taken), 1 * 4, and the error itself below.
    assert network.weight.grad.item() == pytest.approx((-1.0 + 4.0 + (-0.25 if double else -0.5)) / 3)


class Logits(Table):
    """Three logits of each of two actions that are the observation itself, as `Table`. Returns are 0, 1 or 2."""

    support = torch.tensor([0.0, 1.0, 2.0])
    outputs = Table.forward

    def values(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs.softmax(-1) @ self.support


def distributions() -> dict[str, Any]:
    """Two rows, both of action 0 with (1/2, 1/4, 1/4). The second is terminal, with a reward of 1.

    Next: action 0 has a mean of 1 and action 1 of 3/4, and the other way round by the target.
    """
    middle, low = [0.25, 0.5, 0.25], [0.5, 0.25, 0.25]
    return {
        "obs": torch.tensor([[low, middle]] * 2).log(),
        "action": torch.tensor([0, 0]),
        "reward": torch.tensor([0.5, 1.0]),
        "next_obs": torch.tensor([[middle, low]] * 2).log(),
        "terminated": torch.tensor([False, True]),
        "discount": torch.tensor([0.5, 0.5]),
    }


def entropy(*probabilities: float) -> float:
    return -sum(p * math.log(p) for p in probabilities)


@pytest.mark.parametrize(
    ("double", "goal"),
    [
        (False, (0.125, 0.75, 0.125)),  # (1/4, 1/2, 1/4), by the target the better, moved to (0.5, 1, 1.5)
        (True, (0.25, 0.625, 0.125)),  # (1/2, 1/4, 1/4), the target's of the action that the network prefers
    ],
)
def test_the_categorical_loss_is_the_cross_entropy_and_its_priority_the_divergence_computed_by_hand(double, goal):
    total, divergence, values = categorical_loss(Logits(), Logits(flip=True), distributions(), DQNConfig(double=double))
    crossed = [goal[0] * math.log(2) + (goal[1] + goal[2]) * math.log(4), math.log(4)]
    assert total.item() == pytest.approx(sum(crossed) / 2)
    assert divergence.tolist() == pytest.approx([crossed[0] - entropy(*goal), crossed[1]])
    assert values.tolist() == pytest.approx([0.75, 0.75])


def test_the_categorical_loss_is_weighted_and_its_gradient_stays_out_of_what_is_aimed_at():
    network, target, rows = Logits(), Logits(flip=True), distributions() | {"weight": torch.tensor([0.0, 0.5])}
    rows["next_obs"].requires_grad_()
    found = categorical_loss(network, target, rows, DQNConfig(double=True))
    found[0].backward()
    assert found[0].item() == pytest.approx(0.5 * math.log(4) / 2)
    assert target.weight.grad is None
    assert rows["next_obs"].grad is None
    assert [value.requires_grad for value in found] == [True, False, False]
    # Softmax minus goal, (1/2, -3/4, 1/4), times the logits.
    slope = 0.5 * math.log(0.5) + (0.25 - 0.75) * math.log(0.25)
    assert network.weight.grad.item() == pytest.approx(0.5 * slope / 2)


def test_a_perfect_distribution_has_no_divergence():
    rows = distributions() | {"reward": torch.zeros(2), "discount": torch.ones(2), "terminated": torch.zeros(2).bool()}
    rows["next_obs"] = rows["obs"].flip(1)
    rows["next_obs"][:, 0] = -9.0  # what the target makes action 1 of
    rows["next_obs"][:, 0, 0] = 9.0
    _, divergence, _ = categorical_loss(Logits(), Logits(flip=True), rows, DQNConfig())
    assert divergence.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


def test_rainbow_sets_all_its_parts_that_are_not_given():
    parts = ("double", "dueling", "prioritized", "categorical", "noisy", "n_step")
    assert [getattr(DQNConfig(), name) for name in parts] == [False] * 5 + [1]
    config = DQNConfig(rainbow=True)
    assert [getattr(config, name) for name in parts] == [True] * 5 + [3]
    part = DQNConfig(rainbow=True, noisy=False, n_step=1, double=True)
    assert (part.noisy, part.n_step, part.double, part.categorical) == (False, 1, True, True)
    assert DQNConfig(rainbow=True, n_step=5).n_step == 5
    assert DQNConfig(rainbow=False) == DQNConfig()


def test_a_config_of_your_own_can_be_rainbow_unless_told_otherwise():
    @dataclasses.dataclass(frozen=True)
    class Mine(DQNConfig):
        rainbow: bool = True

    assert (Mine().n_step, Mine().noisy, Mine(n_step=1).n_step, Mine(rainbow=False).n_step) == (3, True, 1, 1)


def test_rainbow_keeps_what_a_preset_or_the_user_says():
    _, config = resolve("dqn", "CartPole-v1", {"rainbow": "true", "noisy": "false"})
    assert (config.n_step, config.noisy, config.dueling, config.categorical) == (10, False, True, True)
    _, config = resolve("dqn", "CartPole-v1", {"rainbow": "true", "n_step": "1"})
    assert config.n_step == 1


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda config: pickle.loads(pickle.dumps(config)), dataclasses.replace]
)
def test_a_rainbow_is_the_same_after_a_journey(again):
    config = DQNConfig(rainbow=True, dueling=False)
    for _ in range(2):
        config = again(config)
        assert config == DQNConfig(rainbow=True, dueling=False)
        assert make_config(DQNConfig, to_plain(config), "dqn") == config
        assert set(to_plain(config)) == {field.name for field in dataclasses.fields(DQNConfig)}


def test_an_empty_support_is_refused():
    with pytest.raises(InputError, match=r"v_min=1.0 and v_max=1.0 are not valid: v_max must be above v_min"):
        DQNConfig(v_min=1.0, v_max=1.0)


def make_agent(spec: Any = None, streams: int = 2, total_steps: int = 1000, seed: int = 0, **config: Any) -> DQN:
    config = {
        "learning_starts": 0,
        "train_freq": 1,
        "buffer_size": 1000,
        "hidden_sizes": (8,),
        "batch_size": 16,
    } | config
    agent = DQN(
        spec=spec or make_spec(), config=DQNConfig(**config), num_streams=streams, total_steps=total_steps, seed=seed
    )
    agent.start_learning()
    return agent


def feed(agent: DQN, steps: int = 5, **options: Any) -> dict[str, float]:
    fragment = make_fragment(agent.spec, steps, agent.num_streams, **options)
    agent.env_steps += steps * agent.num_streams
    return agent.update(fragment)


def test_dueling_streams_add_up_to_value_plus_centred_advantage():
    agent = make_agent(dueling=True)
    obs = torch.randn(5, 3)
    features = agent.policy.encoder(obs)
    q, advantage = agent.policy(obs), agent.policy.advantage(features)
    torch.testing.assert_close(q.mean(1), agent.policy.value(features).squeeze(1))
    torch.testing.assert_close(q - q.mean(1, keepdim=True), advantage - advantage.mean(1, keepdim=True))


def test_dueling_streams_of_distributions_add_up_atom_by_atom():
    agent = make_agent(dueling=True, categorical=True, num_atoms=7)
    obs = torch.randn(5, 3)
    features, outputs = agent.policy.encoder(obs), agent.policy.outputs(obs)
    assert outputs.shape == (5, 4, 7)
    torch.testing.assert_close(outputs.mean(1), agent.policy.value(features))
    advantage = agent.policy.advantage(features).view(5, 4, 7)
    torch.testing.assert_close(
        outputs - outputs.mean(1, keepdim=True), advantage - advantage.mean(1, keepdim=True), rtol=1e-4, atol=1e-5
    )


def test_categorical_values_are_means_over_evenly_spaced_atoms_that_are_in_no_checkpoint():
    agent = make_agent(categorical=True, num_atoms=3, v_min=-1.0, v_max=3.0)
    assert agent.policy.support.tolist() == [-1.0, 1.0, 3.0]
    logits = torch.tensor([[[0.5, 0.25, 0.25]] * 4]).log()
    assert agent.policy.values(logits).tolist() == [pytest.approx([0.5] * 4)]
    assert "support" not in agent.policy.state_dict()


def test_noisy_weights_explore_instead_of_epsilon():
    agent = make_agent(noisy=True, learning_starts=100)
    obs = np.broadcast_to(make_fragment()["obs"][:1, 0], (50, 1, 3))
    found = []
    for agent.env_steps in (0, 99, 100, 1000):
        found.append(agent.epsilon)
    assert found == [1.0, 1.0, 0.0, 0.0]
    draws = []
    for _ in range(50):
        actions = agent.choose_action(obs)["action"]
        assert len(set(actions.ravel())) == 1  # one draw of the weights for all rows
        draws.append(actions[0, 0])
    assert len(set(draws)) > 1


def test_deterministic_actions_of_noisy_weights_are_those_of_their_means():
    agent = make_agent(noisy=True, sigma0=5.0)
    obs = make_fragment(steps=50)["obs"][:, 0]
    policy = agent.policy
    means = copy.deepcopy(policy)
    with torch.no_grad():
        for layer in (*means.encoder.mlp.layers, means.advantage):
            layer.weight_scale.zero_()
            layer.bias_scale.zero_()
    expected = means(torch.from_numpy(obs).flatten(0, 1)).argmax(1).numpy()
    state = agent.rng.bit_generator.state
    for _ in range(3):
        assert np.array_equal(agent.choose_action(obs, deterministic=True)["action"].ravel(), expected)
    assert agent.rng.bit_generator.state == state
    assert not np.array_equal(agent.choose_action(obs)["action"].ravel(), expected)


def test_noise_of_actions_is_drawn_from_what_reseed_restarts():
    agent, obs = make_agent(noisy=True), make_fragment(steps=20)["obs"][:, 0]
    found = []
    for seed in (1, 1, 2):
        agent.reseed(seed, "act")
        found.append([agent.choose_action(obs)["action"].ravel().tolist() for _ in range(5)])
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("switches", [{"noisy": True}, {"rainbow": True}], ids=str)
def test_acting_on_the_learner_between_updates_changes_nothing_that_is_learned(switches):
    quiet, busy = make_agent(**switches), make_agent(**switches)
    obs = make_fragment()["obs"][0]
    for seed in range(3):
        busy.choose_action(obs)
        busy.choose_action(obs, deterministic=True)
        for agent in (quiet, busy):
            feed(agent, 10, seed=seed)
    assert quiet.updates == 60
    assert torch.equal(quiet.flat, busy.flat)


def test_each_update_has_noise_of_its_own_for_the_network_and_for_the_target():
    agent = make_agent(noisy=True)
    seen = []

    def spy(network: Any, target: Any, *rest: Any) -> Any:
        seen.append(network.advantage.noise[0].tolist())
        seen.append(target.advantage.noise[0].tolist())
        return td_loss(network, target, *rest)

    agent._loss = spy
    feed(agent, 5)
    assert len(seen) == 20
    assert len({tuple(noise) for noise in seen}) == 20
    assert agent.policy.advantage.noise is agent.network.target.advantage.noise is None


def test_epsilon_is_one_until_learning_starts_then_falls_over_its_share_of_training():
    agent = make_agent(
        learning_starts=100, exploration_fraction=0.5, exploration_initial_eps=0.8, exploration_final_eps=0.2
    )
    found = []
    for agent.env_steps in (0, 99, 100, 250, 500, 1000, 2000):
        found.append(agent.epsilon)
    assert found == pytest.approx([1.0, 1.0, 0.8 - 0.6 * 0.2, 0.5, 0.2, 0.2, 0.2])


OBSERVATIONS = [
    spaces.Box(-1.0, 1.0, (3,), np.float32),
    spaces.Box(-1.0, 1.0, (2, 2), np.float64),
    spaces.Discrete(3),
    spaces.MultiBinary([2, 2]),
    spaces.Box(0, 255, (10, 10, 1), np.uint8),
    spaces.Dict({"image": spaces.Box(0, 255, (8, 8, 3), np.uint8), "more": spaces.Tuple((spaces.Discrete(2),))}),
]


@pytest.mark.parametrize("switches", [{}, {"dueling": True}, {"categorical": True}, {"rainbow": True}], ids=str)
@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_random_mixed_and_greedy_actions_have_one_shape_and_dtype_whatever_the_observation(observation, switches):
    agent = make_agent(make_spec(observation, spaces.Discrete(4), agents=2), **switches, learning_starts=10)
    obs = random_obs(observation, (5, 2), np.random.default_rng(0))
    actions = []
    for agent.env_steps in (0, 50, 1000):
        actions.append(agent.choose_action(obs)["action"])
    actions.append(agent.choose_action(obs, deterministic=True)["action"])
    assert {(action.shape, action.dtype.str) for action in actions} == {((5, 2), "<i8")}
    agent.env_steps = 0
    feed(agent, 10)
    assert agent.updates > 0


def test_deterministic_actions_are_greedy_even_before_learning_starts():
    agent = make_agent(learning_starts=100)
    obs = make_fragment(steps=50)["obs"][:, 0]
    values = agent.policy(torch.from_numpy(obs).flatten(0, 1)).detach().numpy()
    assert np.array_equal(agent.choose_action(obs, deterministic=True)["action"].ravel(), values.argmax(1))


def test_a_share_of_epsilon_of_the_actions_is_random():
    agent = make_agent(exploration_initial_eps=0.4, exploration_final_eps=0.4)
    obs = np.broadcast_to(make_fragment()["obs"][:1, 0], (20_000, 1, 3))
    greedy = agent.choose_action(obs, deterministic=True)["action"]
    differs = (agent.choose_action(obs)["action"] != greedy).mean()
    assert differs == pytest.approx(0.4 * 3 / 4, abs=0.02)  # a random action is the greedy one in a quarter of cases


def test_updates_follow_env_steps_not_calls():
    agent = make_agent(learning_starts=12, train_freq=4, gradient_steps=2)
    logs = [feed(agent, steps) for steps in (5, 1, 2, 20)]  # 10, 12, 16, 56 env steps of two envs
    assert logs[0] == logs[1] == {}
    assert agent.updates == (56 - 12) // 4 * 2
    assert {"losses/td_loss", "losses/q_values", "charts/learning_rate", "charts/epsilon"} == set(logs[3])


@pytest.mark.parametrize(("tau", "mix"), [(1.0, 1.0), (0.25, 0.25)])
def test_the_target_takes_over_its_share_at_each_interval_of_env_steps(tau, mix):
    agent = make_agent(train_freq=2, target_update_interval=10, tau=tau)
    initial = agent.network.target_flat.clone()
    assert torch.equal(initial, agent.flat)
    feed(agent, 4)  # 8 env steps, 4 updates: not yet
    assert agent.updates == 4
    assert torch.equal(agent.network.target_flat, initial)
    feed(agent, 1)  # 10 env steps, the fifth update
    torch.testing.assert_close(agent.network.target_flat, initial.lerp(agent.flat.detach(), mix))
    assert torch.equal(
        agent.network.target_flat[:4], agent.network.target.state_dict()["encoder.mlp.layers.0.weight"].flatten()[:4]
    )


def test_the_target_keeps_to_its_interval_where_updates_do_not_divide_it():
    agent = make_agent(train_freq=4, target_update_interval=10)
    moved, before = [], agent.network.target_flat.clone()
    for env_steps in range(2, 82, 2):
        feed(agent, 1)  # of two envs
        if not torch.equal(agent.network.target_flat, before):
            moved.append(env_steps)
            before = agent.network.target_flat.clone()
    assert moved == [12, 20, 32, 40, 52, 60, 72, 80]


@pytest.mark.parametrize(("decay", "expected"), [("none", 1e-3), ("linear", 0.75e-3)])
def test_the_learning_rate_falls_with_progress_where_that_is_asked_for(decay, expected):
    agent = make_agent(learning_rate=1e-3, learning_rate_decay=decay, total_steps=40)
    assert feed(agent, 5)["charts/learning_rate"] == pytest.approx(expected)


def test_n_step_and_gamma_reach_replay():
    agent = make_agent(n_step=3, gamma=0.5)
    feed(agent, 30)
    discounts = agent.replay.sample(200)["discount"]
    assert set(discounts.tolist()) == {0.5, 0.25, 0.125}
    assert (discounts == 0.125).mean() > 0.8


def test_rows_of_agents_that_are_gone_never_reach_a_batch():
    spec = make_spec(agents=2)
    alive = np.random.default_rng(0).random((20, 2, 2)) < 0.5
    fragment = make_fragment(spec, 20, 2, alive=alive)
    fragment["obs"][~alive] = 777.0
    for prioritized in (False, True):
        agent = make_agent(spec, prioritized=prioritized)
        agent.replay.add(fragment)
        assert len(agent.replay) == alive.sum()
        assert not (agent.replay.sample(500)["obs"] == 777.0).any()


@pytest.mark.parametrize("categorical", [False, True])
def test_priorities_are_the_losses_errors_and_weights_grow_to_full_correction(categorical):
    agent = make_agent(
        prioritized=True, categorical=categorical, prioritized_alpha=1.0, prioritized_beta=0.4, total_steps=100
    )
    replay, seen = agent.replay, []
    assert isinstance(replay, PrioritizedReplay)
    sample, update_priorities = replay.sample, replay.update_priorities

    def spy_sample(size: int, beta: float, batches: int) -> Any:
        seen.append([beta, sample(size, beta, batches)])
        return seen[-1][1]

    def spy_update(index: Any, errors: Any) -> None:
        seen[-1] += [index, errors]
        update_priorities(index, errors)

    replay.sample, replay.update_priorities = spy_sample, spy_update
    before = [copy.deepcopy(agent.policy), copy.deepcopy(agent.network.target)]
    feed(agent, 5, end_rate=0.3)
    assert [entry[0] for entry in seen] == pytest.approx([0.4 + 0.6 * 0.1])  # ten batches in one go
    _, rows, index, errors = seen[0]
    assert np.array_equal(index, rows["index"])
    size = agent.config.batch_size
    assert len(errors) == 10 * size
    first = {name: torch.as_tensor(value[:size]) for name, value in rows.items()}
    _, expected, _ = (categorical_loss if categorical else td_loss)(*before, first, agent.config)
    np.testing.assert_allclose(errors[:size], expected.abs().numpy(), rtol=1e-5)
    assert (errors > 0.0).all()
    feed(agent, 45)
    assert seen[-1][0] == pytest.approx(1.0)


@pytest.mark.parametrize("switches", [{}, {"prioritized": True}, {"noisy": True}, {"rainbow": True}], ids=str)
def test_a_restored_learner_goes_on_bit_for_bit(switches):
    config = {**switches, "n_step": 3, "tau": 0.5, "target_update_interval": 3}
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


@pytest.mark.parametrize("switches", [{}, {"rainbow": True}], ids=str)
def test_acting_follows_weights_that_are_taken_in(switches):
    agent, replica = make_agent(seed=0, **switches), make_agent(seed=1, **switches)
    obs = make_fragment(steps=40)["obs"][:, 0]
    assert not np.array_equal(agent.choose_action(obs, True)["action"], replica.choose_action(obs, True)["action"])
    replica._update_model(agent.weights())
    assert np.array_equal(agent.choose_action(obs, True)["action"], replica.choose_action(obs, True)["action"])


@pytest.mark.parametrize(
    ("sync", "runners", "envs", "expected"),
    [(True, 1, 1, 64), (True, 1, 8, 8), (True, 2, 1, 32), (True, 2, 8, 4), (False, 1, 8, 32), (False, 2, 1, 256)],
)
def test_a_round_has_the_env_steps_asked_for(sync, runners, envs, expected):
    assert DQN.steps_per_fragment(DQNConfig(train_freq=4), sync, runners, envs) == expected
    assert DQN.steps_per_fragment(DQNConfig(train_freq=4, round_steps=1), True, 1, 1) == 4


def test_an_env_it_cannot_act_in_is_refused_with_one_that_can():
    with pytest.raises(InputError, match=r"^dqn cannot act in Box.*needs a Discrete action space. ppo does Box"):
        DQN(spec=make_spec(action=spaces.Box(-1, 1, (1,), np.float32)), config=DQNConfig())
