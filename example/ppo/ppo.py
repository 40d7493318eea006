"""PPO on any env, CartPole-v1 unless told otherwise: `python example/ppo/ppo.py --runners 2`."""

from __future__ import annotations

import argparse

import gymnasium as gym

import wiserl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="CartPole-v1", help="a gymnasium id")
    parser.add_argument("--total-steps", type=int, help="env steps over all envs; default: the preset's")
    parser.add_argument("--runners", type=int, default=1, help="more than one: on Ray")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run-dir", help="default: runs/ppo-ENV-sSEED")
    args = parser.parse_args()

    # Hyper-parameters that are not given come from the preset for this env, if there is one.
    summary = wiserl.train(
        "ppo",
        args.env,
        total_steps=args.total_steps,
        runners=args.runners,
        seed=args.seed,
        run_dir=args.run_dir,
    )
    print(f"return {summary['eval_return_mean']:.1f} ± {summary['eval_return_std']:.1f}")

    # The trained policy, opened for acting: no Ray and no learner.
    policy = wiserl.load(summary["run_dir"])
    env = gym.make(args.env)
    obs, _ = env.reset(seed=args.seed)
    print("first action of an episode:", policy.choose_action(obs))


if __name__ == "__main__":
    main()
