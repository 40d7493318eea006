"""Watching a policy: whole episodes in a window, or as a video."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from wiserl.core.policy import Policy
from wiserl.env.make import is_parallel, make_env
from wiserl.util.errors import InputError
from wiserl.util.seeding import derive_seed
from wiserl.util.video import check_video_path, write_video

MAX_STEPS = 10_000


def play_episodes(policy: Policy, episodes: int, video: Path | None) -> list[float]:
    """Play `episodes` episodes of at most 10,000 steps; returns their returns, summed over agents.

    Args:
        policy: a loaded policy.
        episodes: how many.
        video: where to write all frames; None: show a window.

    Raises:
        InputError: the env cannot be rendered so, or the file's type is not known.
    """
    if video is not None:
        check_video_path(video)
    os.environ.setdefault(
        "SDL_AUDIODRIVER", "dummy"
    )  # pygame would open a sound device, and complain where there is none
    name, kwargs = policy.manifest["env"], policy.manifest["env_kwargs"]
    env = make_env(name, kwargs, render_mode="rgb_array" if video else "human")
    frames: list[Any] = []
    returns = []
    try:
        for episode in range(episodes):
            seed = derive_seed(policy.manifest["seed"], "play", episode)
            play_one = _parallel_episode if is_parallel(env) else _single_episode
            returns.append(play_one(env, policy, seed, frames if video else None))
        if video is not None:
            if not frames or not isinstance(frames[0], np.ndarray):
                raise InputError(
                    f"env '{name}' renders no pictures (render_mode='rgb_array'), so there is no video to write"
                )
            fps = (getattr(env, "metadata", None) or {}).get("render_fps", 30)
            write_video(frames, video, fps)
    finally:
        env.close()
    return returns


def _single_episode(env: Any, policy: Policy, seed: int, frames: list[Any] | None) -> float:
    obs, _ = env.reset(seed=seed)
    policy.reset()
    total = 0.0
    for _ in range(MAX_STEPS):
        obs, reward, terminated, truncated, _ = env.step(policy.choose_action(obs))
        total += float(reward)
        if frames is not None:
            frames.append(env.render())
        if terminated or truncated:
            break
    return total


def _parallel_episode(env: Any, policy: Policy, seed: int, frames: list[Any] | None) -> float:
    obs, _ = env.reset(seed=seed)
    policy.reset()
    total = 0.0
    for _ in range(MAX_STEPS):
        actions = {agent: policy.choose_action(obs[agent], agent=agent) for agent in env.agents}
        obs, rewards, _, _, _ = env.step(actions)
        total += float(sum(rewards.values()))
        if frames is not None:
            frames.append(env.render())
        if not env.agents:
            break
    return total
