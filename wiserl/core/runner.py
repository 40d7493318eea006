"""The base class of every runner: what steps an env."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class Runner(ABC):
    """Steps an env and feeds an agent. N of them run side by side, each in a process of its own (on Ray) or in turns.

    Attributes:
        args: what was handed to `make_runner`.
        rank: index of this runner, 0 to `world_size - 1`. Set before `__init__` runs.
        world_size: how many runners there are.
        incarnation: how often this rank has been restarted.
    """

    args: Any = None
    rank: int = 0
    world_size: int = 1
    incarnation: int = 0

    def __init__(self, args: Any, local_rank: int = 0) -> None:
        self.args = args

    @abstractmethod
    def run(self) -> Any:
        """The whole loop: returns when this runner has nothing left to do."""

    def close(self) -> None:  # noqa: B027  (an optional hook)
        """Free what the runner holds (envs, windows). Called once, after `run`, however that ended."""


def construct_runner(runner_class: type[Runner], args: Any, rank: int, world_size: int, incarnation: int = 0) -> Runner:
    """Make a runner whose rank is known already inside its `__init__`, whether or not that calls its parent's."""
    runner = runner_class.__new__(runner_class)
    runner.rank, runner.world_size, runner.incarnation = rank, world_size, incarnation
    runner.__init__(args, local_rank=rank)  # type: ignore[misc]
    return runner
