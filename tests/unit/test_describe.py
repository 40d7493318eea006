"""wiserl.cli.describe: what options are is read from their types, defaults and comments."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta

from wiserl.cli.describe import Option, options
from wiserl.core.config import Fraction, PositiveFloat, PositiveInt


@dataclass(frozen=True)
class Base:
    rate: PositiveFloat = 3e-4  # step size
    sizes: tuple[PositiveInt, ...] = (64, 64)


@dataclass(frozen=True)
class Config(Base):
    rate: PositiveFloat = 1e-3
    kind: Literal["linear", "none"] = "none"  # how it falls
    bound: PositiveFloat | None = None  # on the norm
    others: dict[str, Any] = field(default_factory=dict)  # [n] of them
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


@pytest.mark.parametrize(("default", "written"), [(True, "true"), (float("inf"), "inf"), (1.0, "1"), (1e-6, "1e-06")])
def test_defaults_are_written_as_set_takes_them(default: Any, written: str) -> None:
    made = make_dataclass("Made", [("option", type(default), default)])
    assert options(made)[0].default == written


def test_where_there_is_no_source_or_no_default_the_rest_is_said() -> None:
    made = make_dataclass("Made", [("needed", Fraction)])
    assert options(made) == [Option("needed", "", "number ≥ 0 and ≤ 1", "")]
