"""Checkpoints: a directory that opens anywhere, safely, and is whole or absent.

    checkpoints/
      step_50000/           manifest.json, weights.safetensors, state.pt, replay.safetensors (where it is saved)
      last.txt, last        what training resumes from
      best.txt, best        the highest evaluation so far

A checkpoint is written under another name and renamed, and what `last` and `best` name (`inventory`) is replaced in one step, so
that a kill at any moment, or a full disk, leaves the previous one whole. Nothing in it is pickled code: weights are safetensors,
`state.pt` is loaded with `weights_only=True`. The manifest has the hashes of the other files and, from format 2 on, its own.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

from wiserl.run_folder.inventory import NAMES, is_written_by, named, step_aside, steps
from wiserl.run_folder.manifest import check_manifest
from wiserl.run_folder.sealed import UNSEALED, read_sealed, sealed_text
from wiserl.run_folder.writing import writing
from wiserl.util.errors import InputError, nearest
from wiserl.util.version import __version__

FORMAT = 2
_READABLE = (1, FORMAT)  # manifests of format 1 have no hash of their own
_ADVICE = "choose another with --checkpoint, or train again"
_WEIGHTS, _STATE, _REPLAY, _MANIFEST = "weights.safetensors", "state.pt", "replay.safetensors", "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint opened: its folder and manifest, checked; the files are read when asked for.

    Each of these raises InputError where a file holds something else than `save_checkpoint` writes.
    """

    path: Path
    manifest: dict[str, Any]

    def weights(self) -> dict[str, torch.Tensor]:
        """The acting network's state."""
        with _reading(self.path / _WEIGHTS):
            return safetensors.torch.load_file(self.path / _WEIGHTS)

    def state(self) -> dict[str, Any]:
        """The learner's state: optimiser, targets, generators, counters."""
        with _reading(self.path / _STATE):
            return dict(torch.load(self.path / _STATE, map_location="cpu", weights_only=True))

    def replay(self) -> dict[str, Any] | None:
        """The replay buffer's state, if it was saved."""
        path = self.path / _REPLAY
        if _REPLAY not in self.manifest["files"]:
            return None
        with _reading(path):
            with safetensors.safe_open(path, framework="numpy") as file:
                plain = json.loads(file.metadata()["plain"])
            return {**safetensors.numpy.load_file(path), **plain}


def save_checkpoint(folder: Path, manifest: Mapping[str, Any], weights: Mapping[str, torch.Tensor], state: Mapping[str, Any],
                    replay: Mapping[str, Any] | None) -> Path:  # fmt: skip
    """Write `folder/step_N` (N: the manifest's env_steps), whole or not at all; returns its path.

    Raises:
        DiskError: it could not be written, or something that is no checkpoint of this run has its place.
    """
    path = folder / f"step_{manifest['env_steps']}"
    partial = folder / f".{path.name}.{os.getpid()}.partial"
    with writing("checkpoint", path):
        try:
            _write_files(partial, manifest, weights, state, replay)
            _put_in_place(partial, path, manifest)
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)  # the disk may be full
            raise
    return path


def _write_files(partial: Path, manifest: Mapping[str, Any], weights: Mapping[str, torch.Tensor], state: Mapping[str, Any],
                 replay: Mapping[str, Any] | None) -> None:  # fmt: skip
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    # Cloned: safetensors refuses tensors that share memory, and policy and value of an image policy share a network.
    with _errors_of_safetensors():
        safetensors.torch.save_file(
            {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}, partial / _WEIGHTS
        )
    content = io.BytesIO()  # torch's own writer does not say why it could not write
    torch.save(dict(state), content)
    (partial / _STATE).write_bytes(content.getbuffer())
    if replay is not None:
        arrays = {name: np.ascontiguousarray(value) for name, value in replay.items() if isinstance(value, np.ndarray)}
        plain = {name: value for name, value in replay.items() if name not in arrays}
        with _errors_of_safetensors():
            safetensors.numpy.save_file(arrays, partial / _REPLAY, metadata={"plain": json.dumps(plain)})
    files = {file.name: {"bytes": file.stat().st_size, "blake2b": _digest(file)} for file in sorted(partial.iterdir())}
    text = sealed_text({"format": FORMAT, "wiserl": __version__, **manifest, "files": files})
    (partial / _MANIFEST).write_text(text, encoding="utf-8")
    for file in partial.glob("*.safetensors"):
        shutil.copymode(partial / _MANIFEST, file)  # safetensors lets nobody else read its files


def _put_in_place(partial: Path, path: Path, manifest: Mapping[str, Any]) -> None:
    if not os.path.lexists(path):
        partial.rename(path)
        return
    if not is_written_by(path, dict(manifest)):
        raise OSError(errno.EEXIST, "something that is no checkpoint of this run has its place; move that away")
    # Same step, written anew (resumed and stopped at once, say): the old one steps aside for an instant.
    aside = step_aside(path)
    partial.rename(path)
    shutil.rmtree(aside)


@contextlib.contextmanager
def _errors_of_safetensors() -> Iterator[None]:
    """Its errors of the disk, as Python's."""
    try:
        yield
    except safetensors.SafetensorError as error:
        code = re.search(r"(?:os error|code:) (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from error


def drop_replay(path: Path) -> None:
    """Remove the replay buffer from a checkpoint that is not the newest any more: it is by far its largest part."""
    if not (path / _REPLAY).exists():
        return
    manifest = read_sealed(path / _MANIFEST, _ADVICE)
    manifest["files"].pop(_REPLAY, None)
    changed = path / f".{_MANIFEST}"
    changed.write_text(
        json.dumps(manifest, indent=2) if manifest["format"] == UNSEALED else sealed_text(manifest), encoding="utf-8"
    )
    changed.replace(path / _MANIFEST)
    (path / _REPLAY).unlink()


def open_checkpoint(where: Path | str, which: str = "last") -> Checkpoint:
    """Open and check a checkpoint.

    Args:
        where: a run folder, or a checkpoint's own folder.
        which: `last`, `best` or a number of env steps, for a run folder.

    Raises:
        InputError: it is missing, half-written, corrupt or of another format; the message says which exist.
    """
    where = Path(where)
    if where.name in NAMES and where.parent.name == "checkpoints" and where.with_name(f"{where.name}.txt").is_file():
        where, which = where.parent.parent, where.name
    if (where / _MANIFEST).exists():
        return _check(where)
    folder = where / "checkpoints"
    if not folder.is_dir():
        raise InputError(
            f"'{where}' is neither a run folder nor a checkpoint: it has no checkpoints/ and no {_MANIFEST}"
        )
    which = str(which)  # a number of env steps may be given as one
    path = named(folder, which) if which in NAMES else folder / f"step_{which}"
    known = which in NAMES or which.isdecimal()
    if path is None or not known or not path.exists():
        gone = f": it names {path.name}, which is not there" if path is not None and which in NAMES else ""
        there = [name for name in NAMES if (found := named(folder, name)) is not None and found.exists()]
        valid = nearest(which, [*there, *(path.name[5:] for path in steps(folder))])
        raise InputError(f"no checkpoint '{which}' in '{folder}'{gone}: {valid}")
    return _check(path.resolve())


def _check(path: Path) -> Checkpoint:
    if not (path / _MANIFEST).is_file():
        lacks = f"it has no {_MANIFEST}" if path.is_dir() else "it is no folder"
        raise InputError(f"checkpoint '{path}' is incomplete: {lacks}; {_ADVICE}")
    manifest = read_sealed(path / _MANIFEST, _ADVICE)
    found = manifest.get("format")
    if found not in _READABLE:
        raise InputError(
            f"checkpoint '{path}' has format {found}, this wiserl reads formats {', '.join(map(str, _READABLE))}: use wiserl "
            f"{manifest.get('wiserl')}"
        )
    check_manifest(path, manifest, needed=("files", "env_steps"))
    files = manifest["files"]
    if missing := {_WEIGHTS, _STATE} - files.keys():
        raise InputError(f"checkpoint '{path}' is incomplete: its {_MANIFEST} lacks {min(missing)}; {_ADVICE}")
    for name, expected in files.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != expected["bytes"]:
            size = file.stat().st_size if file.is_file() else "no"
            raise InputError(
                f"checkpoint '{path}' is incomplete: {name} has {size} bytes of {expected['bytes']}; {_ADVICE}"
            )
        if _digest(file) != expected["blake2b"]:
            raise InputError(f"checkpoint '{path}' is corrupt: the content of {name} is not what was saved; {_ADVICE}")
    return Checkpoint(path, manifest)


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Whatever its reader makes of a file that is none, as one line."""
    try:
        yield
    except Exception as error:
        first = str(error).split("\n")[0].split(". ")[0]
        raise InputError(f"'{file}' cannot be read ({type(error).__name__}: {first}); {_ADVICE}") from error


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return (
            hashlib.file_digest(stream, "blake2b").hexdigest()
            if hasattr(hashlib, "file_digest")
            else _digest_310(stream)
        )


def _digest_310(stream: Any) -> str:
    digest = hashlib.blake2b()
    while chunk := stream.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()
