"""wiserl on the settings of `benchmarks.settings`, through its Python interface. Reports as in `benchmarks.peers`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks import settings


def _train(
    algorithm: str, env: str, config: dict[str, Any], eval_episodes: int = settings.EVAL_EPISODES, **options: Any
) -> dict[str, Any]:
    """Train in a run folder that is thrown away.

    `steps_per_second` is the summary's own: from the end of the first round of training to the end of the last.
    """
    import wiserl

    with tempfile.TemporaryDirectory(prefix="wiserl-benchmark-") as folder:
        summary = wiserl.train(
            algorithm,
            env,
            vector="auto",
            device="cpu",
            eval_episodes=eval_episodes,
            run_dir=str(Path(folder) / "run"),
            quiet=True,
            config=config,
            **options,
        )
    return {
        "steps": summary["env_steps"],
        "seconds": summary["env_steps"] / summary["steps_per_second"],
        "steps_per_second": summary["steps_per_second"],
        "return_mean": summary["eval_return_mean"],
        "return_std": summary["eval_return_std"],
        "policy_lag_mean": summary["policy_lag_mean"],
        "updates": summary["updates"],
    }


def ppo(
    compiled: bool = False, recurrent: bool = False, sequence_length: int | None = None, **options: Any
) -> dict[str, Any]:
    """PPO on CartPole.

    Args:
        compiled: turn `compile` on.
        recurrent: with LSTMs of `settings.MEMORY_UNITS`.
        sequence_length: of those; None: whole fragments.
        options: of `wiserl.train`: `total_steps seed backend sync runners envs` (envs per runner).
    """
    config = {**settings.PPO, **settings.PPO_OURS, "compile": compiled}
    if recurrent:
        config |= {
            "net": "rnn",
            "cell": "lstm",
            "memory_units": settings.MEMORY_UNITS,
            "sequence_length": sequence_length,
        }
    return _train("ppo", settings.ENV, config, **options)


def dqn(**options: Any) -> dict[str, Any]:
    """DQN on CartPole as Stable-Baselines3 has it: one update per four env steps over all runners. Options as `ppo`."""
    return _train("dqn", settings.ENV, {**settings.DQN, **settings.DQN_OURS}, **options)


def continuous(algorithm: str, **options: Any) -> dict[str, Any]:
    """SAC or TD3 on Pendulum with one update per env step. Options as `ppo`."""
    config = {**settings.CONTINUOUS, **settings.CONTINUOUS_OURS}
    return _train(algorithm, settings.PENDULUM, config, backend="local", runners=1, envs=1, **options)


def sleep(**options: Any) -> dict[str, Any]:
    """PPO on an env of 5 ms a step, one env a runner, on Ray and async: what is measured is how sampling scales."""
    config = {**settings.PPO, **settings.PPO_OURS, "n_steps": 32, "batch_size": 32, "n_epochs": 1}
    return _train("ppo", "benchmarks.envs:SleepyEnv", config, 1, backend="ray", sync=False, envs=1, **options)
