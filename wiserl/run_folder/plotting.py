"""Learning curves of one or many runs, from the `metrics.csv` of their folders."""

from __future__ import annotations

import json
import logging
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from wiserl.run_folder.metrics import STEP_COLUMN, read_metrics
from wiserl.run_folder.sealed import read_sealed
from wiserl.util.errors import InputError, nearest

CONFIG_FILE = "config.json"
RETURN_COLUMN = "charts/episodic_return"
EVAL_COLUMN = "eval/return_mean"
SUFFIXES = (".pdf", ".png", ".svg")
GRID_POINTS = 500

LABEL_WIDTH = 60
NOT_COMPARED = frozenset(
    {"seed", "run_dir", "algo", "env", "backend", "device", "learner_gpus", "vector", "compile", "preset", "max_restarts",
     "eval_every", "eval_episodes", "checkpoint_every", "keep_checkpoints", "save_replay"}
)  # fmt: skip
"""Options in which the seeds of one experiment may differ: where and how fast it runs, what is looked at and what is kept. None
changes what is learned, but for how numbers are rounded and drawn. (`algo` and `env` are compared by themselves.)
"""

Floats = NDArray[np.float64]

log = logging.getLogger("wiserl")


@dataclass(frozen=True)
class Run:
    """One run: what was trained on what, and its curve `x`, `y` (`[rows]`, float64, no NaN, x rising).

    Attributes:
        settings: its options and hyper-parameters by name, as text, without those in `NOT_COMPARED`; arguments of the env
            as `env.KEY`.
    """

    algo: str
    env: str
    settings: Mapping[str, str]
    x: Floats
    y: Floats
    eval_x: Floats
    eval_y: Floats


def plot_runs(run_dirs: Sequence[Path], out: Path, x: str = STEP_COLUMN, y: str = RETURN_COLUMN) -> Path:
    """Draw the curves of runs and save the picture.

    Runs of the same algorithm on the same env with the same settings are seeds of one experiment: one line, their mean, in a
    band of one standard deviation over seeds. Lines of one algorithm are labelled by the settings in which they differ. They
    and other algorithms are compared in one panel, and each env has its own. Over the episodic return the evaluations are
    drawn as dots.

    Args:
        run_dirs: run folders, and folders with runs anywhere below: of these, runs without such values are left out, and named
            in the log.
        out: file to write, `.png`, `.svg` or `.pdf`; its folder is made if need be.
        x: column of `metrics.csv` along the horizontal axis.
        y: column along the vertical axis.

    Returns:
        `out`.

    Raises:
        InputError: no folders, a folder that is no run or has no such values, or an unknown suffix.
    """
    if not run_dirs:
        raise InputError("no run folder given; expected at least one folder that `wiserl train` wrote")
    if out.suffix not in SUFFIXES:
        raise InputError(f"cannot write a picture named '{out}'; expected the suffix {' or '.join(SUFFIXES)}")
    runs = list(_load_all(run_dirs, x, y))
    envs = sorted({run.env for run in runs})
    groups = _groups(runs)
    labels = sorted({label for label, _ in groups})
    with rc_context({"text.parse_math": False}):  # a $ in a name is a $
        figure = Figure(figsize=(max(6.4, 4.8 * len(envs)), 4.2), layout="constrained")
        for env, axes in zip(envs, np.ravel(figure.subplots(1, len(envs), squeeze=False)), strict=True):
            for label, group in sorted(groups, key=lambda labelled: labelled[0]):
                if group[0].env == env:
                    _draw(axes, group, label, f"C{labels.index(label)}")
            axes.set(title=env, xlabel=x.replace("_", " "), ylabel=y.rsplit("/", 1)[-1].replace("_", " "))
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.25)
            axes.legend(frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.stem}.{os.getpid()}{out.suffix}")
    try:
        figure.savefig(partial, dpi=150)
        partial.replace(out)  # also a link: what that points to stays
    finally:
        partial.unlink(missing_ok=True)
    return out


def _load_all(run_dirs: Sequence[Path], x: str, y: str) -> Iterator[Run]:
    """The runs in these folders and below them, each once."""
    seen: set[Path] = set()
    for given in map(Path, run_dirs):
        below = [] if (given / CONFIG_FILE).exists() else sorted(path.parent for path in given.rglob(CONFIG_FILE))
        loaded, problems = 0, []
        for run_dir in below or [given]:
            if run_dir.resolve() in seen:
                loaded += 1
                continue
            try:
                run = _load(run_dir, x, y)
            except InputError as error:
                if not below:
                    raise
                problems.append(str(error))
                continue
            seen.add(run_dir.resolve())
            loaded += 1
            yield run
        if not loaded:
            raise InputError(f"no run in '{given}' can be drawn: {problems[0]}")
        for problem in problems:
            log.warning("left out: %s", problem)


def _groups(runs: Sequence[Run]) -> list[tuple[str, list[Run]]]:
    """Runs that are seeds of one another, with what tells them from others of their algorithm on their env."""
    found: list[tuple[str, list[Run]]] = []
    for algo, env in sorted({(run.algo, run.env) for run in runs}):
        alike: dict[tuple[tuple[str, str], ...], list[Run]] = {}
        for run in runs:
            if (run.algo, run.env) == (algo, env):
                alike.setdefault(tuple(sorted(run.settings.items())), []).append(run)
        names = sorted({name for settings in alike for name, _ in settings})
        varied = [name for name in names if len({dict(settings).get(name) for settings in alike}) > 1]
        for settings, group in alike.items():
            values = dict(settings)
            # A folder of an older version lacks options that came later.
            parts = [f"{name}={values[name]}" if name in values else f"without {name}" for name in varied]
            found.append((", ".join([algo, *parts]), group))
    return found


def _settings(config: Mapping[str, Any]) -> dict[str, str]:
    run = dict(config.get("run", {}))
    arguments = {f"env.{name}": value for name, value in run.pop("env_kwargs", {}).items()}
    options = {"transform": config.get("transform"), **run, **arguments, **config.get("hyperparameters", {})}
    return {name: _text(value) for name, value in options.items() if name not in NOT_COMPARED}


def _text(value: Any) -> str:
    """As `--set` takes it."""
    if isinstance(value, list):
        return ",".join(map(_text, value))
    return value if isinstance(value, str) else json.dumps(value).replace("null", "none")


def _load(run_dir: Path, x: str, y: str) -> Run:
    metrics = read_metrics(run_dir)
    path = run_dir / CONFIG_FILE
    try:
        config = read_sealed(path, "restore it from a copy") if path.exists() else {}
        algo, env, settings = str(config["algo"]), str(config["env"]), _settings(config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"run folder '{run_dir}' has no readable {CONFIG_FILE} with 'algo' and 'env' ({error}); "
            f"expected a folder that `wiserl train` wrote"
        ) from error
    for name in (x, y):
        if name == RETURN_COLUMN and name not in metrics:
            raise InputError(f"no episode of run '{run_dir}' has ended yet: train it longer, or choose another metric")
        if name not in metrics:
            raise InputError(f"run '{run_dir}' has no metric '{name}': {nearest(name, metrics)}")
    if not np.isfinite(metrics[y]).any():
        raise InputError(f"run '{run_dir}' has no finite value of '{y}' yet; train it longer, or choose another metric")
    eval_x, eval_y = _curve(metrics, x, EVAL_COLUMN) if y == RETURN_COLUMN else (np.empty(0), np.empty(0))
    return Run(algo, env, settings, *_curve(metrics, x, y), eval_x, eval_y)


def _curve(metrics: dict[str, Floats], x: str, y: str) -> tuple[Floats, Floats]:
    """The rows in which both columns have a value, by rising x; nothing where there is no such column."""
    if y not in metrics:
        return np.empty(0), np.empty(0)
    known = np.isfinite(metrics[x]) & np.isfinite(metrics[y])
    order = np.argsort(metrics[x][known], kind="stable")
    return metrics[x][known][order], metrics[y][known][order]


def mean_and_deviation(curves: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats, Floats]:
    """Mean and standard deviation over curves with points of their own, by linear interpolation on a common grid.

    Args:
        curves: pairs (x, y) of shape `[n_i]`, x rising. A curve takes part only between its first and last x.

    Returns:
        Grid, mean and standard deviation (population, 0 where one curve takes part), each `[G]` with G <= 500.
    """
    grid = np.unique(np.concatenate([x for x, _ in curves]))
    if len(grid) > GRID_POINTS:
        grid = np.linspace(grid[0], grid[-1], GRID_POINTS)
    values = np.stack([np.interp(grid, x, y, left=np.nan, right=np.nan) for x, y in curves])
    covered = ~np.isnan(values).all(axis=0)
    return grid[covered], np.nanmean(values[:, covered], axis=0), np.nanstd(values[:, covered], axis=0)


def _draw(axes: Axes, group: Sequence[Run], label: str, color: str) -> None:
    grid, mean, deviation = mean_and_deviation([(run.x, run.y) for run in group])
    seeds = f" (mean ± std of {len(group)} runs)" if len(group) > 1 else ""
    axes.plot(grid, mean, color=color, label=textwrap.fill(f"{label}{seeds}", LABEL_WIDTH))
    if len(group) > 1:
        axes.fill_between(grid, mean - deviation, mean + deviation, color=color, alpha=0.2, linewidth=0)
    eval_x = np.concatenate([run.eval_x for run in group])
    if len(eval_x):
        eval_y = np.concatenate([run.eval_y for run in group])
        dots = textwrap.fill(f"{label}, evaluation", LABEL_WIDTH)
        axes.plot(eval_x, eval_y, "o", color=color, markersize=4, alpha=0.6, label=dots)
