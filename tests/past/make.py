"""Makes the small runs that are kept here, with the wiserl that is imported: `python tests/past/make.py tests/past/format_N`.

Those of a format are made once, by the version that brought it, and stay as they are.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import wiserl

COMMON = {"total_steps": 64, "envs": 2, "backend": "local", "vector": "inline", "device": "cpu", "eval_episodes": 1,
          "checkpoint_every": 64, "hidden_sizes": (4,), "preset": False}  # fmt: skip
SMALL_REPLAY = {"learning_starts": 8, "buffer_size": 48, "batch_size": 8}
RUNS = {
    "ppo": ("CartPole-v1", {"n_steps": 8, "batch_size": 16, "n_epochs": 1}),
    "dqn": ("CartPole-v1", SMALL_REPLAY),
    "sac": ("Pendulum-v1", SMALL_REPLAY),
}

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir()
    os.chdir(folder)  # the paths that are saved name no machine
    for algo, (env, options) in RUNS.items():
        wiserl.train(algo, env, run_dir=algo, quiet=True, **COMMON, **options)
    for events in Path().glob("*/events.out.tfevents.*"):
        events.unlink()
