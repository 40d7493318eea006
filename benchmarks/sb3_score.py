"""One cell of the score table with Stable-Baselines3: `python -m benchmarks.sb3_score sac HalfCheetah-v5 --total-steps N`.

It gets wiserl's resolved hyper-parameters (preset and `--set`) wherever it has one of that name; what it lacks is refused if
it was set for this cell, and left at its default if the preset says it. The final policy is evaluated as wiserl's is:
deterministic, 20 episodes, an env of its own. The last line of stdout is a summary as JSON.
"""

from __future__ import annotations

import inspect
import json
import time
from typing import Any

import click
import gymnasium as gym
import numpy as np
import torch

from benchmarks.settings import EVAL_EPISODES
from wiserl.core.run_config import presets, resolve

ACTIVATIONS = {
    "tanh": torch.nn.Tanh,
    "relu": torch.nn.ReLU,
    "elu": torch.nn.ELU,
    "gelu": torch.nn.GELU,
    "silu": torch.nn.SiLU,
}


def peer_class(algo: str) -> Any:
    """Its class of that algorithm.

    Raises:
        click.BadParameter: it has none.
    """
    import stable_baselines3

    found = getattr(stable_baselines3, algo.upper(), None)
    if found is None:
        raise click.BadParameter(f"Stable-Baselines3 has no {algo}; it has ppo, dqn, ddpg, td3 and sac")
    return found


def hyperparameters(algo: str, env: str, settings: dict[str, str]) -> dict[str, Any]:
    """Arguments of its constructor, from wiserl's configuration.

    Raises:
        click.BadParameter: a setting that it has not.
    """
    run, config = resolve(algo, env, settings)
    known = set(inspect.signature(peer_class(algo)).parameters)
    values = {name: getattr(config, name) for name in vars(config) if name in known}
    translated = {"hidden_sizes", "activation", "action_noise", "noise_std", "learning_rate_decay"}
    unknown = set(settings) - known - translated - set(vars(run))
    if unknown:
        raise click.BadParameter(f"Stable-Baselines3's {algo} has no {sorted(unknown)}")
    values.pop("action_noise", None)  # named alike, but an object there
    values["policy_kwargs"] = {"net_arch": list(config.hidden_sizes), "activation_fn": ACTIVATIONS[config.activation]}
    if config.learning_rate_decay == "linear":
        start = config.learning_rate
        values["learning_rate"] = lambda left: left * start
    if getattr(config, "action_noise", "none") == "gaussian":
        from stable_baselines3.common.noise import NormalActionNoise

        size = gym.make(env).action_space.shape[0]  # type: ignore[index]
        values["action_noise"] = NormalActionNoise(np.zeros(size), np.full(size, config.noise_std))
    return values


@click.command(help=__doc__)
@click.argument("algo")
@click.argument("env")
@click.option("--total-steps", type=int, required=True)
@click.option("--seed", type=int, default=0)
@click.option("--set", "settings", multiple=True, help="KEY=VALUE, as for `wiserl train`.")
def main(algo: str, env: str, total_steps: int, seed: int, settings: tuple[str, ...]) -> None:
    """Train, evaluate, print the summary."""
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    begun = time.perf_counter()
    torch.set_num_threads(1)
    given = dict(setting.split("=", 1) for setting in settings)
    arguments = hyperparameters(algo, env, given)
    envs = presets().get(algo, {}).get(env, {}).get("envs", 1)
    model = peer_class(algo)(
        "MlpPolicy", make_vec_env(env, n_envs=envs, seed=seed), seed=seed, device="cpu", **arguments
    )
    started = time.perf_counter()
    model.learn(total_steps)
    seconds = time.perf_counter() - started
    returns: Any = evaluate_policy(
        model,
        make_vec_env(env, n_envs=1, seed=seed + 1000),
        EVAL_EPISODES,
        deterministic=True,
        return_episode_rewards=True,
    )[0]
    summary = {
        "algo": algo,
        "env": env,
        "seed": seed,
        "env_steps": model.num_timesteps,
        "steps_per_second": model.num_timesteps / seconds,
        "wall_seconds": time.perf_counter() - begun,
        "eval_return_mean": float(np.mean(returns)),
        "eval_return_std": float(np.std(returns)),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
