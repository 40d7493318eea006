"""What learning from replay promises whatever the algorithm: pace, batches, priorities; and what DDPG, TD3 and SAC share."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from tests.fragments import make_fragment, make_spec, random_obs, trees_equal
from wiserl.agent.base.off_policy import OffPolicy, OffPolicyConfig
from wiserl.agent.catalogue import algorithm_class
from wiserl.core.config import make_config
from wiserl.core.tree import Array, Nested, tree_leaves
from wiserl.replay.prioritized import PrioritizedReplay
from wiserl.util.errors import InputError

# ---- the base class, by an algorithm that writes down what it is handed ----


class Notes(OffPolicy):
    """Learns nothing."""

    config_class = OffPolicyConfig
    config: OffPolicyConfig
    extras = ("doubt",)

    def _build(self) -> nn.Module:
        return nn.Linear(3, 1)

    def choose_action(self, obs: Nested, deterministic: bool = False) -> dict[str, Array]:
        return {"action": np.zeros(obs.shape[:2], np.int64)}

    def start_learning(self) -> None:
        super().start_learning()
        self.seen: list[tuple[dict[str, Any], float, Tensor]] = []

    def learn(self, batch: dict[str, Any], rate: float) -> tuple[Tensor, dict[str, Tensor | float]]:
        self.seen.append((batch, rate, torch.randn(4, generator=self.generator)))
        logs: dict[str, Tensor | float] = {"mean": batch["reward"], "newest": float(self.updates)}
        if self.updates == 0:
            logs["once"] = 5.0
        return -torch.arange(1.0, len(batch["reward"]) + 1), logs


def make_notes(streams: int = 2, seed: int = 0, total_steps: int = 1000, **config: Any) -> Notes:
    config = {"learning_starts": 0, "buffer_size": 1000, "batch_size": 16} | config
    notes = Notes(
        spec=make_spec(), config=OffPolicyConfig(**config), num_streams=streams, seed=seed, total_steps=total_steps
    )
    notes.start_learning()
    return notes


def feed(agent: OffPolicy, steps: int = 5, seed: int = 0, **options: Any) -> dict[str, float]:
    fragment = make_fragment(agent.spec, steps, agent.num_streams, seed, **options)
    if agent.extras:
        fragment["doubt"] = fragment["reward"] * 2
    agent.env_steps += steps * agent.num_streams
    return agent.update(fragment)


@pytest.mark.parametrize("prioritized", [False, True])
def test_updates_follow_env_steps_not_calls(prioritized):
    notes = make_notes(learning_starts=12, train_freq=4, gradient_steps=2, prioritized=prioritized)
    assert [feed(notes, steps) for steps in (5, 1)] == [{}, {}]  # 10 and 12 env steps
    for steps in (1, 1, 40):
        feed(notes, steps)
        assert notes.updates == len(notes.seen) == (notes.env_steps - 12) // 4 * 2


def saved_transitions(folder: Path, count: int) -> str:
    """A data set of one long episode for `make_spec`, whose rewards are 100."""
    obs = np.random.default_rng(0).standard_normal((count, 3)).astype(np.float32)
    ends = {name: np.zeros(count, np.bool_) for name in ("terminations", "truncations")}
    arrays = {"observations": obs, "next_observations": obs + 1, "actions": np.arange(count) % 4, **ends}
    np.savez(folder / "own.npz", rewards=np.full(count, 100.0), **arrays)
    return str(folder / "own.npz")


class Plain(Notes):
    extras = ()


def make_plain(**config: Any) -> Plain:
    config = {"learning_starts": 0, "buffer_size": 1000, "batch_size": 16} | config
    plain = Plain(spec=make_spec(), config=OffPolicyConfig(**config), num_streams=2, total_steps=1000)
    plain.start_learning()
    return plain


@pytest.mark.parametrize("prioritized", [False, True])
def test_a_data_set_is_there_from_the_start(tmp_path, prioritized):
    agent = make_plain(dataset=saved_transitions(tmp_path, 40), prioritized=prioritized)
    assert len(agent.replay) == 40
    feed(agent, 20)
    assert len(agent.replay) == 80
    rewards = torch.cat([batch["reward"] for batch, _, _ in agent.seen])
    assert 0.3 < (rewards == 100.0).float().mean() < 0.7


def test_a_data_set_is_spread_over_the_envs(tmp_path):
    agent = make_plain(dataset=saved_transitions(tmp_path, 40), buffer_size=40)
    assert len(agent.replay) == 40
    with pytest.raises(
        InputError, match=r"has 40 transitions, buffer_size=39 over 2 envs holds fewer: raise buffer_size"
    ):
        make_plain(dataset=saved_transitions(tmp_path, 40), buffer_size=39)


@pytest.mark.parametrize(("share", "rows"), [(0.02, "0 transitions of the data set and 16"), (0.99, "16 .* and 0")])
def test_a_share_of_nothing_is_refused(tmp_path, share, rows):
    with pytest.raises(InputError, match=f"dataset_share={share}: of batch_size=16 that is {rows}"):
        make_plain(dataset=saved_transitions(tmp_path, 40), dataset_share=share)
    with pytest.raises(InputError, match="without a data set"):
        make_plain(dataset_share=share)


def test_a_data_set_of_stacked_frames_is_spread_in_whole_episodes(tmp_path):
    space = spaces.Box(0, 255, (2, 3), np.uint8)
    spec = dataclasses.replace(make_spec(space), frame_stack=2)
    frames = np.random.default_rng(0).integers(0, 255, (3, 11, 3), np.uint8)
    first = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    stacks = np.stack([first, frames], axis=2)  # of 3 episodes of 10 steps, the first frame twice
    ends = np.tile(np.arange(10) == 9, 3)
    arrays = {"observations": stacks[:, :-1].reshape(30, 2, 3), "next_observations": stacks[:, 1:].reshape(30, 2, 3)}
    arrays |= {"actions": np.zeros(30, int), "rewards": np.zeros(30), "terminations": ends, "truncations": ends & False}
    np.savez(tmp_path / "own.npz", **arrays)

    def load(buffer_size: int, streams: int) -> Plain:
        config = OffPolicyConfig(dataset=str(tmp_path / "own.npz"), buffer_size=buffer_size)
        agent = Plain(spec=spec, config=config, num_streams=streams, total_steps=1000)
        agent.start_learning()
        return agent

    for streams in (1, 2, 3, 4):
        assert len(load(100, streams).replay) == 30
    with pytest.raises(InputError, match="has 30 transitions, buffer_size=30 over 2 envs holds fewer"):
        load(30, 2)  # whole episodes: 20 in the first


def test_a_data_set_that_is_no_stack_of_frames_is_refused_by_name(tmp_path):
    space = spaces.Box(0, 255, (4, 6, 6), np.uint8)
    spec = dataclasses.replace(make_spec(space), frame_stack=4)
    obs = np.random.default_rng(0).integers(0, 255, (9, 4, 6, 6), np.uint8)
    ends = {name: np.zeros(9, np.bool_) for name in ("terminations", "truncations")}
    arrays = {
        "observations": obs,
        "next_observations": obs,
        "actions": np.zeros(9, int),
        "rewards": np.zeros(9),
        **ends,
    }
    np.savez(tmp_path / "own.npz", **arrays)
    agent = Plain(spec=spec, config=OffPolicyConfig(dataset=str(tmp_path / "own.npz")), num_streams=2, total_steps=1000)
    with pytest.raises(InputError, match=r"own\.npz' does not fit into the replay: "):
        agent.start_learning()


@pytest.mark.parametrize("prioritized", [False, True])
def test_a_data_set_that_is_kept_apart_gives_its_share_of_every_batch(tmp_path, prioritized):
    agent = make_plain(dataset=saved_transitions(tmp_path, 40), dataset_share=0.25, prioritized=prioritized)
    assert not len(agent.replay)  # the run has none of its own yet
    feed(agent, 20)
    assert len(agent.seen) == 40
    assert {int((batch["reward"] == 100.0).sum()) for batch, _, _ in agent.seen} == {4}


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.npz"):
        make_plain(dataset="nowhere.npz")


def test_stacked_frames_are_stored_once():
    space = spaces.Box(0, 255, (4, 6, 6), np.uint8)
    spec = dataclasses.replace(make_spec(space), frame_stack=4)
    agent = Plain(spec=spec, config=OffPolicyConfig(buffer_size=1000, batch_size=16), num_streams=2, total_steps=1000)
    agent.start_learning()
    frames = np.random.default_rng(0).integers(256, size=(24, 2, 6, 6)).astype(np.uint8)
    frames[:3] = frames[3]  # an episode begins with its first frame repeated
    stacks = np.stack([frames[i : i + 20] for i in range(4)], 2)[:, :, None]
    fragment = make_fragment(spec, 20, 2) | {"obs": stacks, "last_obs": np.stack([*frames[20:24]], 1)[:, None]}
    agent.replay.add(fragment)
    batch = agent.replay.sample(50)
    found = {stack.tobytes() for stack in stacks.reshape(-1, 4, 6, 6)}
    assert {stack.tobytes() for stack in batch["obs"]} <= found
    assert (
        agent.replay.nbytes < 1000 * 2 * 6 * 6 * 2
    )  # room for 1000 stacks would be 1000 * 4 * 6 * 6, four times the frames


@pytest.mark.parametrize("prioritized", [False, True])
def test_a_batch_has_its_size_and_every_field(prioritized):
    notes = make_notes(prioritized=prioritized)
    feed(notes, 20, end_rate=0.1)
    fields = {"obs", "action", "reward", "next_obs", "terminated", "discount", "index", "doubt"}
    for rows, _, _ in notes.seen:
        assert set(rows) == fields | ({"weight"} if prioritized else set())
        assert {len(leaf) for _, leaf in tree_leaves(rows)} == {16}
        assert torch.equal(rows["doubt"], rows["reward"] * 2)  # an extra stays with its transition


def test_every_batch_is_another_one():
    notes = make_notes()
    feed(notes, 20)
    assert len({tuple(rows["index"].tolist()) for rows, _, _ in notes.seen}) == len(notes.seen) == 40


def test_logs_are_means_of_the_newest_values_and_what_only_some_updates_give_is_kept():
    notes = make_notes()
    logs = feed(notes, 3)
    assert logs["newest"] == 5.0
    assert logs["once"] == 5.0
    assert logs["mean"] == pytest.approx(notes.seen[-1][0]["reward"].mean().item())


@pytest.mark.parametrize(("decay", "expected"), [("none", 3e-4), ("linear", 0.75 * 3e-4)])
def test_the_learning_rate_falls_with_progress_where_that_is_asked_for(decay, expected):
    notes = make_notes(learning_rate_decay=decay, total_steps=40)
    assert feed(notes, 5)["charts/learning_rate"] == pytest.approx(expected)
    assert [rate for _, rate, _ in notes.seen] == pytest.approx([expected] * 10)


def test_what_an_update_draws_depends_on_seed_and_number_of_updates_alone():
    one, other, resumed = make_notes(), make_notes(seed=1), make_notes()
    for notes in (one, other):
        feed(notes)
        feed(notes)
    resumed.env_steps = resumed.updates = 10
    feed(resumed)
    draws = [[drawn for _, _, drawn in notes.seen] for notes in (one, other, resumed)]
    assert len({tuple(drawn.tolist()) for drawn in [*draws[0], *draws[1]]}) == 40
    assert all(torch.equal(a, b) for a, b in zip(draws[0][10:], draws[2], strict=True))


def test_the_sizes_of_errors_become_priorities():
    notes = make_notes(prioritized=True)
    assert isinstance(notes.replay, PrioritizedReplay)
    written = []
    notes.replay.update_priorities = lambda index, errors: written.append((index, errors))
    feed(notes, 2)
    assert len(written) == 4
    for (rows, _, _), (index, errors) in zip(notes.seen, written, strict=True):
        assert np.array_equal(index, rows["index"].numpy())
        assert errors.tolist() == list(range(1, 17))


def test_n_step_and_gamma_reach_replay():
    notes = make_notes(n_step=3, gamma=0.5)
    feed(notes, 30)
    discounts = torch.cat([rows["discount"] for rows, _, _ in notes.seen])
    assert set(discounts.tolist()) == {0.5, 0.25, 0.125}


@pytest.mark.parametrize(
    ("config", "sync", "runners", "envs", "expected"),
    [
        ({}, True, 1, 1, 16),
        ({}, True, 1, 8, 2),
        ({}, True, 3, 4, 2),
        ({}, False, 3, 4, 16),
        ({"train_freq": 100}, True, 1, 8, 13),
        ({"round_steps": 1}, True, 2, 8, 1),
    ],
)
def test_a_round_pays_for_whole_updates(config, sync, runners, envs, expected):
    assert Notes.steps_per_fragment(OffPolicyConfig(**config), sync, runners, envs) == expected


# ---- what DDPG, TD3 and SAC have in common ----

BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
AGENTS = {
    "ddpg": ("ddpg", BOX),
    "td3": ("td3", BOX),
    "sac": ("sac", BOX),
    "sac discrete": ("sac", spaces.Discrete(4)),
}
NAMES = pytest.mark.parametrize("name", AGENTS)
IMAGE = spaces.Box(0, 255, (10, 10, 1), np.uint8)
OBSERVATIONS = [
    spaces.Box(-1.0, 1.0, (3,), np.float32),
    spaces.Box(-1.0, 1.0, (2, 2), np.float64),
    spaces.Discrete(3),
    spaces.MultiBinary([2, 2]),
    IMAGE,
    spaces.Dict({"image": IMAGE, "more": spaces.Tuple((spaces.Discrete(2), spaces.Box(-1, 1, (2,), np.float32)))}),
]


def make_agent(
    name: str, observation: spaces.Space | None = None, agents: int = 1, seed: int = 0, **config: Any
) -> OffPolicy:
    algo, action = AGENTS[name]
    chosen = algorithm_class(algo)
    small = {"learning_starts": 0, "buffer_size": 1000, "hidden_sizes": (8,), "batch_size": 16}
    agent = chosen(
        spec=make_spec(observation or OBSERVATIONS[0], action, agents),
        config=make_config(chosen.config_class, small | config, algo),
        seed=seed,
        num_streams=2,
        total_steps=1000,
    )
    assert isinstance(agent, OffPolicy)
    agent.start_learning()
    return agent


def act(agent: OffPolicy, rows: int = 6, **options: Any) -> np.ndarray:
    space = agent.spec.observation_space
    obs = random_obs(space, (rows, agent.spec.num_agents), np.random.default_rng(1))
    return agent.choose_action(obs, **options)["action"]


@NAMES
@pytest.mark.parametrize("observation", OBSERVATIONS, ids=lambda space: str(space)[:30])
def test_every_kind_of_observation_is_acted_on_and_learned_from(name, observation):
    agent = make_agent(name, observation, agents=2, learning_starts=10)
    shape, dtype = ((6, 2), "<i8") if "discrete" in name else ((6, 2, 2), "<f4")
    for agent.env_steps in (0, 10):
        for deterministic in (False, True):
            action = act(agent, deterministic=deterministic)
            assert (action.shape, action.dtype.str) == (shape, dtype)
            assert dtype == "<i8" or np.abs(action).max() <= 1.0
    before = agent.flat.detach().clone()
    agent.env_steps = 0
    logs = feed(agent, 7, end_rate=0.2)
    assert agent.updates == 4
    assert all(np.isfinite(value) for value in logs.values())
    assert not torch.equal(agent.flat, before)


@pytest.mark.parametrize("name", ["ddpg", "td3", "sac"])
def test_an_action_without_axes_is_learned_from(name, monkeypatch):
    monkeypatch.setitem(AGENTS, name, (name, spaces.Box(-2.0, 2.0, (), np.float32)))
    agent = make_agent(name)
    assert act(agent).shape == (6, 1)
    feed(agent)
    assert agent.updates == 10


@NAMES
def test_actions_are_uniformly_random_until_learning_starts(name):
    agent = make_agent(name, learning_starts=100)
    agent.env_steps = 99
    drawn = act(agent, 20_000)
    if "discrete" in name:
        np.testing.assert_allclose(np.bincount(drawn.ravel(), minlength=4) / 20_000, 0.25, atol=0.015)
    else:
        assert np.abs(drawn).max() <= 1.0
        np.testing.assert_allclose(np.histogram(drawn, 4, (-1, 1))[0] / drawn.size, 0.25, atol=0.015)
        assert abs(np.corrcoef(drawn[:, 0].T)[0, 1]) < 0.03  # each entry on its own
    agent.env_steps = 100
    later = act(agent, 20_000)
    assert np.abs(later.mean(0) - drawn.mean(0)).max() > 0.03


@NAMES
def test_deterministic_actions_have_no_noise_even_before_learning_starts(name):
    agent = make_agent(name, learning_starts=100)
    first, again = act(agent, 50, deterministic=True), act(agent, 50, deterministic=True)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, act(agent, 50))
    agent.env_steps = 100
    assert np.array_equal(first, act(agent, 50, deterministic=True))
    assert not np.array_equal(first, act(agent, 50))


@pytest.mark.parametrize("name", [name for name, (_, space) in AGENTS.items() if isinstance(space, spaces.Box)])
def test_noise_that_drifts_is_remembered_by_whoever_acts(name):
    agent = make_agent(name, action_noise="ornstein_uhlenbeck", noise_std=0.2)
    obs = random_obs(agent.spec.observation_space, (6, agent.spec.num_agents), np.random.default_rng(1))
    memory = np.zeros((6, agent.spec.num_agents, agent.memory_size), np.float32)
    agent.reseed(5)
    memory = agent.choose_action(obs, memory=memory)["memory"]
    assert memory.any(axis=2).all()
    before = memory.copy()
    before[2] = 0.0
    found = []
    for given in (memory, before):
        agent.reseed(6)
        found.append(agent.choose_action(obs, memory=given)["memory"])
    changed = (found[0] != found[1]).any(axis=(1, 2))
    assert changed.tolist() == [False, False, True, False, False, False]
    np.testing.assert_allclose(found[0][2] - found[1][2], 0.85 * memory[2], rtol=1e-4)
    chosen = agent.choose_action(obs, deterministic=True, memory=memory)
    assert np.array_equal(chosen["memory"], memory)


@NAMES
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_acting_in_numpy_is_acting_in_torch(name, activation, deterministic):
    agent = make_agent(name, activation=activation)
    found = []
    for _ in range(2):
        agent.reseed(5)
        found.append(act(agent, 50, deterministic=deterministic))
        assert (agent._forward is None) == (len(found) == 2)
        agent._forward = None
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-6)


@NAMES
def test_acting_follows_weights_that_are_taken_in(name):
    agent, replica = make_agent(name), make_agent(name, seed=1)
    assert not np.array_equal(act(agent, 50, deterministic=True), act(replica, 50, deterministic=True))
    replica._update_model(agent.weights())
    assert np.array_equal(act(agent, 50, deterministic=True), act(replica, 50, deterministic=True))


@NAMES
@pytest.mark.parametrize("config", [{"prioritized": True}, {"n_step": 3}, {"prioritized": True, "n_step": 3}], ids=str)
def test_prioritised_replay_and_longer_windows_work(name, config):
    agent = make_agent(name, gamma=0.5, **config)
    seen, loss = [], agent._critic_loss
    agent._critic_loss = lambda *args: seen.append(next(x for x in args if isinstance(x, dict))) or loss(*args)
    logs = feed(agent, 20, end_rate=0.1)
    assert all(np.isfinite(value) for value in logs.values())
    assert all(("weight" in rows) == ("prioritized" in config) for rows in seen)
    assert min(rows["discount"].min().item() for rows in seen) == 0.5 ** config.get("n_step", 1)


@NAMES
def test_new_priorities_are_the_sizes_of_the_errors(name):
    agent = make_agent(name, prioritized=True)
    losses, written, loss = [], [], agent._critic_loss
    agent._critic_loss = lambda *args: losses.append(loss(*args)) or losses[-1]
    agent.replay.update_priorities = lambda index, errors: written.append(errors)
    feed(agent, 2)
    assert len(losses) == 4
    (sizes,) = written  # of all batches that were drawn together
    np.testing.assert_array_equal(torch.cat([errors for _, errors in losses]).abs().numpy(), sizes)
    assert sizes.shape == (4 * 16,)
    assert (sizes > 0).all()


@NAMES
def test_each_loss_is_given_the_networks_it_is_meant_for(name):
    agent = make_agent(name)
    seen: dict[str, list[Any]] = {}
    for which in ("_critic_loss", "_actor_loss"):
        loss = getattr(agent, which)
        setattr(agent, which, lambda *args, loss=loss, which=which: seen.update({which: args}) or loss(*args))
    feed(agent)
    chooses = agent.policy if "sac" in name else agent.actor.target  # the next action
    assert [id(x) for x in seen["_critic_loss"][:3]] == [
        id(agent.critics.online),
        id(agent.critics.target),
        id(chooses),
    ]
    assert [id(x) for x in seen["_actor_loss"][:2]] == [id(agent.policy), id(agent.critics.frozen)]


CONFIGS = [{}, {"prioritized": True, "n_step": 3}, {"max_grad_norm": 0.1, "learning_rate_decay": "linear"}]


@NAMES
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_restored_learner_goes_on_bit_for_bit(name, config):
    agent, restored = make_agent(name, **config), make_agent(name, seed=1, **config)
    restored.seed = agent.seed
    feed(agent, 21, end_rate=0.1)
    restored.policy.load_state_dict(copy.deepcopy(agent.policy.state_dict()))
    restored.load_learner_state(copy.deepcopy(agent.learner_state()))
    restored.load_replay_state(copy.deepcopy(agent.replay_state()))
    restored.env_steps, restored.updates = agent.env_steps, agent.updates
    logs = [feed(each, 13, seed=1, end_rate=0.1) for each in (agent, restored)]
    assert logs[0] == logs[1]
    assert torch.equal(agent.flat, restored.flat)
    assert trees_equal(agent.learner_state(), restored.learner_state())


def test_a_learned_temperature_is_part_of_what_is_restored():
    agent, restored = make_agent("sac"), make_agent("sac")
    feed(agent, 20)
    assert agent.alpha.item() != restored.alpha.item()
    restored.load_learner_state(copy.deepcopy(agent.learner_state()))
    assert agent.alpha.item() == restored.alpha.item()


@NAMES
def test_weights_are_drawn_from_the_seed_and_torchs_own_generator_is_left_alone(name):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    agents = [make_agent(name, seed=seed) for seed in (3, 3, 4)]
    assert torch.equal(torch.rand(1), expected)
    for flats in ([agent.flat for agent in agents], [agent.critics.flat for agent in agents]):
        assert torch.equal(flats[0], flats[1])
        assert not torch.equal(flats[0], flats[2])


REFUSED = {
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(2),
    "without bounds": spaces.Box(-np.inf, np.inf, (2,), np.float32),
    "half without bounds": spaces.Box(np.array([-1, -np.inf]), np.array([1, np.inf]), dtype=np.float64),
    "integers": spaces.Box(0, 5, (2,), np.int64),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("algo", ["ddpg", "td3", "sac"])
def test_an_env_it_cannot_act_in_is_refused_with_what_can(algo, kind):
    chosen = algorithm_class(algo)
    with pytest.raises(InputError, match=rf"^{algo} cannot act in .*dqn and sac do Discrete; ppo does MultiDiscrete"):
        chosen(spec=make_spec(action=REFUSED[kind]), config=chosen.config_class())


@pytest.mark.parametrize("algo", ["ddpg", "td3"])
def test_discrete_actions_are_refused_with_the_algorithms_that_take_them(algo):
    chosen = algorithm_class(algo)
    with pytest.raises(InputError, match=rf"^{algo} cannot act in Discrete\(3\).*dqn and sac do Discrete"):
        chosen(spec=make_spec(action=spaces.Discrete(3)), config=chosen.config_class())
