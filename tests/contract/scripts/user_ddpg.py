"""A user's script, as the documentation describes the interface: nothing here knows which backend it runs on."""

import argparse
import os
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from wiserl import Agent, Runner, WiseRL


class DDPGAgent(Agent):
    def __init__(self, sync=True, **kwargs):
        self.actor = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 1), nn.Tanh())
        self.critic = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 1))
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), kwargs["lr"])
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), kwargs["lr"])
        self.memory = []
        self.rng = np.random.default_rng(0)

    def choose_action(self, state):
        with torch.no_grad():
            action = 2.0 * self.actor(torch.as_tensor(state)).numpy()
        return np.clip(action + self.rng.normal(0.0, 0.1, 1), -2.0, 2.0).astype(np.float32)

    def update(self, state, action, reward, next_state, done):
        self.memory.append((state, action, np.float32([reward]), next_state, np.float32([done])))
        picked = self.rng.integers(len(self.memory), size=16)
        columns = zip(*(self.memory[i] for i in picked), strict=True)
        s, a, r, s2, d = (torch.from_numpy(np.stack(column)) for column in columns)
        with torch.no_grad():
            target = r + 0.99 * (1.0 - d) * self.critic(torch.cat([s2, 2.0 * self.actor(s2)], 1))
        loss = nn.functional.mse_loss(self.critic(torch.cat([s, a], 1)), target)
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()
        loss = -self.critic(torch.cat([s, 2.0 * self.actor(s)], 1)).mean()
        self.actor_optimizer.zero_grad()
        loss.backward()
        self.actor_optimizer.step()
        self._sync_model()

    def _sync_model(self):
        self._fire(self.actor.state_dict())

    def _update_model(self, params):
        self.actor.load_state_dict(params)


class GymRunner(Runner):
    def __init__(self, args, local_rank=0):
        super().__init__(args, local_rank)
        self.env = gym.make("Pendulum-v1", max_episode_steps=100)
        if self.rank == 0:
            wise_rl.make_agent(name="ddpg", agent_class=DDPGAgent, sync=not args.no_wait, **vars(args))
        self.agent = wise_rl.getAgent("ddpg")

    def run(self):
        Path(self.args.out, f"running-{self.rank}").touch()
        first = self.weights()
        for episode in range(self.args.episodes):
            state, _ = self.env.reset(seed=episode)
            done = False
            while not done:
                action = self.agent.choose_action(state)
                next_state, reward, terminated, truncated, _ = self.env.step(action)
                done = terminated or truncated
                self.agent.update(state, action, reward, next_state, terminated)
                state = next_state
        report = f"{os.getpid()} {self.agent.version} {np.abs(self.weights() - first).max()} {os.nice(0)}"
        Path(self.args.out, f"runner-{self.rank}").write_text(report)

    def weights(self):
        return np.concatenate([p.detach().numpy().ravel() for p in self.agent.replica.actor.parameters()])


wise_rl = WiseRL()

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--episodes", type=int, default=2)
    parser.add_argument("--no-wait", action="store_true")
    parser.add_argument("--out", default=".")
    args = parser.parse_args()
    runners = wise_rl.makeRunner("runner", GymRunner, args, num=2)
    wise_rl.startAllRunner(runners)
    Path(args.out, "end").touch()
