"""Cost of prioritised replay, and memory and speed of stacked images: `python -m benchmarks.replay [--quick]`.

Every case runs in a process of its own with one thread, one at a time. Figures go to `benchmarks/results/replay.json` and, a
line each, to `replay.md` beside it.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from gymnasium import spaces

from benchmarks.process import CaseFailed, exit_on_terminate, measure
from benchmarks.report import figure, judge, machine, number, versions
from benchmarks.settings import Promise
from wiserl.agent.base.off_policy import BATCHES_AT_ONCE
from wiserl.agent.dqn import DQN, DQNConfig
from wiserl.core.batch import Fragment
from wiserl.core.spec import EnvSpec
from wiserl.replay.prioritized import PrioritizedReplay
from wiserl.replay.uniform import Replay

RESULTS = Path(__file__).resolve().parent / "results"
ENTRIES = 1_000_000
STREAMS, STEPS = 8, 1000
BATCH_SIZES = (32, 256)
REPETITIONS = 3

PROMISES = (
    *(
        Promise(
            f"DQN update, prioritised, batch {size} / DQN update, uniform, batch {size}",
            "<=",
            1.25,
            f"a DQN update of batch {size} with prioritised over one with uniform replay, a million entries",
        )
        for size in BATCH_SIZES
    ),
    Promise("stacked images", "<=", 7.5, "GiB of a million transitions of 4 stacked 84x84 images"),
    Promise("sample of stacked images", "<=", 1.0, "ms for a batch of 32 of them"),
)


def fragment(
    obs: Any, last_obs: Any, final_obs: Any, actions: int, rng: np.random.Generator, **fields: Any
) -> Fragment:
    """A fragment around observations `[T, E, 1, ...]`, with random actions; `fields` say where episodes end."""
    shape = obs.shape[:3]
    return {
        "obs": obs,
        "last_obs": last_obs,
        "final_obs": final_obs,
        "action": rng.integers(actions, size=shape),
        "reward": np.ones(shape, np.float32),
        "stream": np.arange(shape[1]),
        "fresh": np.zeros(shape[1], np.bool_),
        "truncated": np.zeros(shape, np.bool_),
        **fields,
    }


def vectors(steps: int, rng: np.random.Generator) -> Fragment:
    """Random transitions of CartPole's shapes, of which one in 100 ends its episode."""
    obs = rng.standard_normal((steps + 1, STREAMS, 1, 4)).astype(np.float32)
    terminated = rng.random((steps, STREAMS, 1)) < 0.01
    at = np.argwhere(terminated[:, :, 0])
    finals = rng.standard_normal((len(at), 1, 4)).astype(np.float32)
    return fragment(obs[:-1], obs[-1], finals, 2, rng, terminated=terminated, final_at=at)


def stacks(steps: int, rng: np.random.Generator) -> Fragment:
    """One episode of random images per stream, stacked by four; the stacks are views, so that a fragment is small."""
    frames = rng.integers(256, size=(steps + 4, STREAMS, 84, 84), dtype=np.uint8)
    frames[:3] = frames[3]
    obs = np.moveaxis(np.lib.stride_tricks.sliding_window_view(frames, 4, axis=0), -1, 2)[:, :, None]
    terminated = np.zeros((steps, STREAMS, 1), np.bool_)
    terminated[-1] = True
    at = np.stack([np.full(STREAMS, steps - 1), np.arange(STREAMS)], axis=1)
    return fragment(obs[:-1], obs[-1], obs[-1], 6, rng, terminated=terminated, final_at=at)


def fill(replay: Replay, entries: int, make: Callable[[int, np.random.Generator], Fragment]) -> None:
    """Add fragments until `entries` transitions are held."""
    rng = np.random.default_rng(0)
    steps = min(STEPS, entries // STREAMS)
    one = make(steps, rng)
    while len(replay) < steps * STREAMS * (entries // (steps * STREAMS)):
        replay.add(one)


def seconds(function: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def priorities(batch_size: int, entries: int = ENTRIES, rounds: int = 300) -> dict[str, float]:
    """Microseconds of a draw and of a whole DQN update ([64, 64], CartPole's shapes) with uniform and prioritised replay.

    Both take turns in one process. An update is what `update` does with a fragment of 64 steps, which pays for 16: storing
    it, drawing, learning, and writing priorities back.

    Returns:
        Medians over `rounds`, per update: "draw_", "drawn_together_" (16 batches in one go) and "update_" with "uniform" and
        "prioritised"; a prioritised draw includes writing the priorities back.
    """
    spec = EnvSpec("vectors", spaces.Box(-np.inf, np.inf, (4,), np.float32), spaces.Discrete(2))
    rng = np.random.default_rng(1)
    new = vectors(64 // STREAMS, rng)
    agents = {}
    for kind in ("uniform", "prioritised"):
        prioritized = kind == "prioritised"
        config = DQNConfig(buffer_size=entries, batch_size=batch_size, learning_starts=0, prioritized=prioritized)
        agent = DQN(spec=spec, config=config, num_streams=STREAMS, total_steps=10**9)
        agent.start_learning()
        fill(agent.replay, entries, vectors)
        agents[kind] = agent
    replay = agents["prioritised"].replay
    assert isinstance(replay, PrioritizedReplay)
    for _ in range(10):
        replay.update_priorities(replay.sample(entries // 10)["index"], rng.exponential(size=entries // 10))
    errors = rng.exponential(size=batch_size * BATCHES_AT_ONCE)

    def draw(kind: str, batches: int) -> float:
        if kind == "uniform":
            taken = seconds(lambda: agents[kind].replay.sample(batch_size * batches))
        else:
            some = errors[: batch_size * batches]
            taken = seconds(lambda: replay.update_priorities(replay.sample(batch_size, None, batches)["index"], some))
        return taken / batches

    def update(kind: str) -> float:
        agents[kind].env_steps += 64
        before = agents[kind].updates
        taken = seconds(lambda: agents[kind].update(new))
        return taken / (agents[kind].updates - before)

    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        for kind in agents:
            times.setdefault(f"draw_{kind}", []).append(draw(kind, 1))
            times.setdefault(f"drawn_together_{kind}", []).append(draw(kind, BATCHES_AT_ONCE))
            times.setdefault(f"update_{kind}", []).append(update(kind))
    return {name: 1e6 * statistics.median(taken) for name, taken in times.items()}


def images(entries: int = ENTRIES, samples: int = 200) -> dict[str, float]:
    """Memory of stacked 84x84 images, four a stack, and the time to draw 32 transitions.

    Returns:
        "gibibytes" that are allocated for `entries` transitions, and "milliseconds", the median of `samples` draws.
    """
    replay = Replay(entries, STREAMS, seed=0, frame_stack=4)
    fill(replay, entries, stacks)
    for _ in range(20):
        replay.sample(32)
    taken = [seconds(lambda: replay.sample(32)) for _ in range(samples)]
    return {"gibibytes": replay.nbytes / 2**30, "milliseconds": 1e3 * statistics.median(taken)}


def measure_all(quick: bool, measure: Callable[..., dict[str, Any]] = measure) -> dict[str, list[float]]:
    """Values of all figures, one per repetition.

    Args:
        quick: one repetition with few entries.
        measure: runs one case, see `benchmarks.process.measure`.

    Raises:
        CaseFailed: a process failed.
    """
    less = {"entries": 20_000} if quick else {}
    values: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        values.setdefault(name, []).append(value)

    for _ in range(1 if quick else REPETITIONS):
        for size in BATCH_SIZES:
            report = measure("replay:priorities", batch_size=size, **less)
            for kind in ("uniform", "prioritised"):
                note(f"draw, {kind}, batch {size}", report[f"draw_{kind}"])
                note(f"draw of {BATCHES_AT_ONCE} together, {kind}, batch {size}", report[f"drawn_together_{kind}"])
                note(f"DQN update, {kind}, batch {size}", report[f"update_{kind}"])
    report = measure("replay:images", **less)
    note("stacked images", report["gibibytes"])
    note("sample of stacked images", report["milliseconds"])
    return values


def lines(values: Mapping[str, Sequence[float]], promises: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line per figure, then one per promise, as Markdown lists them."""
    units = {"stacked images": "GiB", "sample of stacked images": "ms"}
    found = [f"- {name}: {number(figure(values, name))} {units.get(name, 'µs')}" for name in values]
    for size in BATCH_SIZES:
        for what in ("draw", f"draw of {BATCHES_AT_ONCE} together"):
            ratio = figure(values, f"{what}, prioritised, batch {size} / {what}, uniform, batch {size}")
            found.append(f"- {what}, batch {size}, prioritised over uniform: {number(ratio)}")
    words = {True: "kept", False: "missed", None: "not measured"}
    for row in promises:
        bound = f"promised {row['sign']} {number(row['bound'])}"
        found.append(f"- {row['what']}: {number(row['value'])} ({bound}: {words[row['kept']]})")
    return found


def store(folder: Path, values: Mapping[str, Sequence[float]], promises: Sequence[Mapping[str, Any]]) -> None:
    """Write `replay.json` and `replay.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    found = versions()
    result = {
        "measured_at": time.strftime("%Y-%m-%d %H:%M:%S"),
        "machine": machine(),
        "versions": found,
        "values": values,
        "promises": promises,
    }
    (folder / "replay.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    packages = ", ".join(f"{name} {found[name]}" for name in ("python", "numpy", "torch"))
    text = [*lines(values, promises), "", f"{machine()}; {packages}. `python -m benchmarks.replay` measures it anew."]
    (folder / "replay.md").write_text("\n".join(text) + "\n", encoding="utf-8")


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Once, with few entries, to see that it works; nothing is written.")
def main(quick: bool) -> None:
    """Measure, print, store; exit code 1 if a case failed."""
    exit_on_terminate()
    try:
        values = measure_all(quick)
    except CaseFailed as error:
        click.echo(f"failed: {error}", err=True)
        sys.exit(1)
    promises = judge(values, PROMISES)
    if not quick:
        store(RESULTS, values, promises)
    click.echo("\n".join(lines(values, promises)))


if __name__ == "__main__":
    main()
