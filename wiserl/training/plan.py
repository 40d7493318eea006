"""What a training run is, as learner and replicas have to know it, and what the learner tells its driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wiserl.agent.catalogue import AlgoLike
from wiserl.core.spec import EnvSpec


@dataclass(frozen=True)
class TrainPlan:
    """What learner and replicas have to know. Steps are env steps over all envs."""

    algo: AlgoLike
    spec: EnvSpec
    config: Any  # an instance of the algorithm's config class
    total_steps: int
    runners: int
    envs: int  # per runner
    seed: int
    device: str
    run_dir: str
    manifest: dict[str, Any]  # what every checkpoint's manifest says besides counters
    checkpoint_every: int
    eval_every: int  # 0: at the end only
    keep_checkpoints: int
    save_replay: bool
    max_inflight: int
    log_every: int
    resume: bool
    saved_total_steps: int = 0  # of the run that is resumed; heeded where its checkpoint does not tell


@dataclass(frozen=True)
class Event:
    """Something the driver is told: `metrics` (a row), `evaluate` (a checkpoint's path), `message` or
    `warning` (a line for the user).
    """

    kind: str
    env_steps: int
    content: Any
