"""Action heads against torch.distributions: log-probabilities, entropies, samples and modes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy.stats import chisquare, kstest
from torch import distributions as dist

from wiserl.core.actions import ActionCodec
from wiserl.net.heads import Bernoulli, Categorical, DiagonalGaussian, MultiCategorical, make_head
from wiserl.util.errors import InputError

OUTPUTS = torch.randn(7, 6, generator=torch.Generator().manual_seed(0)) * 2

CASES = {
    "categorical": (Categorical(6), lambda out: dist.Categorical(logits=out)),
    "bernoulli": (Bernoulli(6), lambda out: dist.Independent(dist.Bernoulli(logits=out), 1)),
    "gaussian": (DiagonalGaussian((3,)), lambda out: dist.Independent(dist.Normal(out[:, :3], out[:, 3:].exp()), 1)),
    "matrix gaussian": (
        DiagonalGaussian((3, 1)),
        lambda out: dist.Independent(dist.Normal(out[:, :3, None], out[:, 3:, None].exp()), 2),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_log_prob_and_entropy_are_those_of_torch_distributions(name):
    head, make = CASES[name]
    reference = make(OUTPUTS)
    torch.manual_seed(0)
    for action in reference.sample((20,)):
        torch.testing.assert_close(head.log_prob(OUTPUTS, action), reference.log_prob(action))
    torch.testing.assert_close(head.entropy(OUTPUTS), reference.entropy())


def test_several_choices_are_independent_categoricals():
    head = MultiCategorical([2, 4])
    parts = [dist.Categorical(logits=OUTPUTS[:, :2]), dist.Categorical(logits=OUTPUTS[:, 2:])]
    action = torch.stack([part.sample() for part in parts], 1)
    expected = sum(part.log_prob(action[:, i]) for i, part in enumerate(parts))
    torch.testing.assert_close(head.log_prob(OUTPUTS, action), expected)
    torch.testing.assert_close(head.entropy(OUTPUTS), sum(part.entropy() for part in parts))


def test_a_gradient_flows_from_log_prob_and_entropy():
    outputs = OUTPUTS.clone().requires_grad_()
    head = MultiCategorical([2, 4])
    (head.log_prob(outputs, torch.zeros(7, 2, dtype=torch.long)).sum() + head.entropy(outputs).sum()).backward()
    assert (outputs.grad != 0).all()


def draws(head, outputs, count=4000):
    """`[count, *action shape]` samples of one row of outputs."""
    return head.sample(np.broadcast_to(np.float32(outputs), (count, len(outputs))), np.random.default_rng(0))


def test_samples_of_choices_follow_the_softmax():
    logits = [1.0, 0.0, -1.0, 0.5]
    expected = dist.Categorical(logits=torch.tensor(logits).double()).probs.numpy() * 4000
    assert chisquare(np.bincount(draws(Categorical(4), logits), minlength=4), expected).pvalue > 0.01
    several = draws(MultiCategorical([4, 2]), [*logits, 0.0, 1.0])
    assert chisquare(np.bincount(several[:, 0], minlength=4), expected).pvalue > 0.01
    assert abs(several[:, 1].mean() - 1 / (1 + np.exp(-1))) < 0.03


def test_samples_of_bits_and_numbers_follow_their_outputs():
    bits = draws(Bernoulli(2), [1.0, -2.0])
    np.testing.assert_allclose(bits.mean(0), 1 / (1 + np.exp([-1.0, 2.0])), atol=0.03)
    numbers = draws(DiagonalGaussian((2,)), [1.0, -1.0, 0.0, np.log(3.0)])
    assert kstest(numbers[:, 0], "norm", (1.0, 1.0)).pvalue > 0.01
    assert kstest(numbers[:, 1], "norm", (-1.0, 3.0)).pvalue > 0.01
    assert abs(np.corrcoef(numbers.T)[0, 1]) < 0.05


def test_the_mode_is_the_likeliest_action():
    assert Categorical(3).mode(np.array([[[0.0, 2.0, 1.0]]])).tolist() == [[1]]
    assert MultiCategorical([2, 3]).mode(np.array([[[3.0, 1.0, 0.0, 0.0, 1.0]]])).tolist() == [[[0, 2]]]
    assert Bernoulli(2).mode(np.array([[[0.5, -0.5]]])).tolist() == [[[1, 0]]]
    assert DiagonalGaussian((2,)).mode(np.array([[[1.0, 2.0, 0.0, 0.0]]])).tolist() == [[[1.0, 2.0]]]


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=2),
        spaces.MultiDiscrete([3, 2]),
        spaces.MultiDiscrete([[3, 2], [2, 2]]),
        spaces.MultiBinary(3),
        spaces.MultiBinary([2, 3]),
        spaces.Box(-2.0, 6.0, (2,), np.float32),
        spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
    ],
)
def test_what_a_head_emits_is_what_the_env_takes(space):
    """Shapes and dtypes agree between random, sampled and likeliest actions, and the env's space contains them."""
    head, codec = make_head(space, "ppo"), ActionCodec(space)
    rng = np.random.default_rng(0)
    outputs = rng.standard_normal((4, 1, head.num_outputs)).astype(np.float32)
    for action in (head.sample(outputs, rng), head.mode(outputs), codec.random(rng, (4, 1))):
        assert action.shape == (4, 1, *codec.shape)
        assert action.dtype == codec.dtype
        assert all(space.contains(one) for one in codec.to_env(action)[:, 0])
    log_prob = head.log_prob(torch.from_numpy(outputs[:, 0]), torch.from_numpy(head.mode(outputs)[:, 0]))
    assert log_prob.shape == (4,)


@pytest.mark.parametrize(
    "space", [spaces.Box(0, 3, (1,), np.int32), spaces.Dict({"a": spaces.Discrete(2)}), spaces.Text(3)]
)
def test_a_space_without_a_head_is_refused_with_those_that_have_one(space):
    with pytest.raises(InputError, match=r"myalgo cannot act in .*Discrete, MultiDiscrete, MultiBinary or"):
        make_head(space, "myalgo")
