"""Configs nobody thought of: what is taken is saved as it is used, what is not is refused in one line, and nothing is run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.clumsy import Takes
from tests.fuzz.harness import Tally, check, fuzzing, inputs, limited, stamp, watched, wiserl
from tests.fuzz.strategies import VALUES, files, options
from wiserl.experiment.experiment import Experiment, train
from wiserl.experiment.options import resolve, run_options_of
from wiserl.util.errors import InputError

ALGOS = st.sampled_from(["ppo", "ppo", "dqn", "sarsa", "sac", "qrdqn"])


class Begins(InputError):
    """A run was about to begin."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, where each run ends when it would begin, and gives back what it took."""

    def begin(self: Experiment, quiet: bool, json_summary: bool) -> dict[str, Any]:
        with self.claimed.undo_on_bad_input():
            check_saved_as_used(self)
            raise Begins("a run begins")

    monkeypatch.setattr(Experiment, "execute", begin)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check_saved_as_used(experiment: Experiment) -> None:
    """The folder says what the run has, and a resumed run has the same."""
    run, hyper = experiment.run, experiment.prepared.config
    saved = json.loads((experiment.folder / "config.json").read_text(encoding="utf-8"))
    assert same(saved["run"]["env_kwargs"], run.env_kwargs)
    _, _, again = run_options_of(experiment.folder, {})
    run_again, hyper_again = resolve(run.algo, run.env, again, use_preset=False)
    assert same(vars(run_again) | {"run_dir": None}, vars(run) | {"run_dir": None})
    assert same(vars(hyper_again), vars(hyper))
    json.dumps(experiment.prepared.plan(experiment.claimed, resume=False).manifest)


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal, as JSON keeps them: NaN is NaN, a tuple is a list."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left):
        return math.isnan(right)
    return type(left) is type(right) and bool(left == right)


@inputs(150)
def test_a_config_file_is_taken_whole_or_refused_in_one_line(inputs: int, folder: Path) -> None:
    with Tally("config files") as tally:

        @fuzzing(inputs)
        @given(ALGOS, files(), st.sampled_from(["c.yaml", "c.json"]))
        def fuzz(algo: str, content: bytes, name: str) -> None:
            (folder / name).write_bytes(content)
            before = stamp(folder)
            outcome = wiserl(
                "train", algo, "tests.clumsy:Takes", "--config", name, "--vector", "inline", "--backend", "local"
            )
            check(outcome)
            assert outcome.code == 2
            assert stamp(folder) == before, "something was left or lost"
            (folder / name).unlink()
            tally.counts["begins" if outcome.err == "wiserl: error: a run begins\n" else "refused"] += 1

        fuzz()


ODD = st.sampled_from([b"x", {1}, 1j, object(), len, Takes, Path("a"), range(2), ...])


@inputs(150)
def test_options_from_python_are_taken_whole_or_refused_as_input(inputs: int, folder: Path) -> None:
    with Tally("options from Python") as tally:

        @fuzzing(inputs)
        @given(ALGOS, options(), st.dictionaries(st.sampled_from(["x", "y"]), VALUES | ODD | st.lists(ODD, max_size=2)))
        def fuzz(algo: str, given_options: dict[str, Any], kwargs: dict[str, Any]) -> None:
            before = stamp(folder)
            config = {"env_kwargs": kwargs, **given_options}
            with pytest.raises(InputError) as ended, limited(), watched():
                train(algo, Takes, config={**config, "vector": "inline", "backend": "local"}, quiet=True)
            assert stamp(folder) == before, "something was left or lost"
            tally.counts["begins" if isinstance(ended.value, Begins) else "refused"] += 1

        fuzz()
