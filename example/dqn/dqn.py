"""DQN with its switches, on CartPole-v1 unless told otherwise: `python example/dqn/dqn.py --prioritized`."""

from __future__ import annotations

import argparse

import wiserl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="CartPole-v1", help="an env with Discrete actions")
    parser.add_argument("--total-steps", type=int, help="env steps over all envs; default: the preset's")
    parser.add_argument("--runners", type=int, default=1, help="more than one: on Ray")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run-dir", help="default: runs/dqn-ENV-sSEED")
    parser.add_argument("--no-double", action="store_true", help="value the next action with the network that chose it")
    parser.add_argument("--dueling", action="store_true", help="value and advantage streams")
    parser.add_argument("--prioritized", action="store_true", help="sample in proportion to the TD error")
    parser.add_argument("--n-step", type=int, default=5, help="rewards summed before the bootstrap")
    args = parser.parse_args()

    # Hyper-parameters that are not given come from the preset for this env, if there is one.
    summary = wiserl.train(
        "dqn",
        args.env,
        total_steps=args.total_steps,
        runners=args.runners,
        seed=args.seed,
        run_dir=args.run_dir,
        double=not args.no_double,
        dueling=args.dueling,
        prioritized=args.prioritized,
        n_step=args.n_step,
    )
    print(f"return {summary['eval_return_mean']:.1f} ± {summary['eval_return_std']:.1f}")
    print(f"{summary['updates']:,} updates for {summary['env_steps']:,} env steps")


if __name__ == "__main__":
    main()
