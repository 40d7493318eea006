"""Training that has diverged ends with its cause named; nothing acts with what is not finite, and nothing saves it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wiserl
from tests.envs import BoxAction, BoxObs
from tests.fragments import make_fragment
from tests.plans import make_plan, one_runner
from wiserl.agent.base.divergence import DivergenceWatch
from wiserl.cli.main import main
from wiserl.run_folder.checkpoint import open_checkpoint
from wiserl.training.training_agent import TrainingAgent
from wiserl.transport.learner import Learner
from wiserl.util.errors import Diverged, EnvError

TINY: dict[str, Any] = {"total_steps": 400, "envs": 2, "vector": "inline", "hidden_sizes": (8,), "eval_episodes": 2}
REPLAY = {**TINY, "learning_starts": 16, "buffer_size": 500, "batch_size": 8, "round_steps": 16, "checkpoint_every": 16}
ROUNDS = {**TINY, "n_steps": 8, "batch_size": 8, "n_epochs": 2, "checkpoint_every": 16}
HUGE = 1e20


class Picky(BoxAction):
    """Fails where an action is no number, as many simulators do."""

    def step(self, action: Any) -> Any:
        if not np.isfinite(action).all():
            raise ValueError("action out of bounds")
        return super().step(np.clip(action, self.action_space.low, self.action_space.high))


CASES = [
    ("dqn", BoxObs, REPLAY | {"train_freq": 4}),
    ("dqn", BoxObs, REPLAY | {"train_freq": 4, "prioritized": True, "categorical": True}),
    ("qrdqn", BoxObs, REPLAY | {"train_freq": 4, "hidden_sizes": (32, 32)}),
    ("ddpg", Picky, REPLAY),
    ("td3", Picky, REPLAY),
    ("sac", Picky, REPLAY),
    ("sac", Picky, REPLAY | {"train_freq": 16}),  # one update a round: its weights are huge and finite when they act
    ("sac", BoxObs, REPLAY),
    ("sarsa", BoxObs, ROUNDS),
    ("ppo", BoxObs, ROUNDS),
    ("ppo", Picky, ROUNDS | {"n_epochs": 1, "batch_size": 1000}),
]


def assert_finite_checkpoints(folder: Path) -> None:
    for path in (folder / "checkpoints").glob("step_*"):
        found = open_checkpoint(path)
        values = [*found.weights().values(), *_tensors(found.state()["algorithm"])]
        assert all(torch.isfinite(value).all() for value in values if value.is_floating_point()), path


def _tensors(state: Any) -> list[torch.Tensor]:
    if isinstance(state, dict):
        return [tensor for value in state.values() for tensor in _tensors(value)]
    return [state] if isinstance(state, torch.Tensor) else []


@pytest.mark.parametrize(("algo", "env", "options"), CASES)
@pytest.mark.parametrize("learning_rate", [HUGE, 1e25])
def test_a_learning_rate_without_measure_ends_the_run_with_its_cause_named(tmp_path, algo, env, options, learning_rate):
    with pytest.raises(Diverged) as raised:
        wiserl.train(algo, env, run_dir=tmp_path, backend="local", quiet=True, learning_rate=learning_rate, **options)
    message = str(raised.value)
    assert message.startswith(f"{algo} has diverged: ")
    assert "after update " in message
    assert ", at env step " in message
    assert f"a lower learning_rate (it is {learning_rate:g})" in message
    assert_finite_checkpoints(tmp_path)


def test_by_hand_the_error_is_the_same_and_nothing_is_saved_afterwards(tmp_path):
    run = wiserl.by_hand("sac", Picky, run_dir=tmp_path, learning_rate=1e25, **REPLAY)
    with pytest.raises(Diverged, match="sac has diverged"):
        run.run()
    with pytest.raises(Diverged, match="sac has diverged"), run:
        run.save()
    assert_finite_checkpoints(tmp_path)


def test_weights_spoilt_by_hand_are_not_saved(tmp_path):
    run = wiserl.by_hand("ppo", BoxObs, run_dir=tmp_path, **ROUNDS)
    with torch.no_grad():
        run.algorithm.flat[3] = math.nan
    with pytest.raises(Diverged, match=r"1 of [0-9,]+ numbers of its weights are not finite"), run:
        run.save()
    assert not list((tmp_path / "checkpoints").glob("step_*"))


def test_a_run_that_was_saved_diverged_is_not_gone_on_with(tmp_path):
    with wiserl.by_hand("ppo", BoxObs, run_dir=tmp_path, **ROUNDS) as run:
        run.step()
        run.learner.learning.watch.check = lambda *given: None
        run.algorithm.flat.data[3] = math.nan
        run.learner.learning.saver._saved_at = -1
        run.save()
    with pytest.raises(Diverged, match="numbers of its weights are not finite"):
        wiserl.by_hand("ppo", BoxObs, resume=tmp_path)


def make_learner(tmp_path: Path, algo: str = "sac", env: Any = BoxAction, **options: Any) -> TrainingAgent:
    plan = make_plan(tmp_path, algo, env, options)
    return Learner("learner", TrainingAgent(True, plan=plan), True).agent


@pytest.mark.parametrize(
    ("where", "spoil"),
    [
        ("weights", lambda agent: agent.flat),
        ("critics.online", lambda agent: agent.critics.flat),
        ("critics.target", lambda agent: agent.critics.target_flat),
        ("critics.optimizer.exp_avg_sq", lambda agent: agent.critics.optimizer._moments["exp_avg_sq"]),
        ("actor_optimizer.exp_avg", lambda agent: agent.actor_optimizer._moments["exp_avg"]),
        ("temperature", lambda agent: agent.temperature.log_alpha),
    ],
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_everything_that_is_learned_is_looked_at(tmp_path, where, spoil, value):
    agent = make_learner(tmp_path)
    agent.learning.watch.check()
    with torch.no_grad():
        spoil(agent.algorithm)[-1] = value
    with pytest.raises(Diverged, match=f"1 of [0-9,]+ numbers of its {where} are not finite"):
        agent.learning.watch.check()


def test_statistics_of_a_normaliser_are_looked_at(tmp_path):
    agent = make_learner(tmp_path, "ppo", BoxObs, normalize_observation=True)
    agent.algorithm.policy.normalizer.var[0] = math.inf
    with pytest.raises(Diverged, match=r"numbers of its normalizer\.var are not finite"):
        agent.learning.watch.check()


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_named_and_other_figures_may_be_so(tmp_path, loss):
    agent = make_learner(tmp_path)
    agent.learning.watch.check({"losses/explained_variance": math.nan, "losses/qf_loss": 1.0})
    with pytest.raises(Diverged, match=f"its qf_loss is {loss}"):
        agent.learning.watch.check({"losses/qf_loss": loss})


def test_what_was_infinite_from_the_start_may_stay_so_and_large_weights_are_no_error(tmp_path):
    agent = make_learner(tmp_path, "ppo", BoxObs).algorithm
    agent.policy.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    agent._own_tensors()
    with torch.no_grad():
        agent.flat.fill_(3e38)  # finite each, not their sum
    DivergenceWatch(agent, "ppo").check()


def test_an_update_that_fails_of_its_own_nan_is_told_as_that(tmp_path):
    agent = make_learner(tmp_path)

    def update(fragment: Any) -> dict[str, float]:
        with torch.no_grad():
            agent.algorithm.flat.fill_(math.nan)
        raise IndexError("probabilities contain NaN")

    agent.algorithm.update = update
    with pytest.raises(Diverged, match="numbers of its weights are not finite"):
        agent.learning.watch.update(make_fragment())


def test_weights_that_are_not_finite_are_not_published(tmp_path):
    plan = make_plan(tmp_path, "ppo", BoxObs)
    learner = Learner("learner", TrainingAgent(True, plan=plan), True)
    learner.agent.algorithm.update = lambda fragment: {"losses/policy_loss": math.nan}
    fragment = make_fragment(plan.spec, 8, 2, log_prob=np.zeros((8, 2, 1), np.float32))
    with pytest.raises(Diverged):
        learner.agent._update_round([(fragment,)])
    assert learner._to_publish is None
    assert learner.version == 0


# ---- who is to blame for what an env does with an action that is no number ----


class Passive(BoxAction):
    """Returns what it gets: NaN for NaN."""

    def step(self, action: Any) -> Any:
        obs, _, *rest = super().step(np.clip(action, -1, 1) * 0)
        return obs, float(np.sum(action)), *rest


class Raising(BoxAction):
    def step(self, action: Any) -> Any:
        if np.isnan(action).any():
            raise EnvError("action out of bounds")
        return super().step(action)


@pytest.mark.parametrize("env", [Passive, Raising, Picky])
def test_an_action_that_is_no_number_is_the_policys_fault(tmp_path, env):
    runner = one_runner(make_plan(tmp_path, "sac", env, {"learning_starts": 0}), env, 8)
    runner.collect()
    with torch.no_grad():
        runner.policy.algorithm.flat.fill_(math.nan)
    with pytest.raises(
        Diverged, match=r"sac has diverged: on a finite observation it chose nan as action \[0, 0, 0, 0\]"
    ):
        runner.collect()


def test_an_action_chosen_on_garbage_is_the_envs_fault(tmp_path):
    class Garbage(BoxAction):
        def step(self, action: Any) -> Any:
            if np.isnan(action).any():
                raise ValueError("action out of bounds")
            obs, *rest = super().step(action)
            return obs * np.nan, *rest

    runner = one_runner(make_plan(tmp_path, "sac", Garbage, {"learning_starts": 0}), Garbage, 8)
    with pytest.raises(EnvError, match="returned nan as observation at step 1"):
        runner.collect()


def test_a_trained_policy_says_so_instead_of_acting(tmp_path):
    with wiserl.by_hand("sac", BoxAction, run_dir=tmp_path, **REPLAY) as run:
        run.run()
        policy = run.policy()
    with torch.no_grad():
        policy._algorithm.flat.fill_(math.nan)
    with pytest.raises(Diverged, match="on a finite observation it chose nan"):
        policy.choose_action(np.zeros(1, np.float32))


def test_the_command_line_exits_with_1_and_one_line(tmp_path, monkeypatch, capsys):
    options = ["total_steps=256", "n_steps=16", "learning_rate=1e30", "batch_size=16", "device=cpu"]
    arguments = [part for option in options for part in ("--set", option)]
    command = ["wiserl", "train", "ppo", "tests.envs:BoxObs", "--backend", "local", "--run-dir", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", [*command, *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 1
    assert said.startswith("wiserl: error: ppo has diverged: ")


def test_gradients_of_infinity_end_it_before_they_are_forgotten(tmp_path):
    """A second moment that overflowed makes every later step 0: learning would end in silence."""
    agent = make_learner(tmp_path, "ppo", BoxObs, max_grad_norm=math.inf)
    optimizer, before = agent.algorithm.optimizer, agent.algorithm.flat.detach().clone()
    optimizer.step(agent.algorithm.flat.sum() * 0 + 1e25 * agent.algorithm.policy.critic.weight.sum(), 1e-3)
    assert torch.isfinite(agent.algorithm.flat).all()
    assert torch.allclose(agent.algorithm.flat, before)
    with pytest.raises(Diverged, match=r"optimizer\.exp_avg_sq"):
        agent.learning.watch.check()
