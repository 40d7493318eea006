"""PPO: its loss against numbers computed by hand, what it learns from, and what it leaves out."""

from __future__ import annotations

import copy
import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from tests.fragments import make_fragment, make_spec, random_obs
from wiserl.agent.ppo import PPO, PPOConfig, loss
from wiserl.core.tree import tree_map
from wiserl.experiment.by_hand import by_hand
from wiserl.net.heads import Categorical
from wiserl.ops.returns import next_values, vtrace
from wiserl.util.errors import InputError

BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)

# Four rows under a policy of two equally likely actions: ratios 2, 2, 1/2, 1/2 and advantages 1, -1, 1, -1.
FIXED = SimpleNamespace(head=Categorical(2), evaluate=lambda batch: (batch["obs"][:, :2], batch["obs"][:, 2]))
BATCH = {
    "obs": torch.tensor([[0.0, 0.0, value] for value in (1.0, 2.0, 3.0, 4.0)]),
    "action": torch.zeros(4, dtype=torch.long),
    "log_prob": torch.tensor([0.25, 0.25, 1.0, 1.0]).log(),
    "advantage": torch.tensor([1.0, -1.0, 1.0, -1.0]),
    "value": torch.tensor([1.0, 1.0, 1.0, 6.0]),
    "target": torch.ones(4),
}
PLAIN = PPOConfig(normalize_advantage=False, clip_range=0.2, vf_coef=0.5, ent_coef=0.1)
# Ratio 2: clipped to 1.2 where the advantage is positive; 1/2: clipped to 0.8 where it is negative.
POLICY_LOSS = -(1.2 - 2.0 + 0.5 - 0.8) / 4


def figures(batch: dict[str, Any] = BATCH, **changes: Any) -> dict[str, float]:
    total, logs = loss(FIXED, batch, dataclasses.replace(PLAIN, **changes))
    names = ("total", "policy", "value", "entropy", "approx_kl", "clipfrac")
    assert logs[0] == total
    return dict(zip(names, logs.tolist(), strict=True))


def test_the_loss_is_the_number_computed_by_hand_with_both_sides_clipped():
    found = figures()
    assert found["policy"] == pytest.approx(POLICY_LOSS)
    assert found["value"] == pytest.approx((0 + 1 + 4 + 9) / 4)
    assert found["entropy"] == pytest.approx(math.log(2))
    assert found["total"] == pytest.approx(POLICY_LOSS + 0.5 * 3.5 - 0.1 * math.log(2))
    assert found["approx_kl"] == pytest.approx(((2 - 1 - math.log(2)) + (0.5 - 1 + math.log(2))) / 2)
    assert found["clipfrac"] == 1.0


def test_a_wider_clip_range_clips_less():
    found = figures(clip_range=0.6)
    assert found["policy"] == pytest.approx(-(1.6 - 2.0 + 0.5 - 0.5) / 4)
    assert found["clipfrac"] == 0.5


def test_values_are_kept_near_the_old_ones_where_that_is_asked_for():
    # Old values 1, 1, 1, 6, new 1, 2, 3, 4: clipped to 1, 1.5, 1.5, 5.5.
    assert figures(clip_range_vf=0.5)["value"] == pytest.approx((0 + 0.25 + 0.25 + 4.5**2) / 4)


def test_weights_are_of_the_surrogate_alone_and_after_the_clip():
    weights = torch.tensor([1.0, 0.5, 0.25, 0.0])
    found = figures(BATCH | {"weight": weights})
    assert found["policy"] == pytest.approx(-(1.2 - 0.5 * 2.0 + 0.25 * 0.5 - 0.0) / 4)
    for name in ("value", "entropy", "approx_kl", "clipfrac"):
        assert found[name] == figures()[name]


@pytest.mark.parametrize("asked", [True, False])
def test_an_update_normalises_advantages_where_it_is_asked_to(asked):
    agent = make_agent(batch_size=5, normalize_advantage=asked)
    batches = spy_on_batches(agent)
    agent.update(act_and_finish(agent, make_fragment(steps=5, envs=2)))
    assert len(batches) == 2
    assert all((abs(float(batch["advantage"].mean())) < 1e-6) == asked for batch in batches)


def test_gradients_are_those_of_the_rows_that_are_not_clipped_and_of_the_value_error():
    batch = {**BATCH, "obs": BATCH["obs"].clone().requires_grad_()}
    loss(FIXED, batch, dataclasses.replace(PLAIN, ent_coef=0.0))[0].backward()
    gradient = batch["obs"].grad
    # d(-A r)/d(logit of the action) = -A r (1 - p), averaged over 4 rows.
    assert gradient[:, 0].tolist() == pytest.approx([0.0, 2 * 0.5 / 4, -0.5 * 0.5 / 4, 0.0])
    assert gradient[:, 2].tolist() == pytest.approx([0.5 * 2 * error / 4 for error in (0, 1, 2, 3)])


def test_the_entropy_bonus_pulls_towards_chance():
    skewed = {**BATCH, "obs": torch.tensor([[1.0, -1.0, 0.0]] * 4, requires_grad=True), "advantage": torch.zeros(4)}
    loss(FIXED, skewed, dataclasses.replace(PLAIN, vf_coef=0.0))[0].backward()
    assert (skewed["obs"].grad[:, 0] > 0).all()
    assert (skewed["obs"].grad[:, 1] < 0).all()


def make_agent(spec: Any = None, streams: int = 2, sync: bool = True, **config: Any) -> PPO:
    config = {"n_epochs": 1, "batch_size": 1000, "hidden_sizes": (8,)} | config
    agent = PPO(sync, spec=spec or make_spec(), config=PPOConfig(**config), num_streams=streams, total_steps=100)
    agent.start_learning()
    return agent


def spy_on_batches(agent: PPO) -> list[dict[str, Any]]:
    batches, original = [], agent.loss

    def spy(policy: Any, batch: dict[str, Any], config: PPOConfig, log: bool) -> Any:
        batches.append(batch)
        return original(policy, batch, config, log)

    agent.loss = spy
    return batches


def act_and_finish(agent: PPO, fragment: dict[str, Any]) -> dict[str, Any]:
    """The fragment as a runner would have made it with this agent's policy."""
    steps = [
        agent.choose_action(tree_map(lambda leaf, t=t: leaf[t], fragment["obs"]))
        for t in range(len(fragment["reward"]))
    ]
    fragment = fragment | {name: np.stack([step[name] for step in steps]) for name in steps[0]}
    agent.finish_fragment(fragment)
    return fragment


ACTIONS = [
    spaces.Discrete(4, start=-2),
    spaces.MultiDiscrete([3, 2]),
    spaces.MultiDiscrete([[3, 2], [2, 2]]),
    spaces.MultiBinary(3),
    spaces.MultiBinary([2, 2]),
    BOX,
    spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
]
OBSERVATIONS = [
    BOX,
    spaces.Box(-1.0, 1.0, (2, 2), np.float64),
    spaces.Discrete(3),
    spaces.MultiBinary(3),
    spaces.Box(0, 255, (10, 10, 1), np.uint8),
    spaces.Dict({"image": spaces.Box(0, 255, (8, 8, 3), np.uint8), "pair": spaces.Tuple((BOX, spaces.Discrete(2)))}),
]


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    "spec",
    [make_spec(BOX, action, 2) for action in ACTIONS] + [make_spec(obs, spaces.Discrete(2), 2) for obs in OBSERVATIONS],
)
def test_what_acted_is_what_learns(spec, normalize):
    """Before the first update the ratio is 1 in every row: acting and learning mean the same by an action."""
    agent = make_agent(spec, normalize_observation=normalize)
    fragment = act_and_finish(agent, make_fragment(spec, end_rate=0.2))
    assert "outputs" not in fragment
    for seed in range(3):  # the first with statistics of nothing, the others with those of all rounds before
        logs = agent.update(act_and_finish(agent, make_fragment(spec, seed=seed, end_rate=0.2)))
        assert logs["losses/approx_kl"] == pytest.approx(0.0, abs=1e-6)
        assert logs["losses/clipfrac"] == 0.0
        assert all(math.isfinite(value) for value in logs.values())


@pytest.mark.parametrize("shift", [0.0, 50.0])
def test_ratios_are_1_before_an_updates_first_step_whatever_the_normaliser_sees(shift):
    agent = make_agent(make_spec(BOX, BOX), normalize_observation=True, batch_size=5, n_epochs=2, learning_rate=1e-2)
    ratios: list[torch.Tensor] = []

    def spy(policy: Any, batch: Any, config: Any, log: bool) -> Any:
        log_prob = policy.head.log_prob(policy.outputs(batch["obs"]), batch["action"])
        ratios.append((log_prob - batch["log_prob"]).exp().detach())
        return loss(policy, batch, config, log)

    agent.loss = spy
    for seed in range(4):
        fragment = make_fragment(make_spec(BOX, BOX), seed=seed)
        fragment["obs"] = fragment["obs"] * np.float32(seed + 1) + np.float32(seed * shift)
        ratios.clear()
        agent.update(act_and_finish(agent, fragment))
        torch.testing.assert_close(ratios[0], torch.ones(5), rtol=0, atol=1e-5)
        assert len(ratios) == 4


def test_the_normaliser_has_seen_every_living_row_once_after_an_update():
    agent = make_agent(make_spec(agents=2), 1, normalize_observation=True)
    seen = []
    for seed in range(2):
        fragment = fragment_with_the_dead(seed, 101)
        fragment["log_prob"] = np.zeros((6, 1, 2), np.float32)
        agent.update(fragment)
        seen.append(fragment["obs"][fragment["alive"]])
    np.testing.assert_allclose(agent.policy.normalizer.mean, np.concatenate(seen).mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(agent.policy.normalizer.var, np.concatenate(seen).var(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("action", ACTIONS)
def test_deterministic_actions_are_the_mode_and_have_the_same_shape_and_dtype(action):
    agent = make_agent(make_spec(BOX, action, 2))
    obs = random_obs(BOX, (3, 2), np.random.default_rng(0))
    sampled, likeliest = (agent.choose_action(obs, deterministic)["action"] for deterministic in (False, True))
    assert (sampled.shape, sampled.dtype) == (likeliest.shape, likeliest.dtype)
    assert np.array_equal(likeliest, agent.choose_action(obs, True)["action"])


@pytest.mark.parametrize("activation", ["tanh", "relu", "elu"])
@pytest.mark.parametrize("hidden", [(), (8,), (8, 6)])
def test_acting_gives_the_outputs_of_the_network_and_follows_its_updates(activation, hidden):
    agent = make_agent(make_spec(agents=2), activation=activation, hidden_sizes=hidden)
    fragment = act_and_finish(agent, make_fragment(make_spec(agents=2)))
    for _ in range(2):
        obs = fragment["obs"][0]
        expected = agent.policy.outputs(torch.from_numpy(obs).flatten(0, 1)).detach().numpy().reshape(2, 2, 4)
        np.testing.assert_allclose(agent.choose_action(obs)["outputs"], expected, rtol=1e-5, atol=1e-6)
        agent.update(fragment)
    twin = make_agent(make_spec(agents=2), activation=activation, hidden_sizes=hidden)
    twin._update_model(agent.weights())
    assert np.array_equal(twin.choose_action(obs)["outputs"], agent.choose_action(obs)["outputs"])


def test_advantages_bootstrap_from_the_true_final_observation_where_truncated_and_not_where_terminated():
    agent = make_agent(gamma=0.5, gae_lambda=0.5, normalize_advantage=False)
    fragment = act_and_finish(agent, make_fragment(steps=3, ends={(0, 0, 0): "truncated", (1, 1, 0): "terminated"}))

    def value(rows: np.ndarray) -> np.ndarray:
        return agent.policy.value(torch.from_numpy(rows).flatten(0, -2)).detach().numpy().reshape(rows.shape[:-1])

    v, last, final = (
        value(fragment["obs"])[:, :, 0],
        value(fragment["last_obs"])[:, 0],
        value(fragment["final_obs"])[:, 0],
    )
    r = fragment["reward"][:, :, 0]
    a = np.zeros((3, 2))
    a[2] = r[2] + 0.5 * last - v[2]
    a[1, 0] = r[1, 0] + 0.5 * v[2, 0] - v[1, 0] + 0.25 * a[2, 0]
    a[1, 1] = r[1, 1] - v[1, 1]
    a[0, 0] = r[0, 0] + 0.5 * final[0] - v[0, 0]
    a[0, 1] = r[0, 1] + 0.5 * v[1, 1] - v[0, 1] + 0.25 * a[1, 1]
    batches = spy_on_batches(agent)
    agent.update(fragment)
    found = dict(zip(map(tuple, batches[0]["obs"].tolist()), batches[0]["advantage"].tolist(), strict=True))
    targets = dict(zip(map(tuple, batches[0]["obs"].tolist()), batches[0]["target"].tolist(), strict=True))
    for t, e in np.ndindex(3, 2):
        row = tuple(fragment["obs"][t, e, 0].tolist())
        assert found[row] == pytest.approx(a[t, e], abs=1e-5)
        assert targets[row] == pytest.approx(a[t, e] + v[t, e], abs=1e-5)


# ---- async mode: another policy may have acted ----


def an_older_fragment(agent: PPO, spec: Any = None, **options: Any) -> dict[str, Any]:
    """A fragment of a policy that is some way off the agent's."""
    older = make_agent(spec)
    older._update_model(agent.weights())
    with torch.no_grad():
        older.policy.actor.weight.add_(torch.randn(older.policy.actor.weight.shape, generator=GENERATOR))
    return act_and_finish(older, make_fragment(spec, **options))


GENERATOR = torch.Generator().manual_seed(4)


@pytest.mark.parametrize("config", [{}, {"normalize_observation": True, "normalize_reward": True}], ids=str)
def test_without_lag_an_async_update_is_that_of_sync_mode_but_for_rounding(config):
    agents = [make_agent(sync=sync, batch_size=8, n_epochs=3, **config) for sync in (True, False)]
    for seed in range(3):
        fragment = act_and_finish(agents[0], make_fragment(steps=12, seed=seed, end_rate=0.1))
        agents[1].rng.bit_generator.state = agents[0].rng.bit_generator.state  # which acting has drawn from
        logs = [agent.update(dict(fragment)) for agent in agents]
        torch.testing.assert_close(agents[1].flat, agents[0].flat, rtol=1e-4, atol=1e-5)
    assert logs[1].pop("losses/behaviour_ratio") == pytest.approx(1.0, abs=1e-5)
    assert logs[0] == pytest.approx(logs[1], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("spec", [make_spec(), make_spec(BOX, BOX)])
def test_an_async_update_is_clipped_around_the_policy_that_it_begins_with_and_weighted_by_the_truncated_ratio(spec):
    agent = make_agent(spec, sync=False, normalize_advantage=False)
    fragment = an_older_fragment(agent, spec, steps=20)
    obs, action = (torch.from_numpy(fragment[name]).flatten(0, 2) for name in ("obs", "action"))
    now = agent.policy.head.log_prob(agent.policy.outputs(obs), action).detach()
    ratio = (now - torch.from_numpy(fragment["log_prob"]).flatten()).exp()
    assert ratio.min() < 0.9
    assert ratio.max() > 1.1
    batches = spy_on_batches(agent)
    logs = agent.update(dict(fragment))
    by_row = {tuple(row): index for index, row in enumerate(obs.tolist())}
    order = [by_row[tuple(row)] for row in batches[0]["obs"].tolist()]
    torch.testing.assert_close(batches[0]["log_prob"], now[order])
    torch.testing.assert_close(batches[0]["weight"], ratio.clamp(max=1.0)[order])
    assert logs["losses/approx_kl"] == pytest.approx(0.0, abs=1e-6)
    assert logs["losses/clipfrac"] == 0.0
    assert logs["losses/behaviour_ratio"] == pytest.approx(ratio.clamp(max=1.0).mean().item(), rel=1e-5)


def test_advantages_and_value_targets_of_an_async_update_are_those_of_vtrace():
    agent = make_agent(sync=False, gamma=0.9, gae_lambda=0.8, normalize_advantage=False)
    ends = {(3, 0, 0): "truncated", (5, 1, 0): "terminated"}
    fragment = an_older_fragment(agent, steps=9, ends=ends)

    def value(rows: np.ndarray) -> np.ndarray:
        return agent.policy.value(torch.from_numpy(rows).flatten(0, -2)).detach().numpy().reshape(rows.shape[:-1])

    v, last, final = (value(fragment[name]) for name in ("obs", "last_obs", "final_obs"))
    following = next_values(fragment, v, last, final)
    obs, action = (torch.from_numpy(fragment[name]).flatten(0, 2) for name in ("obs", "action"))
    now = agent.policy.head.log_prob(agent.policy.outputs(obs), action).detach().numpy().reshape(9, 2, 1)
    flags = fragment["terminated"], fragment["truncated"]
    expected = vtrace(fragment["reward"], v, following, *flags, np.exp(now - fragment["log_prob"]), 0.9, 0.8)
    batches = spy_on_batches(agent)
    agent.update(dict(fragment))
    for name, array in zip(("advantage", "target"), expected, strict=True):
        found = dict(zip(map(tuple, batches[0]["obs"].tolist()), batches[0][name].tolist(), strict=True))
        assert found == pytest.approx(
            dict(zip(map(tuple, obs.tolist()), array.ravel().tolist(), strict=True)), abs=1e-5
        )


def test_async_rows_of_agents_that_are_gone_are_not_learned_from():
    weights = []
    for garbage, log_prob in ((101, 1e6), (102, -np.inf)):
        agent = make_agent(make_spec(agents=2), 1, sync=False, normalize_observation=True, batch_size=4)
        fragment = fragment_with_the_dead(0, garbage)
        fragment["log_prob"] = np.where(fragment["alive"], np.float32(-1.0), np.float32(log_prob))
        logs = agent.update(fragment)
        assert all(math.isfinite(value) for value in logs.values())
        weights.append(agent.flat.detach().clone())
    assert torch.equal(*weights)


def fragment_with_the_dead(seed: int, garbage: int) -> dict[str, Any]:
    """Two agents over six steps: one ends at step 2 and is gone, the other joins at step 1. Dead rows hold garbage."""
    spec = make_spec(agents=2)
    fragment = make_fragment(spec, 6, 1, seed, ends={(2, 0, 0): "terminated"})
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


def test_rows_of_agents_that_are_gone_are_not_learned_from():
    weights, logs = [], []
    for garbage in (101, 102):
        agent = make_agent(make_spec(agents=2), 1, normalize_observation=True, normalize_reward=True, batch_size=4)
        for seed in range(2):
            fragment = fragment_with_the_dead(seed, garbage)
            fragment["log_prob"] = np.where(fragment["alive"], np.float32(-1.0), np.float32(garbage))
            logs.append(agent.update(fragment))
        weights.append(agent.policy.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
    assert logs[0] == logs[2]
    assert logs[1] == logs[3]


def test_a_batch_holds_the_living_rows_once_each():
    agent = make_agent(make_spec(agents=2), 1)
    batches = spy_on_batches(agent)
    fragment = fragment_with_the_dead(0, 101)
    fragment["log_prob"] = np.zeros((6, 1, 2), np.float32)
    agent.update(fragment)
    assert sorted(batches[0]["obs"].tolist()) == sorted(fragment["obs"][fragment["alive"]].tolist())


def test_a_fragment_of_dead_rows_alone_teaches_nothing():
    agent = make_agent(streams=2)
    fragment = act_and_finish(agent, make_fragment(steps=1)) | {"alive": np.zeros((1, 2, 1), bool)}
    before = agent.flat.detach().clone()
    assert agent.update(fragment) == {}
    assert torch.equal(agent.flat, before)
    assert agent.updates == 0


def test_every_epoch_uses_every_row_once_in_minibatches_of_the_size_asked_for():
    agent = make_agent(n_epochs=3, batch_size=4)
    batches = spy_on_batches(agent)
    fragment = act_and_finish(agent, make_fragment(steps=5, envs=2))
    agent.update(fragment)
    assert [len(batch["advantage"]) for batch in batches] == [4, 4, 2] * 3
    assert agent.updates == 9
    rows = sorted(fragment["obs"].reshape(-1, 3).tolist())
    orders = []
    for epoch in range(3):
        used = [row for batch in batches[3 * epoch : 3 * epoch + 3] for row in batch["obs"].tolist()]
        assert sorted(used) == rows
        orders.append(used)
    assert orders[0] != orders[1]


def test_epochs_stop_where_the_policy_moved_too_far():
    agent = make_agent(n_epochs=5, batch_size=5, target_kl=0.1)
    kls = iter([0.0, 0.149, 0.151, 0.0])

    def fake(policy: Any, batch: Any, config: Any, log: bool) -> Any:
        assert log
        return policy.value(batch["obs"]).sum(), torch.tensor([0, 0, 0, 0, next(kls), 0])

    agent.loss = fake
    agent.update(act_and_finish(agent, make_fragment(steps=5, envs=2)))
    assert agent.updates == 2


@pytest.mark.parametrize("ent_coef", [0.0, 0.3])
def test_figures_are_those_of_the_last_epoch_and_the_loss_is_the_same_without_them(ent_coef):
    agent = make_agent(n_epochs=3, batch_size=5, ent_coef=ent_coef)
    seen, original = [], agent.loss

    def spy(policy: Any, batch: Any, config: Any, log: bool) -> Any:
        (with_figures, _), (without, none) = (
            original(policy, batch, config, True),
            original(policy, batch, config, False),
        )
        assert none is None
        assert torch.equal(with_figures, without)
        seen.append((log, with_figures.item()))
        return original(policy, batch, config, log)

    agent.loss = spy
    logs = agent.update(act_and_finish(agent, make_fragment(steps=5, envs=2)))
    assert [log for log, _ in seen] == [False] * 4 + [True] * 2
    assert logs["losses/loss"] == pytest.approx(np.mean([value for log, value in seen if log]), rel=1e-5)


@pytest.mark.parametrize(("decay", "expected"), [("none", 1e-3), ("linear", 0.75e-3)])
def test_the_learning_rate_falls_with_progress_where_that_is_asked_for(decay, expected):
    agent = make_agent(learning_rate=1e-3, learning_rate_decay=decay)
    agent.env_steps = 25
    logs = agent.update(act_and_finish(agent, make_fragment()))
    assert logs["charts/learning_rate"] == pytest.approx(expected)
    assert agent.optimizer.learning_rate == pytest.approx(expected)


def test_the_explained_variance_is_one_minus_that_of_the_error():
    agent = make_agent(gae_lambda=1.0)
    batches = spy_on_batches(agent)
    logs = agent.update(act_and_finish(agent, make_fragment(steps=20)))
    target, value = batches[0]["target"].numpy(), batches[0]["value"].numpy()
    assert logs["losses/explained_variance"] == pytest.approx(1 - np.var(target - value) / np.var(target), rel=1e-4)


def test_normalised_rewards_are_what_advantages_are_made_from():
    plain, scaled = make_agent(gae_lambda=1.0), make_agent(gae_lambda=1.0, normalize_reward=True)
    fragment = act_and_finish(plain, make_fragment(steps=50))
    fragment["reward"] = fragment["reward"] * 1000
    sizes = []
    for agent in (plain, scaled):
        batches = spy_on_batches(agent)
        agent.update(dict(fragment))
        sizes.append(float(batches[0]["target"].abs().max()))
    assert sizes[0] > 1000
    assert sizes[1] < 50


def test_one_fragment_is_one_rounds_steps():
    config = PPOConfig(n_steps=7)
    assert PPO.steps_per_fragment(config, True, 2, 8) == PPO.steps_per_fragment(config, False, 1, 1) == 7


def test_an_image_has_one_cnn_for_policy_and_value_and_a_vector_has_networks_apart():
    image = make_agent(make_spec(spaces.Box(0, 255, (10, 10, 1), np.uint8)))
    assert image.policy.actor_encoder is image.policy.critic_encoder
    vector = make_agent()
    assert vector.policy.actor_encoder is not vector.policy.critic_encoder


def test_initial_policies_are_near_chance_and_seeded():
    first, twin, other = (PPO(spec=make_spec(), config=PPOConfig(), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.flat, twin.flat)
    assert not torch.equal(first.flat, other.flat)
    assert np.abs(first.choose_action(make_fragment()["obs"][0])["outputs"]).max() < 0.1


@pytest.mark.parametrize("ortho_init", [False, True])
def test_policy_and_value_networks_begin_with_weights_of_their_own(ortho_init):
    policy = make_agent(ortho_init=ortho_init).policy
    for actors, critics in zip(policy.actor_encoder.parameters(), policy.critic_encoder.parameters(), strict=True):
        assert not torch.equal(actors, critics) or not actors.any()  # biases may be 0 in both


def test_building_an_agent_leaves_torchs_own_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    make_agent()
    assert torch.equal(torch.rand(1), expected)


def test_a_restored_learner_goes_on_bit_for_bit():
    config = {"normalize_observation": True, "normalize_reward": True, "batch_size": 4, "n_epochs": 2}
    agent, restored = make_agent(**config), make_agent(**config)
    parts = [act_and_finish(agent, make_fragment(seed=seed, end_rate=0.1)) for seed in range(2)]
    agent.update(dict(parts[0]))
    restored.policy.load_state_dict(agent.policy.state_dict())
    restored.load_learner_state(copy.deepcopy(agent.learner_state()))
    restored.rng.bit_generator.state = agent.rng.bit_generator.state
    for each in (agent, restored):
        each.update(dict(parts[1]))
    assert torch.equal(agent.flat, restored.flat)


def test_an_env_it_cannot_act_in_is_refused():
    with pytest.raises(InputError, match="ppo cannot act in Box"):
        PPO(spec=make_spec(action=spaces.Box(0, 5, (1,), np.int64)), config=PPOConfig())


# ---- what a class derived from it changes ----

SMALL = {"n_steps": 8, "envs": 2, "total_steps": 32, "hidden_sizes": (8,), "batch_size": 8, "n_epochs": 1}
REMEMBERS = {"net": "rnn", "memory_units": 4}


def derived(method: str, change: Any) -> type[PPO]:
    """PPO whose networks have `change(method of theirs)` in place of a method."""

    class Derived(PPO):
        def _build(self) -> Any:
            networks = super()._build()
            setattr(networks, method, change(getattr(networks, method)))
            return networks

    return Derived


def shifted(method: Any) -> Any:
    return lambda *given: method(*given) + torch.tensor([1.0, -1.0])


def shifted_step(method: Any) -> Any:
    def step(*given: Any) -> Any:
        outputs, memory = method(*given)
        return outputs + torch.tensor([1.0, -1.0]), memory

    return step


@pytest.mark.parametrize(
    ("method", "change", "options", "named"),
    [
        ("forward", shifted, {}, ".forward gives other outputs than .outputs"),
        ("forward", shifted, {"normalize_observation": True}, ".forward gives other outputs than .outputs"),
        ("step", shifted_step, REMEMBERS, ".step gives other outputs than .unroll"),
    ],
)
def test_networks_that_would_act_otherwise_than_they_learn_are_refused(tmp_path, method, change, options, named):
    with (
        pytest.raises(InputError, match=named),
        by_hand(derived(method, change), "CartPole-v1", run_dir=str(tmp_path / "run"), **SMALL, **options) as run,
    ):
        run.step()


@pytest.mark.parametrize("options", [{}, {"normalize_observation": True}, REMEMBERS])
def test_networks_with_other_outputs_act_and_learn_by_them(tmp_path, options):
    algorithm = derived("outputs_of", shifted)
    with by_hand(algorithm, "CartPole-v1", run_dir=str(tmp_path / "run"), **SMALL, **options) as run:
        logs = run.step()
    assert logs["losses/approx_kl"] == pytest.approx(0.0, abs=1e-2)


class Scaled(PPO):
    def loss(self, policy: Any, batch: dict[str, Any], config: PPOConfig, log: bool = True) -> Any:
        total, logs = loss(policy, batch, config, log)
        return 0.0 * total, logs


def test_a_loss_of_its_own_is_what_is_learned_by(tmp_path):
    with by_hand(Scaled, "CartPole-v1", run_dir=str(tmp_path / "run"), **SMALL) as run:
        before = {name: value.clone() for name, value in run.algorithm.policy.state_dict().items()}
        run.step()
        after = run.algorithm.policy.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "the loss has no gradient"


def another_actor(algorithm: PPO) -> None:
    old = algorithm.policy.actor
    algorithm.policy.actor = torch.nn.Linear(old.in_features, old.out_features)


class ExchangedOnceMade(PPO):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        another_actor(self)


class ExchangedBeforeLearning(PPO):
    def start_learning(self) -> None:
        another_actor(self)
        super().start_learning()


class ExchangedAtLearning(PPO):
    def start_learning(self) -> None:
        super().start_learning()
        another_actor(self)


class AddedAtLearning(PPO):
    def start_learning(self) -> None:
        super().start_learning()
        self.policy.more = torch.nn.Linear(2, 2)


@pytest.mark.parametrize(
    "algorithm", [ExchangedOnceMade, ExchangedBeforeLearning, ExchangedAtLearning, AddedAtLearning]
)
def test_layers_that_would_not_be_learned_or_not_be_sent_are_refused(tmp_path, algorithm):
    with pytest.raises(InputError, match=f"{algorithm.__name__} has exchanged or added layers .* do it in _build"):
        by_hand(algorithm, "CartPole-v1", run_dir=str(tmp_path / "run"), **SMALL)
    assert not (tmp_path / "run").exists()
