"""wiserl.cli.describe: what options are is read from their types, defaults and meanings."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta

from wiserl.agent.catalogue import algorithm_class, algorithm_names
from wiserl.cli.describe import Option, options
from wiserl.core.config import ConfigType, Fraction, PositiveFloat, PositiveInt, field_names, meaning, meanings, option
from wiserl.training.plan import RunConfig


@dataclass(frozen=True)
class Base:
    rate: PositiveFloat = option(3e-4, "step size")
    sizes: tuple[PositiveInt, ...] = (64, 64)


@dataclass(frozen=True)
class Config(Base):
    rate: PositiveFloat = 1e-3
    kind: Literal["linear", "none"] = option("none", "how it falls")
    bound: PositiveFloat | None = option(None, "on the norm")
    others: dict[str, Any] = field(default_factory=dict, metadata=meaning("[n] of them"))
    share: Annotated[float, "of all", Meta(ge=0, lt=1)] | Literal["auto"] = "auto"
    on: bool = True


def test_options_have_default_valid_values_and_meaning() -> None:
    assert options(Config, leave_out=("on",), quote="`") == [
        Option("rate", "0.001", "number > 0", "step size"),
        Option("sizes", "64,64", "list of integer ≥ 1", ""),
        Option("kind", "none", "`linear`, `none`", "how it falls"),
        Option("bound", "none", "number > 0 or none", "on the norm"),
        Option("others", "{}", "mapping", "[n] of them"),
        Option("share", "auto", "number ≥ 0 and < 1 or `auto`", ""),
    ]


def test_a_switch_says_what_it_sets() -> None:
    @dataclass(frozen=True)
    class Switched(metaclass=ConfigType):
        depth: int = option(1, "layers")
        all_on: bool = option(False, "everything", sets={"depth": 3})

    assert options(Switched)[1].meaning == "everything: depth=3, where they are not given"
    assert (
        Switched().depth,
        Switched(all_on=True).depth,
        Switched(all_on=True, depth=1).depth,
        Switched(2, True).depth,
    ) == (1, 3, 1, 2)


def test_the_meaning_of_an_option_stands_beside_a_default_like_any_other() -> None:
    """However a formatter folds the line."""
    assert Config().kind == Config.kind == "none"
    assert Config(rate=0.5).rate == 0.5
    assert Config.rate == 1e-3  # the base's meaning stays, its default does not


@pytest.mark.parametrize(
    "config_class", [RunConfig, *(algorithm_class(name).config_class for name in algorithm_names())]
)
def test_every_option_that_is_built_in_says_what_it_means(config_class: Any) -> None:
    assert [name for name in field_names(config_class) if not meanings(config_class).get(name)] == []


@pytest.mark.parametrize(("default", "written"), [(True, "true"), (float("inf"), "inf"), (1.0, "1"), (1e-6, "1e-06")])
def test_defaults_are_written_as_set_takes_them(default: Any, written: str) -> None:
    made = make_dataclass("Made", [("option", type(default), default)])
    assert options(made)[0].default == written


def test_where_there_is_no_meaning_or_no_default_the_rest_is_said() -> None:
    made = make_dataclass("Made", [("needed", Fraction)])
    assert options(made) == [Option("needed", "", "number ≥ 0 and ≤ 1", "")]
