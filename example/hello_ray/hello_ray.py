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
        self._sync_model()

    def _sync_model(self):
        self._fire(self.mean)

    def _update_model(self, params):
        self.mean = params


class Casino(Runner):
    def run(self):
        agent, rng = wise_rl.get_agent("gambler"), np.random.default_rng(self.rank)
        for _ in range(self.args):
            machine = agent.choose_action(rng)
            agent.update(machine, rng.normal(machine, 3.0))  # machine 4 pays best


if __name__ == "__main__":
    wise_rl.make_agent("gambler", Gambler)
    wise_rl.start_all_runners(wise_rl.make_runner("casino", Casino, 500, num=2))
    print("estimates:", np.round(wise_rl.get_agent("gambler").replica.mean, 1), "after 2 x 500 plays")
