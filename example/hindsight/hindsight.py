"""Goals put in hindsight: DQN flips bits, and SAC, TD3 or DDPG move a point; rewards are too rare to learn from without.

`python example/hindsight/hindsight.py --bits 10`, `python example/hindsight/hindsight.py --algo sac`
"""

from __future__ import annotations

import argparse

import wiserl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algo", default="dqn", choices=["dqn", "ddpg", "td3", "sac"])
    parser.add_argument("--env", help="a goal env; default: BitFlip for dqn, ReachGoal for the others")
    parser.add_argument("--bits", type=int, default=15, help="of BitFlip")
    parser.add_argument("--strategy", default="future", choices=["future", "final", "episode", "none"])
    parser.add_argument("--goals", type=int, default=4, help="put in hindsight for each one that the env had given")
    parser.add_argument("--total-steps", type=int, help="env steps over all envs; default: the preset's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run-dir", help="default: runs/ALGO-ENV-sSEED")
    args = parser.parse_args()

    env = args.env or f"wiserl.env.goals:{'BitFlip' if args.algo == 'dqn' else 'ReachGoal'}"
    summary = wiserl.train(
        args.algo,
        env,
        total_steps=args.total_steps,
        seed=args.seed,
        run_dir=args.run_dir,
        hindsight=args.strategy,
        hindsight_goals=args.goals,
        env_kwargs={"bits": args.bits} if env.endswith(":BitFlip") else None,
    )
    print(f"return {summary['eval_return_mean']:.1f} ± {summary['eval_return_std']:.1f}")
    if "eval_success_rate" in summary:
        print(f"goals reached in {summary['eval_success_rate']:.0%} of {summary['eval_episodes']} episodes")


if __name__ == "__main__":
    main()
