"""Configuration: dataclasses checked and converted by msgspec, with errors that name the valid choice.

A field's range stands in its type, `Annotated[float, Meta(gt=0)]`; the aliases below cover the usual ones. Its meaning and unit
stand beside its default: `rate: PositiveFloat = option(3e-4, "step size")`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import os
import typing
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, cast

import msgspec
import numpy as np
from msgspec import Meta

from wiserl.util.errors import InputError, nearest
from wiserl.util.option_files import read_text

SLIPS = (10**12, 2**63 - 1)  # more is a slip, and overflows somewhere on the way: no range that anybody has to know
PositiveInt = Annotated[int, Meta(ge=1, le=SLIPS[0])]
Count = Annotated[int, Meta(ge=0, le=SLIPS[1])]
PositiveFloat = Annotated[float, Meta(gt=0)]
NonNegative = Annotated[float, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]


@dataclasses.dataclass(frozen=True)
class RoundBound:
    """How long a round is by default: so many env steps over all envs at most, but not fewer than so many of each."""

    in_all: int
    at_least: int


RoundSteps = Annotated[PositiveInt, RoundBound(in_all=16_384, at_least=32)]  # its default is lower with many envs

ConfigT = TypeVar("ConfigT")
ValueT = TypeVar("ValueT")


def option(default: ValueT, text: str, sets: Mapping[str, Any] | None = None) -> ValueT:
    """A field of a config dataclass: its default, and its meaning and unit for whoever lists the options.

    Typed as the default, so that type checkers take `rate: float = option(0.1, "share per step")` as they take `= 0.1`.

    Args:
        default: of the field.
        text: its meaning.
        sets: values that other fields have if this one is on and they are not given. The class is a `ConfigType`.
    """
    return dataclasses.field(default=default, metadata={**meaning(text), **({"sets": sets} if sets else {})})


def meaning(text: str) -> dict[str, str]:
    """The metadata of a field with that meaning, for `dataclasses.field` where `option` does not do: no default, or a factory."""
    return {"meaning": text}


def meanings(config_class: type) -> dict[str, str]:
    """What each field means, by name. A class that gives a field another default alone keeps the meaning its base gave."""
    return _notes(config_class, "meaning")


def switches(config_class: type) -> dict[str, Mapping[str, Any]]:
    """By name the fields that set others, and what they set; inherited as meanings are."""
    return _notes(config_class, "sets")


@functools.cache
def _notes(config_class: type, key: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for base in reversed(config_class.__mro__):
        for field in vars(base).get("__dataclass_fields__", {}).values():
            if key in field.metadata:
                found[field.name] = field.metadata[key]
    return found


class ConfigType(type):
    """The type of configurations in which one option may stand for several (`option(..., sets=...)`).

    They are filled in before the instance is made: afterwards a default that was given cannot be told from one that was not.
    """

    def __call__(cls, *first: Any, **named: Any) -> Any:
        names = [field.name for field in dataclasses.fields(cast(Any, cls))]
        given = dict(zip(names, first, strict=False)) | named
        implied: dict[str, Any] = {}
        for name, values in switches(cls).items():
            if given.get(name, getattr(cls, name)):
                implied.update({other: value for other, value in values.items() if other not in given})
        return super().__call__(*first, **implied, **named)


@functools.cache
def _field_types(config_class: type) -> dict[str, Any]:
    hints = typing.get_type_hints(config_class, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(config_class)}


def defaults_with(config_class: Any, envs: int) -> dict[str, int]:
    """Defaults of `RoundSteps` for so many envs in a round, by name."""
    found: dict[str, int] = {}
    for field in dataclasses.fields(config_class):
        default: Any = field.default
        for bound in getattr(_field_types(config_class)[field.name], "__metadata__", ()):
            if isinstance(bound, RoundBound) and default is not dataclasses.MISSING:
                found[field.name] = min(default, max(bound.in_all // envs, bound.at_least))
    return found


def field_names(config_class: type) -> list[str]:
    """Names of a config dataclass's fields, in order."""
    return list(_field_types(config_class))


def make_config(config_class: type[ConfigT], values: Mapping[str, Any], what: str) -> ConfigT:
    """An instance of a config dataclass from plain values; strings are converted to the type of the field.

    Args:
        config_class: a dataclass whose fields all have defaults or appear in `values`.
        values: by field name.
        what: what is being configured, for messages ("ppo").

    Raises:
        InputError: an unknown key (with the nearest name), a value of the wrong type or out of range.
    """
    types = _field_types(cast(Any, config_class))
    converted = {}
    for key, value in values.items():
        if key not in types:
            raise InputError(f"unknown option '{key}' for {what}: {nearest(key, types)}")
        converted[key] = convert(value, types[key], key, what)
    return config_class(**converted)


def convert(value: Any, expected: Any, key: str, what: str) -> Any:
    """`value` as the type `expected`; a string may stand for a number, a boolean, a list (`64,64`) or none.

    Raises:
        InputError: naming the key, what was given and what was expected.
    """
    given = value
    if isinstance(value, str):
        value = _parse(value, expected)
    elif isinstance(value, np.generic):
        value = value.item()
    elif isinstance(value, os.PathLike):
        value = os.fspath(value)
    elif isinstance(value, list | tuple):
        value = [item.item() if isinstance(item, np.generic) else item for item in value]
    try:
        return msgspec.convert(value, expected, strict=False)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:  # the latter of half a surrogate pair
        shown = given if isinstance(given, str) else repr(value)
        raise InputError(f"{what}: {key}={shown} is not valid: {_expectation(value, expected, error)}") from None


def _expectation(value: Any, expected: Any, error: Exception) -> str:
    """What would have been valid: the nearest of several words, or a number or one of some words, or what msgspec says."""
    if typing.get_origin(expected) is typing.Literal:
        return nearest(str(value), typing.get_args(expected))
    literals = [part for part in typing.get_args(expected) if typing.get_origin(part) is typing.Literal]
    words = [str(word) for literal in literals for word in typing.get_args(literal)]
    return f"expected a number or {', '.join(words)} ({error})" if words else str(error)


def _parse(text: str, expected: Any) -> Any:
    if typing.get_origin(expected) is Annotated:
        return _parse(text, typing.get_args(expected)[0])
    choices = typing.get_args(expected)
    if text.lower() in ("none", "null") and type(None) in choices:
        return None
    if typing.get_origin(expected) in (tuple, list):
        return text.strip("[]() ").replace(",", " ").split()
    if expected is int or int in choices:
        return text.replace("_", "")
    if _takes_float(expected):
        with contextlib.suppress(ValueError):
            number = float(text)  # reads .5, 1. and +0.1 too
            return number if math.isfinite(number) else text
    return text


def _takes_float(expected: Any) -> bool:
    return expected is float or any(map(_takes_float, typing.get_args(expected)))


def parse_value(text: str) -> Any:
    """A value from the command line that has no declared type: a number, boolean, list or text, as YAML reads it.

    Raises:
        InputError: it says two things, or one that cannot be saved.
    """
    return read_text(text)


def to_plain(config: Any) -> dict[str, Any]:
    """A config dataclass as JSON-able values; infinity in a field, which JSON has not, as text, which `make_config` reads."""
    plain: dict[str, Any] = msgspec.to_builtins(config)
    return {name: str(value) if value in (math.inf, -math.inf) else value for name, value in plain.items()}


def check_saved(config: Any, what: str) -> None:
    """Check that a config dataclass can be saved: all that it holds has a form that JSON has.

    Args:
        config: the instance.
        what: is configured, for messages ("ppo").

    Raises:
        InputError: a field cannot, and is named.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        try:
            json.dumps(msgspec.to_builtins(value))
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(
                f"{what}: {field.name}={value!r} cannot be saved with the run ({error}): give numbers, text, booleans, None, or lists and "
                "mappings of them"
            ) from None
