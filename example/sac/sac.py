"""SAC, on Pendulum-v1 unless told otherwise: `python example/sac/sac.py --ent-coef 0.1`.

With `--env CartPole-v1` it is the version for Discrete actions.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import wiserl
from wiserl.run_folder.metrics import read_metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="Pendulum-v1", help="an env with bounded Box, or Discrete actions")
    parser.add_argument("--total-steps", type=int, help="env steps over all envs; default: the preset's")
    parser.add_argument("--runners", type=int, default=1, help="more than one: on Ray")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run-dir", help="default: runs/sac-ENV-sSEED")
    parser.add_argument("--ent-coef", help="the temperature: a number, or auto; default: the preset's")
    parser.add_argument("--target-entropy", help="what auto aims at, in nats: a number, or auto; default: the preset's")
    args = parser.parse_args()

    # Hyper-parameters that are not given come from the preset for this env, if there is one.
    asked = {"ent_coef": args.ent_coef, "target_entropy": args.target_entropy}
    summary = wiserl.train(
        "sac",
        args.env,
        total_steps=args.total_steps,
        runners=args.runners,
        seed=args.seed,
        run_dir=args.run_dir,
        **{name: value for name, value in asked.items() if value is not None},
    )
    print(f"return {summary['eval_return_mean']:.1f} ± {summary['eval_return_std']:.1f}")

    # What the temperature came to. Rows without updates have no value (NaN).
    metrics = read_metrics(Path(summary["run_dir"]))
    for name in ("losses/alpha", "losses/entropy"):
        values = metrics[name][np.isfinite(metrics[name])]
        print(f"{name}: {values[0]:.3f} at first, {values[-1]:.3f} at last")


if __name__ == "__main__":
    main()
