"""Hostile envs: whatever they return, training refuses it by name or has learned from exactly that; nothing else happens.

By default some hundred envs, in seconds; `pytest -m slow tests/fuzz` tries WISERL_FUZZ_INPUTS (10,000) of each kind.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import wiserl
from tests.hostile_envs import AGENT_FAULTS, PARTS, SPACES, VALUES, EnvOfItsOwn, Hostile, HostileAgents
from wiserl.core.tree import tree_leaves
from wiserl.env.check import check_env
from wiserl.env.vector.choose import make_vector
from wiserl.util.errors import EnvError, InputError

MANY = int(os.environ.get("WISERL_FUZZ_INPUTS", "10000"))
FEW = 40
ALLOWED = (EnvError, InputError, EnvOfItsOwn, SystemExit)
"""What a hostile env may end in: a clear error, what the env raises itself, and its own exit."""

hostile = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(sorted(SPACES)),
        "part": st.sampled_from(PARTS),
        "value": st.sampled_from(sorted(VALUES)),
        "at": st.integers(1, 14),
        "length": st.integers(1, 6),
        "seed": st.integers(0, 1000),
    }
)
hostile_agents = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(sorted(SPACES)),
        "part": st.sampled_from(("obs", "reward", "terminated", "truncated", "info", "agents", "short")),
        "fault": st.sampled_from(AGENT_FAULTS),
        "value": st.sampled_from(sorted(VALUES)),
        "at": st.integers(1, 14),
        "length": st.integers(1, 6),
    }
)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What numpy says of an overflow is not looked at: the infinity it leads to is refused by name."""
    log = logging.getLogger("wiserl")
    level = log.level
    log.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    log.setLevel(level)


def tried(strategy: Any) -> Callable[[Any], Any]:
    """Decorates a test of one case: it is run with a few, and, marked slow, with many."""

    def decorate(case: Callable[[Any], None]) -> Any:
        @pytest.mark.parametrize(
            "count", [FEW, pytest.param(MANY, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])]
        )
        def test(count: int) -> None:
            @settings(max_examples=count, suppress_health_check=list(HealthCheck))
            @given(strategy)
            def run(kwargs: dict[str, Any]) -> None:
                case(kwargs)

            run()

        test.__doc__ = case.__doc__
        return test

    return decorate


def as_kept(space: Any, obs: Any) -> list[Any]:
    """An observation as plain numbers in the layout of a fragment, written as simply as possible."""
    if isinstance(space, spaces.Dict):
        return [leaf for key in space.spaces for leaf in as_kept(space.spaces[key], obs[key])]
    if isinstance(space, spaces.Tuple):
        return [leaf for index, child in enumerate(space.spaces) for leaf in as_kept(child, obs[index])]
    array = np.asarray(obs)
    assert array.shape == (space.shape or ()), "an observation of another shape was taken"
    start = getattr(space, "start", 0)
    if array.dtype.kind == "f":
        assert space.dtype.kind == "f", "floats were taken for whole numbers"
        array = array.astype(np.float32)
    elif space.dtype.kind != "f":
        numbers = [int(number) - int(low) for number, low in np.broadcast(array, start)]
        return [numbers]
    return [array.reshape(-1).tolist()]


@tried(hostile)
def test_what_is_taken_from_a_hostile_env_is_what_it_returned(kwargs: dict[str, Any]) -> None:
    """Each observation that comes out of a vector env is one the env returned, to the last number."""
    made: list[Hostile] = []

    def make() -> Hostile:
        made.append(Hostile(**kwargs))
        return made[-1]

    space = SPACES[kwargs["kind"]]
    try:
        with make_vector(make, None, 1, "inline") as vector:
            env = made[0]
            seen = [vector.reset([0])[0]]
            check(space, env.returned[-1], seen[-1])
            for _ in range(8):
                step = vector.step(np.zeros((1, 1), np.int64))
                check(space, env.returned[-1], step.obs)
                if step.final_envs:
                    check(space, env.returned[-2], step.final_obs)
                assert step.reward.dtype == np.float32
                assert not (step.terminated & step.truncated).any()
    except ALLOWED:
        pass


def check(space: Any, returned: Any, nested: Any) -> None:
    found = [leaf[0, 0].reshape(-1).tolist() for _, leaf in tree_leaves(nested)]
    assert repr(as_kept(space, returned)) == repr(found) or np.array_equal(
        np.concatenate([np.ravel(each) for each in as_kept(space, returned)]).astype(float),
        np.concatenate([np.ravel(each) for each in found]).astype(float),
        equal_nan=True,
    )


@tried(hostile_agents)
def test_several_hostile_agents_end_in_a_clear_error_or_in_steps(kwargs: dict[str, Any]) -> None:
    """No error of wiserl's own code comes out, and no agent that acted is without a reward."""
    try:
        with make_vector(HostileAgents, kwargs, 1, "inline") as vector:
            vector.reset([0])
            for _ in range(8):
                step = vector.step(np.zeros((1, 2), np.int64))
                if kwargs["part"] == "reward" and kwargs["fault"] in ("missing", "unknown"):
                    assert step.reward.all(), "an agent's missing reward was taken for 0"
    except ALLOWED:
        pass


@tried(hostile)
def test_check_env_finds_words_for_every_hostile_env(kwargs: dict[str, Any]) -> None:
    """`wiserl check-env` lists problems, and does not fall over one."""
    with contextlib.suppress(InputError, SystemExit, EnvOfItsOwn):
        check_env(Hostile, kwargs)


@pytest.mark.parametrize("count", [12, pytest.param(MANY // 10, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])])
def test_a_run_on_a_hostile_env_ends_well_or_says_why(count: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whole runs, evaluation and resume of an episode included; what is saved is finite."""

    @settings(max_examples=count, suppress_health_check=list(HealthCheck))
    @given(hostile, st.sampled_from(["ppo", "dqn"]))
    def run(kwargs: dict[str, Any], algo: str) -> None:
        folder = tmp_path_factory.mktemp("fuzz") / "run"
        options = {"n_steps": 8, "batch_size": 8} if algo == "ppo" else {"learning_starts": 8, "batch_size": 8}
        env = functools.partial(Hostile, **kwargs)
        try:
            wiserl.train(
                algo, env, total_steps=32, envs=1, vector="inline", backend="local", quiet=True, eval_episodes=1, preset=False,
                run_dir=folder, **options,
            )  # fmt: skip
        except ALLOWED:
            return
        policy = wiserl.load(folder)
        assert all(np.isfinite(value.numpy()).all() for value in policy._algorithm.policy.state_dict().values())

    run()
