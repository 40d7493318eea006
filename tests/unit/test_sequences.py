"""Fragments as sequences: nothing is lost or doubled, and unrolling is stepping."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fragments import make_fragment, make_spec
from wiserl.agent.ppo import PPO, PPOConfig
from wiserl.core.memory import RowMemory
from wiserl.core.spec import EnvSpec
from wiserl.ops.sequences import Sequences, begins, sequence_minibatches, shares


def test_an_episode_begins_after_an_end_and_where_an_agent_joins():
    alive = np.ones((5, 1, 2), bool)
    alive[:2, 0, 1] = False
    fragment = make_fragment(make_spec(agents=2), envs=1, ends={(1, 0, 0): "truncated"}, alive=alive)
    assert begins(fragment)[:, 0].tolist() == [
        [False, False],
        [False, True],
        [True, True],
        [False, False],
        [False, False],
    ]


def random_fragment(seed: int, steps: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (steps, 3, 2)
    ended = rng.random(shape) < 0.3
    terminated = ended & (rng.random(shape) < 0.5)
    fragment = {"reward": np.zeros(shape), "terminated": terminated, "truncated": ended & ~terminated}
    return {**fragment, "alive": rng.random(shape) < 0.7} if seed % 2 else fragment


@given(st.integers(0, 200), st.integers(1, 12), st.integers(1, 13))
def test_sequences_hold_every_living_step_once_in_order_and_no_beginning_inside(seed, steps, length):
    fragment = random_fragment(seed, steps)
    found, fresh = Sequences.of(fragment, length), begins(fragment).reshape(steps, 6)
    alive = fragment.get("alive", np.ones((steps, 3, 2), bool)).reshape(steps, 6)
    assert sorted(found.source[found.living].tolist()) == np.flatnonzero(alive).tolist()
    for sequence, part in enumerate(found.part.tolist()):
        kept = int(np.flatnonzero(found.living[:, sequence])[-1]) + 1
        time, row = np.divmod(found.source[:kept, sequence], 6)
        assert kept <= length
        assert (row == row[0]).all()
        assert (np.diff(time) == 1).all()
        assert not fresh[time[1:], row[1:]].any()
        assert fresh[time[0], row[0]] if part < 0 else part == time[0] // length * 6 + row[0]
        assert part < 0 or time[0] % length == 0


@given(st.integers(0, 200), st.integers(1, 12), st.integers(1, 40))
def test_an_epoch_has_every_living_step_once(seed, steps, size):
    fragment, rng = random_fragment(seed, steps), np.random.default_rng(seed)
    sequences = Sequences.of(fragment, 5)
    rows = {"obs": torch.arange(6 * steps), "action": torch.arange(6 * steps), "advantage": torch.arange(6.0 * steps)}
    parts = torch.arange(1.0, 6 * -(-steps // 5) + 1).unsqueeze(1)
    data = {**sequences.take(rows), "memory": sequences.memory(parts), "living": sequences}
    seen, sizes = [], []
    for batch in sequence_minibatches(data, size, rng, "advantage"):
        assert torch.equal(batch["obs"].flatten()[batch["living"]], batch["action"])
        first, row = np.divmod(batch["obs"][0].numpy(), 6)
        expected = np.where(begins(fragment).reshape(steps, 6)[first, row], 0.0, first // 5 * 6 + row + 1.0)
        assert batch["memory"][:, 0].tolist() == expected.tolist()
        if len(batch["advantage"]) > 1:
            assert float(batch["advantage"].mean()) == pytest.approx(0.0, abs=1e-5)
        sizes.append(len(batch["action"]))
        seen += batch["action"].tolist()
    assert sorted(seen) == sorted(sequences.source[sequences.living].tolist())
    assert max(sizes, default=0) < 1.5 * size + 2 * 5
    assert len(sizes) < 2 or 2 * min(sizes) >= size


@pytest.mark.parametrize(
    ("lengths", "sizes"),
    [
        ([4, 4, 4, 4], [4, 4, 4, 4]),
        ([1, 4, 3], [5, 3]),
        ([1, 30, 1, 1, 30, 1], [31, 2, 31]),  # a lone step would weigh as much as the thirty beside it
        ([9, 9, 1], [9, 10]),
        ([1], [1]),
        ([], []),
    ],
)
def test_minibatches_are_of_about_the_asked_steps_and_never_of_fewer_than_half(lengths, sizes):
    found = shares(np.array(lengths, np.int64), 4)
    assert [sum(lengths[at] for at in share) for share in found] == sizes
    assert [at for share in found for at in share] == list(range(len(lengths)))


def ppo(spec: EnvSpec, **changes) -> PPO:
    config = PPOConfig(net="rnn", memory_units=5, hidden_sizes=(6,), **changes)
    return PPO(spec=spec, config=config, seed=3)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 13),
    st.integers(1, 14),
    st.integers(0, 1000),
    st.sampled_from(["lstm", "gru"]),
    st.booleans(),
    st.booleans(),
)
def test_learning_sees_what_acting_saw(steps, length, seed, cell, torch_acts, continuous):
    """Log-probabilities and values before the first update are those of the steps, over ends, deaths and joins."""
    rng = np.random.default_rng(seed)
    action_space = spaces.Box(-1, 1, (2,)) if continuous else spaces.Discrete(3)
    spec = EnvSpec("x", spaces.Box(-1, 1, (2,)), action_space, ("a", "b"))
    agent = ppo(spec, cell=cell, sequence_length=length, n_epochs=1, batch_size=7)
    if torch_acts:
        agent._forward = None
    shape = (steps, 3, 2)
    alive = rng.random(shape) < 0.8
    ended = (rng.random(shape) < 0.3) & alive
    terminated = ended & (rng.random(shape) < 0.5)
    obs = rng.standard_normal((*shape, 2)).astype(np.float32)
    memory = RowMemory(agent.memory_size, 3, 2)
    before = np.where(alive[0][..., None], rng.standard_normal(memory.value.shape), 0).astype(np.float32)
    memory.restart(alive[0], before)
    first, chosen, finals, values = memory.value, [], [], []
    for t in range(steps):
        with torch.no_grad():
            rows = torch.from_numpy(obs[t]).flatten(0, 1), torch.from_numpy(memory.value).flatten(0, 1)
            values.append(agent.policy.value(*rows).numpy().reshape(3, 2))
        step = agent.choose_action(obs[t], memory=memory.value)
        memory.take(step)
        chosen.append(step)
        envs = np.flatnonzero(ended[t].any(axis=1))
        finals.append((t, envs, memory.value[envs]))
        memory.forget(ended[t], alive[t + 1] if t + 1 < steps else None)
    final_at = np.array([(t, env) for t, envs, _ in finals for env in envs], np.int64).reshape(-1, 2)
    fragment = {
        "obs": obs,
        "action": np.stack([step["action"] for step in chosen]),
        "outputs": np.stack([step["outputs"] for step in chosen]),
        "reward": rng.standard_normal(shape).astype(np.float32),
        "terminated": terminated,
        "truncated": ended & ~terminated,
        "alive": alive,
        "last_obs": rng.standard_normal((3, 2, 2)).astype(np.float32),
        "final_obs": rng.standard_normal((len(final_at), 2, 2)).astype(np.float32),
        "final_at": final_at,
        "stream": np.arange(3),
        "fresh": np.zeros(3, bool),
        "memory": first,
        "last_memory": memory.value,
        "final_memory": np.concatenate([part for *_, part in finals]),
    }
    agent.finish_fragment(fragment)
    agent.start_learning()
    data, _ = agent._prepare(fragment)
    count = 0
    for batch in sequence_minibatches(data, 7, rng):
        outputs, value = agent.policy.evaluate(batch)
        log_prob = agent.policy.head.log_prob(outputs, batch["action"])
        torch.testing.assert_close(log_prob, batch["log_prob"], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(value, batch["value"], atol=1e-5, rtol=1e-4)
        count += len(value)
    assert count == alive.sum()
    learned = data["value"].numpy()[data["living"].living]
    np.testing.assert_allclose(np.sort(learned), np.sort(np.stack(values)[alive]), atol=1e-5)


def test_a_bootstrap_sees_what_was_remembered_at_the_end_of_the_episode():
    spec = EnvSpec("x", spaces.Box(-1, 1, (2,)), spaces.Discrete(3))
    agent, rng = ppo(spec), np.random.default_rng(0)
    obs = rng.standard_normal((1, 1, 2)).astype(np.float32)
    remembered = rng.standard_normal((1, 1, agent.memory_size)).astype(np.float32)
    fragment = {"final_obs": obs, "final_memory": remembered}
    with torch.no_grad():
        found = agent._value_at("final", fragment)
        expected = agent.policy.value(torch.from_numpy(obs[0]), torch.from_numpy(remembered[0])).numpy()
        forgotten = agent.policy.value(torch.from_numpy(obs[0]), torch.zeros(1, agent.memory_size)).numpy()
    assert found == pytest.approx(expected)
    assert found != pytest.approx(forgotten)
