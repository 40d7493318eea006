"""DQN with its switches, on CartPole-v1 unless told otherwise: `python example/dqn/dqn.py --rainbow`."""

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
    switch = argparse.BooleanOptionalAction  # --double and --no-double
    parser.add_argument(
        "--double", action=switch, help="choose the next action with one network, value it with the other"
    )
    parser.add_argument("--dueling", action=switch, help="value and advantage streams")
    parser.add_argument("--prioritized", action=switch, help="sample in proportion to the TD error")
    parser.add_argument("--categorical", action=switch, help="learn the distribution of returns")
    parser.add_argument("--noisy", action=switch, help="explore by noise on the weights instead of epsilon")
    parser.add_argument("--rainbow", action=switch, help="all of these, except what is given")
    parser.add_argument("--n-step", type=int, help="rewards summed before the bootstrap")
    parser.add_argument("--v-min", type=float, help="categorical: the smallest return")
    parser.add_argument("--v-max", type=float, help="categorical: the largest return")
    args = parser.parse_args()

    # Hyper-parameters that are not given come from the preset for this env, if there is one.
    names = ("double", "dueling", "prioritized", "categorical", "noisy", "rainbow", "n_step", "v_min", "v_max")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    summary = wiserl.train(
        "dqn",
        args.env,
        total_steps=args.total_steps,
        runners=args.runners,
        seed=args.seed,
        run_dir=args.run_dir,
        **given,
    )
    print(f"return {summary['eval_return_mean']:.1f} ± {summary['eval_return_std']:.1f}")
    print(f"{summary['updates']:,} updates for {summary['env_steps']:,} env steps")


if __name__ == "__main__":
    main()
