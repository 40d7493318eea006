"""What happens before a run begins: look at its env, decide what was left open, take its folder."""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wiserl.agent.base.off_policy import OffPolicyConfig
from wiserl.core.config import to_plain
from wiserl.core.spec import EnvSpec
from wiserl.env.contract import close_env
from wiserl.env.goal_reward import GoalReward
from wiserl.env.make import check_reset, env_id, make_env
from wiserl.env.masks import with_masks
from wiserl.env.rows import read_spec
from wiserl.env.vector.choose import choose_vector
from wiserl.policy.trust import Names
from wiserl.replay.dataset import MINARI
from wiserl.run_folder.checkpoint import FORMAT
from wiserl.run_folder.claim import RunFolder, claim, finished_summary, reopen
from wiserl.training.gym_runner import GymRunnerArgs
from wiserl.training.plan import RunConfig, TrainPlan
from wiserl.training.transform import Transform
from wiserl.transport.registry import resolve_backend
from wiserl.util.cores import available_cores
from wiserl.util.device import check_device


@dataclass(frozen=True)
class Prepared:
    """A run that can begin.

    Attributes:
        run: its options, nothing left open.
        config: of the algorithm.
        spec: of the env.
        backend: `local` or `ray`.
        steps: of each env in a fragment.
        transform: given each fragment before it is learned from.
        vector_reason: why the envs are stepped as they are; empty where that was asked for.
    """

    run: RunConfig
    config: Any
    spec: EnvSpec
    backend: str
    steps: int
    transform: Transform | None
    vector_reason: str

    def settings(self, folder: Path) -> dict[str, Any]:
        """What `config.json` holds."""
        settings = {
            "run": {**self.run.plain(), "run_dir": str(folder)},
            "hyperparameters": to_plain(self.config),
            **self.run.names,
            "backend": self.backend,
            "transform": env_id(self.transform) if self.transform else None,
        }
        return {"format": FORMAT, **settings, **Names.of_settings(settings).signed()}

    def manifest(self) -> dict[str, Any]:
        """What every checkpoint says of the run."""
        run = self.run
        manifest: dict[str, Any] = {
            **run.names,
            "env_kwargs": run.env_kwargs,
            "spec": self.spec.to_json(),
            "config": to_plain(self.config),
            "seed": run.seed,
        }
        return {**manifest, **Names.of_manifest(manifest).signed()}

    def plan(self, folder: RunFolder, resume: bool) -> TrainPlan:
        """What learner and replicas have to know; `resume`: go on from the folder's last checkpoint."""
        options = {**vars(self.run), "run_dir": str(folder.path.absolute())}
        return TrainPlan(
            **options,
            spec=self.spec,
            config=self.config,
            manifest=self.manifest(),
            log_every=max(self.run.total_steps // 200, 1),
            resume=resume,
            saved_total_steps=folder.before["run"]["total_steps"] if folder.before else 0,
        )


def prepare(run: RunConfig, config: Any, transform: Transform | None = None) -> Prepared:
    """Look at the env, and decide what the options leave open. Nothing is started or written.

    Raises:
        InputError: the env cannot be made, the algorithm cannot do it, the transform cannot be called, or there is no such
            backend or device here.
    """
    GymRunnerArgs.check_transform(transform)
    config = with_whole_paths(config)
    algorithm = run.algo.algorithm
    spec = look_at_env(run)
    algorithm(spec=spec, config=config)  # an env it cannot do is refused here, before anything is started
    run, vector_reason = with_vector(run)
    steps = algorithm.steps_per_fragment(config, run.sync, run.runners, run.envs)
    backend = backend_for(run)
    device, gpus = learner_device(run, backend)
    run = dataclasses.replace(run, device=device, learner_gpus=gpus)
    run = with_defaults(run, steps * run.runners * run.envs, algorithm.on_policy)
    return Prepared(run, config, spec, backend, steps, transform, vector_reason)


def with_whole_paths(config: Any) -> Any:
    """The config with the path of its data set from the root: an env or the learner's process may be in another folder."""
    if not isinstance(config, OffPolicyConfig) or not config.dataset or config.dataset.startswith(MINARI):
        return config
    return dataclasses.replace(config, dataset=str(Path(config.dataset).expanduser().absolute()))


def look_at_env(run: RunConfig) -> EnvSpec:
    """The spec of the run's env, made once for it."""
    probe = make_env(run.env, run.env_kwargs)
    check_reset(probe, run.env)
    spec = with_masks(read_spec(probe, run.env), probe)
    close_env(probe, f"env '{env_id(run.env)}'")
    return dataclasses.replace(spec, goal_reward=GoalReward(run.env, run.env_kwargs))


def with_vector(run: RunConfig) -> tuple[RunConfig, str]:
    """The run with a way to step its envs, and why this one; empty where it was asked for."""
    if run.vector != "auto":
        return run, ""
    cores = max(available_cores() // run.runners, 1)  # of other machines nothing is known yet
    vector, reason = choose_vector(run.env, run.env_kwargs, run.envs, cores)
    return dataclasses.replace(run, vector=vector), reason


def backend_for(run: RunConfig) -> str:
    """The backend of a run: what was asked; `auto` is WISERL_BACKEND, else local for one runner and Ray for more."""
    if run.backend == "auto" and "WISERL_BACKEND" not in os.environ and run.runners == 1:
        return "local"
    return resolve_backend(run.backend)


def learner_device(run: RunConfig, backend: str) -> tuple[str, float]:
    """The device the learner will use, and the GPUs to ask of Ray for it.

    `auto` is a GPU where there is one: in this process, or on Ray if GPUs were asked for or a look at the machine shows one.
    A GPU on Ray counts from 0 in the learner's process, whichever it is.

    Raises:
        InputError: a GPU was asked for and this process, which is to use it, has none.
    """
    if backend == "local":
        device = ("cuda" if torch.cuda.is_available() else "cpu") if run.device == "auto" else run.device
        return check_device(device), 0.0
    wants = run.device.startswith("cuda") or (
        run.device == "auto" and (run.learner_gpus > 0 or torch.cuda.is_available())
    )
    return ("cuda", run.learner_gpus or 1.0) if wants else ("cpu", 0.0)


def with_defaults(run: RunConfig, round_steps: int, on_policy: bool) -> RunConfig:
    """Fill in what depends on the rest: how often to save, how many fragments may be under way.

    Args:
        run: the options.
        round_steps: env steps of a round, of all runners and envs.
        on_policy: whether the algorithm learns from what has just been sampled.
    """
    return dataclasses.replace(
        run,
        checkpoint_every=run.checkpoint_every or max(run.total_steps // 5, round_steps),
        max_inflight=run.max_inflight or (1 if on_policy else 2),
    )


def take_folder(prepared: Prepared, resume: bool, home: Path) -> tuple[RunFolder, dict[str, Any] | None]:
    """The run's folder with its `config.json`; and of a resumed run with no env steps left to do, its summary.

    A relative name is taken from `home`, wherever an env or a process of Ray has gone since.

    Raises:
        InputError: a new run's folder holds a run already, or the run to resume has another transform.
    """
    run = prepared.run
    if not resume:
        name = run.run_dir or "runs/" + re.sub("[/:]", "-", f"{run.algo.name}-{env_id(run.env)}-s{run.seed}")
        return claim(str(home / name), not run.run_dir, prepared.settings), None
    path = home / str(run.run_dir)
    summary = finished_summary(path, run.total_steps)
    return reopen(path, prepared.settings(path), summary is not None), summary
