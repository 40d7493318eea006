"""Training by hand: the same run as `wiserl.train`, a fragment at a time, with burn-in, warm-up and a transform."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wiserl
from tests.envs import BoxAction, BoxObs, Chain, DictObs, DyingAgents
from tests.fragments import trees_equal
from wiserl.core.batch import Fragment
from wiserl.core.tree import tree_leaves, tree_map
from wiserl.run_folder.checkpoint import open_checkpoint
from wiserl.run_folder.metrics import read_metrics
from wiserl.util.errors import InputError

COMMON: dict[str, Any] = {
    "total_steps": 256,
    "envs": 2,
    "vector": "inline",
    "device": "cpu",
    "hidden_sizes": (8,),
    "eval_episodes": 2,
}
PPO = {**COMMON, "n_steps": 8, "batch_size": 16, "n_epochs": 2}
DQN = {**COMMON, "learning_starts": 32, "buffer_size": 500, "batch_size": 8, "train_freq": 4, "round_steps": 16}
OPTIONS = {"ppo": PPO, "dqn": DQN, "sac": {**DQN, "train_freq": 8}}


def begin(algo: str, env: Any, folder: Path, **changes: Any) -> Any:
    return wiserl.by_hand(algo, env, run_dir=folder, **(OPTIONS[algo] | changes))


def train(algo: str, env: Any, folder: Path, **changes: Any) -> dict[str, Any]:
    return wiserl.train(algo, env, run_dir=folder, backend="local", quiet=True, **(OPTIONS[algo] | changes))


def weights_file(folder: Path) -> bytes:
    return (open_checkpoint(folder).path / "weights.safetensors").read_bytes()


def halve(fragment: Fragment) -> Fragment:
    return {**fragment, "reward": fragment["reward"] / 2}


# ---- the same run as train's


@pytest.mark.parametrize(
    ("algo", "env", "changes"),
    [
        ("ppo", Chain, {"normalize_observation": True, "normalize_reward": True, "learning_rate_decay": "linear"}),
        ("ppo", DyingAgents, {"sync": False}),
        ("dqn", Chain, {"prioritized": True, "n_step": 3}),
        ("dqn", DictObs, {"sync": False, "total_steps": 128}),
        ("sac", BoxAction, {}),
    ],
)
def test_it_gives_the_weights_counters_and_files_of_train_bit_for_bit(tmp_path, algo, env, changes):
    summary = train(algo, env, tmp_path / "train", **changes)
    with begin(algo, env, tmp_path / "hand", **changes) as run:
        while not run.done:
            run.step()
    assert weights_file(tmp_path / "hand") == weights_file(tmp_path / "train")
    mine = json.loads((tmp_path / "hand" / "summary.json").read_text())
    same = ("env_steps", "updates", "episodes", "train_return_mean", "policy_lag_max", "vector", "algo", "env")
    assert {key: mine[key] for key in same} == {key: summary[key] for key in same}
    names = [sorted(path.name for path in (tmp_path / name / "checkpoints").iterdir()) for name in ("hand", "train")]
    assert [name for name in names[1] if name not in ("best", "best.txt")] == names[0]
    hand, other = (read_metrics(tmp_path / name) for name in ("hand", "train"))
    loss = next(name for name in hand if name.startswith("losses/"))
    trained = np.isfinite(other["charts/SPS"])  # the last row is of the final evaluation, which is left to the caller
    assert np.array_equal(hand["env_steps"], other["env_steps"][trained])
    assert np.array_equal(hand[loss], other[loss][trained], equal_nan=True)


def test_run_goes_whole_to_the_end_and_from_the_middle(tmp_path):
    train("ppo", Chain, tmp_path / "train")
    with begin("ppo", Chain, tmp_path / "hand") as run:
        run.step()
        run.run()
    assert weights_file(tmp_path / "hand") == weights_file(tmp_path / "train")


def test_a_step_is_one_fragment_and_one_update_whose_logs_come_back(tmp_path):
    with begin("ppo", Chain, tmp_path) as run:
        logs = [run.step() for _ in range(4)]
        assert (run.env_steps, run.updates) == (4 * 16, 4 * 2)
        assert logs[0]["losses/policy_loss"] != logs[1]["losses/policy_loss"]
        assert logs[3]["charts/episodic_return"] == run.learner.status()["train_return_mean"]
    with begin("dqn", Chain, tmp_path / "dqn") as run:
        assert "losses/td_loss" not in run.step()
        assert run.updates == 0


def test_a_step_after_the_last_one_is_refused(tmp_path):
    with begin("ppo", Chain, tmp_path, total_steps=32) as run:
        run.run()
        with pytest.raises(InputError, match=r"all total_steps=32 are done after 32 env steps; loop with `while not"):
            run.step()


def test_a_closed_run_says_so(tmp_path):
    with begin("dqn", Chain, tmp_path / "run") as run:
        run.step()
    for call in (run.step, run.run, lambda: run.warm_up(16), lambda: run.burn_in(16), run.save):
        with pytest.raises(InputError, match=r"the run in '.*run' is closed; do it before close\(\)"):
            call()
    assert run.close() == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert run.evaluate(episodes=2).shape == (2,), "what is in memory can still be looked at"


def test_a_run_that_an_error_ended_was_not_saved_and_says_so(tmp_path):
    run = begin("ppo", Chain, tmp_path)
    with pytest.raises(ZeroDivisionError), run:
        raise ZeroDivisionError
    with pytest.raises(InputError, match="is closed"):
        run.close()


def test_presets_apply(tmp_path):
    with wiserl.by_hand("dqn", "CartPole-v1", run_dir=tmp_path) as run:
        assert (run.algorithm.config.n_step, run.runner.args.envs) == (10, 1)


@pytest.mark.parametrize("given", [{"runners": 2}, {"backend": "ray"}])
def test_more_than_one_process_is_refused_and_leaves_no_folder(tmp_path, given):
    with pytest.raises(InputError, match="expected one runner on the local backend; raise envs instead"):
        begin("ppo", Chain, tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_an_error_in_the_loop_closes_the_envs_and_saves_nothing(tmp_path):
    closed = []

    class Closing(BoxObs):
        def close(self) -> None:
            closed.append(self)

    def fail() -> None:
        with begin("ppo", Closing, tmp_path, checkpoint_every=1000) as run:
            run.step()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(closed) == 3, "two envs and the probe"
    assert not (tmp_path / "checkpoints").exists()


def test_after_an_interrupt_in_the_midst_of_a_fragment_the_next_one_does_not_continue_the_last(tmp_path):
    """As in a notebook, where the cell is run again: what was sampled of the fragment is lost."""

    class Interrupting(Chain):
        steps = 0

        def step(self, action: Any) -> Any:
            Interrupting.steps += 1
            if Interrupting.steps == 21:
                raise KeyboardInterrupt
            return super().step(action)

    seen: list[Fragment] = []
    with begin("dqn", Interrupting, tmp_path, transform=lambda fragment: seen.append(fragment) or fragment) as run:
        run.step()
        with pytest.raises(KeyboardInterrupt):
            run.step()
        run.step()
        run.step()
    assert [fragment["fresh"].all() for fragment in seen] == [True, True, False]


# ---- evaluating and saving


def test_the_policy_evaluated_is_the_one_of_now_and_evaluation_changes_nothing(tmp_path):
    train("ppo", Chain, tmp_path / "train")
    with begin("ppo", Chain, tmp_path / "hand") as run:
        returns = []
        while not run.done:
            run.step()
            returns.append(run.evaluate(episodes=3))
        run.save()
        policy = wiserl.load(tmp_path / "hand")
        obs = np.eye(5, dtype=np.float32)[:, None]
        assert np.array_equal(run.policy().act(obs), policy.act(obs))
    assert all(found.shape == (3,) for found in returns)
    assert weights_file(tmp_path / "hand") == weights_file(tmp_path / "train")


def test_each_evaluation_has_episodes_of_its_own(tmp_path):
    class Lottery(BoxObs):
        def match(self, target, action):
            return float(self.np_random.random())

    with begin("ppo", Lottery, tmp_path / "hand") as run:
        run.step()
        first, again = run.evaluate(episodes=3), run.evaluate(episodes=3)
        run.step()
        assert np.array_equal(first, again)
        assert not np.array_equal(first, run.evaluate(episodes=3))


@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_what_is_saved_elsewhere_is_a_run_of_its_own_to_load_and_to_resume(tmp_path, algo):
    """From a boundary on it goes on bit for bit, by hand or by `train`."""
    train(algo, "tests.envs:Chain", tmp_path / "whole", checkpoint_every=128)
    with begin(algo, "tests.envs:Chain", tmp_path / "hand", checkpoint_every=128) as run:
        while run.env_steps < 128:
            run.step()
        path = run.save(tmp_path / "copy")
        assert path == tmp_path / "copy" / "checkpoints" / "step_128"
        with pytest.raises(InputError, match="holds a run already"):
            run.save(tmp_path / "copy")
        run.save(tmp_path / "other")
    assert wiserl.load(tmp_path / "copy").manifest["env_steps"] == 128
    wiserl.train(algo, "tests.envs:Chain", resume=tmp_path / "copy", quiet=True)
    with wiserl.by_hand(algo, "tests.envs:Chain", resume=tmp_path / "other") as run:
        assert run.env_steps == 128
        run.run()
    assert weights_file(tmp_path / "copy") == weights_file(tmp_path / "other") == weights_file(tmp_path / "whole")


# ---- burn-in


def statistics(run: Any) -> list[tuple[str, np.ndarray]]:
    """Normaliser statistics of the learner, by name; the replica in the runner has the same."""
    learner, replica = (
        {name: value.numpy().copy() for name, value in algorithm.policy.named_buffers()}
        for algorithm in (run.algorithm, run.runner.policy.algorithm)
    )
    assert trees_equal(learner, replica)
    return sorted(learner.items())


@pytest.mark.parametrize("env", [Chain, DictObs, DyingAgents])
def test_burn_in_gives_the_normalisers_mean_and_variance_of_random_steps_and_touches_nothing_else(tmp_path, env):
    with begin("ppo", env, tmp_path, normalize_observation=True) as run:
        rows = []
        for fragment in run.runner.random_fragments(96):
            alive = fragment.get("alive", np.ones(fragment["reward"].shape, bool))
            rows.append(tree_map(lambda leaf, alive=alive: leaf[alive].astype(np.float64), fragment["obs"]))
        before = run.algorithm.flat.clone()
        run.burn_in(96)
        floats = {
            path: leaf
            for path, leaf in tree_leaves(tree_map(lambda *leaves: np.concatenate(leaves), *rows))
            if env is not DictObs or path == "vector"
        }
        found = dict(statistics(run))
        assert len(found) == 3 * len(floats)
        for expected in floats.values():
            for name, value in found.items():
                kind = name.rsplit(".", 1)[1]
                wanted = {"mean": expected.mean(0), "var": expected.var(0), "count": float(len(expected))}[kind]
                assert np.allclose(value, wanted), name
        assert torch.equal(run.algorithm.flat, before)
        assert (run.env_steps, run.updates, run.runner.vector_steps) == (0, 0, 0)
        assert run.learner.weights_version == run.runner.policy.weights_version == run.runner.agent.version == 1
        assert run.runner.collect()["version"].tolist() == [1, 1]
        assert run.learner.status()["episodes"] == 0


def test_training_after_a_burn_in_begins_with_the_episodes_it_would_have_begun_with(tmp_path):
    """A network that ignores its normaliser cannot tell: with the statistics put back, all is as without a burn-in."""
    with begin("ppo", BoxObs, tmp_path / "a", normalize_observation=True) as run:
        names, first = [name for name, _ in run.algorithm.policy.named_buffers()], run.runner.collect()
        expected = tree_map(np.copy, first)
    with begin("ppo", BoxObs, tmp_path / "b", normalize_observation=True) as run:
        run.burn_in(50)
        for algorithm in (run.algorithm, run.runner.policy.algorithm):
            for name, value in algorithm.policy.named_buffers():
                value.fill_(1.0 if name.endswith("var") else 0.0)
        assert names
        assert trees_equal(run.runner.collect() | {"version": expected["version"]}, expected)


def test_the_first_fragment_is_acted_on_with_what_was_burnt_in(tmp_path):
    with begin("ppo", BoxObs, tmp_path, normalize_observation=True) as run:
        run.burn_in(64)
        count = dict(statistics(run))["normalizer.count"]
        assert count == 64
        run.step()
        assert dict(statistics(run))["normalizer.count"] == 64 + 16


def test_burn_in_where_there_is_nothing_to_fill_or_too_late_is_refused(tmp_path):
    with begin("dqn", Chain, tmp_path / "dqn") as run, pytest.raises(InputError, match="dqn as configured keeps no"):
        run.burn_in(10)
    with begin("ppo", Chain, tmp_path / "ppo", normalize_observation=True) as run:
        run.step()
        with pytest.raises(InputError, match="burn_in after 16 env steps: expected before the first step"):
            run.burn_in(10)


@pytest.mark.parametrize("given", [-5, 2.5, "many"])
def test_random_steps_are_a_count(tmp_path, given):
    with (
        begin("ppo", Chain, tmp_path / "ppo", normalize_observation=True) as run,
        pytest.raises(InputError, match=f"burn_in: env_steps={given} is not valid: Expected `int`"),
    ):
        run.burn_in(given)
    with (
        begin("dqn", Chain, tmp_path / "dqn") as run,
        pytest.raises(InputError, match=f"warm_up: env_steps={given} is not valid: Expected `int`"),
    ):
        run.warm_up(given)


# ---- warm-up


@pytest.mark.parametrize("algo", ["dqn", "sac"])
def test_warm_up_fills_the_replay_with_random_actions_and_pays_for_no_updates(tmp_path, algo):
    seen: list[Fragment] = []
    env = {"dqn": BoxObs, "sac": BoxAction}[algo]
    with begin(
        algo, env, tmp_path, transform=lambda fragment: seen.append(tree_map(np.copy, fragment)) or fragment
    ) as run:
        run.warm_up(100)
        assert (run.env_steps, run.updates, len(run.algorithm.replay)) == (112, 0, 112), "whole fragments of 16"
        actions = np.concatenate([fragment["action"].ravel() for fragment in seen])
        if algo == "dqn":
            assert 0.3 < actions.mean() < 0.7
        else:
            assert abs(actions.mean()) < 0.2
            assert abs((actions**2).mean() - 1 / 3) < 0.1, "uniform in [-1, 1]"
        run.step()
        assert run.updates == 16 // run.algorithm.config.train_freq
        run.run()
        assert run.updates == (run.env_steps - 112) // run.algorithm.config.train_freq


def test_a_warm_up_shorter_than_learning_starts_leaves_that_as_it_is(tmp_path):
    with begin("dqn", Chain, tmp_path, learning_starts=64) as run:
        run.warm_up(16)
        assert run.algorithm.learning_starts == 64
        run.run()
        assert run.updates == (256 - 64) // 4


def test_a_run_resumed_after_a_warm_up_pays_for_no_updates_of_it_either(tmp_path):
    with begin("dqn", "tests.envs:Chain", tmp_path / "run") as run:
        run.warm_up(112)
        run.save(tmp_path / "copy")
    resumed = wiserl.train("dqn", "tests.envs:Chain", resume=tmp_path / "copy", quiet=True)
    assert (resumed["env_steps"], resumed["updates"]) == (256, (256 - 112) // 4)
    with wiserl.by_hand("dqn", "tests.envs:Chain", resume=tmp_path / "copy", total_steps=320) as run:
        assert run.algorithm.pace_from == (0, 0), "nobody asked for another pace"
        run.run()
        assert run.updates == (320 - 112) // 4


def test_nor_does_one_resumed_from_a_checkpoint_in_the_midst_of_the_warm_up(tmp_path, monkeypatch):
    with begin("dqn", "tests.envs:Chain", tmp_path, checkpoint_every=48) as run:
        step, calls = run.step, iter([0, 1, 2])
        monkeypatch.setattr(run, "step", lambda: step() if next(calls) < 2 else (step(), 1 / 0))
        with pytest.raises(ZeroDivisionError):
            run.warm_up(112)
        assert run.env_steps == 48
    resumed = wiserl.train("dqn", "tests.envs:Chain", resume=tmp_path, quiet=True)
    assert resumed["updates"] == (256 - 48) // 4


@pytest.mark.parametrize(
    ("algo", "steps", "message"),
    [
        ("ppo", 16, "ppo has no replay to warm up"),
        ("dqn", 256, r"warm_up to 256 env steps of total_steps=256: expected fewer"),
    ],
)
def test_a_warm_up_that_cannot_be_is_refused(tmp_path, algo, steps, message):
    with begin(algo, Chain, tmp_path) as run, pytest.raises(InputError, match=message):
        run.warm_up(steps)


def test_a_warm_up_after_learning_has_begun_is_refused(tmp_path):
    with begin("dqn", Chain, tmp_path) as run:
        while not run.updates:
            run.step()
        with pytest.raises(InputError, match=r"warm_up after \d+ updates: expected before the first one"):
            run.warm_up(16)


# ---- transform


def test_a_transform_is_called_once_per_fragment_and_what_it_returns_is_learned_from(tmp_path):
    rewards = []

    def count(fragment: Fragment) -> Fragment:
        rewards.append(fragment["reward"].sum())
        return halve(fragment)

    with begin("dqn", BoxObs, tmp_path / "a", transform=count) as run:
        for _ in range(4):
            run.step()
        assert len(rewards) == 4
        assert set(run.algorithm.replay.sample(200)["reward"].tolist()) == {0.0, 0.5}
        assert run.learner.status()["train_return_mean"] == sum(rewards) / 4, "four episodes, as the env pays for them"


@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_train_takes_the_transform_as_well_and_refuses_to_resume_without_it(tmp_path, algo):
    train(algo, "tests.envs:Chain", tmp_path / "train", transform=halve, seed=1)
    train(algo, "tests.envs:Chain", tmp_path / "without", seed=1)
    with begin(algo, "tests.envs:Chain", tmp_path / "hand", transform=halve, seed=1) as run:
        run.run()
    assert weights_file(tmp_path / "hand") == weights_file(tmp_path / "train") != weights_file(tmp_path / "without")
    with pytest.raises(InputError, match=r"transform=.*test_by_hand:halve, not None: resume it from Python with"):
        wiserl.train(algo, "tests.envs:Chain", resume=tmp_path / "train", total_steps=300, quiet=True)
    wiserl.train(algo, "tests.envs:Chain", resume=tmp_path / "train", total_steps=300, quiet=True, transform=halve)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda fragment: None, "transform returned None; expected the fragment"),
        (lambda fragment: {**fragment, "reward": [1.0]}, "transform returned a list as reward; expected an array"),
        (
            lambda fragment: {**fragment, "reward": fragment["reward"] / 0},
            "transform returned NaN or infinity in reward",
        ),
        (
            lambda fragment: {**fragment, "action": fragment["action"][:2]},
            "no fragment: fragment field action has shape",
        ),
        (lambda fragment: {"reward": fragment["reward"]}, "no fragment: fragment lacks obs, action"),
        (
            lambda fragment: {**fragment, "terminated": fragment["reward"]},
            "no fragment: fragment field terminated has dtype float32, expected one of kinds 'b'",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*(divide by zero|invalid value).*")
def test_a_transform_that_breaks_the_schema_is_named(tmp_path, transform, message):
    with begin("dqn", BoxObs, tmp_path, transform=transform) as run, pytest.raises(InputError, match=message):
        run.step()


@pytest.mark.parametrize("given", [5, "scale_rewards"])
def test_a_transform_that_is_no_function_is_refused_and_leaves_no_folder(tmp_path, given):
    for start in (begin, train):
        with pytest.raises(InputError, match=f"transform={given!r} is not valid: expected a function"):
            start("ppo", Chain, tmp_path / "run", transform=given)
    assert not (tmp_path / "run").exists()


def test_a_transform_cannot_drop_steps_that_were_taken(tmp_path):
    def every_other(fragment: Fragment) -> Fragment:
        names = ("obs", "action", "reward", "terminated", "truncated")
        return fragment | {name: fragment[name][::2] for name in names}

    dropped = pytest.raises(InputError, match=r"transform returned \[T, E, A\] = \[4, 2, 1\] steps of \[8, 2, 1\]")
    with begin("dqn", BoxObs, tmp_path, transform=every_other) as run, dropped:
        run.step()


def test_rewards_that_a_transform_made_of_double_precision_are_learned_from(tmp_path):
    double = lambda fragment: {**fragment, "reward": fragment["reward"] * np.float64(0.5)}  # noqa: E731
    for algo, env in (("ppo", Chain), ("dqn", Chain)):
        with begin(algo, env, tmp_path / algo, transform=double) as run:
            run.run()
        train(algo, env, tmp_path / f"{algo}-single", transform=halve)
        assert weights_file(tmp_path / algo) == weights_file(tmp_path / f"{algo}-single")
