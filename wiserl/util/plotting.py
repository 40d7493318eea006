"""Learning curves of one or many runs, from the `metrics.csv` of their folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from wiserl.util.errors import InputError, nearest
from wiserl.util.logging import STEP_COLUMN, read_metrics

CONFIG_FILE = "config.json"
RETURN_COLUMN = "charts/episodic_return"
EVAL_COLUMN = "eval/return_mean"
SUFFIXES = (".pdf", ".png", ".svg")
GRID_POINTS = 500

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """One run: what was trained on what, and its curve `x`, `y` (`[rows]`, float64, no NaN, x rising)."""

    algo: str
    env: str
    x: Floats
    y: Floats
    eval_x: Floats
    eval_y: Floats


def plot_runs(run_dirs: Sequence[Path], out: Path, x: str = STEP_COLUMN, y: str = RETURN_COLUMN) -> Path:
    """Draw the curves of runs and save the picture.

    Runs of the same algorithm on the same env are taken as seeds of one experiment: one line, their mean, in a band of
    one standard deviation over seeds. Algorithms are compared in one panel, and each env has its own. Over the episodic
    return the evaluations are drawn as dots.

    Args:
        run_dirs: run folders.
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
    runs = [_load(Path(run_dir), x, y) for run_dir in run_dirs]
    envs = sorted({run.env for run in runs})
    algos = sorted({run.algo for run in runs})
    figure = Figure(figsize=(max(6.4, 4.8 * len(envs)), 4.2), layout="constrained")
    for env, axes in zip(envs, np.ravel(figure.subplots(1, len(envs), squeeze=False)), strict=True):
        for index, algo in enumerate(algos):
            group = [run for run in runs if (run.algo, run.env) == (algo, env)]
            if group:
                _draw(axes, group, f"C{index}")
        axes.set(title=env, xlabel=x.replace("_", " "), ylabel=y.rsplit("/", 1)[-1].replace("_", " "))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)
    return out


def _load(run_dir: Path, x: str, y: str) -> Run:
    metrics = read_metrics(run_dir)
    try:
        config = json.loads((run_dir / CONFIG_FILE).read_text(encoding="utf-8"))
        algo, env = str(config["algo"]), str(config["env"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"run folder '{run_dir}' has no readable {CONFIG_FILE} with 'algo' and 'env' ({error}); "
            f"expected a folder that `wiserl train` wrote"
        ) from error
    for name in (x, y):
        if name not in metrics:
            raise InputError(f"run '{run_dir}' has no metric '{name}': {nearest(name, metrics)}")
    if not np.isfinite(metrics[y]).any():
        raise InputError(f"run '{run_dir}' has no finite value of '{y}' yet; train it longer, or choose another metric")
    eval_x, eval_y = _curve(metrics, x, EVAL_COLUMN) if y == RETURN_COLUMN else (np.empty(0), np.empty(0))
    return Run(algo, env, *_curve(metrics, x, y), eval_x, eval_y)


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


def _draw(axes: Axes, group: Sequence[Run], color: str) -> None:
    grid, mean, deviation = mean_and_deviation([(run.x, run.y) for run in group])
    seeds = f" (mean ± std of {len(group)} runs)" if len(group) > 1 else ""
    axes.plot(grid, mean, color=color, label=f"{group[0].algo}{seeds}")
    if len(group) > 1:
        axes.fill_between(grid, mean - deviation, mean + deviation, color=color, alpha=0.2, linewidth=0)
    eval_x = np.concatenate([run.eval_x for run in group])
    if len(eval_x):
        eval_y = np.concatenate([run.eval_y for run in group])
        axes.plot(eval_x, eval_y, "o", color=color, markersize=4, alpha=0.6, label=f"{group[0].algo}, evaluation")
