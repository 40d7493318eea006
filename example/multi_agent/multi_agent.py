"""PPO with shared parameters for several agents.

On an env of our own whose agents leave at different times (`corridor.py`), or on any PettingZoo parallel env:

    python example/multi_agent/multi_agent.py
    python example/multi_agent/multi_agent.py --env mpe2/simple_spread_v3
"""

from __future__ import annotations

import argparse

from corridor import Corridor

import wiserl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="corridor:Corridor", help="package/module or module:function")
    parser.add_argument("--total-steps", type=int, help="env steps; one step moves all agents of an env")
    parser.add_argument("--runners", type=int, default=1, help="more than one: on Ray")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run-dir", help="default: runs/ppo-ENV-sSEED")
    args = parser.parse_args()

    own = args.env == "corridor:Corridor"
    settings = {"n_steps": 128, "batch_size": 512, "gamma": 0.95, "learning_rate": 1e-3} if own else {}
    if args.total_steps or own:  # else: what the preset says
        settings["total_steps"] = args.total_steps or 50_000
    summary = wiserl.train(
        "ppo",
        args.env,
        runners=args.runners,
        seed=args.seed,
        run_dir=args.run_dir,
        **settings,
    )
    print(f"return, summed over agents: {summary['eval_return_mean']:.2f} ± {summary['eval_return_std']:.2f}")

    if own:
        # One policy acts for every agent that is still there.
        policy = wiserl.load(summary["run_dir"])
        env = Corridor()
        observations, _ = env.reset(seed=args.seed)
        for step in range(1, 31):
            actions = {agent: policy.choose_action(observations[agent]) for agent in env.agents}
            observations, _, arrived, _, _ = env.step(actions)
            print(f"step {step}: {', '.join(agent for agent in arrived if arrived[agent]) or 'nobody'} at the door")
            if not env.agents:
                break


if __name__ == "__main__":
    main()
