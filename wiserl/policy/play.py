"""Watching a policy: whole episodes in a window, or as a video."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from wiserl.core.masks import ENTRY
from wiserl.env.make import EnvLike, env_id, is_parallel, make_env
from wiserl.env.masks import with_masks
from wiserl.env.rows import read_spec
from wiserl.policy.policy import Policy
from wiserl.policy.video import check_video_path, write_video
from wiserl.util.errors import InputError
from wiserl.util.seeding import derive_seed

MAX_STEPS = 10_000


def play_episodes(policy: Policy, env: EnvLike, episodes: int, video: Path | None) -> list[float]:
    """Play `episodes` episodes of at most 10,000 steps; returns their returns, summed over agents.

    Args:
        policy: a loaded policy.
        env: what `make_env` takes; it is given the arguments of the policy's run.
        episodes: how many.
        video: where to write all frames; None: show a window.

    Raises:
        InputError: the env cannot be rendered so, there is no display for a window, or the file's type is not known.
    """
    if video is not None:
        check_video_path(video)
    elif missing := _no_display():
        raise InputError(f"there is no display to open a window on ({missing}): write a video by --video FILE.gif")
    os.environ.setdefault(
        "SDL_AUDIODRIVER", "dummy"
    )  # pygame would open a sound device, and complain where there is none
    name, kwargs = env_id(env), policy.manifest["env_kwargs"]
    made = make_env(env, kwargs, render_mode="rgb_array" if video else "human")
    frames: list[Any] = []
    returns = []
    try:
        policy.check_spaces(with_masks(read_spec(made, env), made))
        if video is None:
            _check_window(made, name)
        for episode in range(episodes):
            seed = derive_seed(policy.manifest["seed"], "play", episode)
            play_one = _parallel_episode if is_parallel(made) else _single_episode
            returns.append(play_one(made, policy, seed, frames if video else None))
        if video is not None:
            if not frames or not isinstance(frames[0], np.ndarray):
                raise InputError(
                    f"env '{name}' renders no pictures (render_mode='rgb_array'), so there is no video to write"
                )
            fps = (getattr(made, "metadata", None) or {}).get("render_fps", 30)
            write_video(frames, video, fps)
    finally:
        made.close()
    return returns


def _no_display() -> str:
    """Why no window can be seen; "" where one can. pygame would draw it to nowhere, and say nothing."""
    driver = os.environ.get("SDL_VIDEODRIVER", "")
    if driver in ("dummy", "offscreen"):
        return f"SDL_VIDEODRIVER={driver}"
    has_screen = driver or not sys.platform.startswith("linux")
    if has_screen or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return ""
    return "neither DISPLAY nor WAYLAND_DISPLAY is set"


def _check_window(env: Any, name: str) -> None:
    """Check that the env does not say it cannot draw a window: it would play unseen."""
    modes = (getattr(env, "metadata", None) or {}).get("render_modes")
    if modes is not None and "human" not in modes:
        listed = ", ".join(map(str, modes)) or "none"
        raise InputError(
            f"env '{name}' draws no window (its render modes: {listed}); expected 'human' among them: write a video by "
            "--video FILE.gif, if it has 'rgb_array'"
        )


def _mask(policy: Policy, info: Any) -> Any:
    """The mask in an env's info, if the policy was trained with such."""
    return info.get(ENTRY) if policy.spec.masks == "info" and info else None


def _single_episode(env: Any, policy: Policy, seed: int, frames: list[Any] | None) -> float:
    obs, info = env.reset(seed=seed)
    policy.reset()
    total = 0.0
    for _ in range(MAX_STEPS):
        action = policy.choose_action(obs, mask=_mask(policy, info))
        obs, reward, terminated, truncated, info = env.step(action)
        total += float(reward)
        if frames is not None:
            frames.append(env.render())
        if terminated or truncated:
            break
    return total


def _parallel_episode(env: Any, policy: Policy, seed: int, frames: list[Any] | None) -> float:
    obs, infos = env.reset(seed=seed)
    policy.reset()
    total = 0.0
    for _ in range(MAX_STEPS):
        actions = {
            agent: policy.choose_action(obs[agent], agent=agent, mask=_mask(policy, infos.get(agent)))
            for agent in env.agents
        }
        obs, rewards, _, _, infos = env.step(actions)
        total += float(sum(rewards.values()))
        if frames is not None:
            frames.append(env.render())
        if not env.agents:
            break
    return total
