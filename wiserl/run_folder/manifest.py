"""What a checkpoint's manifest may hold: whatever else a file says is refused before it is used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from wiserl.util.errors import InputError

_Count = Annotated[int, Meta(ge=0, le=2**62)]


class _File(msgspec.Struct):
    bytes: _Count
    blake2b: str


_TYPES: dict[str, Any] = {
    "format": int,
    "wiserl": str,
    "files": dict[Annotated[str, Meta(pattern=r"^\w[\w.]*$")], _File],
    "env_steps": _Count,
    "updates": _Count,
    "algo": str,
    "env": str,
    "env_kwargs": dict[str, Any],
    "spec": dict[str, Any],
    "config": dict[str, Any],
    "seed": Annotated[int, Meta(ge=0)],
}


def check_manifest(path: Path, manifest: Mapping[str, Any], needed: Iterable[str]) -> None:
    """Check the types of the entries that are there, and that those that are needed are.

    Args:
        path: the checkpoint.
        manifest: what its `manifest.json` holds.
        needed: names of entries.

    Raises:
        InputError: naming an entry that is not as expected.
    """
    missing = [name for name in needed if name not in manifest]
    if missing:
        raise InputError(
            f"checkpoint '{path}': its manifest.json lacks {', '.join(missing)}; choose another with --checkpoint"
        )
    for name in _TYPES.keys() & manifest.keys():
        _check_entry(path, name, manifest[name])


def _check_entry(path: Path, name: str, value: Any) -> None:
    try:
        msgspec.convert(value, _TYPES[name])
    except msgspec.ValidationError as error:
        raise InputError(f"checkpoint '{path}': its manifest.json has a wrong entry '{name}': {error}") from None
