"""What the learner does around an algorithm: steps, lag, boundaries, checkpoints, and what it tells the driver."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.envs import BoxObs, Chain, DyingAgents
from tests.fragments import make_fragment
from tests.plans import make_plan, start
from wiserl.core.batch import Fragment, count_env_steps
from wiserl.run_folder.checkpoint import open_checkpoint, save_checkpoint
from wiserl.run_folder.inventory import point_to
from wiserl.training.gym_runner import GymRunner
from wiserl.training.plan import TrainPlan
from wiserl.training.training_agent import TrainingAgent
from wiserl.transport.backend import current_runner
from wiserl.transport.learner import Learner
from wiserl.transport.messages import Shipment
from wiserl.transport.weights import unpack
from wiserl.util.errors import WiserlError


def make_learner(plan: TrainPlan, sync: bool = True) -> TrainingAgent:
    return Learner("learner", TrainingAgent(sync, plan=plan), sync).agent


def fragment_for(plan: TrainPlan, rank: int = 0, version: int = 0, steps: int = 8, **options: Any) -> Fragment:
    envs = plan.envs
    fragment = make_fragment(plan.spec, steps, envs, **options)
    fragment["log_prob"] = np.full(fragment["reward"].shape, -1.0, np.float32)
    place = {"rank": np.full(envs, rank), "stream": rank * envs + np.arange(envs), "version": np.full(envs, version)}
    return fragment | place


def spy_on_updates(agent: TrainingAgent) -> list[Fragment]:
    seen: list[Fragment] = []
    original = agent.algorithm.update

    def spy(fragment: Fragment) -> dict[str, float]:
        seen.append(dict(fragment))
        return original(fragment)

    agent.algorithm.update = spy
    return seen


def test_fragments_of_a_round_are_learned_from_together_and_env_steps_counted(tmp_path):
    plan = make_plan(tmp_path, "ppo", BoxObs, runners=2)
    agent = make_learner(plan)
    seen = spy_on_updates(agent)
    assert agent._update_round([(fragment_for(plan, rank),) for rank in range(2)])
    assert seen[0]["reward"].shape == (8, 4, 1)
    assert seen[0]["stream"].tolist() == [0, 1, 2, 3]
    assert (agent.algorithm.env_steps, agent.status()["env_steps"]) == (32, 32)


def test_a_replica_does_not_learn(tmp_path):
    replica = TrainingAgent(True, plan=make_plan(tmp_path, "ppo", BoxObs))
    with pytest.raises(WiserlError, match=r"this agent does not learn: ask the one on the learner"):
        replica.status()


def test_env_steps_do_not_count_rows_in_which_nobody_acted(tmp_path):
    plan = make_plan(tmp_path, "ppo", BoxObs)
    agent = make_learner(plan)
    alive = np.ones((8, 2, 1), bool)
    alive[3:5, 0] = False
    agent.update(fragment_for(plan, alive=alive))
    assert agent.algorithm.env_steps == 14


def test_a_fragment_that_breaks_the_schema_is_refused(tmp_path):
    plan = make_plan(tmp_path, "ppo", BoxObs)
    agent = make_learner(plan)
    with pytest.raises(ValueError, match="fragment field action"):
        agent.update(fragment_for(plan, fresh=np.array([True, True]), action=np.zeros((3, 2, 1), np.int64)))


def test_old_fragments_are_dropped_in_async_on_policy_training_and_counted(tmp_path):
    plan = make_plan(tmp_path, "ppo", BoxObs, config={"max_policy_lag": 2}, total_steps=10_000)
    learner = Learner("learner", TrainingAgent(False, plan=plan), False)
    versions = [0, 0, 1, 0, 3, 1]  # learned from at versions 0, 1, 2, 3 (lag 3: too old), 3, 4 (lag 3: too old)
    for sequence, version in enumerate(versions):
        learner.offer(Shipment(0, 0, sequence, [(fragment_for(plan, version=version),)], version))
    status = learner.agent.status()
    assert learner.version == 4, "a round that learned nothing publishes nothing, which would make the others older"
    assert status["fragments_dropped"] == 2
    said = [event.content for event in learner.agent.drain() if event.kind == "warning"]
    assert len(said) == 1
    assert said[0].startswith("fragments of runner 0 are dropped where their weights are older than max_policy_lag=2")
    assert status["env_steps"] == 4 * 16
    assert (status["policy_lag_mean"], status["policy_lag_max"]) == (2 / 4, 1)


@pytest.mark.parametrize("algo", ["ppo", "sarsa"])
def test_every_fragment_of_a_slow_runner_is_learned_from_in_async_mode(tmp_path, algo):
    """Two runners take turns; the second makes a fragment while the first makes twenty."""

    class Uneven(GymRunner):
        def collect(self) -> Fragment:
            fragment = super().collect()
            if self.rank:
                for _ in range(20):
                    current_runner.get().backend.give_way()
            return fragment

    plan = make_plan(tmp_path, algo, BoxObs, runners=2, total_steps=1600)
    wise_rl, group = start(plan, BoxObs, 8, runner_class=Uneven, sync=False)
    agent = wise_rl.call("learner", "itself")
    seen = spy_on_updates(agent)
    wise_rl.start_all_runners(group)
    status = wise_rl.call("learner", "status")
    of_the_slow = [fragment for fragment in seen if fragment["rank"][0] == 1]
    assert status["fragments_dropped"] == 0
    assert status["policy_lag_max"] >= 15
    assert sum(map(count_env_steps, seen)) == status["env_steps"] >= 1600
    assert len(of_the_slow) >= 3
    metrics = [event.content for event in agent.drain() if event.kind == "metrics"]
    losses = [row[name] for row in metrics for name in row if name.startswith("losses/") and "variance" not in name]
    assert losses
    assert np.isfinite(losses).all(), (
        "the explained variance alone may be NaN: the last rounds are short, of equal returns"
    )


@pytest.mark.parametrize("version", [0, 50])
def test_an_on_policy_algorithm_without_a_limit_learns_from_all_fragments_in_async_mode(tmp_path, version):
    plan = make_plan(tmp_path, "tests.algorithms:Cloning", BoxObs, total_steps=10_000)
    agent = make_learner(plan, sync=False)
    agent.weights_version = 50
    agent.update(fragment_for(plan, version=version))
    assert (agent.status()["fragments_dropped"], agent.status()["policy_lag_max"]) == (0, 50 - version)
    assert agent.algorithm.updates == 1


@pytest.mark.parametrize(("algo", "sync"), [("dqn", False), ("ppo", True)])
def test_off_policy_and_in_sync_no_fragment_is_too_old(tmp_path, algo, sync):
    plan = make_plan(tmp_path, algo, BoxObs, total_steps=10_000)
    agent = make_learner(plan, sync)
    agent.weights_version = 50
    agent.update(fragment_for(plan))
    assert (agent.status()["fragments_dropped"], agent.status()["policy_lag_max"]) == (0, 50)


def test_training_stops_at_its_steps_and_what_comes_later_is_ignored(tmp_path):
    plan = make_plan(tmp_path, "ppo", BoxObs, total_steps=32)
    agent = make_learner(plan)
    seen = spy_on_updates(agent)
    for _ in range(4):
        agent.update(fragment_for(plan))
    assert len(seen) == 2
    assert (agent.stop, agent.algorithm.env_steps) == (True, 32)


def test_replicas_learn_version_steps_and_stop_with_the_weights(tmp_path):
    plan = make_plan(tmp_path, "dqn", BoxObs, total_steps=32)
    learner = Learner("learner", TrainingAgent(True, plan=plan), True)
    replica = TrainingAgent(True, plan=plan)
    for expected in [(0, 0, False), (1, 16, False), (2, 32, True)]:
        if expected[0]:
            learner.call("update", fragment_for(plan))
        ack = learner.ack(-1)
        replica._update_model(unpack(ack.weights))
        assert (ack.version, replica.algorithm.env_steps, replica.stop) == expected
        assert torch.equal(replica.algorithm.flat, learner.agent.algorithm.flat)


LENGTHS = [
    ("ppo", BoxObs, {"normalize_reward": True}),
    ("sarsa", BoxObs, {}),
    ("dqn", BoxObs, {"n_step": 3, "prioritized": True}),
    ("qrdqn", DyingAgents, {}),
    ("sac", BoxObs, {}),
    ("td3", "tests.envs:BoxAction", {}),
]


@pytest.mark.parametrize(("total", "expected"), [(96, 96), (97, 100), (101, 104), (127, 128), (3, 4)])
@pytest.mark.parametrize(("algo", "env", "config"), LENGTHS)
def test_the_last_round_is_as_long_as_what_is_left(tmp_path, algo, env, config, total, expected):
    """To a multiple of the envs over all runners: two with two each, of 8 steps a round."""
    plan = make_plan(tmp_path, algo, env, config, total_steps=total, runners=2)
    wise_rl, group = start(plan, env, 8)
    wise_rl.start_all_runners(group)
    assert wise_rl.call("learner", "status")["env_steps"] == expected
    assert open_checkpoint(tmp_path).manifest["env_steps"] == expected
    weights = open_checkpoint(tmp_path).weights()
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())


def test_a_round_of_a_single_row_is_learned_from(tmp_path):
    plan = make_plan(tmp_path, "ppo", BoxObs, total_steps=9, envs=1)
    wise_rl, group = start(plan, BoxObs, 8)
    wise_rl.start_all_runners(group)
    assert wise_rl.call("learner", "status")["env_steps"] == 9
    assert all(bool(torch.isfinite(value).all()) for value in open_checkpoint(tmp_path).weights().values())


@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_async_the_end_is_overshot_by_less_than_a_fragment_of_one_runner(tmp_path, algo):
    plan = make_plan(tmp_path, algo, BoxObs, {}, total_steps=101, runners=3)
    wise_rl, group = start(plan, BoxObs, 8, sync=False)
    wise_rl.start_all_runners(group)
    assert 101 <= wise_rl.call("learner", "status")["env_steps"] < 101 + 16


def test_fragments_of_a_round_that_differ_in_length_are_all_learned_from(tmp_path):
    """At the end of training, that of a runner which was replaced may come from the round before."""
    plan = make_plan(tmp_path, "ppo", BoxObs, runners=3)
    agent = make_learner(plan)
    seen = spy_on_updates(agent)
    agent._update_round([(fragment_for(plan, rank, steps=3 if rank == 1 else 8),) for rank in range(3)])
    assert [fragment["reward"].shape for fragment in seen] == [(8, 4, 1), (3, 2, 1)]
    assert [fragment["stream"].tolist() for fragment in seen] == [[0, 1, 4, 5], [2, 3]]
    assert agent.algorithm.env_steps == 38


def test_a_stop_that_was_asked_for_reaches_runners_with_the_next_round(tmp_path):
    plan = make_plan(tmp_path, "ppo", BoxObs)
    agent = make_learner(plan)
    agent.request_stop()
    agent.update(fragment_for(plan))
    assert agent.stop
    assert agent.algorithm.env_steps == 16


def test_a_stop_that_was_asked_for_in_sync_mode_ends_all_runners_after_the_same_round(tmp_path):
    agent = make_learner(make_plan(tmp_path, "ppo", BoxObs, runners=2))
    agent.request_stop()
    assert not agent.weights()["stop"], "a runner that fetched it now would leave a round before the others"


def test_a_stop_that_was_asked_for_between_two_rounds_ends_a_single_runner_before_the_next(tmp_path):
    agent = make_learner(make_plan(tmp_path, "ppo", BoxObs, runners=1))
    agent.request_stop()
    assert agent.weights()["stop"]


@pytest.mark.parametrize("sync", [True, False])
def test_a_checkpoint_leaves_episodes_alone(tmp_path, sync):
    plan = make_plan(tmp_path, "ppo", BoxObs, checkpoint_every=16, total_steps=32)
    agent = make_learner(plan, sync)
    seen = spy_on_updates(agent)
    agent.update(fragment_for(plan))
    agent.update(fragment_for(plan, version=1))
    assert not any(fragment["truncated"].any() for fragment in seen)


def test_only_the_newest_checkpoint_has_the_replay_and_old_ones_are_removed(tmp_path):
    plan = make_plan(tmp_path, "dqn", BoxObs, checkpoint_every=16, keep_checkpoints=2)
    agent = make_learner(plan)
    for _ in range(4):
        agent.update(fragment_for(plan))
    names = sorted(path.name for path in (tmp_path / "checkpoints").glob("step_*"))
    assert names == ["step_48", "step_64"]
    assert open_checkpoint(tmp_path, "48").replay() is None
    assert open_checkpoint(tmp_path, "64").replay() is not None


def test_without_save_replay_a_resumed_run_starts_with_an_empty_one(tmp_path):
    plan = make_plan(tmp_path, "dqn", BoxObs, checkpoint_every=16, save_replay=False)
    make_learner(plan).update(fragment_for(plan))
    assert open_checkpoint(tmp_path).replay() is None
    resumed = make_learner(make_plan(tmp_path, "dqn", BoxObs, resume=True))
    assert len(resumed.algorithm.replay) == 0
    assert resumed.algorithm.env_steps == 16


@pytest.mark.parametrize(
    ("algo", "config"),
    [
        ("ppo", {"normalize_observation": True, "normalize_reward": True}),
        ("dqn", {"prioritized": True, "n_step": 3, "double": True}),
    ],
)
@pytest.mark.parametrize("env", [Chain, DyingAgents])
def test_stopping_and_going_on_gives_the_weights_of_a_run_without_a_break(tmp_path, algo, config, env):
    """Train 2N = train N, save, be killed, a new learner and new runners, train N: bit for bit, with two runners."""

    class Killed(GymRunner):
        def run(self) -> None:
            while not self.policy.stop and (resume or self.policy.algorithm.env_steps < 96):
                self.step()

    common = {"runners": 2, "checkpoint_every": 96, "total_steps": 192}
    for name, resume, runner_class in [("whole", False, GymRunner), ("parts", False, Killed), ("parts", True, Killed)]:
        plan = make_plan(tmp_path / name, algo, env, config, resume=resume, **common)
        wise_rl, group = start(plan, env, 8 if algo == "ppo" else 2, runner_class=runner_class)
        wise_rl.start_all_runners(group)
        assert wise_rl.call("learner", "status")["env_steps"] == (96 if runner_class is Killed and not resume else 192)
    runs = [open_checkpoint(tmp_path / name) for name in ("whole", "parts")]
    expected, found = (run.weights() for run in runs)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert runs[0].manifest["updates"] == runs[1].manifest["updates"] > 0
    assert (runs[0].path / "weights.safetensors").read_bytes() == (runs[1].path / "weights.safetensors").read_bytes()


@pytest.mark.parametrize("algo", ["ppo", "sarsa", "dqn"])
@pytest.mark.parametrize(("total", "expected"), [(16, [0.5]), (20, [0.2, 0.1]), (32, [0.5, 0.25])])
def test_the_last_round_of_a_linear_decay_is_learned_from(tmp_path, algo, total, expected):
    config = {"learning_rate": 0.01, "learning_rate_decay": "linear"} | (
        {"learning_starts": 0} if algo == "dqn" else {}
    )
    agent = make_learner(make_plan(tmp_path, algo, BoxObs, config, total_steps=total))
    rates = []
    while not agent.stop:
        before = agent.algorithm.flat.detach().clone()
        agent.update(fragment_for(agent.plan))
        assert not torch.equal(agent.algorithm.flat, before)
        rates.append(agent.learning.progress.logs["charts/learning_rate"] / 0.01)
    assert rates == pytest.approx(expected)


def test_metrics_come_at_their_interval_with_the_names_people_know(tmp_path):
    plan = make_plan(tmp_path, "ppo", BoxObs, log_every=32, total_steps=80)
    agent = make_learner(plan)
    fragment = fragment_for(plan)
    done = {"episode_return": np.array([1.0, 3.0], np.float32), "episode_length": np.array([4, 6])}
    for _ in range(5):
        agent.update(fragment | done)
    events = agent.drain()
    assert [(event.kind, event.env_steps) for event in events] == [("metrics", 32), ("metrics", 64), ("metrics", 80)]
    row = events[0].content
    assert (row["charts/episodic_return"], row["charts/episodic_length"], row["charts/episodes"]) == (2.0, 5.0, 4)
    names = (
        "losses/policy_loss losses/value_loss losses/entropy losses/approx_kl losses/clipfrac losses/explained_variance"
    )
    assert set(names.split()) | {"charts/SPS", "charts/learning_rate", "charts/policy_lag_max"} <= set(row)
    assert agent.drain() == []
    assert agent.status()["train_return_mean"] == 2.0


def test_evaluations_are_asked_for_at_their_interval_each_with_a_checkpoint_of_that_step(tmp_path):
    plan = make_plan(tmp_path, "ppo", BoxObs, eval_every=32, total_steps=96)
    agent = make_learner(plan)
    for _ in range(6):
        agent.update(fragment_for(plan))
    asked = [event for event in agent.drain() if event.kind == "evaluate"]
    assert [event.env_steps for event in asked] == [32, 64], "the last one is made at the end in any case"
    assert [open_checkpoint(event.content).manifest["env_steps"] for event in asked] == [32, 64]


def test_a_checkpoint_waits_for_its_evaluation_however_late_that_comes(tmp_path):
    """The driver may be busy with the evaluation before while the learner saves on and on."""
    plan = make_plan(
        tmp_path, "ppo", BoxObs, eval_every=16, checkpoint_every=16, keep_checkpoints=1, total_steps=10_000
    )
    agent = make_learner(plan)
    for _ in range(6):
        agent.update(fragment_for(plan))
    asked = [event for event in agent.drain() if event.kind == "evaluate"]
    assert [open_checkpoint(event.content).manifest["env_steps"] for event in asked] == [16, 32, 48, 64, 80, 96]
    for event in asked:
        agent.note_evaluation(event.content)
    agent.update(fragment_for(plan))
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("step_*")) == ["step_112"]


def test_the_rate_leaves_start_up_and_pauses_out(tmp_path, monkeypatch):
    clock = iter([0.0, 100.0, 102.0, 106.0])
    monkeypatch.setattr("wiserl.training.progress.time.monotonic", lambda: next(clock))
    plan = make_plan(tmp_path, "ppo", BoxObs)
    agent = make_learner(plan)
    assert agent.learning.progress.steps_per_second() == 0.0
    for _ in range(3):
        agent.update(fragment_for(plan))
    assert agent.learning.progress.steps_per_second() == pytest.approx(32 / 6)
    agent.note_pause(2.0)
    assert agent.learning.progress.steps_per_second() == pytest.approx(32 / 4)


def test_a_learner_restored_from_its_checkpoint_has_its_counters(tmp_path):
    plan = make_plan(tmp_path, "dqn", BoxObs, total_steps=64)
    agent = make_learner(plan)
    done = {"episode_return": np.array([5.0], np.float32), "episode_length": np.array([4])}
    for _ in range(4):
        agent.update(fragment_for(plan) | done)
    resumed = make_learner(make_plan(tmp_path, "dqn", BoxObs, total_steps=128, resume=True))
    before, after = agent.status(), resumed.status()
    assert {key: after[key] for key in ("env_steps", "updates", "episodes", "train_return_mean")} == {
        key: before[key] for key in ("env_steps", "updates", "episodes", "train_return_mean")
    }
    assert not resumed.stop
    assert make_learner(make_plan(tmp_path, "dqn", BoxObs, total_steps=64, resume=True)).stop


PACE = {"learning_starts": 8, "train_freq": 4, "gradient_steps": 2}


def saved_run(folder: Path, algo: str = "dqn", total_steps: int = 64, **config: Any) -> TrainingAgent:
    """A run of 64 env steps, of so many, at the pace above, saved."""
    config = (PACE if algo == "dqn" else {}) | config
    plan = make_plan(folder, algo, BoxObs, config, total_steps=total_steps)
    agent = make_learner(plan)
    for _ in range(4):
        agent.update(fragment_for(plan))
    agent.save()
    assert algo != "dqn" or agent.algorithm.updates == 28
    return agent


def without_course(folder: Path, **before: Any) -> None:
    """Make the last checkpoint one of before `course` was saved, with what stood in its place."""
    checkpoint = open_checkpoint(folder)
    state = checkpoint.state()
    del state["training"]["course"]
    state["training"] |= before
    manifest = {key: value for key, value in checkpoint.manifest.items() if key not in ("files", "format", "wiserl")}
    path = save_checkpoint(folder / "checkpoints", manifest, checkpoint.weights(), state, checkpoint.replay())
    point_to(folder / "checkpoints", "last", path)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("changes", "updates"),
    [
        ({}, [8, 8, 8]),
        ({"train_freq": 16}, [2, 2, 2]),
        ({"train_freq": 1}, [32, 32, 32]),
        ({"gradient_steps": 1}, [4, 4, 4]),
        ({"gradient_steps": 20}, [80, 80, 80]),
        ({"learning_starts": 0}, [8, 8, 8]),
        ({"learning_starts": 60}, [8, 8, 8]),
        ({"learning_starts": 88}, [0, 4, 8]),
    ],
)
def test_another_pace_given_on_resume_is_not_applied_to_the_steps_before(tmp_path, old, changes, updates):
    saved_run(tmp_path)
    if old:
        without_course(tmp_path)
    plan = make_plan(tmp_path, "dqn", BoxObs, PACE | changes, total_steps=1000, resume=True)
    agent = make_learner(plan)
    told = [event.content for event in agent.drain() if event.kind == "message" and "counts from" in event.content]
    assert bool(told) == bool(changes)
    for name, value in changes.items():
        assert f"{name}={value} (was {PACE[name]}): this counts from env step 64 on" in told[0]
    before = agent.algorithm.updates
    assert before == 28
    for expected in updates:
        agent.update(fragment_for(plan))
        assert agent.algorithm.updates - before == expected
        before = agent.algorithm.updates


def test_a_run_resumed_before_its_first_update_does_not_catch_up_on_an_earlier_start(tmp_path):
    late = make_plan(tmp_path, "dqn", BoxObs, PACE | {"learning_starts": 500}, total_steps=64)
    agent = make_learner(late)
    while not agent.stop:
        agent.update(fragment_for(late))
    assert agent.algorithm.updates == 0
    plan = make_plan(tmp_path, "dqn", BoxObs, PACE, total_steps=1000, resume=True)
    resumed = make_learner(plan)
    resumed.update(fragment_for(plan))
    assert resumed.algorithm.updates == 8


def test_a_pace_given_on_resume_goes_on_bit_for_bit_when_resumed_again(tmp_path):
    """Train to 64 of 128, then to 256 at another pace: with and without a kill at 160, and a resume that changes nothing."""

    class Killed(GymRunner):
        def run(self) -> None:
            while not self.policy.stop and self.policy.algorithm.env_steps < 160:
                self.step()

    config = PACE | {"train_freq": 3, "learning_rate_decay": "linear", "exploration_fraction": 0.8}
    common = {"checkpoint_every": 32, "total_steps": 256, "resume": True}
    for name, runner_class in [("whole", GymRunner), ("parts", Killed), ("parts", GymRunner)]:
        if not (tmp_path / name).exists():
            saved_run(tmp_path / name, total_steps=128, learning_rate_decay="linear", exploration_fraction=0.8)
        plan = make_plan(tmp_path / name, "dqn", BoxObs, config, **common)
        wise_rl, group = start(plan, BoxObs, 4, runner_class=runner_class)
        wise_rl.start_all_runners(group)
    whole, parts = (open_checkpoint(tmp_path / name) for name in ("whole", "parts"))
    assert whole.manifest["env_steps"] == parts.manifest["env_steps"] == 256
    assert whole.manifest["updates"] == parts.manifest["updates"] == 28 + 192 // 3 * 2
    assert all(torch.equal(value, parts.weights()[name]) for name, value in whole.weights().items())


@pytest.mark.parametrize("old", [False, True])
def test_a_warm_up_is_known_after_a_resume(tmp_path, old):
    agent = saved_run(tmp_path, total_steps=256)
    agent.algorithm.warmed_up = 0 if old else 50
    agent.update(fragment_for(agent.plan))
    agent.save()
    if old:
        without_course(tmp_path, warmed_up=50)
    algorithm = make_learner(make_plan(tmp_path, "dqn", BoxObs, PACE, total_steps=256, resume=True)).algorithm
    assert (algorithm.learning_starts, algorithm.config.learning_starts, algorithm.pace_from) == (50, 8, (0, 0))


FALLING = {"learning_rate": 1.0, "learning_rate_decay": "linear"}
EXPLORING = {"exploration_initial_eps": 1.0, "exploration_final_eps": 0.04, "exploration_fraction": 0.75}
SCHEDULES = [
    ("ppo", FALLING),
    ("sarsa", FALLING | EXPLORING),
    ("dqn", PACE | FALLING | EXPLORING | {"prioritized": True, "prioritized_beta": 0.4}),
]


def values_of(agent: TrainingAgent) -> dict[str, float]:
    """What an algorithm's schedules are at now."""
    return agent.algorithm.scheduled_values(agent.algorithm.progress)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(("algo", "config"), SCHEDULES)
def test_schedules_of_a_finished_run_stay_finished_when_it_goes_on(tmp_path, algo, config, old):
    ended = values_of(saved_run(tmp_path, algo, **config))
    if old:
        without_course(tmp_path)
    plan = make_plan(tmp_path, algo, BoxObs, config, total_steps=256, saved_total_steps=64, resume=True)
    agent = make_learner(plan)
    lines = {event.kind: event.content for event in agent.drain()}
    assert lines["message"].startswith("total_steps=256 (was 64): ")
    assert all(f"{name} has ended and stays {value:.3g}" in lines["message"] for name, value in ended.items())
    assert "resume with learning_rate_decay=none to learn at learning_rate=1" in lines["warning"]
    for _ in range(3):
        agent.update(fragment_for(plan))
        assert values_of(agent) == ended
        if algo != "ppo":
            assert agent.learning.progress.logs["charts/epsilon"] == pytest.approx(0.04)
        assert agent.learning.progress.logs["charts/learning_rate"] == 0.0
        replica = TrainingAgent(True, plan=plan)
        replica._update_model(agent.weights())
        assert values_of(replica) == ended, "what acts explores as what learns believes"
    assert ended == pytest.approx(
        {"learning rate": 0.0}
        | ({} if algo == "ppo" else {"epsilon": 0.04})
        | ({"prioritized_beta": 1.0} if algo == "dqn" else {})
    )


@pytest.mark.parametrize("total_steps", [80, 128, 1024])
@pytest.mark.parametrize(("algo", "config"), SCHEDULES)
def test_schedules_under_way_go_on_from_where_they_were_to_the_new_end(tmp_path, algo, config, total_steps):
    before = values_of(saved_run(tmp_path, algo, total_steps=100, **config))
    plan = make_plan(tmp_path, algo, BoxObs, config, total_steps=total_steps, resume=True)
    agent = make_learner(plan)
    (line,) = [event.content for event in agent.drain()]
    assert values_of(agent) == before
    seen = [before]
    while not agent.stop:
        agent.update(fragment_for(plan))
        seen.append(values_of(agent))
    ended = agent.algorithm.scheduled_values(1.0)
    assert seen[-1] == ended
    for name, value in before.items():
        assert f"{name} goes on from {value:.3g} to {ended[name]:.3g}" in line
        falls = ended[name] < value
        assert all((a[name] >= b[name]) == falls or a[name] == b[name] for a, b in itertools.pairwise(seen))
    assert before["learning rate"] == pytest.approx(0.36)


def test_without_another_total_schedules_go_on_as_if_never_interrupted_and_nothing_is_said(tmp_path):
    whole = saved_run(tmp_path / "whole", total_steps=256, **FALLING)
    saved_run(tmp_path / "parts", total_steps=256, **FALLING)
    plan = make_plan(tmp_path / "parts", "dqn", BoxObs, PACE | FALLING, total_steps=256, resume=True)
    parts = make_learner(plan)
    assert not parts.drain()
    for agent in (whole, parts):
        agent.update(fragment_for(plan))
    assert parts.algorithm.progress == whole.algorithm.progress == 80 / 256
    assert parts.learning.progress.logs["charts/learning_rate"] == whole.learning.progress.logs["charts/learning_rate"]
