"""What can be saved with a run, and files of options that mean one thing."""

from __future__ import annotations

import datetime
import enum
import json
import math
from pathlib import Path

import numpy as np
import pytest

import wiserl
from tests.clumsy import NumberedEntries, Takes
from wiserl.core.config import parse_value
from wiserl.experiment.options import read_config_file, resolve
from wiserl.util.errors import InputError
from wiserl.util.option_files import MAX_BYTES, read_file
from wiserl.util.plain import MAX_VALUES, plain


class Colour(enum.Enum):
    RED = "red"


class Word(str, enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


def test_numbers_of_numpy_and_paths_become_what_they_mean():
    given = {"a": np.float32(0.5), "b": [np.int64(3), (np.bool_(True), np.str_("x"))], "c": Path("a/b"), "d": None}
    found = plain(given, "env_kwargs")
    assert found == {"a": 0.5, "b": [3, (True, "x")], "c": "a/b", "d": None}
    kinds = [type(found["a"]), type(found["b"][0]), type(found["b"][1][0]), type(found["b"][1][1]), type(found["c"])]
    assert kinds == [float, int, bool, str, str]
    assert plain(np.float64(1.5), "x") == 1.5
    assert type(plain(np.float64(1.5), "x")) is float
    assert plain(math.inf, "x") == math.inf


@pytest.mark.parametrize(
    "value",
    [
        {"a"}, frozenset(), b"x", bytearray(b"x"), datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1), Colour.RED, Word.RED,
        Level.LOW, np.zeros(2), np.datetime64("2020-01-01"), np.complex64(1), np.longdouble(1), 1j, object(), len, Takes, range(3),
    ],
    ids=lambda value: repr(value).split(" at 0x")[0],
)  # fmt: skip
def test_what_cannot_be_saved_is_refused_before_the_first_step_by_name(value, tmp_path):
    with pytest.raises(InputError, match=r"env_kwargs\.x\[1\]\.y is .*cannot be saved with the run"):
        wiserl.train("ppo", Takes, env_kwargs={"x": [0, {"y": value}]}, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_keys_that_are_no_text_are_refused():
    with pytest.raises(InputError, match=r"env_kwargs\.x has the key 1, which is no text but a int"):
        resolve("ppo", Takes, {"env_kwargs": {"x": {1: 2}}})
    with pytest.raises(InputError, match="config has the key 1"):
        wiserl.train("ppo", Takes, config={1: 2})


def test_what_holds_itself_or_grows_without_bound_is_refused():
    itself: list = []
    itself.append(itself)
    with pytest.raises(InputError, match="nested more than 32 deep, or holds itself"):
        plain(itself, "x")
    many: list = [0] * 100
    for _ in range(5):
        many = [many] * 100
    with pytest.raises(InputError, match=f"more than {MAX_VALUES:,} values"):
        plain(many, "x")
    with pytest.raises(InputError, match=r"net.* is nested more than 32 deep"):
        resolve("ppo", Takes, {"net": itself})


@pytest.mark.parametrize("name", ["c.yaml", "c.json"])
def test_a_file_of_options_means_what_json_means(name, tmp_path):
    (tmp_path / name).write_text('{"a": 1e-4, "b": [true, null, "x"], "c": {"d": "1e-4"}, "date": "2020-01-01"}')
    assert read_file(tmp_path / name, "config file") == {
        "a": 1e-4, "b": [True, None, "x"], "c": {"d": "1e-4"}, "date": "2020-01-01",
    }  # fmt: skip


def test_text_in_yaml_may_be_escaped_as_in_json(tmp_path):
    (tmp_path / "c.yaml").write_text('{"a": "\\ud83d\\ude00", "b": "\\ud83d", "c": "é"}')
    assert read_config_file(tmp_path / "c.yaml") == {"a": "😀", "b": "\ud83d", "c": "é"}
    with pytest.raises(InputError, match="activation"):
        resolve("ppo", Takes, {"activation": "\ud83d"})


def test_a_json_file_may_have_tabs_or_the_comments_of_yaml(tmp_path):
    (tmp_path / "c.json").write_text('{"a":\t"\\ud83d\\ude00\\/"}')
    assert read_config_file(tmp_path / "c.json") == {"a": "😀/"}
    (tmp_path / "c.json").write_text("{a: 1} # so far")
    assert read_config_file(tmp_path / "c.json") == {"a": 1}


def test_yaml_keeps_dates_as_their_text_and_merges_what_is_named(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "env_kwargs: {day: 2020-01-01, at: 2020-01-01T10:00:00Z}\nbase: &base {a: 1, b: 2}\nmore: {<<: *base, b: 3}\n"
        "list: &l [1, 2]\nagain: *l\nnumbers: [1e3, -.5E+2, 1_0.e1, .inf, 1.5]\n"
    )
    assert read_config_file(tmp_path / "c.yaml") == {
        "env_kwargs": {"day": "2020-01-01", "at": "2020-01-01T10:00:00Z"},
        "base": {"a": 1, "b": 2}, "more": {"a": 1, "b": 3}, "list": [1, 2], "again": [1, 2],
        "numbers": [1e3, -50.0, 100.0, math.inf, 1.5],
    }  # fmt: skip


MERGED = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], y{i}: 1}}\n" for i in range(1, 30)
)
NAMED = "a0: &a0 [1, 1]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: 1\nseed: 2", "the key 'seed' is given twice (line 2)"),
        ("env_kwargs: {x: 1, 'x': 2}", "the key 'x' is given twice"),
        ("1: 2", "the key 1, which is no text"),
        ("on: 2", "the key True, which is no text"),
        ("null: 2", "the key None, which is no text"),
        ("env_kwargs: {x: {1: 2}}", ".env_kwargs.x has the key 1"),
        ("? [a]\n: 1", "unhashable"),
        ("x: !!set {a, b}", "!!set is not read (line 1)"),
        ("x: !!binary aGVsbG8=", "!!binary is not read"),
        ("x: !!timestamp 2020-13-45", "!!timestamp is not read"),
        ("x: !!omap [a: 1]", "!!omap is not read"),
        ("x: !!pairs [a: 1]", "!!pairs is not read"),
        ("x: !!python/object/apply:os.system [echo]", "!!python/object/apply:os.system is not read"),
        ("x: !mine 1", "!mine"),
        ("x: !!int abc", "neither YAML nor JSON: invalid literal"),
        ("x: !!int ''", "neither YAML nor JSON"),
        ("x: !!bool maybe", "neither YAML nor JSON"),
        ("x: 1e400", "1e400 is out of range"),
        ("x: &a [*a]", "holds itself"),
        ("x: " + "[" * 3000, "nested more than 32 deep"),
        ("x: " + "[" * 40 + "]" * 40, "nested more than 32 deep"),
        (NAMED, "values: expected a few options"),
        (MERGED, ""),
        ("", "holds nothing"),
        ("[1]", "holds a list"),
        (b"seed: \xff", "is not UTF-8 (byte 6): save it as UTF-8"),
        (b"\xff\xfes\0", "is not UTF-8 (byte 0)"),
        (b"\0", "neither YAML nor JSON"),
        (b" " * (MAX_BYTES + 1), "is larger than 1,048,576 bytes"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_file_that_does_not_mean_one_thing_is_refused(text, said, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    if not said:
        assert set(read_config_file(path)["a29"]) == {"x", *(f"y{i}" for i in range(1, 30))}
        return
    with pytest.raises(InputError) as refused:
        read_config_file(path)
    assert f"config file '{path}'" in str(refused.value)
    assert said in str(refused.value)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "a": 2}', "the key 'a' is given twice"),
        ('{"a": 1e400}', "1e400 is out of range"),
        ('{"a": ' + "[" * 100_000, "nested more than 32 deep"),
        ('{"a": ' + "9" * 5000 + "}", "is neither YAML nor JSON"),
        ("[1", "is neither YAML nor JSON"),
        ("", "holds nothing"),
    ],
    ids=lambda value: value[:20],
)
def test_json_is_as_strict(text, said, tmp_path):
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(InputError) as refused:
        read_config_file(path)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("2020-01-01", "2020-01-01"), ("1e-3", 1e-3), ("[[[", "[[["), ("{a: [1, x]}", {"a": [1, "x"]}), ("a: b: c", "a: b: c")],
)  # fmt: skip
def test_a_value_of_the_command_line_is_read_alike(text, value):
    assert parse_value(text) == value


@pytest.mark.parametrize("text", ["{a: 1, a: 2}", "{1: 2}", "!!set {a}", "!!int x", "&a [*a]", "[" * 3000, "1e999"])
def test_a_value_of_the_command_line_that_cannot_be_saved_is_refused(text):
    with pytest.raises(InputError):
        parse_value(text)


@pytest.mark.parametrize("given", [3, True, ["a"], b"x", ""])
def test_arguments_that_are_paths_are_paths(given):
    for name in ("config", "resume"):
        with pytest.raises(InputError, match=f"{name}=.* is not valid: expected a path"):
            wiserl.train("ppo", Takes, **{name: given})
    with pytest.raises(InputError, match=r"run_dir=.* is not valid: expected a path"):
        wiserl.load(given)


def test_a_run_of_none_is_none():
    with pytest.raises(InputError, match="run_dir=None is not valid"):
        wiserl.load(None)
    with pytest.raises(InputError, match="unknown device"):
        wiserl.util.device.check_device(None)


SMALL = {"total_steps": 32, "envs": 2, "vector": "inline", "backend": "local", "device": "cpu", "eval_episodes": 1, "quiet": True,
         "n_steps": 8, "hidden_sizes": (np.int64(8),)}  # fmt: skip


def test_what_was_given_is_what_the_run_the_checkpoint_and_a_resumed_run_have(tmp_path):
    run = tmp_path / "run"
    kwargs = {"x": {"path": Path("a"), "number": np.float32(0.5)}}
    wiserl.train("ppo", Takes, env_kwargs=kwargs, run_dir=run, **SMALL)
    expected = {"x": {"path": "a", "number": 0.5}}
    assert json.loads((run / "config.json").read_text())["run"]["env_kwargs"] == expected
    policy = wiserl.load(run)
    assert policy.manifest["env_kwargs"] == expected
    wiserl.train("ppo", Takes, resume=run, total_steps=64, quiet=True)


def test_a_policy_takes_the_observations_of_an_env_whose_entries_have_numbers(tmp_path):
    run = tmp_path / "run"
    wiserl.train("ppo", NumberedEntries, run_dir=run, **SMALL)
    obs, _ = NumberedEntries().reset(seed=0)
    assert wiserl.load(run).choose_action(obs) in (0, 1)


def test_a_checkpoint_is_one_of_those_that_are_there(tmp_path):
    run = tmp_path / "run"
    wiserl.train("ppo", Takes, run_dir=run, **SMALL)
    assert wiserl.load(run, 32).manifest["env_steps"] == 32
    for name in ("../step_32", "", None, "x" * 300, "3\0", 33):
        with pytest.raises(InputError, match="no checkpoint"):
            wiserl.load(run, name)
    (run / "checkpoints" / "step_5").write_text("x")
    with pytest.raises(InputError, match="step_5' is incomplete: it is no folder"):
        wiserl.load(run, "5")
