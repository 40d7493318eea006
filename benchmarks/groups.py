"""What `benchmarks.speed` measures: groups of cases that are compared with each other, and so run interleaved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.settings import CONTINUOUS_STEPS, DQN_STEPS, MEMORY_UNITS, PPO_ROLLOUT, PPO_STEPS


@dataclass(frozen=True)
class Case:
    """One measured process.

    Attributes:
        function: `module:function` in this package.
        figures: label in the tables -> key of the function's report.
        arguments: of the function; `quick` overrides them for a short try.
        seeded: whether the function takes `seed` (the number of the repetition).
    """

    function: str
    figures: Mapping[str, str]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    quick: Mapping[str, Any] = field(default_factory=dict)
    seeded: bool = True


@dataclass(frozen=True)
class Group:
    """Cases with one unit, of which ratios are taken.

    Attributes:
        baseline: label of the figure that the table's ratios are over, if any.
        repetitions: how often the whole list of cases is run, one after another.
    """

    title: str
    unit: str
    cases: tuple[Case, ...]
    baseline: str | None = None
    repetitions: int = 3


def _steps(label: str, function: str, total_steps: int, quick_steps: int, **arguments: Any) -> Case:
    return Case(
        function, {label: "steps_per_second"}, {"total_steps": total_steps, **arguments}, {"total_steps": quick_steps}
    )


def _ppo(label: str, function: str, **arguments: Any) -> Case:
    return _steps(label, function, PPO_STEPS, 4 * PPO_ROLLOUT, **arguments)


def _dqn(label: str, function: str, **arguments: Any) -> Case:
    return _steps(label, function, DQN_STEPS, 4000, **arguments)


def _continuous(algorithm: str) -> Group:
    arguments = {"total_steps": CONTINUOUS_STEPS, "algorithm": algorithm}
    quick = {"total_steps": 400}
    return Group(
        f"{algorithm.upper()}, Pendulum-v1, 256x256, batch 256, one update per step",
        "env steps/s",
        (
            Case("peers:sb3_continuous", {"Stable-Baselines3": "steps_per_second"}, arguments, quick),
            Case("ours:continuous", {"wiserl local": "steps_per_second"}, arguments, quick),
        ),
        baseline="Stable-Baselines3",
    )


def _first_update(label: str, function: str, seeded: bool = False, **arguments: Any) -> Case:
    return Case(function, {label: "first_update_seconds"}, arguments, seeded=seeded)


def _ingest(label: str, num_envs: int) -> Case:
    arguments = {"seconds": 5.0, "num_steps": 64, "num_envs": num_envs}
    return Case("ingest:replay", {label: "transitions_per_second"}, arguments, {"seconds": 0.5})


_LOCAL = {"backend": "local", "runners": 1, "sync": True}
_RAY_ASYNC = {"backend": "ray", "runners": 2, "sync": False}
_RAY_SYNC = {"backend": "ray", "runners": 2, "sync": True}

GROUPS: dict[str, Group] = {
    "ppo": Group(
        "PPO, CartPole-v1, 8 envs, n_steps 256, batch 256, 10 epochs",
        "env steps/s",
        (
            _ppo("floor", "floor:ppo"),
            _ppo("Stable-Baselines3", "peers:sb3_ppo"),
            _ppo("wiserl local", "ours:ppo", envs=8, **_LOCAL),
            _ppo("RLlib", "peers:rllib_ppo"),
            _ppo("wiserl Ray async", "ours:ppo", envs=8, **_RAY_ASYNC),
            # Two runners of 4 envs: a sync round is then the rollout of 8 envs x 256 steps that the others update on.
            _ppo("wiserl Ray sync", "ours:ppo", envs=4, **_RAY_SYNC),
        ),
        baseline="Stable-Baselines3",
    ),
    "dqn": Group(
        "DQN, CartPole-v1, batch 32, one update per 4 steps",
        "env steps/s",
        (
            _dqn("floor", "floor:dqn"),
            _dqn("Stable-Baselines3", "peers:sb3_dqn"),
            _dqn("wiserl local", "ours:dqn", envs=1, **_LOCAL),
            _dqn("wiserl Ray async", "ours:dqn", envs=1, **_RAY_ASYNC),
        ),
        baseline="Stable-Baselines3",
    ),
    "recurrent": Group(
        "Recurrent PPO, LSTM of 64 units, CartPole-v1, 8 envs, n_steps 256, batch 256, 10 epochs",
        "env steps/s",
        (
            _steps("sb3-contrib", "peers:sb3_recurrent_ppo", 3 * PPO_ROLLOUT, 2 * PPO_ROLLOUT, units=MEMORY_UNITS),
            _steps("sb3-contrib, 256 units", "peers:sb3_recurrent_ppo", 3 * PPO_ROLLOUT, 2 * PPO_ROLLOUT, units=256),
            _ppo("wiserl local", "ours:ppo", recurrent=True, envs=8, **_LOCAL),
            _ppo("wiserl local, sequences of 32", "ours:ppo", recurrent=True, sequence_length=32, envs=8, **_LOCAL),
        ),
        baseline="sb3-contrib",
    ),
    "sac": _continuous("sac"),
    "td3": _continuous("td3"),
    "compile": Group(
        "PPO, CartPole-v1, local, compilation left out",
        "env steps/s",
        tuple(
            Case(
                "ours:ppo",
                {label: "steps_per_second"},
                {"total_steps": PPO_STEPS, "compiled": compiled, "envs": 8, **_LOCAL},
                {"total_steps": 10 * PPO_ROLLOUT},
            )
            for label, compiled in (("plain", False), ("compile=true", True))
        ),
        baseline="plain",
    ),
    "sleep": Group(
        "PPO on an env that sleeps 5 ms a step, one env per runner, Ray async",
        "env steps/s",
        (
            _steps("1 runner", "ours:sleep", 3_000, 600, runners=1),
            _steps("8 runners", "ours:sleep", 24_000, 4_800, runners=8),
        ),
        baseline="1 runner",
    ),
    "ingest": Group(
        "Learner alone: recorded CartPole fragments of 64 steps, checked and added to replay",
        "transitions/s",
        # One env: what an async DQN runner of one env ships.
        (_ingest("1 env a fragment", 1), _ingest("8 envs a fragment", 8)),
    ),
    "startup": Group(
        "From the command to the end of the first gradient step, PPO",
        "seconds",
        (
            _first_update("wiserl local", "startup:wiserl", backend="local", runners=1),
            _first_update("Stable-Baselines3", "peers:sb3_ppo", seeded=True, total_steps=PPO_ROLLOUT),
            _first_update("wiserl Ray, 2 runners", "startup:wiserl", backend="ray", runners=2),
            _first_update("RLlib", "peers:rllib_ppo", seeded=True, total_steps=PPO_ROLLOUT),
        ),
        repetitions=5,
    ),
    "memory": Group(
        "Resident memory, PPO CartPole-v1 on Ray with 2 runners",
        "MB",
        (
            Case(
                "memory:run",
                {"largest runner": "largest_runner", "largest growth": "largest_growth"},
                quick={"first_at": 20.0, "second_at": 40.0},
                seeded=False,
            ),
        ),
        repetitions=1,
    ),
}
