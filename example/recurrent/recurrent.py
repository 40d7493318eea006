"""PPO with memory on CartPole-v1 without its velocities: `python example/recurrent/recurrent.py --net rnn --cell gru`.

One observation shows where the cart and the pole are, and not which way they move. Only a policy that remembers can know it.
`--net mlp` has no memory, to compare.
"""

from __future__ import annotations

import argparse

import gymnasium as gym
import numpy as np

import wiserl

SEEN = [0, 2]  # the cart's position and the pole's angle


def make_env() -> gym.Env:
    env = gym.make("CartPole-v1")
    bounds = env.observation_space
    space = gym.spaces.Box(bounds.low[SEEN], bounds.high[SEEN], dtype=np.float32)
    return gym.wrappers.TransformObservation(env, lambda obs: obs[SEEN], space)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=["rnn", "mlp"], default="rnn", help="with memory or without")
    parser.add_argument("--cell", choices=["lstm", "gru"], default="lstm", help="the kind of memory")
    parser.add_argument("--total-steps", type=int, default=300_000, help="env steps over all envs")
    parser.add_argument("--runners", type=int, default=1, help="more than one: on Ray")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run-dir", help="default: runs/ppo-ENV-sSEED")
    args = parser.parse_args()

    summary = wiserl.train(
        "ppo",
        make_env,
        net=args.net,
        cell=args.cell,
        hidden_sizes=(64,),
        total_steps=args.total_steps,
        runners=args.runners,
        seed=args.seed,
        run_dir=args.run_dir,
        n_steps=128,
        batch_size=256,
        n_epochs=10,
        gamma=0.99,
        gae_lambda=0.95,
        learning_rate=1e-3,
        learning_rate_decay="linear",
        normalize_observation=True,
    )
    print(f"return {summary['eval_return_mean']:.1f} ± {summary['eval_return_std']:.1f}")

    # The trained policy remembers from step to step; `reset` makes it forget.
    policy, env = wiserl.load(summary["run_dir"]), make_env()
    obs, _ = env.reset(seed=args.seed)
    policy.reset()
    steps, done = 0, False
    while not done:
        obs, _, terminated, truncated, _ = env.step(policy.choose_action(obs))
        steps, done = steps + 1, terminated or truncated
    print(f"one more episode: {steps} steps")


if __name__ == "__main__":
    main()
