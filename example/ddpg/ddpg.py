"""DDPG, on Pendulum-v1 unless told otherwise: `python example/ddpg/ddpg.py --noise ornstein_uhlenbeck --noise-std 0.2`."""

from __future__ import annotations

import argparse

import wiserl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="Pendulum-v1", help="an env with bounded Box actions")
    parser.add_argument("--total-steps", type=int, help="env steps over all envs; default: the preset's")
    parser.add_argument("--runners", type=int, default=1, help="more than one: on Ray")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run-dir", help="default: runs/ddpg-ENV-sSEED")
    parser.add_argument("--noise", default="gaussian", choices=["gaussian", "ornstein_uhlenbeck", "none"])
    parser.add_argument("--noise-std", type=float, default=0.1, help="of what each step adds; actions are in [-1, 1]")
    parser.add_argument(
        "--noise-theta", type=float, default=0.15, help="share of drifting noise that each step takes away"
    )
    args = parser.parse_args()

    # Hyper-parameters that are not given come from the preset for this env, if there is one.
    summary = wiserl.train(
        "ddpg",
        args.env,
        total_steps=args.total_steps,
        runners=args.runners,
        seed=args.seed,
        run_dir=args.run_dir,
        action_noise=args.noise,
        noise_std=args.noise_std,
        noise_theta=args.noise_theta,
    )
    # Evaluation is without noise; the episodes of training are with it.
    print(f"return {summary['eval_return_mean']:.1f} ± {summary['eval_return_std']:.1f}")
    print(f"with noise, at the end of training: {summary['train_return_mean']}")


if __name__ == "__main__":
    main()
