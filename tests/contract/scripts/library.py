"""A user's module that holds the `WiseRL` object, an agent and a runner, imported by `uses_library.py`."""

from pathlib import Path

from wiserl import Agent, Runner, WiseRL

wise_rl = WiseRL()


class Counter(Agent):
    def __init__(self, sync=True, **kwargs):
        self.count = 0

    def choose_action(self):
        return self.count

    def update(self, amount):
        self.count += amount

    def _sync_model(self):
        self._fire(self.count)

    def _update_model(self, params):
        self.count = params


class Adder(Runner):
    def __init__(self, args, local_rank=0):
        self.folder = args
        if self.rank == 0:
            wise_rl.make_agent("counter", Counter)
        self.agent = wise_rl.get_agent("counter")

    def run(self):
        for _ in range(128):
            self.agent.update(1)
        Path(self.folder, f"runner-{self.rank}").write_text(str(self.agent.choose_action()))
