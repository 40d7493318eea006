"""Action masks from env to fragment: found, checked, and there for each step, whatever steps the envs."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from tests.masked_envs import MULTI, Faulty, Masked, MaskedAgents, bounded_with_mask
from tests.plans import make_plan, one_runner
from wiserl.core.actions import ActionCodec
from wiserl.core.masks import MaskLayout, following_masks, take_mask
from wiserl.core.spec import EnvSpec
from wiserl.env.check import check_env
from wiserl.env.check_masks import masks_line
from wiserl.env.make import make_env
from wiserl.env.masks import with_masks
from wiserl.env.rows import read_spec
from wiserl.env.vector import choose
from wiserl.env.vector.choose import make_vector
from wiserl.util.errors import EnvError, InputError


def walk(env, kwargs=None, kind="inline", envs=3, steps=60, seed=0):
    """Random valid steps: what was given at each."""
    random, seen = np.random.default_rng(seed), []
    with make_vector(env, kwargs, envs, kind, 2) as vector:
        codec = ActionCodec(vector.spec.action_space)
        vector.reset(range(envs))
        mask = vector.mask
        for _ in range(steps):
            seen.append(mask.copy())
            step = vector.step(codec.random(random, (envs, vector.spec.num_agents), mask))
            mask = step.mask
            if step.final_mask is not None:
                seen.append(step.final_mask.copy())
    return seen


def test_a_layout_knows_the_masks_of_a_space():
    layout = MaskLayout(spaces.MultiDiscrete([2, 3]))
    assert (layout.sizes, layout.size) == ((2, 3), 5)
    masks = np.array([[1, 0, 0, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1]], bool)
    assert layout.has_choice(masks).tolist() == [True, False, False]
    assert MaskLayout(spaces.MultiBinary(3)).size == 0
    drawn = layout.random(np.random.default_rng(0), np.tile(masks[0], (1000, 1)))
    assert drawn.shape == (1000, 2)
    assert set(map(tuple, drawn.tolist())) == {(0, 1), (0, 2)}


def test_random_choices_are_uniform_among_the_valid():
    mask = np.tile(np.array([1, 0, 1, 0, 1], bool), (30_000, 1))
    drawn = ActionCodec(spaces.Discrete(5)).random(np.random.default_rng(0), (30_000,), mask)
    counts = np.bincount(drawn, minlength=5)
    assert counts[[1, 3]].sum() == 0
    assert abs(counts[[0, 2, 4]] / 30_000 - 1 / 3).max() < 0.01


def test_an_entry_of_the_observation_is_taken_out_of_it():
    box, mask = spaces.Box(0, 1, (3,)), spaces.Box(0, 1, (4,), np.int8)
    both = spaces.Dict({"observation": box, "action_mask": mask})
    assert take_mask(both, spaces.Discrete(4)) == (box, "observation", "observation")
    three = spaces.Dict({"a": box, "b": box, "action_mask": mask})
    assert take_mask(three, spaces.Discrete(4)) == (spaces.Dict({"a": box, "b": box}), "observation", "")
    assert take_mask(both, spaces.Box(-1, 1, (4,))) == (both, "", "")
    assert take_mask(spaces.Dict({"observation": box}), spaces.Discrete(4))[1:] == ("", "")
    for wrong in (spaces.Box(0, 1, (5,), np.int8), spaces.Box(0, 1, (4,), np.float32), spaces.Discrete(4)):
        with pytest.raises(InputError, match=r"expected MultiBinary\(4\)"):
            take_mask(spaces.Dict({"observation": box, "action_mask": wrong}), spaces.Discrete(4))


@pytest.mark.parametrize("env", [Masked, MaskedAgents])
@pytest.mark.parametrize("form", ["info", "observation"])
def test_the_spec_says_how_masks_are_given_and_keeps_it_as_json(env, form):
    made = make_env(env, {"form": form})
    spec = with_masks(read_spec(made, env), made)
    assert spec.masks == form
    assert spec.observation_space == spaces.Box(0.0, 1.0, (4,), np.float32)
    assert EnvSpec.from_json(spec.to_json()) == spec
    plain = make_env("CartPole-v1")
    assert with_masks(read_spec(plain, "CartPole-v1"), plain).masks == ""


@pytest.mark.parametrize("form", ["info", "observation"])
@pytest.mark.parametrize("env", [Masked, MaskedAgents])
def test_processes_give_the_masks_that_this_process_gives(env, form):
    name = f"tests.masked_envs:{env.__name__}"
    for here, there in zip(walk(name, {"form": form}), walk(name, {"form": form}, "process"), strict=True):
        assert np.array_equal(here, there)


def test_both_forms_give_the_same_masks():
    for env in (Masked, MaskedAgents):
        for info, entry in zip(walk(env, {"form": "info"}), walk(env, {"form": "observation"}), strict=True):
            assert np.array_equal(info, entry)


def test_rows_that_do_not_act_allow_everything():
    with make_vector(MaskedAgents, None, 1) as vector:
        _, alive = vector.reset([0])
        random, joined = np.random.default_rng(0), 0
        mask = vector.mask
        for _ in range(40):
            assert mask[~alive].all()
            assert (mask[alive].sum(-1) == 1).all()
            joined += int(alive[0, 2])
            step = vector.step(ActionCodec(vector.spec.action_space).random(random, (1, 3), mask))
            mask, alive = step.mask, step.alive
    assert joined > 10


def take_steps(vector, count):
    for _ in range(count):
        vector.step(np.zeros((1, 1), np.int64))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("empty", "at step 3 of its episode, leaves no valid action"),
        ("shape", r"at step 3 of its episode, is int8 \[19\]; expected bool or integers of 0 and 1, \[20\]"),
        ("dtype", r"is float64 \[20\]; expected bool"),
        ("value", r"has 2; expected 1 \(valid\) or 0"),
        ("missing", r"gave no info\['action_mask'\]"),
        ("late", "none at its first reset"),
        ("truncated", "was truncated and left no valid action"),
    ],
)
@pytest.mark.parametrize("kind", ["inline", "process"])
def test_a_wrong_mask_is_an_error_that_names_env_and_step(fault, message, kind):
    with make_vector("tests.masked_envs:Faulty", {"fault": fault}, 1, kind) as vector:
        vector.reset([0])
        with pytest.raises(EnvError, match=message) as caught:
            take_steps(vector, 4)
        assert "tests.masked_envs:Faulty" in str(caught.value)


def test_masks_of_actions_that_have_none_are_an_error():
    with (
        make_vector(bounded_with_mask, None, 1) as vector,
        pytest.raises(EnvError, match="expected Discrete or MultiDiscrete"),
    ):
        vector.reset([0])


def test_a_native_vector_passes_its_masks_on():
    class Vector(gym.vector.VectorEnv):
        metadata = {"autoreset_mode": gym.vector.AutoresetMode.NEXT_STEP}  # noqa: RUF012

        def __init__(self, num_envs=2, **_):
            self.num_envs, self.steps = num_envs, 0
            self.single_observation_space, self.single_action_space = spaces.Box(0, 1, (2,)), spaces.Discrete(3)

        def _masks(self):
            return {"action_mask": np.eye(3, dtype=np.int8)[[self.steps % 3] * self.num_envs]}

        def reset(self, *, seed=None, options=None):
            return np.zeros((self.num_envs, 2), np.float32), self._masks()

        def step(self, actions):
            assert self.steps == 2 or (actions == self.steps % 3).all()
            self.steps += 1
            done = np.array([self.steps == 2, False])
            info = self._masks()
            info["action_mask"][0] *= self.steps != 2
            return np.zeros((2, 2), np.float32), np.ones(2), done, np.zeros(2, bool), info

    gym.register("MaskedNative-v0", entry_point="tests.masked_envs:Masked", vector_entry_point=Vector)
    try:
        with make_vector("MaskedNative-v0", None, 2, "native") as vector:
            vector.reset([0, 1])
            mask = vector.mask
            for step in range(5):
                assert mask.shape == (2, 1, 3)
                assert step == 2 or (mask.argmax(-1) == step % 3).all()
                after = vector.step(mask.argmax(-1))
                mask = after.mask
                if step == 1:
                    assert after.final_mask.all()
                    assert mask[0].all()
                    assert not after.alive[0, 0]
    finally:
        del gym.registry["MaskedNative-v0"]


@pytest.mark.parametrize(("env", "named"), [("tests.masked_envs:Masked", False), ("tests.envs:Chain", True)])
def test_a_native_version_of_an_env_with_masks_is_not_recommended(env, named, monkeypatch):
    """It may give none, or not at each step."""
    monkeypatch.setattr(choose, "_native_seconds", lambda *_: 1e-9)
    kind, reason = choose.choose_vector(env, None, 2, 1)
    assert kind == "inline"
    assert ("--vector native" in reason) == named


@pytest.mark.parametrize("kind", ["inline", "process"])
def test_a_fragment_has_the_masks_of_each_observation(tmp_path, kind):
    env = "tests.masked_envs:Masked"
    runner = one_runner(make_plan(tmp_path, "ppo", env), env, 30, vector=kind)
    try:
        first, second = ({k: np.copy(v) for k, v in runner.collect().items()} for _ in range(2))
    finally:
        runner.close()
    assert first["action_mask"].shape == (30, 2, 1, 20)
    assert np.take_along_axis(first["action_mask"], first["action"][..., None], -1).all()
    assert (first["action_mask"].sum(-1) == 2).all()
    assert np.array_equal(first["last_mask"], second["action_mask"][0])
    ended = first["terminated"][tuple(first["final_at"].T)]
    assert first["final_mask"].shape == (len(ended), 1, 20)
    assert first["final_mask"][ended].all()
    assert (first["final_mask"][~ended].sum(-1) == 2).all()
    assert 0 < ended.sum() < len(ended)


def test_next_masks_are_those_of_what_followed():
    mask = np.arange(4)[:, None, None, None] == np.arange(6)  # step t allows action t
    mask = np.repeat(mask, 2, axis=2)
    last, final = np.zeros((1, 2, 6), bool), np.zeros((1, 2, 6), bool)
    last[..., 4] = final[..., 5] = True
    ended = np.zeros((4, 1, 2), bool)
    ended[1, 0, 0] = True
    following = following_masks(mask, last, final, np.array([[1, 0]]), ended).argmax(-1)
    assert following[:, 0].T.tolist() == [[1, 5, 3, 4], [1, 2, 3, 4]]


@pytest.mark.parametrize("env", [Masked, MaskedAgents])
@pytest.mark.parametrize("form", ["info", "observation"])
def test_check_env_finds_nothing_wrong_with_masks_that_fit(env, form):
    assert check_env(env, {"form": form}) == []
    said = masks_line(env, {"form": form})
    assert f"action masks in its {form}" in said
    assert "an invalid action is refused (RuntimeError)" in said


def test_check_env_says_what_an_invalid_action_does():
    assert "does not refuse an invalid action" in masks_line(Masked, {"refuse": False})
    assert "refused (RuntimeError)" in masks_line(Masked, {"multi": True})
    assert masks_line("CartPole-v1", {}) == "no action masks"


@pytest.mark.parametrize("fault", ["empty", "shape", "dtype", "value", "missing", "late", "truncated"])
def test_check_env_finds_wrong_masks(fault):
    assert any("mask" in problem.what for problem in check_env(Faulty, {"fault": fault}))


def test_multi_discrete_masks_stand_side_by_side():
    (first, *_) = walk(Masked, {"multi": True}, steps=1)
    assert first.shape == (3, 1, sum(MULTI))
