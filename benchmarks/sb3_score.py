"""One cell of the score table with Stable-Baselines3: `python -m benchmarks.sb3_score sac HalfCheetah-v5 --total-steps N`.

It gets wiserl's resolved hyper-parameters (preset and `--set`). What it lacks is refused if it was set for this cell; if the
preset says it, it is left out, and named on stderr. The final policy is evaluated as wiserl's is: deterministic, 20 episodes,
an env of its own. The last line of stdout is a summary as JSON.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import time
from typing import Any

import click
import gymnasium as gym
import numpy as np
import torch

from benchmarks.settings import EVAL_EPISODES
from wiserl.experiment.options import RUN_OPTIONS, presets, resolve

ACTIVATIONS = {
    "tanh": torch.nn.Tanh,
    "relu": torch.nn.ReLU,
    "elu": torch.nn.ELU,
    "gelu": torch.nn.GELU,
    "silu": torch.nn.SiLU,
}
TRANSLATED = {"hidden_sizes", "activation", "learning_rate_decay", "n_step", "action_noise", "noise_std", "noise_theta"}
WITHOUT_EFFECT = {"compile", "max_policy_lag", "total_steps", "vector"}  # on what is learned, in sync mode
PEER_DOES = {"round_steps": 1}  # where that is not what wiserl does by default


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


def refuse_what_it_lacks(algo: str, config: Any, asked: set[str], preset: set[str], known: set[str]) -> None:
    """Check that no option asks for what the peer does not do; of a preset's, say on stderr which are left out.

    Args:
        algo: name of the algorithm.
        config: wiserl's configuration of it.
        asked: options set for this cell.
        preset: options of the preset.
        known: options that the peer is given.

    Raises:
        click.BadParameter: one of `asked` does.
    """
    differing = {}
    for field in dataclasses.fields(config):
        value, default = getattr(config, field.name), PEER_DOES.get(field.name, field.default)
        if field.name in (asked | preset) - known - WITHOUT_EFFECT and value != default:
            differing[field.name] = value
    refused = sorted(asked & (set(differing) | set(RUN_OPTIONS) - WITHOUT_EFFECT - {"envs"}))
    if refused:
        raise click.BadParameter(f"Stable-Baselines3's {algo} cannot take {', '.join(refused)}: leave it out of --set")
    if differing:
        left_out = " ".join(f"{name}={value}" for name, value in differing.items())
        click.echo(f"Stable-Baselines3's {algo} has nothing for the preset's {left_out}: left out", err=True)


def hyperparameters(algo: str, env: str, settings: dict[str, str]) -> tuple[dict[str, Any], int]:
    """Arguments of its constructor, from wiserl's configuration, and the number of envs.

    Raises:
        click.BadParameter: a setting for which it has no counterpart.
    """
    run, config = resolve(algo, env, settings)
    if run.env_kwargs:
        raise click.BadParameter(f"arguments of the env ({run.env_kwargs}) are not passed on to a peer; leave them out")
    parameters = set(inspect.signature(peer_class(algo)).parameters)
    translated = TRANSLATED - (set() if "n_steps" in parameters else {"n_step"})
    refuse_what_it_lacks(
        algo, config, set(settings), set(presets().get(algo, {}).get(env, {})), parameters | translated
    )
    if hasattr(config, "train_freq") and run.envs > 1:
        raise click.BadParameter(
            f"{run.envs} envs: Stable-Baselines3 counts train_freq in steps of all envs at once; use --set envs=1"
        )
    values = {name: getattr(config, name) for name in vars(config) if name in parameters - TRANSLATED}
    values["policy_kwargs"] = {"net_arch": list(config.hidden_sizes), "activation_fn": ACTIVATIONS[config.activation]}
    if "n_step" in translated and hasattr(config, "n_step"):
        values["n_steps"] = config.n_step
    if config.learning_rate_decay == "linear":
        start = config.learning_rate
        values["learning_rate"] = lambda left: left * start
    if getattr(config, "action_noise", "none") != "none":
        values["action_noise"] = action_noise(config, gym.make(env).action_space.shape)
    return values, run.envs


def action_noise(config: Any, shape: Any) -> Any:
    """Its noise of wiserl's kind, in the same units: actions in [-1, 1], per env step."""
    from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise

    mean, std = np.zeros(shape), np.full(shape, config.noise_std)
    if config.action_noise == "gaussian":
        return NormalActionNoise(mean, std)
    return OrnsteinUhlenbeckActionNoise(mean, std, theta=config.noise_theta, dt=1.0)


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
    arguments, envs = hyperparameters(algo, env, given)
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
