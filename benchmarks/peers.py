"""Stable-Baselines3 and RLlib on the settings of `benchmarks.settings`.

Each function trains once and returns `steps` (env steps), `seconds` (of training alone: start-up and evaluation left
out), `steps_per_second`, `return_mean` and `return_std` (final policy, deterministic, on an env of its own) and
`first_update_seconds` (from the command to the end of the first gradient step).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from benchmarks import settings
from benchmarks.process import since_start


def _report(steps: int, seconds: float, returns: list[float], first_update: list[float]) -> dict[str, float]:
    return {
        "steps": steps,
        "seconds": seconds,
        "steps_per_second": steps / seconds,
        "return_mean": float(np.mean(returns)),
        "return_std": float(np.std(returns)),
        "first_update_seconds": first_update[0],
    }


def _note_first_step(optimizer: torch.optim.Optimizer, noted: list[float]) -> None:
    original = optimizer.step

    def first_step(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        noted.append(since_start())
        optimizer.step = original  # type: ignore[method-assign]
        return result

    optimizer.step = first_step  # type: ignore[method-assign]


def _train_sb3(
    algorithm: Any,
    envs: int,
    total_steps: int,
    seed: int,
    config: dict[str, Any],
    activation: type[torch.nn.Module],
    env: str = settings.ENV,
    hidden: tuple[int, ...] = settings.HIDDEN,
    policy: str = "MlpPolicy",
    **policy_options: Any,
) -> dict[str, float]:
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    class Clock(BaseCallback):
        started = ended = 0.0

        def _on_training_start(self) -> None:
            self.started = time.perf_counter()

        def _on_step(self) -> bool:
            return True

        def _on_training_end(self) -> None:
            self.ended = time.perf_counter()

    torch.set_num_threads(1)
    clock = Clock()
    model = algorithm(
        policy,
        make_vec_env(env, n_envs=envs, seed=seed),
        policy_kwargs={"net_arch": list(hidden), "activation_fn": activation, **policy_options},
        seed=seed,
        device="cpu",
        **config,
    )
    first_update: list[float] = []
    learned: Any = model.policy
    _note_first_step(getattr(learned, "optimizer", None) or learned.critic.optimizer, first_update)
    model.learn(total_steps, callback=clock)
    returns: Any = evaluate_policy(
        model,
        make_vec_env(env, n_envs=1, seed=seed + 1000),
        n_eval_episodes=settings.EVAL_EPISODES,
        deterministic=True,
        return_episode_rewards=True,
    )[0]
    return _report(model.num_timesteps, clock.ended - clock.started, list(returns), first_update)


def sb3_ppo(total_steps: int, seed: int) -> dict[str, float]:
    """PPO of Stable-Baselines3."""
    from stable_baselines3 import PPO

    return _train_sb3(PPO, settings.PPO_ENVS, total_steps, seed, settings.PPO, torch.nn.Tanh)


def sb3_recurrent_ppo(total_steps: int, seed: int, units: int) -> dict[str, float]:
    """Recurrent PPO of sb3-contrib, LSTMs of `units` of their own for policy and value, as wiserl has them."""
    from sb3_contrib import RecurrentPPO

    size = {"lstm_hidden_size": units}
    return _train_sb3(
        RecurrentPPO, settings.PPO_ENVS, total_steps, seed, settings.PPO, torch.nn.Tanh, policy="MlpLstmPolicy", **size
    )


def sb3_dqn(total_steps: int, seed: int) -> dict[str, float]:
    """DQN of Stable-Baselines3; `settings.DQN` is its defaults, spelled out."""
    from stable_baselines3 import DQN

    return _train_sb3(DQN, 1, total_steps, seed, settings.DQN, torch.nn.ReLU)


def sb3_continuous(algorithm: str, total_steps: int, seed: int) -> dict[str, float]:
    """SAC or TD3 of Stable-Baselines3 on Pendulum, TD3 with Gaussian noise."""
    import stable_baselines3
    from stable_baselines3.common.noise import NormalActionNoise

    noise = {"action_noise": NormalActionNoise(np.zeros(1), np.full(1, 0.1))} if algorithm == "td3" else {}
    config = {**settings.CONTINUOUS, **noise}
    peer = getattr(stable_baselines3, algorithm.upper())
    return _train_sb3(peer, 1, total_steps, seed, config, torch.nn.ReLU, settings.PENDULUM, settings.CONTINUOUS_HIDDEN)


def _episode_returns(act: Callable[[Any], int], seed: int) -> list[float]:
    env = gym.make(settings.ENV)
    returns = []
    for episode in range(settings.EVAL_EPISODES):
        observation, _ = env.reset(seed=seed + 1000 + episode)
        total, over = 0.0, False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(act(observation))
            total += float(reward)
            over = terminated or truncated
        returns.append(total)
    return returns


def rllib_ppo(total_steps: int, seed: int) -> dict[str, float]:
    """PPO of RLlib's new API stack: 2 env runners of 8 envs, the learner in the driver process."""
    import ray
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

    torch.set_num_threads(1)
    logging.getLogger("ray").setLevel(logging.ERROR)
    first_update: list[float] = []

    class NotingLearner(PPOTorchLearner):
        def apply_gradients(self, gradients_dict: Any) -> None:
            super().apply_gradients(gradients_dict)
            if not first_update:
                first_update.append(since_start())

    # Two CPUs for the env runners and one to spare: RLlib asks for one for the driver too when it plans its resources.
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    values = settings.PPO
    networks = DefaultModelConfig(fcnet_hiddens=list(settings.HIDDEN), fcnet_activation="tanh", vf_share_layers=False)
    config = (
        PPOConfig()
        .environment(settings.ENV)
        .framework("torch")
        .env_runners(num_env_runners=2, num_envs_per_env_runner=settings.PPO_ENVS)
        .learners(num_learners=0, learner_class=NotingLearner)
        .training(
            train_batch_size_per_learner=settings.PPO_ROLLOUT,
            minibatch_size=values["batch_size"],
            num_epochs=values["n_epochs"],
            lr=values["learning_rate"],
            gamma=values["gamma"],
            lambda_=values["gae_lambda"],
            clip_param=values["clip_range"],
            entropy_coeff=values["ent_coef"],
            vf_loss_coeff=values["vf_coef"],
            vf_clip_param=float("inf"),
            grad_clip=values["max_grad_norm"],
            grad_clip_by="global_norm",
            use_kl_loss=False,
        )
        .rl_module(model_config=networks)
        .debugging(seed=seed, log_level="ERROR")
    )
    algorithm: Any = config.build_algo()
    steps = 0
    started = time.perf_counter()
    while steps < total_steps:
        steps = int(algorithm.train()["env_runners"]["num_env_steps_sampled_lifetime"])
    seconds = time.perf_counter() - started
    module: Any = algorithm.get_module()

    def act(observation: Any) -> int:
        with torch.inference_mode():
            logits = module.forward_inference({"obs": torch.from_numpy(observation)[None]})["action_dist_inputs"]
        return int(logits.argmax())

    report = _report(steps, seconds, _episode_returns(act, seed), first_update)
    algorithm.stop()
    ray.shutdown()
    return report
