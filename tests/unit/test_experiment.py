"""A training run from Python: its folder, its files, its summary, and going on with it."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import wiserl
from tests.envs import BoxObs, Chain
from wiserl.experiment import experiment
from wiserl.experiment.console import Console
from wiserl.experiment.options import read_options
from wiserl.run_folder.checkpoint import open_checkpoint
from wiserl.run_folder.claim import claim
from wiserl.transport.registry import WiseRL
from wiserl.util.errors import InputError, Interrupted

TINY = {
    "total_steps": 128,
    "envs": 2,
    "n_steps": 8,
    "batch_size": 16,
    "n_epochs": 1,
    "hidden_sizes": "8",
    "eval_episodes": 2,
}
TINY |= {"vector": "inline", "backend": "local", "device": "cpu", "quiet": True}

QUICK = {key: value for key, value in TINY.items() if key != "quiet"}


def train(algo: str = "ppo", env: Any = "tests.envs:BoxObs", **options: Any) -> dict[str, Any]:
    return wiserl.train(algo, env, **(TINY | options))


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_has_a_folder_of_its_own_named_after_what_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [train(seed=seed)["run_dir"] for seed in (0, 0, 3)]
    assert names == [
        "runs/ppo-tests.envs-BoxObs-s0",
        "runs/ppo-tests.envs-BoxObs-s0-2",
        "runs/ppo-tests.envs-BoxObs-s3",
    ]
    expected = ["checkpoints", "config.json", "metrics.csv", "summary.json"]
    found = sorted(path.name for path in (tmp_path / names[0]).iterdir())
    assert found[:2] == expected[:2]
    assert found[-2:] == expected[-2:]
    assert found[2].startswith("events.out.tfevents")


def test_a_folder_asked_for_by_name_is_not_taken_twice(tmp_path):
    train(run_dir=tmp_path / "run")
    with pytest.raises(InputError, match=r"holds a run already: go on with it by --resume"):
        train(run_dir=tmp_path / "run")


def experiments(run_dir: Path | None) -> Iterator[experiment.Experiment]:
    """Runs of the same options, of which none has begun to train."""
    options = {key: value for key, value in TINY.items() if key != "quiet"}
    if run_dir is not None:
        options["run_dir"] = str(run_dir)
    while True:
        run, hyper = read_options("ppo", "tests.envs:BoxObs", None, None, options)
        yield experiment.Experiment(run, hyper, resume=False)


def test_a_run_that_ends_before_its_first_update_says_so(tmp_path, capsys):
    options = {"total_steps": 64, "envs": 2, "vector": "inline", "device": "cpu", "eval_episodes": 1, "quiet": True}
    wiserl.train("dqn", "tests.envs:BoxObs", learning_starts=100, run_dir=tmp_path / "run", **options)
    assert "before the first update (learning_starts=100); train for longer" in capsys.readouterr().err
    wiserl.train("dqn", "tests.envs:BoxObs", learning_starts=10, run_dir=tmp_path / "other", **options)
    assert "nothing was learned" not in capsys.readouterr().err


def test_runs_started_together_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "runs/ppo-tests.envs-BoxObs-s0"
    folders = [str(next(experiments(None)).folder) for _ in range(3)]
    assert folders == [str(tmp_path / each) for each in (name, f"{name}-2", f"{name}-3")]
    named = experiments(tmp_path / "run")
    next(named)
    with pytest.raises(InputError, match="holds a run already"):
        next(named)


def spoil(fragment: Any) -> None:
    """A transform that forgets to return."""


@pytest.mark.parametrize("begin", [wiserl.train, wiserl.by_hand])
def test_bad_input_that_the_learner_finds_leaves_no_folder_and_the_next_try_is_told_the_same(
    tmp_path, monkeypatch, begin
):
    monkeypatch.chdir(tmp_path)
    options = {"dataset": "nope.npz", "device": "cpu", "vector": "inline", "run_dir": "deep/run"}
    for _ in range(2):
        with pytest.raises(InputError, match=r"nope\.npz"):
            begin("td3", "Pendulum-v1", **options)
        assert not list(tmp_path.iterdir())


def test_a_folder_that_was_there_is_given_back_as_it_was(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="transform returned None"):
        train(run_dir=tmp_path, transform=spoil)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    train(run_dir=tmp_path)


def test_what_others_put_into_the_folder_meanwhile_stays(tmp_path):
    def meanwhile(fragment: Any) -> None:
        (tmp_path / "run" / "other" / "checkpoints").mkdir(parents=True)
        (tmp_path / "run" / "notes.txt").touch()

    with pytest.raises(InputError, match="transform returned None"):
        train(run_dir=tmp_path / "run", transform=meanwhile)
    assert sorted(path.name for path in (tmp_path / "run").rglob("*")) == ["checkpoints", "notes.txt", "other"]


def test_a_folder_that_a_rival_claims_at_the_same_moment_is_his(tmp_path):
    def config(path: Path) -> dict[str, Any]:
        if not (path / "config.json").exists():
            (path / "config.json").write_text("{}")  # after this one has looked, before it writes
        return {"mine": True}

    with pytest.raises(InputError, match="holds a run already"):
        claim(str(tmp_path / "run"), False, config)
    assert [(path.name, path.read_text()) for path in (tmp_path / "run").iterdir()] == [("config.json", "{}")]


def test_a_folder_is_claimed_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def refuse(*paths: Any) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr("os.link", refuse)
    claim(str(tmp_path / "run"), False, lambda path: {"mine": True})
    assert [(path.name, path.read_text()) for path in (tmp_path / "run").iterdir()] == [
        ("config.json", '{\n  "mine": true\n}')
    ]
    with pytest.raises(InputError, match="holds a run already"):
        claim(str(tmp_path / "run"), False, lambda path: {"mine": False})


@pytest.mark.parametrize(("good", "kept"), [(0, False), (6, True)])
def test_config_json_of_a_resumed_run_tells_of_the_checkpoints_there_are(tmp_path, good, kept):
    """However it ends: what was changed is in it once something was saved with it, and not before."""
    calls = itertools.count()

    def doubtful(fragment: Any) -> Any:
        if next(calls) < first + good:
            return fragment
        raise KeyboardInterrupt

    first = 10**6
    train(run_dir=tmp_path / "run", transform=doubtful)
    first = next(calls)
    with pytest.raises(KeyboardInterrupt):
        train(resume=tmp_path / "run", transform=doubtful, total_steps=1024, learning_rate=0.5, checkpoint_every=32)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["hyperparameters"]["learning_rate"] == 0.5) == kept
    assert (open_checkpoint(tmp_path / "run").manifest["config"]["learning_rate"] == 0.5) == kept


def test_what_was_saved_before_bad_input_showed_stays(tmp_path):
    calls = itertools.count()
    with pytest.raises(InputError, match="transform returned None"):
        train(run_dir=tmp_path / "run", transform=lambda fragment: fragment if next(calls) < 4 else None)
    assert open_checkpoint(tmp_path / "run").manifest["env_steps"] == 64


def test_config_json_has_every_option_resolved(tmp_path):
    train(run_dir=tmp_path / "run", **{"env.length": "4"})
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    run = config["run"]
    assert (run["vector"], run["device"], run["envs"], run["env_kwargs"]) == ("inline", "cpu", 2, {"length": 4})
    assert (config["backend"], run["checkpoint_every"], run["max_inflight"]) == ("local", 25, 1)
    assert config["hyperparameters"]["gae_lambda"] == 0.95


def test_options_come_from_a_file_and_from_keywords_which_win(tmp_path):
    (tmp_path / "c.yaml").write_text("gamma: 0.5\nseed: 4\nenv_kwargs: {length: 4}\n")
    summary = train(config=tmp_path / "c.yaml", seed=5, run_dir=tmp_path / "a")
    assert summary["seed"] == 5
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert (config["hyperparameters"]["gamma"], config["run"]["env_kwargs"]) == (0.5, {"length": 4})
    assert train(config={"seed": 9}, run_dir=tmp_path / "b")["seed"] == 9


def test_an_env_may_be_a_callable(tmp_path):
    summary = train(env=Chain, env_kwargs={"length": 3}, run_dir=tmp_path / "run")
    assert summary["env"] == "tests.envs:Chain"
    assert wiserl.load(tmp_path / "run").spec.observation_space.shape == (3,)


def test_a_parallel_env_of_pettingzoo_trains_with_shared_parameters(tmp_path):
    summary = train(env="mpe2/simple_spread_v3", run_dir=tmp_path / "run", checkpoint_every=1000)
    assert summary["env_steps"] == 128
    assert summary["episodes"] == 4
    assert wiserl.load(tmp_path / "run").spec.num_agents == 3


def test_evaluations_on_the_way_are_logged_and_the_best_is_kept(tmp_path):
    summary = train(
        run_dir=tmp_path / "run", eval_every=32, learning_rate=0.01, gamma=0.5, total_steps=512, keep_checkpoints=1
    )
    evaluated = {
        int(row["env_steps"]): float(row["eval/return_mean"])
        for row in rows(tmp_path / "run")
        if row["eval/return_mean"]
    }
    assert sorted(evaluated) == list(range(32, 513, 32))
    assert evaluated[512] == summary["eval_return_mean"]
    best = open_checkpoint(tmp_path / "run", "best").manifest["env_steps"]
    assert evaluated[best] == max(evaluated.values())
    assert best == max(steps for steps, value in evaluated.items() if value == evaluated[best]), (
        "the newest of the best"
    )


class Lottery(BoxObs):
    """Rewards are drawn, whatever is done: the return tells which episodes were played."""

    def match(self, target: Any, action: Any) -> float:
        return float(self.np_random.random())


def test_each_evaluation_has_episodes_of_its_own_and_a_twin_run_has_the_same(tmp_path):
    def evaluations(name: str, **options: Any) -> list[float]:
        summary = train(env=Lottery, run_dir=tmp_path / name, checkpoint_every=32, **options)
        found = [float(row["eval/return_mean"]) for row in rows(tmp_path / name) if row["eval/return_mean"]]
        assert found[-1] == pytest.approx(summary["eval_return_mean"])
        return found

    first = evaluations("first", eval_every=32)
    assert len(first) == 4, "at 32, 64 and 96 env steps, and of the final policy"
    assert len(set(first)) == 4
    assert evaluations("twin", eval_every=32) == first
    assert evaluations("final alone", eval_every=0) == first[-1:]
    weights = [open_checkpoint(tmp_path / name).path / "weights.safetensors" for name in ("first", "final alone")]
    assert weights[0].read_bytes() == weights[1].read_bytes(), "evaluation leaves no trace in training"
    assert set(evaluations("other", eval_every=32, seed=1)).isdisjoint(first)


def test_metrics_have_the_names_people_know_and_no_gaps_in_steps(tmp_path):
    train(run_dir=tmp_path / "run", total_steps=256)
    table = rows(tmp_path / "run")
    assert {"env_steps", "charts/episodic_return", "charts/SPS", "losses/policy_loss", "eval/return_mean"} <= table[
        0
    ].keys()
    trained = [int(row["env_steps"]) for row in table if row["losses/policy_loss"]]
    assert trained == list(range(16, 257, 16))


@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_a_finished_run_goes_on_to_more_steps(tmp_path, algo):
    options = {key: value for key, value in TINY.items() if algo == "ppo" or key not in ("n_steps", "n_epochs")}
    wiserl.train(algo, "tests.envs:BoxObs", run_dir=tmp_path / "run", **options)
    before = rows(tmp_path / "run")
    summary = wiserl.train(algo, "tests.envs:BoxObs", resume=tmp_path / "run", total_steps=256, quiet=True)
    assert summary["env_steps"] == 256
    after = rows(tmp_path / "run")
    steps = [int(row["env_steps"]) for row in after]
    assert steps == sorted(steps)
    assert [row["env_steps"] for row in after[: len(before)]] == [row["env_steps"] for row in before]
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary


@pytest.mark.parametrize(
    ("algo", "env", "options"),
    [
        ("ppo", "tests.envs:BoxObs", {"n_steps": 64}),
        ("ppo", "mpe2/simple_spread_v3", {"n_steps": 64}),
        ("dqn", "wiserl.env.goals:BitFlip", {"hindsight": "future", "learning_starts": 8, "round_steps": 64}),
        ("dqn", "tests.envs:BoxObs", {"train_freq": 3, "round_steps": 21, "learning_starts": 8}),
    ],
)
def test_training_ends_at_its_steps_and_not_a_round_later(tmp_path, algo, env, options):
    common = {"total_steps": 200, "envs": 3, "batch_size": 16, "eval_episodes": 1, "vector": "inline", "device": "cpu"}
    summary = wiserl.train(algo, env, run_dir=tmp_path / "run", quiet=True, backend="local", **common, **options)
    assert summary["env_steps"] == 201
    assert wiserl.load(tmp_path / "run").manifest["env_steps"] == 201


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a run, TensorBoard's apart."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("events.")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("changes", [{}, {"total_steps": 64}, {"learning_rate": 0.5, "eval_episodes": 3}])
def test_a_finished_run_with_nothing_left_to_do_stays_as_it_is_and_says_so(tmp_path, capsys, changes):
    summary = train(run_dir=tmp_path / "run")
    before = contents(tmp_path / "run")
    events = len(list((tmp_path / "run").glob("events.*")))
    again = wiserl.train("ppo", "tests.envs:BoxObs", resume=tmp_path / "run", json_summary=True, **changes)
    assert again == summary
    assert contents(tmp_path / "run") == before
    assert len(list((tmp_path / "run").glob("events.*"))) == events
    out, err = capsys.readouterr()
    assert "nothing to do" in err
    assert "has done 128 env steps" in err
    assert json.loads(out.splitlines()[-1]) == summary


def test_a_finished_run_that_is_opened_by_hand_stays_as_it_is(tmp_path):
    summary = train(run_dir=tmp_path / "run")
    before = contents(tmp_path / "run")
    with wiserl.by_hand("ppo", "tests.envs:BoxObs", resume=tmp_path / "run") as run:
        assert run.done
    assert run.close() == summary
    assert contents(tmp_path / "run") == before


def test_a_run_that_was_ended_before_its_final_evaluation_makes_up_for_it(tmp_path):
    with wiserl.by_hand("ppo", "tests.envs:BoxObs", run_dir=tmp_path / "run", **QUICK) as run:
        run.run()
    assert run.close()["eval_return_mean"] is None
    config = (tmp_path / "run" / "config.json").read_bytes()
    summary = wiserl.train("ppo", "tests.envs:BoxObs", resume=tmp_path / "run", quiet=True)
    assert summary["eval_return_mean"] is not None
    assert (tmp_path / "run" / "config.json").read_bytes() == config
    (tmp_path / "run" / "summary.json").unlink()
    again = wiserl.train("ppo", "tests.envs:BoxObs", resume=tmp_path / "run", quiet=True)
    assert again["eval_return_mean"] == summary["eval_return_mean"]


def test_the_time_left_of_a_resumed_run_is_reckoned_from_its_checkpoint(tmp_path, monkeypatch):
    train(run_dir=tmp_path / "run")
    begun: list[int] = []
    monkeypatch.setattr(Console, "begin_at", lambda self, env_steps: begun.append(env_steps))
    wiserl.train("ppo", "tests.envs:BoxObs", resume=tmp_path / "run", total_steps=256, quiet=True)
    assert begun == [128]


def test_the_summary_says_what_happened(tmp_path, capsys):
    summary = train(run_dir=tmp_path / "run", json_summary=True, checkpoint_every=1000)
    printed = capsys.readouterr().out.splitlines()
    assert json.loads(printed[-1]) == json.loads((tmp_path / "run" / "summary.json").read_text()) == summary
    assert (summary["env_steps"], summary["updates"], summary["episodes"]) == (128, 8, 8)
    assert 0 < summary["first_update_seconds"] < summary["wall_seconds"]
    assert summary["steps_per_second"] > 0
    assert summary["eval_episodes"] == 2


def test_runners_share_the_cores_between_their_env_workers(tmp_path, monkeypatch):
    monkeypatch.setattr("wiserl.transport.local.available_cores", lambda: 7)
    options = {key: value for key, value in TINY.items() if key != "quiet"} | {"runners": 2, "envs": 4}
    run, hyper = read_options(
        "ppo", "CartPole-v1", None, None, {**options, "vector": "process", "run_dir": str(tmp_path / "run")}
    )
    with closing(WiseRL("local")) as wise_rl:
        group = experiment.Experiment(run, hyper, resume=False).connect(wise_rl, resume=False)
        runners = [runner for runner, _, _ in group.members]
        workers = [len(runner.envs.pids) for runner in runners]
        for runner in runners:
            runner.close()
    assert workers == [3, 3]


@pytest.mark.parametrize(("cores", "expected"), [(7, 3), (1, 1)])
def test_the_estimate_of_worker_processes_counts_the_cores_a_runner_may_use(tmp_path, monkeypatch, cores, expected):
    asked = []
    monkeypatch.setattr("wiserl.experiment.prepare.available_cores", lambda: cores)
    monkeypatch.setattr(
        "wiserl.experiment.prepare.choose_vector", lambda *args: asked.append(args[3]) or ("inline", "")
    )
    train(run_dir=tmp_path / "run", runners=2, vector="auto")
    assert asked == [expected]


def test_an_env_the_algorithm_cannot_do_is_refused_before_anything_is_started(tmp_path):
    with pytest.raises(InputError, match="dqn cannot act in Box"):
        wiserl.train("dqn", "tests.envs:BoxAction", run_dir=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("saved", "said"), [(False, "nothing was saved yet"), (True, "the checkpoint of env step 128 stays")]
)
def test_a_signal_that_stops_at_once_says_what_is_saved_and_how_to_go_on(tmp_path, capsys, monkeypatch, saved, said):
    folder, options = tmp_path / "run", {}
    if saved:
        train(run_dir=folder)
        options = {"resume": folder, "total_steps": 256}

    def interrupted(*args: Any) -> Any:
        raise Interrupted(2)

    monkeypatch.setattr(experiment.Experiment, "connect", interrupted)
    with pytest.raises(Interrupted):
        wiserl.train("ppo", "tests.envs:BoxObs", **(options or {**TINY, "run_dir": folder}))
    expected = f"stopped at once; {said}; go on with `wiserl train ppo tests.envs:BoxObs --resume {folder}`"
    assert expected in capsys.readouterr().err
