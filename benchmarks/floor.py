"""The floor under wiserl's cost: raw env stepping, raw forward passes and raw updates, with nothing in between.

No buffer, no advantages, no sampling from replay, no logging: the three parts are timed one by one, in the order and
number in which training needs them, on networks, batches and optimisers as in `benchmarks.settings`. Each part is done
in the cheapest way known: wiserl's own layers and optimiser, which cost less than PyTorch's, numpy to act, the faster of
in-process and native stepping. What wiserl takes longer than that is the price of its data path.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks import settings
from wiserl.net.encoder import MLP
from wiserl.ops.optim import FlatAdam, flatten_parameters

Steps = Callable[[Any], Any]  # actions -> observations


def _mlp(activation: str, outputs: int) -> nn.Sequential:
    return nn.Sequential(MLP([4, *settings.HIDDEN], activation), nn.Linear(settings.HIDDEN[-1], outputs))


def _numpy(network: nn.Sequential, activation: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The network as a function of arrays: observations [E, 4] -> outputs [E, n]."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    *hidden, last = [(layer.weight.detach().numpy().T, layer.bias.detach().numpy()) for layer in layers]

    def forward(features: Any) -> Any:
        for weight, bias in hidden:
            features = activation(features @ weight + bias)
        return features @ last[0] + last[1]

    return forward


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
    actor, critic = _mlp("tanh", 2), _mlp("tanh", 1)
    optimizer = _adam(nn.ModuleList([actor, critic]), values, eps=1e-5)
    act, rng = _numpy(actor, np.tanh), np.random.default_rng(seed)
    size = values["batch_size"]
    observation, action = torch.randn(size, 4), torch.randint(0, 2, (size, 1))
    old_log_prob, advantage, target = torch.full((size,), -0.69), torch.randn(size), torch.randn(size)

    def forward(observations: Any) -> Any:
        logits = act(observations)
        return (logits + rng.gumbel(size=logits.shape)).argmax(1)

    def update() -> None:
        normalised = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        log_prob = functional.log_softmax(actor(observation), dim=1).gather(1, action).squeeze(1)
        ratio = (log_prob - old_log_prob).exp()
        bound = torch.add(normalised, normalised.abs(), alpha=values["clip_range"])
        policy_loss = -torch.min(normalised * ratio, bound).mean()
        value_loss = functional.mse_loss(critic(observation).squeeze(1), target)
        optimizer.step(policy_loss + values["vf_coef"] * value_loss, values["learning_rate"])

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
    network, target_network = _mlp("relu", 2), _mlp("relu", 2)
    optimizer = _adam(network, values)
    act = _numpy(network, lambda features: np.maximum(features, 0.0))
    size = values["batch_size"]
    observation, next_observation, action = torch.randn(size, 4), torch.randn(size, 4), torch.randint(0, 2, (size, 1))
    reward, discount = torch.ones(size), torch.full((size,), values["gamma"])

    def forward(observations: Any) -> Any:
        return act(observations).argmax(1)

    def update() -> None:
        with torch.no_grad():
            target = reward + discount * target_network(next_observation).max(dim=1).values
        loss = functional.smooth_l1_loss(network(observation).gather(1, action).squeeze(1), target)
        optimizer.step(loss, values["learning_rate"])

    fraction, first, last = (values[f"exploration_{name}"] for name in ("fraction", "initial_eps", "final_eps"))
    greedy_share = 1 - (fraction * (first + last) / 2 + (1 - fraction) * last)
    return _run(total_steps, 1, values["train_freq"], values["gradient_steps"], forward, greedy_share, update)


def _adam(module: nn.Module, values: dict[str, Any], eps: float = 1e-8) -> FlatAdam:
    return FlatAdam(module, flatten_parameters(module), values["learning_rate"], eps, values["max_grad_norm"])
