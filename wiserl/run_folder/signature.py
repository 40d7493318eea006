"""Whose run it is: a signature by a key of the user's own, which no file of a run holds.

The key is 32 random bytes in `key` of the user's configuration folder for wiserl, for this user alone (mode 0600). It is made
when it is first needed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import json
import logging
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from wiserl.util.errors import InputError

log = logging.getLogger("wiserl")
_BYTES = 32


def key_file() -> Path:
    """Where the key of this user is, or would be."""
    return Path(click.get_app_dir("wiserl")) / "key"


def sign(content: Mapping[str, Any]) -> str | None:
    """The signature of JSON-able content by this user's key; None, with a warning, where no key can be kept.

    Raises:
        InputError: others may read the key.
    """
    try:
        key = _read_key() or _make_key()
    except OSError as error:
        log.warning(
            "the run cannot be signed as yours, since '%s' cannot be written (%s): `wiserl eval` and `play` will ask for --trust",
            key_file(),
            error.strerror,
        )
        return None
    return _signature(key, content)


def is_signed(content: Mapping[str, Any], signature: object) -> bool:
    """Whether this user's key signed the content.

    Raises:
        InputError: others may read the key.
    """
    if not isinstance(signature, str) or not signature.isascii():
        return False
    key = _read_key()
    return key is not None and hmac.compare_digest(signature, _signature(key, content))


def _signature(key: bytes, content: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps(content))  # as it will be read: lists for tuples, text for the keys
    text = json.dumps(plain, sort_keys=True)
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _read_key() -> bytes | None:
    path = key_file()
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            key = file.read()
    except OSError:
        return None
    if os.name == "posix" and mode & 0o077:
        raise InputError(
            f"'{path}' may be read or written by others (mode {mode & 0o777:04o}), who could sign runs as yours: expected mode 0600. "
            "Remove it, and a new one is made; runs that it signed then need --trust"
        )
    if len(key) != _BYTES:
        raise InputError(f"'{path}' has {len(key)} bytes, expected a key of {_BYTES}: remove it, and a new one is made")
    return key


def _make_key() -> bytes:
    path = key_file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)  # mode 0600
    with os.fdopen(handle, "wb") as file:
        file.write(secrets.token_bytes(_BYTES))
    try:
        # Of two runs that make the first key at once, one has its way; the other takes that.
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
    finally:
        os.unlink(name)
    made = _read_key()
    if made is None:
        raise FileNotFoundError(errno.ENOENT, "it was removed at once", str(path))
    return made
