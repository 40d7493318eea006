"""The hyper-parameters every side of a comparison gets, under Stable-Baselines3's names, and the promises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ENV = "CartPole-v1"
EVAL_EPISODES = 20
HIDDEN = (64, 64)

PPO: dict[str, Any] = {
    "learning_rate": 3e-4,
    "n_steps": 256,
    "batch_size": 256,
    "n_epochs": 10,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "clip_range": 0.2,
    "ent_coef": 0.0,
    "vf_coef": 0.5,
    "max_grad_norm": 0.5,
}
MEMORY_UNITS = 64
PPO_ENVS = 8
PPO_STEPS = 100_000
PPO_ROLLOUT = PPO["n_steps"] * PPO_ENVS

DQN: dict[str, Any] = {
    "learning_rate": 1e-4,
    "buffer_size": 1_000_000,
    "learning_starts": 100,
    "batch_size": 32,
    "tau": 1.0,
    "gamma": 0.99,
    "train_freq": 4,
    "gradient_steps": 1,
    "target_update_interval": 10_000,
    "exploration_fraction": 0.1,
    "exploration_initial_eps": 1.0,
    "exploration_final_eps": 0.05,
    "max_grad_norm": 10.0,
}
DQN_STEPS = 50_000

# The rest of wiserl's settings as Stable-Baselines3 has them, whatever wiserl's preset of the env says.
OURS: dict[str, Any] = {"hidden_sizes": HIDDEN, "learning_rate_decay": "none"}
PPO_OURS: dict[str, Any] = {
    **OURS,
    "activation": "tanh",
    "clip_range_vf": None,
    "target_kl": None,
    "normalize_advantage": True,
    "normalize_observation": False,
    "normalize_reward": False,
}
DQN_OURS: dict[str, Any] = {
    **OURS,
    "activation": "relu",
    "double": False,
    "dueling": False,
    "n_step": 1,
    "prioritized": False,
}

PENDULUM = "Pendulum-v1"
CONTINUOUS: dict[str, Any] = {
    "learning_rate": 3e-4,
    "buffer_size": 1_000_000,
    "learning_starts": 100,
    "batch_size": 256,
    "tau": 0.005,
    "gamma": 0.99,
    "train_freq": 1,
    "gradient_steps": 1,
}
CONTINUOUS_HIDDEN = (256, 256)
CONTINUOUS_STEPS = 3_000
CONTINUOUS_OURS: dict[str, Any] = {
    "hidden_sizes": CONTINUOUS_HIDDEN,
    "learning_rate_decay": "none",
    "activation": "relu",
    "n_step": 1,
    "prioritized": False,
}


@dataclass(frozen=True)
class Promise:
    """A bound on one figure.

    Attributes:
        figure: the measured figure, or "a / b" for the ratio of two in one group.
        sign: ">=" or "<=".
        bound: in the figure's own unit.
        what: the promise in words.
    """

    figure: str
    sign: str
    bound: float
    what: str

    def is_kept(self, value: float) -> bool:
        """Whether a measured `value` is within the bound."""
        return value >= self.bound if self.sign == ">=" else value <= self.bound


PROMISES: dict[str, tuple[Promise, ...]] = {
    "ppo": (
        Promise("wiserl local / Stable-Baselines3", ">=", 1.8, "PPO, local: over Stable-Baselines3"),
        Promise("wiserl Ray async / Stable-Baselines3", ">=", 2.0, "PPO, Ray async, 2 runners: over Stable-Baselines3"),
        Promise("wiserl Ray async / RLlib", ">=", 4.5, "PPO, Ray async, 2 runners: over RLlib"),
        Promise("floor / wiserl local", "<=", 1.15, "PPO, local: time over the floor"),
    ),
    "dqn": (
        Promise("wiserl local / Stable-Baselines3", ">=", 2.0, "DQN, local: over Stable-Baselines3"),
        Promise("wiserl Ray async / Stable-Baselines3", ">=", 3.0, "DQN, Ray async, 2 runners: over Stable-Baselines3"),
        Promise("floor / wiserl local", "<=", 1.15, "DQN, local: time over the floor"),
    ),
    "recurrent": (
        Promise(
            "wiserl local, sequences of 32 / sb3-contrib, 256 units",
            ">=",
            25.0,
            "recurrent PPO of 64 units, local: over sb3-contrib with its default of 256",
        ),
    ),
    "sac": (Promise("wiserl local / Stable-Baselines3", ">=", 1.5, "SAC, local: over Stable-Baselines3"),),
    "td3": (Promise("wiserl local / Stable-Baselines3", ">=", 1.7, "TD3, local: over Stable-Baselines3"),),
    "compile": (Promise("compile=true / plain", ">=", 1.0, "PPO, local: with compile=true over without"),),
    "sleep": (Promise("8 runners / 1 runner", ">=", 7.2, "env of 5 ms a step: 8 runners over one"),),
    "ingest": (Promise("1 env a fragment", ">=", 300_000, "transitions/s into replay, learner alone"),),
    "startup": (
        Promise("wiserl local", "<=", 2.5, "seconds to the first gradient step, local"),
        Promise("wiserl Ray, 2 runners", "<=", 7.0, "seconds to the first gradient step, Ray with 2 runners"),
    ),
    "memory": (
        Promise("largest runner", "<=", 400, "MB resident of a runner"),
        Promise("largest growth", "<=", 10, "MB grown by any process between minute 1 and minute 5"),
    ),
}
