"""What the options of a config dataclass are: names and defaults, valid values from the types, meanings from `option`."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from msgspec import Meta
from rich.table import Table

from wiserl.core.config import SLIPS, meanings, switches


@dataclasses.dataclass(frozen=True)
class Option:
    """One option, as a person reads it.

    Attributes:
        name: of the field.
        default: as `--set` takes it; empty where there is none.
        valid: what values it may have.
        meaning: of the field, and what else it sets; empty where it was given none.
    """

    name: str
    default: str
    valid: str
    meaning: str


def options(config_class: Any, leave_out: tuple[str, ...] = (), quote: str = "") -> list[Option]:
    """The fields of a config dataclass, those of its bases first.

    Args:
        config_class: the dataclass.
        leave_out: names of fields that are not wanted.
        quote: put around words that are valid values.
    """
    meaning = meanings(config_class)
    for name, values in switches(config_class).items():
        others = ", ".join(f"{quote}{other}={setting_text(value)}{quote}" for other, value in values.items())
        meaning = meaning | {name: f"{meaning[name]}: {others}, where they are not given"}
    hints = typing.get_type_hints(config_class, include_extras=True)
    return [
        Option(field.name, setting_text(_default(field)), valid(hints[field.name], quote), meaning.get(field.name, ""))
        for field in dataclasses.fields(config_class)
        if field.name not in leave_out
    ]


def option_table(config_class: Any, leave_out: tuple[str, ...] = ()) -> Table:
    """The same as a table for a terminal."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("option", no_wrap=True)
    for heading in ("default", "valid", "meaning"):
        table.add_column(heading, overflow="fold")
    for option in options(config_class, leave_out):
        table.add_row(*dataclasses.astuple(option))
    return table


def valid(hint: Any, quote: str = "") -> str:
    """What values a field of that type may have, as a person writes it."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(f"{quote}{choice}{quote}" for choice in arguments)
    if typing.get_origin(hint) is typing.Annotated:
        limits = next((extra for extra in arguments[1:] if isinstance(extra, Meta)), Meta())
        signs = {"> ": limits.gt, "≥ ": limits.ge, "≤ ": limits.le, "< ": limits.lt}
        bounds = [f"{sign}{bound:g}" for sign, bound in signs.items() if bound is not None and bound not in SLIPS]
        return f"{valid(arguments[0], quote)} {' and '.join(bounds)}"
    if typing.get_origin(hint) is dict:
        return "mapping"
    if typing.get_origin(hint) in (tuple, list):
        return f"list of {valid(arguments[0], quote)}"
    if arguments:  # a union with None
        return " or ".join(valid(argument, quote) for argument in arguments)
    names = {int: "integer", float: "number", bool: "true, false", str: "text", type(None): "none"}
    return names.get(hint, "mapping")


def setting_text(value: Any) -> str:
    """A default as `--set` takes it."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(str(entry) for entry in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return "" if field.default is dataclasses.MISSING else field.default
