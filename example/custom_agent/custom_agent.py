"""An agent and a runner of your own: DDPG (Lillicrap et al. 2016, https://arxiv.org/abs/1509.02971) on Pendulum-v1.

The same script runs on Ray, on a cluster that `ray start --head` began, and in one process without Ray:

    python example/custom_agent/custom_agent.py
    WISERL_BACKEND=local python example/custom_agent/custom_agent.py
    WISERL_BACKEND=local python -m pdb example/custom_agent/custom_agent.py
"""

from __future__ import annotations

import argparse
import copy
import json
import time

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from wiserl import Agent, Runner, WiseRL

wise_rl = WiseRL()


def mlp(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs))


class DDPGAgent(Agent):
    """Actions are in [-1, 1]. One update per env step, from a replay buffer of its own."""

    def __init__(self, sync=True, **kwargs):
        super().__init__(sync)
        self.args = argparse.Namespace(**kwargs)
        torch.manual_seed(self.args.seed)  # the same initial weights everywhere
        states, actions = self.args.state_size, self.args.action_size
        self.actor = nn.Sequential(mlp(states, actions), nn.Tanh())
        self.critic = mlp(states + actions, 1)
        self.networks = nn.ModuleList([self.actor, self.critic])
        self.target_actor, self.target_critic = self.targets = copy.deepcopy(self.networks)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=1e-3, fused=True)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=1e-3, fused=True)
        # One row per step: state, action, reward, next state, whether the bootstrap counts.
        self.replay = torch.zeros(self.args.total_steps, 2 * states + actions + 2)
        self.stored = self.acted = 0

    def choose_action(self, state, explore=True):
        self.acted += 1
        if explore and self.acted <= self.args.warmup:
            return 2 * torch.rand(self.args.action_size).numpy() - 1
        with torch.no_grad():
            action = self.actor(torch.from_numpy(state))
        if explore:
            action += self.args.noise * torch.randn_like(action)
        return action.clamp(-1, 1).numpy()

    def update(self, state, action, reward, next_state, done):
        row = np.concatenate([state, action, [reward], next_state, [not done]])
        self.replay[self.stored % len(self.replay)] = torch.from_numpy(row)
        self.stored += 1
        if self.stored >= self.args.warmup:
            self._learn(self.replay[torch.randint(min(self.stored, len(self.replay)), (128,))])
            self._sync_model()

    def _learn(self, rows):
        sizes = [self.args.state_size, self.args.action_size, 1, self.args.state_size, 1]
        state, action, reward, next_state, going = rows.split(sizes, 1)
        with torch.no_grad():
            following = self.target_critic(torch.cat([next_state, self.target_actor(next_state)], 1))
            goal = reward + self.args.gamma * going * following
        critic_loss = nn.functional.mse_loss(self.critic(torch.cat([state, action], 1)), goal)
        self.critic_optimizer.zero_grad()
        critic_loss.backward()
        self.critic_optimizer.step()

        self.critic.requires_grad_(False)
        actor_loss = -self.critic(torch.cat([state, self.actor(state)], 1)).mean()
        self.actor_optimizer.zero_grad()
        actor_loss.backward()
        self.actor_optimizer.step()
        self.critic.requires_grad_(True)
        with torch.no_grad():
            for target, online in zip(self.targets.parameters(), self.networks.parameters(), strict=True):
                target.lerp_(online, 0.005)

    def _sync_model(self):
        self._fire(self.actor.state_dict())

    def _update_model(self, params):
        self.actor.load_state_dict(params)


class GymRunner(Runner):
    """Plays episodes until its share of the steps is done."""

    def __init__(self, args, local_rank=0):
        super().__init__(args, local_rank)
        self.env = gym.make(args.env)
        args.state_size, args.action_size = self.env.observation_space.shape[0], self.env.action_space.shape[0]
        if self.rank == 0:
            wise_rl.make_agent(name="ddpg", agent_class=DDPGAgent, **vars(args))
        self.agent = wise_rl.getAgent("ddpg")
        torch.manual_seed(args.seed + 1 + self.rank)  # from here on: the noise of this runner

    def run(self):
        steps, share = 0, self.args.total_steps // self.world_size
        while steps < share:
            total, done = 0.0, False
            state, _ = self.env.reset(seed=None if steps else self.args.seed + self.rank)
            while not done and steps < share:
                action = self.agent.choose_action(state)
                next_state, reward, terminated, truncated, _ = self.env.step(action * self.env.action_space.high)
                self.agent.update(state, action, reward, next_state, terminated)
                state, done = next_state, terminated or truncated
                total, steps = total + reward, steps + 1
            if not self.args.json:
                print(f"runner {self.rank}, step {steps:6,}: return {total:8.1f}", flush=True)

    def close(self):
        self.env.close()


def evaluate(agent, args, episodes=20):
    """Returns of episodes without noise."""
    env = gym.make(args.env)
    returns = []
    for episode in range(episodes):
        total, done = 0.0, False
        state, _ = env.reset(seed=10_000 + episode)
        while not done:
            action = agent.choose_action(state, explore=False)
            state, reward, terminated, truncated, _ = env.step(action * env.action_space.high)
            total, done = total + reward, terminated or truncated
        returns.append(total)
    return np.array(returns)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="Pendulum-v1", help="one with vectors as observations and actions")
    parser.add_argument("--total-steps", type=int, default=20_000, help="env steps of all runners")
    parser.add_argument("--runners", type=int, default=2)
    parser.add_argument("--async", dest="sync", action="store_false", help="runners do not wait for new weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gamma", type=float, default=0.98, help="discount per step")
    parser.add_argument("--noise", type=float, default=0.1, help="standard deviation of the noise on actions")
    parser.add_argument("--warmup", type=int, default=500, help="random steps of each runner")
    parser.add_argument("--json", action="store_true", help="print the summary alone, as JSON")
    args = parser.parse_args()

    runners = wise_rl.makeRunner("runner", GymRunner, args, num=args.runners)
    begun = time.monotonic()
    wise_rl.startAllRunner(runners)
    seconds = time.monotonic() - begun
    returns = evaluate(wise_rl.getAgent("ddpg"), args)
    if args.json:
        summary = {
            "env_steps": args.total_steps,
            "eval_return_mean": returns.mean(),
            "eval_return_std": returns.std(),
            "steps_per_second": args.total_steps / seconds,
        }
        print(json.dumps(summary))
    else:
        print(f"{args.total_steps:,} steps in {seconds:.1f} s")
        print(f"return without noise: {returns.mean():.1f} ± {returns.std():.1f} over {len(returns)} episodes")


if __name__ == "__main__":
    main()
