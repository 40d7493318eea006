"""JSON files that say whether they are whole: their last entry is the hash of all other text in them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wiserl.util.errors import InputError

SEAL = "blake2b"
UNSEALED = 1
"""The format of files that have no seal; those of `config.json` do not name it."""


def sealed_text(value: Mapping[str, Any]) -> str:
    """`value` as JSON, with its hash; `value["format"]` is above `UNSEALED`. A seal that it has is left out."""
    blank = json.dumps({**{name: entry for name, entry in value.items() if name != SEAL}, SEAL: ""}, indent=2)
    end = '"\n}'
    return blank.removesuffix(end) + _digest(blank.encode()) + end


def read_sealed(path: Path, advice: str) -> dict[str, Any]:
    """What a file holds, its seal checked.

    Args:
        path: the file. It was written from `sealed_text`, or before there were seals.
        advice: what to do if it is damaged, the end of the message.

    Raises:
        InputError: it cannot be read, is no JSON object, or is not what was saved.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror}; {advice}") from None
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"'{path}' is corrupt: it cannot be read as JSON ({error}); {advice}") from None
    if not isinstance(value, dict):
        raise InputError(
            f"'{path}' is corrupt: it cannot be read as what was saved, it holds a {type(value).__name__}; {advice}"
        )
    # Either mark tells of a seal, so that no single flipped bit makes a sealed file look like an old one.
    if (SEAL in value or value.get("format", UNSEALED) == UNSEALED + 1) and not _is_whole(data, value.get(SEAL)):
        raise InputError(f"'{path}' is corrupt: its content is not what was saved; {advice}")
    return value


def _is_whole(data: bytes, seal: object) -> bool:
    if not isinstance(seal, str) or len(seal) != 2 * hashlib.blake2b().digest_size:
        return False
    before, _, after = data.rpartition(seal.encode())
    return _digest(before + after) == seal


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data).hexdigest()
