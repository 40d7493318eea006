"""Two runners and one tiny agent: which of five slot machines pays best?  `python example/hello_ray/hello_ray.py`"""

import numpy as np

from wiserl import Agent, Runner, WiseRL

wise_rl = WiseRL()


class Gambler(Agent):
    def __init__(self, sync=True, **kwargs):
        super().__init__(sync)
        self.mean, self.plays = np.zeros(5), np.zeros(5)

    def choose_action(self, rng):
        return rng.integers(5) if rng.random() < 0.2 else self.mean.argmax()

    def update(self, machine, reward):
        self.plays[machine] += 1
        self.mean[machine] += (reward - self.mean[machine]) / self.plays[machine]

    def _sync_model(self):  # called after each batch of updates
        self._fire(self.mean)

    def _update_model(self, params):  # called on each runner
        self.mean = params


class Casino(Runner):
    def __init__(self, args, local_rank=0):
        self.agent, self.plays, self.rng = wise_rl.get_agent("gambler"), args, np.random.default_rng(local_rank)

    def run(self):
        for _ in range(self.plays):
            machine = self.agent.choose_action(self.rng)
            self.agent.update(machine, self.rng.normal(machine, 3.0))  # the last machine pays best


if __name__ == "__main__":
    wise_rl.make_agent("gambler", Gambler)
    wise_rl.start_all_runners(wise_rl.make_runner("casino", Casino, 640, num=2))
    print("paid on average:", np.round(wise_rl.get_agent("gambler").replica.mean, 1))
