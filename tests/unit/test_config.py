"""Configuration: strings become the declared types, and what does not fit is refused with the valid choice."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from wiserl.agent.catalogue import algorithm_class, algorithm_names
from wiserl.core.config import (
    Count,
    Fraction,
    PositiveFloat,
    PositiveInt,
    convert,
    field_names,
    make_config,
    parse_value,
    to_plain,
)
from wiserl.util.errors import InputError


@dataclass(frozen=True)
class Sample:
    rate: PositiveFloat = 0.5
    share: Fraction = 0.1
    count: PositiveInt = 3
    start: Count = 0
    bound: PositiveFloat | None = None
    kind: Literal["red", "green"] = "red"
    flag: bool = False
    sizes: tuple[PositiveInt, ...] = (4, 4)
    name: str = "x"


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("rate", "3e-4", 3e-4),
        ("rate", ".25", 0.25),
        ("rate", "1.", 1.0),
        ("rate", "+0.1", 0.1),
        ("rate", 1, 1.0),
        ("rate", np.float64(0.25), 0.25),
        ("count", "1_000", 1000),
        ("count", "1e3", 1000),
        ("count", np.int64(7), 7),
        ("bound", "none", None),
        ("bound", "None", None),
        ("bound", "0.2", 0.2),
        ("bound", "inf", float("inf")),
        ("bound", None, None),
        ("kind", "green", "green"),
        ("flag", "true", True),
        ("flag", "False", False),
        ("sizes", "64,32", (64, 32)),
        ("sizes", "[64, 32]", (64, 32)),
        ("sizes", "64 32", (64, 32)),
        ("sizes", "64", (64,)),
        ("sizes", "", ()),
        ("sizes", [5], (5,)),
        ("name", "12", "12"),
        ("name", Path("a/b"), "a/b"),
    ],
)
def test_values_become_the_declared_type(key, given, expected):
    found = getattr(make_config(Sample, {key: given}, "sample"), key)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("key", "given", "message"),
    [
        ("rate", "fast", "sample: rate=fast is not valid: Expected `float`"),
        ("rate", 0, "Expected `float` > 0"),
        ("rate", float("nan"), "Expected `float` > 0"),
        ("share", "1.5", "Expected `float` <= 1"),
        ("count", 0, "Expected `int` >= 1"),
        ("count", -3, "Expected `int` >= 1"),
        ("count", 2.5, "Expected `int`"),
        ("count", True, "Expected `int`"),
        ("count", None, "Expected `int`"),
        ("start", "-1", "Expected `int` >= 0"),
        ("kind", "gren", "kind=gren is not valid: did you mean 'green'? Valid: green, red"),
        ("kind", 5, "Valid: green, red"),
        ("flag", "maybe", "Expected `bool`"),
        ("sizes", "64,x", "sizes=64,x is not valid: Expected `int`"),
        ("sizes", "64,0", "Expected `int` >= 1"),
        ("share", "none", "Expected `float`"),
    ],
)
def test_a_wrong_value_is_refused_with_what_was_expected(key, given, message):
    with pytest.raises(InputError) as error:
        make_config(Sample, {key: given}, "sample")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_key_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="unknown option 'sizs' for sample: did you mean 'sizes'"):
        make_config(Sample, {"sizs": 3}, "sample")


def test_a_single_value_is_converted_and_named():
    assert convert("8", PositiveInt, "--episodes", "wiserl") == 8
    with pytest.raises(InputError, match="wiserl: --episodes=0 is not valid"):
        convert("0", PositiveInt, "--episodes", "wiserl")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", 3),
        ("2.5", 2.5),
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("true", True),
        ("null", None),
        ("[1, 2]", [1, 2]),
        ("elephant", "elephant"),
        ("easy", "easy"),
        ("2024-01-01", "2024-01-01"),
        ("{", "{"),
        ("a: b: c", "a: b: c"),
    ],
)
def test_a_value_without_a_declared_type_is_read_as_it_looks(text, expected):
    found = parse_value(text)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("algo", algorithm_names())
def test_an_algorithms_configuration_survives_json(algo):
    config_class = algorithm_class(algo).config_class
    config = make_config(config_class, {"hidden_sizes": "8,4", "max_grad_norm": "inf"}, algo)
    text = json.dumps(to_plain(config), allow_nan=False)
    assert make_config(config_class, json.loads(text), algo) == config


@pytest.mark.parametrize("algo", algorithm_names())
def test_every_default_is_a_valid_value(algo):
    config_class = algorithm_class(algo).config_class
    defaults = dataclasses.asdict(config_class())
    assert list(defaults) == field_names(config_class)
    assert make_config(config_class, defaults, algo) == config_class()


def test_hyper_parameters_have_the_names_users_bring_along():
    ppo = "learning_rate gamma gae_lambda n_steps batch_size n_epochs clip_range ent_coef vf_coef max_grad_norm"
    assert set(ppo.split()) <= set(field_names(algorithm_class("ppo").config_class))
    dqn = "buffer_size learning_starts train_freq gradient_steps target_update_interval tau exploration_fraction"
    dqn += " exploration_initial_eps exploration_final_eps"
    assert set(dqn.split()) <= set(field_names(algorithm_class("dqn").config_class))
