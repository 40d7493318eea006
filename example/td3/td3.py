"""TD3 and what it adds to DDPG, on Pendulum-v1 unless told otherwise: `python example/td3/td3.py --policy-delay 3`."""

from __future__ import annotations

import argparse

import wiserl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="Pendulum-v1", help="an env with bounded Box actions")
    parser.add_argument("--total-steps", type=int, help="env steps over all envs; default: the preset's")
    parser.add_argument("--runners", type=int, default=1, help="more than one: on Ray")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run-dir", help="default: runs/td3-ENV-sSEED")
    parser.add_argument("--policy-delay", type=int, default=2, help="updates of the critics for each one of the actor")
    parser.add_argument(
        "--target-noise", type=float, default=0.2, help="standard deviation of that on the target action"
    )
    parser.add_argument("--target-clip", type=float, default=0.5, help="bound on it")
    args = parser.parse_args()

    # Hyper-parameters that are not given come from the preset for this env, if there is one.
    summary = wiserl.train(
        "td3",
        args.env,
        total_steps=args.total_steps,
        runners=args.runners,
        seed=args.seed,
        run_dir=args.run_dir,
        policy_delay=args.policy_delay,
        target_policy_noise=args.target_noise,
        target_noise_clip=args.target_clip,
    )
    print(f"return {summary['eval_return_mean']:.1f} ± {summary['eval_return_std']:.1f}")
    print(f"{summary['updates']:,} updates of the critics, {summary['updates'] // args.policy_delay:,} of the actor")


if __name__ == "__main__":
    main()
