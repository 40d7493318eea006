"""What a training run is: its options, what learner and replicas have to know of it, and what the learner tells its driver."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from wiserl.agent.catalogue import Algo
from wiserl.core.config import Count, NonNegative, PositiveInt, meaning, option, to_plain
from wiserl.core.spec import EnvSpec
from wiserl.env.make import env_id

VectorKind: TypeAlias = Literal["auto", "native", "inline", "process"]


@dataclass(frozen=True)
class RunConfig:
    """Options of a run. All counts of steps are env steps over all runners and envs."""

    algo: Algo = field(metadata=meaning("the algorithm"))
    env: Any = field(metadata=meaning("what `make_env` takes"))
    total_steps: PositiveInt = option(100_000, "env steps to train for; the last round is cut to end there")
    runners: PositiveInt = option(1, "processes that sample")
    envs: PositiveInt = option(8, "per runner")
    vector: VectorKind = option("auto", "how a runner steps its envs; auto: inline or process, as measured")
    backend: Literal["auto", "local", "ray"] = option("auto", "auto: local for one runner, ray for more")
    device: str = option("auto", "of the learner: cpu, cuda, cuda:1; runners act on the CPU")
    sync: bool = option(True, "runners wait for every new set of weights")
    seed: Count = option(0, "of everything random in the run")
    run_dir: str | None = option(None, "default: runs/ALGO-ENV-sSEED")
    eval_every: Count = option(0, "env steps; 0: at the end only")
    eval_episodes: PositiveInt = option(20, "per evaluation")
    checkpoint_every: Count = option(0, "env steps; 0: five in a run")
    keep_checkpoints: PositiveInt = option(3, "the newest; last and best stay in any case")
    save_replay: bool = option(True, "in the newest checkpoint; else a resumed run begins with an empty one")
    max_inflight: Count = option(0, "async: fragments per runner that may be unanswered; 0: 1 on-policy, 2 off-policy")
    max_restarts: Count = option(3, "of each runner whose process died, and of the learner")
    learner_gpus: NonNegative = option(0.0, "GPUs asked of Ray for the learner")
    preset: bool = option(True, "start from the tuned options of this algorithm and env, where there are some")
    env_kwargs: dict[str, Any] = field(default_factory=dict, metadata=meaning("arguments of the env"))

    @property
    def names(self) -> dict[str, str]:
        """Algorithm and env, as files and messages name them."""
        return {"algo": self.algo.name, "env": env_id(self.env)}

    def plain(self) -> dict[str, Any]:
        """JSON-able values by name."""
        names: dict[str, Any] = {**self.names}
        return to_plain(dataclasses.replace(self, **names))


@dataclass(frozen=True, kw_only=True)
class TrainPlan(RunConfig):
    """A run's options with nothing left open, and what they come to."""

    run_dir: str
    spec: EnvSpec
    config: Any  # an instance of the algorithm's config class
    manifest: dict[str, Any]  # what every checkpoint's manifest says besides counters
    log_every: int  # env steps
    resume: bool
    saved_total_steps: int = 0  # of the run that is resumed, for checkpoints that do not say it


@dataclass(frozen=True)
class Event:
    """Something the driver is told: `metrics` (a row), `evaluate` (a checkpoint's path), `message` or
    `warning` (a line for the user).
    """

    kind: str
    env_steps: int
    content: Any
