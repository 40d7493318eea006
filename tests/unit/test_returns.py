"""Advantages against a plain loop, what follows each step, and the scale of rewards."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fragments import make_fragment, make_spec
from wiserl.core.batch import concat_fragments
from wiserl.ops.returns import ReturnScale, gae, merge_moments, next_values, vtrace


def plain_gae(reward, value, following, terminated, truncated, gamma, lam):
    """Equation 16 of Schulman et al. 2016, one sum per step, each up to its episode's end."""
    advantage = np.zeros(reward.shape)
    for start in range(len(reward)):
        total = 0.0
        for t in range(start, len(reward)):
            bootstrap = 0.0 if terminated[t] else gamma * following[t]
            total += (gamma * lam) ** (t - start) * (reward[t] + bootstrap - value[t])
            if terminated[t] or truncated[t]:
                break
        advantage[start] = total
    return advantage


@given(
    steps=st.integers(1, 12),
    seed=st.integers(0, 9999),
    end_rate=st.sampled_from([0.0, 0.2, 1.0]),
    gamma=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
    lam=st.sampled_from([0.0, 0.95, 1.0]),
)
def test_gae_is_the_plain_sum_within_each_episode(steps, seed, end_rate, gamma, lam):
    fragment = make_fragment(make_spec(agents=2), steps, 2, seed, end_rate)
    rng = np.random.default_rng(seed)
    value, following = rng.standard_normal((2, steps, 2, 2)).astype(np.float32)
    flags = (fragment["terminated"], fragment["truncated"])
    found = gae(fragment["reward"], value, following, *flags, gamma, lam)
    assert found.dtype == np.float32
    for e, a in np.ndindex(2, 2):
        column = [array[:, e, a] for array in (fragment["reward"], value, following, *flags)]
        np.testing.assert_allclose(found[:, e, a], plain_gae(*column, gamma, lam), rtol=1e-4, atol=1e-5)


def test_gae_of_three_steps_by_hand():
    one = np.ones((3, 1, 1), np.float32)
    no = np.zeros((3, 1, 1), bool)
    # delta = 1 + 0.5 * 2 - 1 = 1; A2 = 1, A1 = 1 + 0.25 * 1, A0 = 1 + 0.25 * 1.25
    assert gae(one, one, 2 * one, no, no, 0.5, 0.5).ravel().tolist() == [1.3125, 1.25, 1.0]
    end = no.copy()
    end[1] = True
    # terminated at 1: delta1 = 1 - 1 = 0, nothing flows over it; truncated: delta1 = 1, and nothing flows either
    assert gae(one, one, 2 * one, end, no, 0.5, 0.5).ravel().tolist() == [1.0, 0.0, 1.0]
    assert gae(one, one, 2 * one, no, end, 0.5, 0.5).ravel().tolist() == [1.25, 1.0, 1.0]


def plain_vtrace(reward, value, following, terminated, truncated, ratio, gamma, lam):
    """Equation 1 of Espeholt et al. 2018, one sum per step: targets, and from them the advantages of section 4.2."""
    steps = len(reward)
    rho = np.minimum(ratio, 1.0)
    ended = terminated | truncated
    delta = reward + gamma * np.where(terminated, 0.0, following) - value
    target = np.array(value, np.float64)
    for start in range(steps):
        trace = 1.0
        for t in range(start, steps):
            target[start] += trace * rho[t] * delta[t]
            trace *= gamma * lam * rho[t]  # c_t, with the discount
            if ended[t]:
                break
    advantage = np.zeros(steps)
    for t in range(steps):
        after = 0.0 if terminated[t] else following[t]
        if not ended[t] and t + 1 < steps:
            after = lam * target[t + 1] + (1 - lam) * value[t + 1]
        advantage[t] = reward[t] + gamma * after - value[t]
    return advantage, target


@given(
    steps=st.integers(1, 12),
    seed=st.integers(0, 9999),
    end_rate=st.sampled_from([0.0, 0.2, 1.0]),
    gamma=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
    lam=st.sampled_from([0.0, 0.95, 1.0]),
    spread=st.sampled_from([0.0, 0.1, 2.0]),
)
def test_vtrace_is_the_plain_sum_within_each_episode_and_gae_where_nothing_differs(
    steps, seed, end_rate, gamma, lam, spread
):
    fragment = make_fragment(make_spec(agents=2), steps, 2, seed, end_rate)
    rng = np.random.default_rng(seed)
    value, last = rng.standard_normal((steps, 2, 2)).astype(np.float32), rng.standard_normal((2, 2)).astype(np.float32)
    final = rng.standard_normal((len(fragment["final_at"]), 2)).astype(np.float32)
    following = next_values(fragment, value, last, final)
    ratio = np.exp(spread * rng.standard_normal((steps, 2, 2))).astype(np.float32)
    flags = (fragment["terminated"], fragment["truncated"])
    found = vtrace(fragment["reward"], value, following, *flags, ratio, gamma, lam)
    assert all(array.dtype == np.float32 for array in found)
    for e, a in np.ndindex(2, 2):
        column = [array[:, e, a] for array in (fragment["reward"], value, following, *flags, ratio)]
        for mine, plain in zip(found, plain_vtrace(*column, gamma, lam), strict=True):
            np.testing.assert_allclose(mine[:, e, a], plain, rtol=1e-4, atol=1e-4)
    if spread == 0.0:
        advantage = gae(fragment["reward"], value, following, *flags, gamma, lam)
        assert np.array_equal(found[0], advantage)
        assert np.array_equal(found[1], advantage + value)


def test_vtrace_of_three_steps_by_hand():
    one, no = np.ones((3, 1, 1), np.float32), np.zeros((3, 1, 1), bool)
    ratio = np.array([4.0, 0.5, 0.25], np.float32).reshape(3, 1, 1)  # 4 counts as 1
    # delta = 1 + 0.5 * 2 - 1 = 1, gamma lambda = 0.25. Step 2: A = 1, V + 0.25 A = 1.25; step 1: A = 1 + 0.25 * 0.25 = 1.0625,
    # target 1 + 0.5 * 1.0625 = 1.53125; step 0: A = 1 + 0.25 * 0.53125 = 1.1328125, target 2.1328125.
    advantage, target = vtrace(one, one, 2 * one, no, no, ratio, 0.5, 0.5)
    assert advantage.ravel().tolist() == [1.1328125, 1.0625, 1.0]
    assert target.ravel().tolist() == [2.1328125, 1.53125, 1.25]
    end = no.copy()
    end[1] = True
    # terminated at 1: delta1 = 1 - 1 = 0, nothing flows over it; truncated: delta1 = 1, and 0.5 of it flows on
    assert vtrace(one, one, 2 * one, end, no, ratio, 0.5, 0.5)[0].ravel().tolist() == [1.0, 0.0, 1.0]
    assert vtrace(one, one, 2 * one, no, end, ratio, 0.5, 0.5)[0].ravel().tolist() == [1.125, 1.0, 1.0]


def test_an_action_the_policy_would_never_take_says_nothing_about_what_came_before():
    one, no = np.ones((3, 1, 1), np.float32), np.zeros((3, 1, 1), bool)
    ratio = np.array([1.0, 0.0, 1.0], np.float32).reshape(3, 1, 1)
    advantage, target = vtrace(one, one, 2 * one, no, no, ratio, 0.5, 0.5)
    assert advantage.ravel().tolist() == [1.0, 1.25, 1.0]
    assert target.ravel().tolist() == [2.0, 1.0, 2.0]


def test_what_follows_a_step_is_the_next_row_or_the_true_final_observation():
    fragment = make_fragment(steps=3, envs=2, ends={(1, 0, 0): "truncated", (2, 1, 0): "terminated"})
    value = np.arange(6, dtype=np.float32).reshape(3, 2, 1)
    following = next_values(fragment, value, np.array([[10.0], [11.0]]), np.array([[20.0], [21.0]]))
    assert following[:, :, 0].tolist() == [[2, 3], [20, 5], [10, 21]]


def test_where_one_agent_ended_the_others_go_on_to_their_own_next_row():
    fragment = make_fragment(make_spec(agents=2), steps=2, envs=1, ends={(0, 0, 1): "terminated"})
    value = np.array([[[0.0, 1.0]], [[2.0, 3.0]]])
    following = next_values(fragment, value, np.array([[4.0, 5.0]]), np.array([[6.0, 7.0]]))
    assert following[:, 0].tolist() == [[2.0, 7.0], [4.0, 5.0]]


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30), st.data())
def test_merged_moments_are_those_of_all_values(values, data):
    cut = data.draw(st.integers(1, len(values) - 1))
    first, second = np.array(values[:cut]), np.array(values[cut:])
    mean, var, count = merge_moments(first.mean(), first.var(), len(first), second.mean(), second.var(), len(second))
    assert count == len(values)
    np.testing.assert_allclose([mean, var], [np.mean(values), np.var(values)], atol=1e-6)


def plain_returns(rewards, ends, gamma, running=0.0):
    """Discounted sums of the past, as VecNormalize of OpenAI baselines keeps them."""
    sums = []
    for reward, end in zip(rewards, ends, strict=True):
        running = running * gamma + reward
        sums.append(running)
        if end:
            running = 0.0
    return sums


def test_rewards_are_divided_by_the_deviation_of_discounted_returns():
    scale = ReturnScale(num_streams=2, num_agents=1, gamma=0.9)
    fragment = make_fragment(steps=50, envs=2, ends={(20, 1, 0): "terminated"})
    ended = fragment["terminated"] | fragment["truncated"]
    seen = np.array([plain_returns(fragment["reward"][:, e, 0], ended[:, e, 0], 0.9) for e in range(2)])
    expected = fragment["reward"] / seen.std()
    np.testing.assert_allclose(scale.scale(fragment), expected, rtol=1e-3)


def test_running_returns_go_on_over_fragments_by_stream_and_stop_where_an_env_was_reset():
    whole = ReturnScale(2, 1, 0.9)
    first, second = make_fragment(steps=4, seed=1), make_fragment(steps=4, seed=2)
    whole.scale(first)
    before = whole.running.copy()
    swapped = {**second, "stream": np.array([1, 0])}
    whole.scale(swapped)
    expected = [plain_returns(second["reward"][:, e, 0], [False] * 4, 0.9, before[1 - e, 0])[-1] for e in range(2)]
    np.testing.assert_allclose(whole.running[[1, 0], 0], expected, rtol=1e-5)
    whole.scale({**second, "fresh": np.array([True, False])})
    np.testing.assert_allclose(
        whole.running[0, 0], plain_returns(second["reward"][:, 0, 0], [False] * 4, 0.9)[-1], rtol=1e-5
    )


def test_rows_of_agents_that_are_gone_do_not_count_for_the_scale():
    rng = np.random.default_rng(3)
    spec = make_spec(agents=2)
    alive = np.ones((40, 1, 2), bool)
    alive[10:, 0, 1] = False
    reward = rng.standard_normal((40, 1, 2)).astype(np.float32) * alive
    terminated = np.zeros((40, 1, 2), bool)
    terminated[9, 0, 1] = True
    fragment = make_fragment(spec, 40, 1, reward=reward, terminated=terminated, alive=alive)
    seen = plain_returns(reward[:, 0, 0], [False] * 40, 0.9) + plain_returns(reward[:10, 0, 1], [False] * 10, 0.9)
    scale = ReturnScale(1, 2, 0.9)
    scale.scale(fragment)
    np.testing.assert_allclose(scale.var, np.var(seen), rtol=1e-3)


def test_scaled_rewards_are_clipped_to_ten():
    reward = np.zeros((1000, 1, 1), np.float32)
    reward[500] = 1e6
    scaled = ReturnScale(1, 1, 0.0).scale(make_fragment(steps=1000, envs=1, reward=reward))
    assert scaled.max() == 10.0


@pytest.mark.parametrize("through_json", [False, True])
def test_a_restored_scale_goes_on_as_if_there_had_been_no_break(through_json):
    parts = [make_fragment(steps=5, seed=seed, end_rate=0.2) for seed in range(3)]
    whole = ReturnScale(2, 1, 0.99)
    for part in parts[:2]:
        whole.scale(part)
    state = whole.state_dict()
    restored = ReturnScale(2, 1, 0.99)
    restored.load_state_dict(json.loads(json.dumps(state)) if through_json else state)
    assert np.array_equal(restored.scale(parts[2]), whole.scale(parts[2]))


def test_the_order_of_streams_does_not_matter_to_running_returns():
    parts = [make_fragment(envs=1, seed=seed, stream=np.array([seed])) for seed in range(2)]
    together, apart = ReturnScale(2, 1, 0.9), ReturnScale(2, 1, 0.9)
    together.scale(concat_fragments(parts))
    for part in reversed(parts):
        apart.scale(part)
    np.testing.assert_allclose(together.running, apart.running)
