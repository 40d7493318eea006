"""Whether a Ray cluster that asks for a token will get it: Ray itself tries in vain for 20 s, and prints a line each second."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from pathlib import Path

from wiserl.util.errors import InputError

ANSWER_SECONDS = 2.0
_UNAUTHENTICATED = b"16"  # gRPC's status code
_SETTINGS, _HEADERS, _DATA = 4, 1, 0  # HTTP/2's types of frames
_END_STREAM, _END_HEADERS = 1, 4  # and flags


def check_token(address: str) -> None:
    """Check that the cluster at `address` lets this process join, as its environment is.

    Raises:
        InputError: it asks for a token, and would get none or another one; the message says what to set.
    """
    token = _find_token()
    explicit = os.environ.get("RAY_ADDRESS", "") not in ("", "auto")
    mode = os.environ.get("RAY_AUTH_MODE")
    # Ray shows a token on its own accord only to a cluster of this machine, and not to an address it is given.
    shows = mode.lower() == "token" if mode is not None else bool(token) and not explicit
    if not _refuses(address, token if shows else ""):
        return
    settings = [] if shows else ["RAY_AUTH_MODE=token"]
    settings += ["RAY_AUTH_TOKEN to the cluster's"] if shows or not token else []
    shown = "does not take the one found here" if shows and token else "is shown none"
    raise InputError(
        f"the Ray cluster at {address} asks for a token, and {shown}: set {' and '.join(settings)} (`ray get-auth-token` "
        "prints it on a machine that "
        "has it; RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token may hold it as well)"
    )


def _find_token() -> str:
    """The token that Ray finds on this machine, in its order; "" if there is none."""
    given, path = os.environ.get("RAY_AUTH_TOKEN", ""), os.environ.get("RAY_AUTH_TOKEN_PATH", "")
    if given:
        return given.strip()
    with contextlib.suppress(OSError, RuntimeError):  # no such file; no home
        return (Path(path) if path else Path.home() / ".ray" / "auth_token").read_text(encoding="utf-8").strip()
    return ""


def _refuses(address: str, token: str) -> bool:
    """Whether the cluster's head answers a call that shows `token` (none: "") by gRPC's UNAUTHENTICATED.

    One call by hand, in HTTP/2's plainest form: what Ray has for it is private, and waits. False as well where nothing is
    understood, so that whatever is there is left to Ray.
    """
    host, _, port = address.rpartition(":")
    if "://" in address or not port.isdigit():
        return False
    headers = {":method": "POST", ":scheme": "http", ":path": "/ray.rpc.NodeInfoGcsService/GetClusterId",
               ":authority": address, "content-type": "application/grpc", "te": "trailers"}  # fmt: skip
    if token:
        headers["authorization"] = f"Bearer {token}"
    block = b"".join(b"\0" + _text(name) + _text(value) for name, value in headers.items())
    call = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, b"")
    call += _frame(_HEADERS, _END_HEADERS, 1, block) + _frame(_DATA, _END_STREAM, 1, bytes(5))
    answer, status = b"", None
    with (
        contextlib.suppress(OSError),
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS) as sock,
    ):
        sock.sendall(call)
        while status is None and (part := sock.recv(4096)):
            answer += part
            status = re.search(rb"grpc-status(?:\x01(\d)|\x02(\d\d))", answer)
    return status is not None and status[2] == _UNAUTHENTICATED


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _text(text: str) -> bytes:
    """A name or value of a header: its length (RFC 7541, 5.1, with a prefix of 7 bits) and its bytes."""
    data = text.encode()
    if len(data) < 127:
        return bytes([len(data)]) + data
    length, rest = b"\x7f", len(data) - 127
    while rest >= 128:
        length += bytes([rest % 128 + 128])
        rest //= 128
    return length + bytes([rest]) + data
