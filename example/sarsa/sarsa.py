"""SARSA, expected or sampled, on CartPole-v1 unless told otherwise: `python example/sarsa/sarsa.py --sampled`."""

from __future__ import annotations

import argparse

import wiserl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="CartPole-v1", help="an env with Discrete actions")
    parser.add_argument("--total-steps", type=int, help="env steps over all envs; default: the preset's")
    parser.add_argument("--runners", type=int, default=1, help="more than one: on Ray")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run-dir", help="default: runs/sarsa-ENV-sSEED")
    parser.add_argument("--sampled", action="store_true", help="targets take the next action, not its expectation")
    parser.add_argument("--td-lambda", type=float, default=0.8, help="weight of longer returns; 0: one step")
    args = parser.parse_args()

    # Hyper-parameters that are not given come from the preset for this env, if there is one.
    summary = wiserl.train(
        "sarsa",
        args.env,
        total_steps=args.total_steps,
        runners=args.runners,
        seed=args.seed,
        run_dir=args.run_dir,
        expected=not args.sampled,
        td_lambda=args.td_lambda,
    )
    print(f"return {summary['eval_return_mean']:.1f} ± {summary['eval_return_std']:.1f}")
    print(f"{summary['updates']:,} updates for {summary['env_steps']:,} env steps")


if __name__ == "__main__":
    main()
