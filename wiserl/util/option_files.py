"""YAML and JSON as people write them: plain values, and an error where a file does not mean one thing."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from wiserl.util.errors import InputError
from wiserl.util.plain import MAX_DEPTH, plain

MAX_BYTES = 1 << 20

_STANDARD = "tag:yaml.org,2002:"
_EXPONENT = re.compile(r"[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$")
# What PyYAML's own constructors raise, `!!int abc` for one.
_BAD_VALUE = (ValueError, LookupError, AttributeError, ArithmeticError, TypeError)


class _Refused(yaml.YAMLError):
    """Sound YAML that says two things, or one that no option can have."""


class _Loader(yaml.SafeLoader):
    """Reads the values that JSON has as well. Unlike its base it refuses a key that is given twice, reads 1e-3 as a number, as
    JSON does, and a date as the text it is.
    """

    def flatten_mapping(self, node: MappingNode) -> None:
        """Merge what `<<` names, each key once: PyYAML keeps all copies, whose number would grow without bound."""
        seen: set[tuple[str, Hashable]] = set()
        for key, _ in node.value:
            if isinstance(key, ScalarNode):
                if (key.tag, key.value) in seen:
                    raise _Refused(
                        f"the key '{key.value}' is given twice (line {key.start_mark.line + 1}): give it once"
                    )
                seen.add((key.tag, key.value))
        super().flatten_mapping(node)
        merged = {_identity(key): (key, value) for key, value in node.value}
        node.value = list(merged.values())

    def construct_number(self, node: ScalarNode) -> float:
        """A float; one that is too large is not taken for infinity."""
        value = self.construct_yaml_float(node)
        if math.isinf(value) and "inf" not in node.value.lower():
            raise _Refused(f"the number {node.value} is out of range")
        return value

    def construct_text(self, node: ScalarNode) -> str:
        """Text; the two halves by which JSON may write a character are one, as there."""
        text = str(self.construct_scalar(node))
        return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")

    def construct_other(self, node: Node) -> Any:
        """Sets, dates, bytes and whatever else a tag may ask for."""
        if node.tag.startswith(_STANDARD):
            raise _Refused(
                f"!!{node.tag.removeprefix(_STANDARD)} is not read (line {node.start_mark.line + 1}): give a number, text, boolean, "
                "list or mapping"
            )
        return super().construct_undefined(node)


def _identity(key: Node) -> Hashable:
    return (key.tag, key.value) if isinstance(key, ScalarNode) else id(key)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_STANDARD}timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(f"{_STANDARD}float", _EXPONENT, list("-+.0123456789"))
_Loader.add_constructor(f"{_STANDARD}float", _Loader.construct_number)
_Loader.add_constructor(f"{_STANDARD}str", _Loader.construct_text)
for _tag in ("timestamp", "set", "omap", "pairs", "binary"):
    _Loader.add_constructor(f"{_STANDARD}{_tag}", _Loader.construct_other)
_Loader.add_constructor(None, _Loader.construct_other)


def read_file(path: str | Path, what: str) -> Any:
    """The plain values in a YAML or JSON file.

    Args:
        path: the file.
        what: it is, for messages ("config file").

    Raises:
        InputError: it cannot be read, is too large, no UTF-8, neither YAML nor JSON, has a key twice or one that is no text, or is
            nested too deep.
    """
    named = f"{what} '{path}'"
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)  # never all of /dev/zero
    except (OSError, ValueError) as error:
        raise InputError(f"{named} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MAX_BYTES:
        raise InputError(f"{named} is larger than {MAX_BYTES:,} bytes: expected a few options")
    try:
        text = data.decode("utf-8-sig")
        loaded = _load_json(text) if Path(path).suffix.lower() == ".json" else _load(text)
    except UnicodeDecodeError as error:
        raise InputError(f"{named} is not UTF-8 (byte {error.start}): save it as UTF-8") from None
    except RecursionError:
        raise InputError(f"{named} is nested more than {MAX_DEPTH} deep: expected options and their values") from None
    except _Refused as error:
        raise InputError(f"{named}: {error}") from None
    except (yaml.YAMLError, *_BAD_VALUE) as error:
        raise InputError(f"{named} is neither YAML nor JSON: {' '.join(str(error).split())}") from None
    return plain(loaded, named)


def read_text(text: str) -> Any:
    """The plain value that a text stands for, as YAML reads it; the text itself where it is no YAML.

    Raises:
        InputError: it is YAML that has a key twice or one that is no text, an unknown kind of value, or is nested too deep.
    """
    shown = text if len(text) <= 200 else f"{text[:200]}..."
    try:
        return plain(_load(text), shown)
    except RecursionError:
        raise InputError(
            f"{shown} is nested more than {MAX_DEPTH} deep: expected a number, text or a short list"
        ) from None
    except _Refused as error:
        raise InputError(f"{shown}: {error}") from None
    except yaml.YAMLError:
        return text
    except _BAD_VALUE as error:
        raise InputError(f"{shown} is not what its tag says: {error}") from None


def _load(text: str) -> Any:
    return yaml.load(text, _Loader)


def _load_json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_float=_in_range)
    except json.JSONDecodeError:  # comments, say; JSON with tabs is no YAML, so YAML comes second
        return _load(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _Refused(f"the key '{next(key for key in keys if keys.count(key) > 1)}' is given twice: give it once")
    return found


def _in_range(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _Refused(f"the number {text} is out of range")
    return value
