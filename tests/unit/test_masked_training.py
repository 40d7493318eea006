"""No invalid action in 100,000 steps, whatever the algorithm: the envs of `tests.masked_envs` refuse each by an error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

import wiserl
from tests.masked_envs import Masked, MaskedAgents
from wiserl.agent.dqn import DQN
from wiserl.core.spec import EnvSpec
from wiserl.policy.play import play_episodes
from wiserl.replay.dataset import load_dataset
from wiserl.replay.masks import with_valid_masks
from wiserl.replay.mixed import MixedReplay
from wiserl.replay.prioritized import PrioritizedReplay
from wiserl.replay.uniform import Replay
from wiserl.run_folder.checkpoint import open_checkpoint
from wiserl.util.errors import InputError

ENV, AGENTS = "tests.masked_envs:Masked", "tests.masked_envs:MaskedAgents"
SMALL = {"hidden_sizes": (16,), "batch_size": 64}
REPLAY = {**SMALL, "learning_starts": 20_000, "train_freq": 1000, "round_steps": 5000, "buffer_size": 20_000}
ROUNDS = {**SMALL, "n_steps": 50, "batch_size": 1000, "n_epochs": 1}
ALGORITHMS = [
    ("ppo", ROUNDS),
    ("sarsa", ROUNDS),
    ("dqn", REPLAY),
    ("dqn", {**REPLAY, "rainbow": True, "v_min": -1.0, "v_max": 10.0}),
    ("qrdqn", {**REPLAY, "n_quantiles": 20}),
    ("sac", REPLAY),
]
SHORT = {
    "ppo": {**SMALL, "n_steps": 32, "n_epochs": 2},
    "dqn": {**SMALL, "learning_starts": 100, "buffer_size": 2000, "n_step": 3, "prioritized": True},
    "sac": {**SMALL, "learning_starts": 100, "train_freq": 4, "buffer_size": 2000},
    "sarsa": {**SMALL, "n_steps": 16},
}


def train(algo: str, env: Any, folder: Any, steps: int, **options: Any) -> dict[str, Any]:
    options = {"envs": 4, "vector": "inline", "eval_episodes": 4, "quiet": True, "backend": "local", **options}
    return wiserl.train(algo, env, total_steps=steps, run_dir=folder, **options)


def weights(folder: Any) -> dict[str, torch.Tensor]:
    return open_checkpoint(folder, "last").weights()


def same(left: Any, right: Any) -> bool:
    a, b = weights(left), weights(right)
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("algo", "options"), ALGORITHMS)
def test_no_invalid_action_is_ever_taken(tmp_path, algo, options):
    summary = train(algo, ENV, tmp_path / "run", 100_000, envs=100, eval_episodes=20, **options)
    assert summary["updates"] > 0
    assert summary["env_steps"] == 100_000


@pytest.mark.parametrize("env", [ENV, AGENTS])
@pytest.mark.parametrize("sync", [True, False])
def test_masks_and_memory_go_together(tmp_path, env, sync):
    options = {**SHORT["ppo"], "net": "rnn", "memory_units": 8, "sequence_length": 10, "sync": sync}
    assert train("ppo", env, tmp_path / "run", 1000, **options)["updates"] > 0
    assert all(torch.isfinite(leaf).all() for leaf in weights(tmp_path / "run").values())


@pytest.mark.parametrize("algo", SHORT)
@pytest.mark.parametrize("form", ["info", "observation"])
def test_agents_that_join_and_die_take_valid_actions(tmp_path, algo, form):
    summary = train(algo, AGENTS, tmp_path / "run", 2000, env_kwargs={"form": form}, **SHORT[algo])
    assert summary["updates"] > 0
    assert all(torch.isfinite(leaf).all() for leaf in weights(tmp_path / "run").values())


def test_multi_discrete_actions_are_masked_component_by_component(tmp_path):
    kwargs = {"multi": True, "form": "observation"}
    assert train("ppo", ENV, tmp_path / "run", 4000, env_kwargs=kwargs, **SHORT["ppo"])["updates"] > 0


@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_both_forms_and_both_vectors_train_to_the_same_weights(tmp_path, algo):
    for name, form, vector in (("a", "info", "inline"), ("b", "observation", "inline"), ("c", "info", "process")):
        train(algo, ENV, tmp_path / name, 800, env_kwargs={"form": form}, vector=vector, **SHORT[algo])
    assert same(tmp_path / "a", tmp_path / "b")
    assert same(tmp_path / "a", tmp_path / "c")


@pytest.mark.parametrize(("algo", "env"), [("ppo", ENV), ("dqn", ENV), ("sac", AGENTS)])
def test_a_resumed_run_goes_on_with_the_mask_of_its_episodes(tmp_path, algo, env):
    options = {"total_steps": 1280, "envs": 4, "vector": "inline", **SHORT[algo]}
    train(algo, env, tmp_path / "whole", 1280, **SHORT[algo])
    with wiserl.by_hand(algo, env, run_dir=tmp_path / "parts", **options) as run:
        while run.env_steps < 600:
            run.step()
    wiserl.train(algo, env, resume=tmp_path / "parts", quiet=True)
    assert same(tmp_path / "whole", tmp_path / "parts")


def test_async_runs_are_masked_too(tmp_path):
    for algo in ("ppo", "dqn"):
        assert train(algo, ENV, tmp_path / algo, 2000, sync=False, **SHORT[algo])["updates"] > 0


def test_by_hand_burns_in_and_warms_up_with_valid_actions(tmp_path):
    options = {"total_steps": 1000, "envs": 4, "vector": "inline"}
    with wiserl.by_hand(
        "ppo", ENV, run_dir=tmp_path / "a", normalize_observation=True, **options, **SHORT["ppo"]
    ) as run:
        run.burn_in(300)
        run.step()
        assert len(run.evaluate(3)) == 3
    with wiserl.by_hand("dqn", ENV, run_dir=tmp_path / "b", **options, **SHORT["dqn"]) as run:
        run.warm_up(200)
        run.step()


def test_a_loaded_policy_takes_masks_as_the_env_gives_them(tmp_path):
    for form in ("info", "observation"):
        train("dqn", ENV, tmp_path / form, 400, env_kwargs={"form": form}, **SHORT["dqn"])
        policy, env = wiserl.load(tmp_path / form), Masked(form)
        obs, info = env.reset(seed=0)
        for _ in range(11):
            action = policy.choose_action(obs, deterministic=False, mask=info.get("action_mask"))
            obs, _, _, _, info = env.step(action)
    with pytest.raises(InputError, match="leave mask= out"):
        policy.choose_action(obs, mask=np.ones(20))
    with pytest.raises(InputError, match="lacks 'action_mask'"):
        policy.choose_action({"observation": obs["observation"]})
    policy, obs = wiserl.load(tmp_path / "info"), obs["observation"]
    with pytest.raises(InputError, match="trained with action masks: give choose_action"):
        policy.choose_action(obs)
    for wrong, message in (
        (np.zeros(20, bool), "no valid action"),
        (np.ones(19, bool), r"bool \[19\]"),
        (np.ones(20), "float64"),
    ):
        with pytest.raises(InputError, match=message):
            policy.choose_action(obs, mask=wrong)


def test_episodes_to_look_at_are_masked(tmp_path, monkeypatch):
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.delenv("SDL_VIDEODRIVER", raising=False)
    monkeypatch.setattr("wiserl.policy.play._check_window", lambda *_: None)
    for env, made, form in (
        (ENV, Masked, "info"),
        (AGENTS, MaskedAgents, "info"),
        (AGENTS, MaskedAgents, "observation"),
    ):
        folder = tmp_path / f"{made.__name__}-{form}"
        train("ppo", env, folder, 300, env_kwargs={"form": form}, **SHORT["ppo"])
        monkeypatch.setattr("wiserl.policy.play.make_env", lambda *_, made=made, form=form, **__: made(form))
        assert len(play_episodes(wiserl.load(folder), env, 3, None)) == 3


class MasklessDQN(DQN):
    """As one that was written before there were masks."""

    def choose_action(self, obs, deterministic=False):
        return super().choose_action(obs, deterministic)


def test_an_algorithm_that_takes_no_masks_is_refused_where_the_env_gives_some(tmp_path):
    with pytest.raises(InputError, match=r"masklessdqn cannot act with masks.*no argument 'mask'"):
        train(f"{__name__}:MasklessDQN", ENV, tmp_path / "run", 400)


def masked_steps(steps: int, k: int = 0, **changes: Any) -> dict[str, Any]:
    """One env whose observation and mask say the number of the step; an episode of 4 steps ends in observation 9, mask 9."""
    count = np.arange(steps + 1)
    obs = count.astype(np.float32)[:, None, None, None]
    mask = (count % 10)[:, None, None, None] == np.arange(10)
    truncated = (count[:-1] == 3)[:, None, None]
    final, final_mask = np.full((1, 1, 1), 9, np.float32), (np.arange(10) == 9)[None, None]
    if k:  # stacks of k frames, padded by the episode's first
        first = np.where(count >= 4, 4, 0)
        frames = np.maximum(count[:, None] - np.arange(k - 1, -1, -1), first[:, None])
        obs = frames.astype(np.float32)[:, None, None, :, None]
        final = np.array([*frames[3, 1:], 9], np.float32)[None, None, :, None]
    one = np.zeros(1, np.int64)
    return {
        "obs": obs[:-1], "action": np.zeros((steps, 1, 1), np.int64), "reward": np.ones((steps, 1, 1), np.float32),
        "terminated": np.zeros((steps, 1, 1), bool), "truncated": truncated, "last_obs": obs[-1], "final_obs": final,
        "final_at": np.array([[3, 0]]), "version": one, "rank": one, "stream": one, "fresh": np.zeros(1, bool),
        "action_mask": mask[:-1], "last_mask": mask[-1], "final_mask": final_mask, **changes,
    }  # fmt: skip


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("k", [0, 2])
@pytest.mark.parametrize("kind", [Replay, PrioritizedReplay])
def test_replay_gives_the_mask_of_each_observation_and_of_each_next_one(kind, k, n_step):
    replay = kind(100, 1, 0, n_step, frame_stack=k)
    replay.add(masked_steps(8, k))
    batch = replay.sample(200)
    for obs, mask in (("obs", "action_mask"), ("next_obs", "next_action_mask")):
        newest = batch[obs][:, -1, 0] if k else batch[obs][:, 0]
        assert (batch[mask].argmax(1) == newest).all()
        assert (batch[mask].sum(1) == 1).all()
    assert 9 in batch["next_obs"]
    again = kind(100, 1, 0, n_step, frame_stack=k)
    again.load_state_dict(replay.state_dict())
    assert np.array_equal(again.sample(50)["next_action_mask"], replay.sample(50)["next_action_mask"])


def test_a_replay_saved_before_masks_were_heeded_counts_all_actions_as_valid():
    for replay in (Replay(100, 1, 0), MixedReplay([(Replay(100, 1, 0), 0.5), (Replay(100, 1, 1), 0.5)])):
        old = masked_steps(8)
        for name in ("action_mask", "last_mask", "final_mask"):
            del old[name]
        for part in getattr(replay, "parts", (replay,)):
            part.add(old)
        state = with_valid_masks(replay.state_dict(), 10)
        replay.load_state_dict(state)
        replay.add(masked_steps(8))
        batch = replay.sample(100)
        assert set(batch["action_mask"].sum(1)) == {1, 10}
        assert set(batch["next_action_mask"].sum(1)) == {1, 10}


def demonstrations(next_too: bool) -> dict[str, Any]:
    steps = 40
    masks = np.zeros((steps + 1, 20), bool)
    masks[:, 3] = True
    ends = np.arange(steps) % 10 == 9
    arrays = {
        "observations": np.random.default_rng(0).random((steps, 4), np.float32), "actions": np.full(steps, 3),
        "rewards": np.ones(steps), "terminations": ends, "truncations": np.zeros(steps, bool), "action_masks": masks[:-1],
    }  # fmt: skip
    if next_too:
        arrays |= {"next_observations": arrays["observations"], "next_action_masks": masks[1:] & ~ends[:, None]}
    return arrays


@pytest.mark.parametrize("next_too", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_data_set_has_masks_where_the_env_gives_some(tmp_path, next_too, share):
    np.savez(tmp_path / "data.npz", **demonstrations(next_too))
    options = {**SHORT["dqn"], "prioritized": False, "dataset": str(tmp_path / "data.npz"), "dataset_share": share}
    assert train("dqn", ENV, tmp_path / "run", 400, **options)["updates"] > 0


def test_a_data_set_without_masks_is_refused_where_the_env_gives_some(tmp_path):
    spec = EnvSpec("x", spaces.Box(0.0, 1.0, (4,), np.float32), spaces.Discrete(20), masks="info")
    for missing in ("action_masks", "next_action_masks"):
        arrays = demonstrations(True)
        del arrays[missing]
        np.savez(tmp_path / "data.npz", **arrays)
        with pytest.raises(InputError, match=f"no array '{missing}'"):
            list(load_dataset(str(tmp_path / "data.npz"), spec))
    arrays = demonstrations(True)
    arrays["action_masks"][5] = False
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(InputError, match="expected a valid action in each row"):
        list(load_dataset(str(tmp_path / "data.npz"), spec))
