"""Checkpoints: a directory that opens anywhere, safely, and is whole or absent.

    checkpoints/
      step_50000/           manifest.json, weights.safetensors, state.pt, replay.safetensors (where it is saved)
      last -> step_50000    what training resumes from
      best -> step_40000    the highest evaluation so far

A checkpoint is written under another name and renamed, and `last` and `best` are links replaced in one step, so that a kill
at any moment leaves the previous one whole. Nothing in it is pickled code: weights are safetensors, `state.pt` is loaded
with `weights_only=True`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

from wiserl.util.errors import InputError, nearest
from wiserl.util.version import __version__

FORMAT = 1
_WEIGHTS, _STATE, _REPLAY, _MANIFEST = "weights.safetensors", "state.pt", "replay.safetensors", "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint opened: its folder and manifest, checked; the files are read when asked for."""

    path: Path
    manifest: dict[str, Any]

    def weights(self) -> dict[str, torch.Tensor]:
        """The acting network's state."""
        return safetensors.torch.load_file(self.path / _WEIGHTS)

    def state(self) -> dict[str, Any]:
        """The learner's state: optimiser, targets, generators, counters."""
        state: dict[str, Any] = torch.load(self.path / _STATE, map_location="cpu", weights_only=True)
        return state

    def replay(self) -> dict[str, Any] | None:
        """The replay buffer's state, if it was saved."""
        path = self.path / _REPLAY
        if _REPLAY not in self.manifest["files"]:
            return None
        with safetensors.safe_open(path, framework="numpy") as file:
            plain = json.loads(file.metadata()["plain"])
        return {**safetensors.numpy.load_file(path), **plain}


def save_checkpoint(folder: Path, manifest: Mapping[str, Any], weights: Mapping[str, torch.Tensor], state: Mapping[str, Any],
                    replay: Mapping[str, Any] | None) -> Path:  # fmt: skip
    """Write `folder/step_N` (N: the manifest's env_steps), whole or not at all; returns its path."""
    path = folder / f"step_{manifest['env_steps']}"
    partial = folder / f".{path.name}.{os.getpid()}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    # Cloned: safetensors refuses tensors that share memory, and policy and value of an image policy share a network.
    safetensors.torch.save_file(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}, partial / _WEIGHTS
    )
    torch.save(dict(state), partial / _STATE)
    if replay is not None:
        arrays = {name: np.ascontiguousarray(value) for name, value in replay.items() if isinstance(value, np.ndarray)}
        plain = {name: value for name, value in replay.items() if name not in arrays}
        safetensors.numpy.save_file(arrays, partial / _REPLAY, metadata={"plain": json.dumps(plain)})
    files = {file.name: {"bytes": file.stat().st_size, "blake2b": _digest(file)} for file in sorted(partial.iterdir())}
    text = json.dumps({"format": FORMAT, "wiserl": __version__, **manifest, "files": files}, indent=2)
    (partial / _MANIFEST).write_text(text, encoding="utf-8")
    for file in partial.glob("*.safetensors"):
        shutil.copymode(partial / _MANIFEST, file)  # safetensors lets nobody else read its files
    if path.exists():
        # Same step, written anew (resumed and stopped at once, say): the old one steps aside for an instant.
        aside = folder / f".{path.name}.{os.getpid()}.old"
        path.rename(aside)
        partial.rename(path)
        shutil.rmtree(aside)
    else:
        partial.rename(path)
    return path


def point_to(folder: Path, name: str, path: Path) -> None:
    """Make the link `folder/name` name the checkpoint `path`, in one step."""
    link = folder / f".{name}.{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(path.name)
    link.replace(folder / name)


def prune(folder: Path, keep: int, needed: Collection[str] = ()) -> None:
    """Remove all but the newest `keep` checkpoints, those `last` and `best` name and those in `needed` (folder names), and
    what killed runs left unfinished.
    """
    named = {(folder / name).resolve() for name in ("last", "best")}
    steps = sorted(_steps(folder), key=lambda path: int(path.name[5:]))
    for path in steps[: max(len(steps) - keep, 0)]:
        if path.resolve() not in named and path.name not in needed:
            shutil.rmtree(path)
    for path in folder.glob(".*.partial"):
        shutil.rmtree(path, ignore_errors=True)


def drop_replay(path: Path) -> None:
    """Remove the replay buffer from a checkpoint that is not the newest any more: it is by far its largest part."""
    if not (path / _REPLAY).exists():
        return
    manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
    manifest["files"].pop(_REPLAY, None)
    changed = path / f".{_MANIFEST}"
    changed.write_text(json.dumps(manifest, indent=2), encoding="utf-8")
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
    if (where / _MANIFEST).exists():
        return _check(where)
    folder = where / "checkpoints"
    if not folder.is_dir():
        raise InputError(
            f"'{where}' is neither a run folder nor a checkpoint: it has no checkpoints/ and no {_MANIFEST}"
        )
    which = str(which)  # a number of env steps may be given as one
    path = folder / (which if which in ("last", "best") else f"step_{which}")
    if path.name not in ("last", "best", *(step.name for step in _steps(folder))) or not path.exists():
        names = [*(n for n in ("last", "best") if (folder / n).exists()), *(p.name[5:] for p in _steps(folder))]
        raise InputError(f"no checkpoint '{which}' in '{folder}': {nearest(which, names)}")
    return _check(path.resolve())


def can_resume(run_dir: Path) -> bool:
    """Whether a run folder names a checkpoint to resume from; a run that was ended before its first one does not."""
    return os.path.lexists(
        run_dir / "checkpoints" / "last"
    )  # a link to nothing is an error to be told, not a fresh start


def _steps(folder: Path) -> list[Path]:
    return [path for path in folder.glob("step_*") if path.name[5:].isdigit()]


def _check(path: Path) -> Checkpoint:
    advice = "choose another with --checkpoint, or train again"
    if not (path / _MANIFEST).is_file():
        lacks = f"it has no {_MANIFEST}" if path.is_dir() else "it is no folder"
        raise InputError(f"checkpoint '{path}' is incomplete: {lacks}; {advice}")
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        files = dict(manifest["files"])
        found = manifest["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"checkpoint '{path}' is corrupt: {_MANIFEST} cannot be read ({error!r}); {advice}") from None
    if found != FORMAT:
        raise InputError(
            f"checkpoint '{path}' has format {found}, this wiserl reads format {FORMAT}: use wiserl {manifest.get('wiserl')}"
        )
    for name, expected in files.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != expected["bytes"]:
            size = file.stat().st_size if file.is_file() else "no"
            raise InputError(
                f"checkpoint '{path}' is incomplete: {name} has {size} bytes of {expected['bytes']}; {advice}"
            )
        if _digest(file) != expected["blake2b"]:
            raise InputError(f"checkpoint '{path}' is corrupt: the content of {name} is not what was saved; {advice}")
    return Checkpoint(path, manifest)


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
