from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from wiserl.experiment.options import RUN_OPTIONS
from wiserl.run_folder.metrics import MetricsWriter
from wiserl.run_folder.plotting import NOT_COMPARED, mean_and_deviation, plot_runs
from wiserl.util.errors import InputError


def make_run(run_dir: Path, algo: str = "ppo", env: str = "CartPole-v1", slope: float = 1.0, evals: bool = True,
             run: dict[str, Any] | None = None, **hyper: Any) -> Path:  # fmt: skip
    with MetricsWriter(run_dir, tensorboard=False) as writer:
        for step in range(0, 1000, 100):
            writer.write(step, {"charts/episodic_return": slope * step, "losses/entropy": 0.5})
            if evals and step % 300 == 0:
                writer.write(step, {"eval/return_mean": slope * step + 7})
    options = {"algo": algo, "env": env, "seed": slope, "run_dir": str(run_dir), "env_kwargs": {}, **(run or {})}
    config = {"algo": algo, "env": env, "run": options, "hyperparameters": hyper, "backend": "local", "transform": None}
    (run_dir / "config.json").write_text(json.dumps(config))
    return run_dir


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def remember(figure: Figure, *args: object, **kwargs: object) -> None:
        figures.append(figure)
        save(figure, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", remember)
    return figures


def test_the_picture_is_of_the_kind_the_suffix_names(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with Image.open(plot_runs([run], tmp_path / "new" / "curve.png")) as image:
        assert image.format == "PNG"
        assert min(image.size) >= 400
    assert plot_runs([run], tmp_path / "curve.svg").read_text().lstrip().startswith("<?xml")


def test_seeds_of_one_algorithm_are_one_line_in_a_band(tmp_path: Path, saved: list[Figure]) -> None:
    runs = [make_run(tmp_path / f"seed{seed}", slope=seed) for seed in (1, 3)]
    plot_runs([*runs, make_run(tmp_path / "dqn", algo="dqn", slope=5.0, evals=False)], tmp_path / "out.png")
    (axes,) = saved[0].axes
    lines: dict[str, Any] = {str(line.get_label()): line.get_xydata() for line in axes.lines}
    assert list(lines) == ["dqn", "ppo (mean ± std of 2 runs)", "ppo, evaluation"]
    np.testing.assert_allclose(lines["ppo (mean ± std of 2 runs)"][3], [300, 600])
    assert sorted(map(tuple, lines["ppo, evaluation"]))[2:4] == [(300, 307), (300, 907)]
    (band,) = axes.collections
    assert band.get_datalim(axes.transData).ymax == pytest.approx(900 * 2 + 900 * 1)
    assert axes.get_title() == "CartPole-v1"


def labels(figure: Figure) -> list[str]:
    return [str(line.get_label()).replace("\n", " ") for line in figure.axes[0].lines]


def test_runs_with_other_hyper_parameters_are_no_seeds_of_one_another_and_say_what_differs(
    tmp_path: Path, saved: list[Figure]
) -> None:
    def make(name: str, **options: Any) -> Path:
        shared = {"evals": False, "gamma": 0.9, "hidden_sizes": [64, 64], "clip_range_vf": None}
        return make_run(tmp_path / name, **{**shared, **options})

    runs = [make("a", slope=1.0), make("b", slope=2.0), make("c", hidden_sizes=[8], clip_range_vf=0.2)]
    runs += [make("d", run={"envs": 3, "env_kwargs": {"g": 9.8}}), make("e", algo="dqn", gamma=0.5)]
    plot_runs(runs, tmp_path / "out.png")
    assert labels(saved[0]) == [
        "dqn",
        "ppo, clip_range_vf=0.2, without env.g, without envs, hidden_sizes=8",
        "ppo, clip_range_vf=none, env.g=9.8, envs=3, hidden_sizes=64,64",
        "ppo, clip_range_vf=none, without env.g, without envs, hidden_sizes=64,64 (mean ± std of 2 runs)",
    ]
    assert len({line.get_color() for line in saved[0].axes[0].lines}) == 4


def test_where_and_how_a_run_was_done_does_not_tell_it_from_its_twin(tmp_path: Path, saved: list[Figure]) -> None:
    ways = [
        {"vector": "inline", "device": "cpu", "eval_every": 0},
        {"vector": "native", "device": "cuda", "eval_every": 9},
    ]
    runs = [make_run(tmp_path / str(slope), evals=False, slope=slope, run=way) for slope, way in enumerate(ways)]
    plot_runs(runs, tmp_path / "out.png")
    assert labels(saved[0]) == ["ppo (mean ± std of 2 runs)"]


def test_what_is_not_compared_are_options_of_a_run() -> None:
    assert {*RUN_OPTIONS, "algo", "env", "compile"} >= NOT_COMPARED


def test_a_folder_of_runs_stands_for_all_below_it_each_once(
    tmp_path: Path, saved: list[Figure], caplog: pytest.LogCaptureFixture
) -> None:
    runs = tmp_path / "runs"
    for number in (1, 2):
        make_run(runs / f"seed{number}", slope=number, evals=False)
    make_run(runs / "sweep" / "dqn", algo="dqn", evals=False)
    with MetricsWriter(runs / "begun", tensorboard=False) as writer:
        writer.write(1, {"charts/SPS": 1.0})
    (runs / "begun" / "config.json").write_text('{"algo": "ppo", "env": "CartPole-v1"}')
    plot_runs([runs / "seed1", runs], tmp_path / "out.png")
    assert labels(saved[0]) == ["dqn", "ppo (mean ± std of 2 runs)"]
    assert "left out: no episode of run '" in caplog.text
    assert "begun' has ended yet: train it longer" in caplog.text
    with pytest.raises(InputError, match=r"no run in '.*' can be drawn: run '.*dqn' has no metric 'charts/SPS'"):
        plot_runs([runs / "sweep"], tmp_path / "out.png", y="charts/SPS")


def test_each_env_has_a_panel_of_its_own(tmp_path: Path, saved: list[Figure]) -> None:
    envs = ["Pendulum-v1", "CartPole-v1"]
    plot_runs([make_run(tmp_path / env, env=env) for env in envs], tmp_path / "out.png")
    assert [axes.get_title() for axes in saved[0].axes] == sorted(envs)


def test_any_metric_can_be_drawn_and_brings_no_evaluation_dots(tmp_path: Path, saved: list[Figure]) -> None:
    plot_runs([make_run(tmp_path / "run")], tmp_path / "out.png", y="losses/entropy")
    assert [line.get_label() for line in saved[0].axes[0].lines] == ["ppo"]
    assert saved[0].axes[0].get_ylabel() == "entropy"


CURVES = st.lists(
    st.lists(
        st.tuples(st.integers(0, 50), st.integers(-9, 9)), min_size=1, max_size=6, unique_by=lambda point: point[0]
    ),
    min_size=1,
    max_size=4,
)


@given(CURVES)
def test_mean_and_deviation_are_taken_over_the_curves_that_reach_a_point(points: list[list[tuple[int, int]]]) -> None:
    curves = [tuple(np.array(sorted(curve), dtype=float).T) for curve in points]
    grid, mean, deviation = mean_and_deviation([(x, y) for x, y in curves])
    assert set(grid) == {x for curve in points for x, _ in curve}
    for at, expected_mean, expected_deviation in zip(grid, mean, deviation, strict=True):
        values = [np.interp(at, x, y) for x, y in curves if x[0] <= at <= x[-1]]
        assert expected_mean == pytest.approx(np.mean(values))
        assert expected_deviation == pytest.approx(np.std(values), abs=1e-9)


def test_a_long_curve_is_drawn_with_few_points() -> None:
    x = np.arange(10_000.0)
    grid, mean, _ = mean_and_deviation([(x, 2 * x)])
    assert len(grid) == 500
    np.testing.assert_allclose(mean, 2 * grid)


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    run, out = make_run(tmp_path / "run"), tmp_path / "out.png"
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no run folder given"):
        plot_runs([], out)
    with pytest.raises(InputError, match=r"'.*empty' has no metrics\.csv"):
        plot_runs([run, tmp_path / "empty"], out)
    with pytest.raises(InputError, match=r"out\.jpeg'; expected the suffix \.pdf or \.png or \.svg"):
        plot_runs([run], tmp_path / "out.jpeg")
    with pytest.raises(InputError, match="no metric 'losses/entropi': did you mean 'losses/entropy'"):
        plot_runs([run], out, y="losses/entropi")
    with MetricsWriter(tmp_path / "new", tensorboard=False) as writer:
        writer.write(1, {"charts/episodic_return": float("nan")})
    with pytest.raises(InputError, match=r"no readable config\.json"):
        plot_runs([tmp_path / "new"], out)
    (tmp_path / "new" / "config.json").write_text('{"algo": "ppo", "env": "x"}')
    with pytest.raises(InputError, match="no finite value of 'charts/episodic_return' yet"):
        plot_runs([tmp_path / "new"], out)
    assert not out.exists()


def test_a_picture_takes_the_place_of_a_link_and_leaves_what_that_points_to(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("mine")
    out = tmp_path / "curve.png"
    out.symlink_to(tmp_path / "other")
    plot_runs([make_run(tmp_path / "run")], out)
    assert (tmp_path / "other").read_text() == "mine"
    assert not out.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curve.png", "other", "run"]


def test_a_dollar_in_a_name_is_no_formula(tmp_path: Path, saved: list[Figure]) -> None:
    plot_runs(
        [make_run(tmp_path / "run", env="$x_$"), make_run(tmp_path / "b", env="$\\frac$", note="$_$")],
        tmp_path / "c.png",
    )
    assert {axes.get_title() for axes in saved[0].axes} == {"$x_$", "$\\frac$"}
