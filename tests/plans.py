"""What tests of the learner and the runners share: a small training, wired by hand on the local backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wiserl.agent.catalogue import find_algorithm
from wiserl.core.config import make_config, to_plain
from wiserl.env.make import EnvLike, make_env
from wiserl.env.masks import with_masks
from wiserl.env.rows import read_spec
from wiserl.training.gym_runner import GymRunner, GymRunnerArgs
from wiserl.training.plan import TrainPlan
from wiserl.training.training_agent import TrainingAgent
from wiserl.transport.backend import RunnerGroup
from wiserl.transport.registry import WiseRL

SMALL_REPLAY = {"learning_starts": 8, "buffer_size": 200, "batch_size": 8, "hidden_sizes": (8,)}
SMALL = {
    "ppo": {"n_steps": 8, "batch_size": 16, "n_epochs": 2, "hidden_sizes": (8,)},
    "sarsa": {"n_steps": 8, "batch_size": 16, "n_epochs": 2, "hidden_sizes": (8,)},
    **dict.fromkeys(("dqn", "qrdqn", "ddpg", "td3", "sac"), SMALL_REPLAY),
}
"""Hyper-parameters with which a few env steps make a few updates."""


def make_plan(folder: Path, algo: str, env: EnvLike, config: dict[str, Any] | None = None, env_kwargs: dict[str, Any] | None = None,
              **changes: Any) -> TrainPlan:  # fmt: skip
    """A plan of 1000 steps on one runner with two envs, saved at the end only."""
    probe = make_env(env, env_kwargs or {})
    spec = with_masks(read_spec(probe, env), probe)
    probe.close()
    found = find_algorithm(algo)
    made = make_config(found.algorithm.config_class, SMALL.get(algo, {}) | (config or {}), algo)
    manifest = {
        "algo": algo,
        "env": str(env),
        "env_kwargs": env_kwargs or {},
        "spec": spec.to_json(),
        "config": to_plain(made),
    }
    values = {"total_steps": 1000, "envs": 2, "seed": 0, "device": "cpu", "run_dir": str(folder)}
    values |= {"checkpoint_every": 10_000, "max_inflight": 1, "log_every": 100, "resume": False} | changes
    return TrainPlan(
        algo=found,
        env=env,
        env_kwargs=env_kwargs or {},
        spec=spec,
        config=made,
        manifest={**manifest, "seed": values["seed"]},
        **values,
    )


def start(plan: TrainPlan, env: EnvLike, steps: int, vector: str = "inline", env_kwargs: dict[str, Any] | None = None,
          runner_class: type[GymRunner] = GymRunner, sync: bool = True) -> tuple[WiseRL, RunnerGroup]:  # fmt: skip
    """Learner and runners in this process; each runner makes `steps` steps per fragment."""
    wise_rl = WiseRL("local")
    wise_rl.make_agent("learner", TrainingAgent, sync=sync, plan=plan)
    args = GymRunnerArgs("learner", env, plan.envs, steps, plan.seed, vector, env_kwargs or {})
    return wise_rl, wise_rl.make_runner("runner", runner_class, args, num=plan.runners)


def one_runner(plan: TrainPlan, env: EnvLike, steps: int, **options: Any) -> GymRunner:
    """The only runner of a training."""
    _, group = start(plan, env, steps, **options)
    runner: GymRunner = group.members[0][0]
    return runner
