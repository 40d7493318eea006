"""The floor under wiserl's cost: raw env stepping, raw forward passes and raw updates, with nothing in between.

No buffer, no advantages, no sampling from replay, no logging: the three parts are timed one by one, in the order and
number in which training needs them, on networks, batches and optimisers as in `benchmarks.settings`. Each part is done
in the cheapest way the libraries offer (`inference_mode`, fused Adam, the faster of in-process and native stepping).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import settings

Steps = Callable[[Any], Any]  # actions -> observations


def _mlp(activation: type[nn.Module], outputs: int) -> nn.Sequential:
    first, second = settings.HIDDEN
    hidden = (nn.Linear(4, first), activation(), nn.Linear(first, second), activation())
    return nn.Sequential(*hidden, nn.Linear(second, outputs))


def _inline(num_envs: int) -> Steps:
    """An in-process loop over `num_envs` envs: actions [E] -> observations [E, 4] float32."""
    envs = [gym.make(settings.ENV, disable_env_checker=True) for _ in range(num_envs)]
    observations = np.stack([env.reset(seed=index)[0] for index, env in enumerate(envs)])

    def step(actions: Any) -> Any:
        for index, env in enumerate(envs):
            observation, _, terminated, truncated, _ = env.step(actions[index])
            observations[index] = env.reset()[0] if terminated or truncated else observation
        return observations

    return step


def _native(num_envs: int) -> Steps:
    """The env's own vector version: actions [E] -> observations [E, 4] float32."""
    env = gym.make_vec(settings.ENV, num_envs=num_envs, vectorization_mode="vector_entry_point")
    env.reset(seed=0)
    return lambda actions: env.step(actions)[0]


def _balance(observations: Any) -> Any:
    """Actions [E] that keep the pole up, so that episodes are as long as in most of a training run."""
    return (observations[:, 2] + observations[:, 3] > 0).astype(np.int64)


def _seconds_per_step(step: Steps, num_envs: int, calls: int = 2000) -> float:
    observations = step(np.zeros(num_envs, dtype=np.int64))
    total = 0.0
    for _ in range(calls):
        actions = _balance(observations)
        started = time.perf_counter()
        observations = step(actions)
        total += time.perf_counter() - started
    return total / calls


def fastest_stepping(num_envs: int) -> tuple[str, Steps]:
    """The faster of in-process and native stepping on this machine now."""
    ways = {"in-process": _inline(num_envs), "native": _native(num_envs)}
    return min(ways.items(), key=lambda item: _seconds_per_step(item[1], num_envs))


def _run(
    total_steps: int,
    num_envs: int,
    steps_per_round: int,
    updates: int,
    forward: Callable[[Any], Any],
    forward_share: float,
    update: Callable[[], None],
) -> dict[str, Any]:
    """Time rounds of `steps_per_round` vector steps, `forward_share` of them with a forward pass, and of `updates`."""
    for _ in range(20):
        update()
    way, step = fastest_stepping(num_envs)
    observations = step(np.zeros(num_envs, dtype=np.int64))
    rounds = max(1, total_steps // (steps_per_round * num_envs))
    env_seconds = forward_seconds = update_seconds = 0.0
    clock = time.perf_counter
    for _ in range(rounds):
        for _ in range(steps_per_round):
            started = clock()
            forward(observations)
            forward_seconds += clock() - started
            actions = _balance(observations)
            started = clock()
            observations = step(actions)
            env_seconds += clock() - started
        started = clock()
        for _ in range(updates):
            update()
        update_seconds += clock() - started
    forward_seconds *= forward_share
    steps = rounds * steps_per_round * num_envs
    seconds = env_seconds + forward_seconds + update_seconds
    return {
        "steps": steps,
        "seconds": seconds,
        "steps_per_second": steps / seconds,
        "stepping": way,
        "env_microseconds_per_vector_step": 1e6 * env_seconds / (rounds * steps_per_round),
        "forward_microseconds": 1e6 * forward_seconds / (rounds * steps_per_round * forward_share),
        "update_microseconds": 1e6 * update_seconds / (rounds * updates),
    }


def ppo(total_steps: int, seed: int) -> dict[str, Any]:
    """Per round: 256 vector steps of 8 envs, 256 forward passes with a sampled action, 80 updates of 256 samples.

    Returns:
        `steps`, `seconds`, `steps_per_second` of the sum, and the microseconds of each part.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    values = settings.PPO
    actor, critic = _mlp(nn.Tanh, 2), _mlp(nn.Tanh, 1)
    parameters = [*actor.parameters(), *critic.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=values["learning_rate"], eps=1e-5, fused=True)
    size = values["batch_size"]
    observation, action = torch.randn(size, 4), torch.randint(0, 2, (size, 1))
    old_log_prob, advantage, target = torch.full((size,), -0.69), torch.randn(size), torch.randn(size)
    low, high = 1 - values["clip_range"], 1 + values["clip_range"]

    def forward(observations: Any) -> Any:
        with torch.inference_mode():
            logits = actor(torch.from_numpy(observations))
            return (logits - torch.empty_like(logits).exponential_().log_()).argmax(dim=1).numpy()

    def update() -> None:
        normalised = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        log_prob = functional.log_softmax(actor(observation), dim=1).gather(1, action).squeeze(1)
        ratio = (log_prob - old_log_prob).exp()
        policy_loss = -torch.min(normalised * ratio, normalised * ratio.clamp(low, high)).mean()
        value_loss = functional.mse_loss(critic(observation).squeeze(1), target)
        _step(policy_loss + values["vf_coef"] * value_loss, parameters, optimizer, values["max_grad_norm"])

    updates = values["n_epochs"] * settings.PPO_ROLLOUT // size
    return _run(total_steps, settings.PPO_ENVS, values["n_steps"], updates, forward, 1.0, update)


def dqn(total_steps: int, seed: int) -> dict[str, Any]:
    """Per round: 4 steps of one env, a forward pass for each step that is not random, one update of 32 samples.

    Returns:
        As `ppo`.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    values = settings.DQN
    network, target_network = _mlp(nn.ReLU, 2), _mlp(nn.ReLU, 2)
    parameters = list(network.parameters())
    optimizer = torch.optim.Adam(parameters, lr=values["learning_rate"], fused=True)
    size = values["batch_size"]
    observation, next_observation, action = torch.randn(size, 4), torch.randn(size, 4), torch.randint(0, 2, (size, 1))
    reward, discount = torch.ones(size), torch.full((size,), values["gamma"])

    def forward(observations: Any) -> Any:
        with torch.inference_mode():
            return network(torch.from_numpy(observations)).argmax(dim=1).numpy()

    def update() -> None:
        with torch.no_grad():
            target = reward + discount * target_network(next_observation).max(dim=1).values
        loss = functional.smooth_l1_loss(network(observation).gather(1, action).squeeze(1), target)
        _step(loss, parameters, optimizer, values["max_grad_norm"])

    fraction, first, last = (values[f"exploration_{name}"] for name in ("fraction", "initial_eps", "final_eps"))
    greedy_share = 1 - (fraction * (first + last) / 2 + (1 - fraction) * last)
    return _run(total_steps, 1, values["train_freq"], values["gradient_steps"], forward, greedy_share, update)


def _step(loss: Tensor, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, max_norm: float) -> None:
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(parameters, max_norm, foreach=True)
    optimizer.step()
