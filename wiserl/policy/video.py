"""Rendered frames to a video file: GIF with what is always installed, MP4 and WebM with the extra `video`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wiserl.util.errors import InputError

CODECS = {".mp4": "libx264", ".webm": "libvpx-vp9"}
SUFFIXES = (".gif", *CODECS)
# Viewers play a GIF frame shown for less than 20 ms at 100 ms instead.
GIF_MAX_FPS = 50.0


def check_video_path(path: Path) -> None:
    """Refuse a video file that cannot be written here, before hours of rendering.

    Raises:
        InputError: an unknown suffix, or a missing package (the message names the extra).
    """
    if path.suffix not in SUFFIXES:
        raise InputError(f"cannot write a video named '{path}'; expected the suffix {' or '.join(SUFFIXES)}")
    if path.suffix in CODECS:
        try:
            import imageio_ffmpeg  # noqa: F401
        except ImportError as error:
            raise InputError(
                f"writing '{path}' needs imageio and its ffmpeg: pip install 'wiserl[video]' (or name a .gif file)"
            ) from error


def write_video(frames: Sequence[NDArray[np.uint8]], path: Path, fps: float) -> Path:
    """Write frames to a file of the kind its suffix names: `.gif`, `.mp4` or `.webm`. Its folder is made if need be.

    Args:
        frames: uint8 `[H, W, 3]` each, all of one size.
        path: file to write.
        fps: frames per second of play. A GIF shows at most 50: faster ones leave out frames and keep their pace.

    Returns:
        `path`.

    Raises:
        InputError: no frames, frames of another kind or of several sizes, `fps` not above 0, an unknown suffix, or a
            missing package.
    """
    check_video_path(path)
    if not fps > 0:
        raise InputError(f"fps = {fps}; expected a number above 0")
    if not len(frames):
        raise InputError(f"no frames to write to '{path}'; the env must be made with render_mode='rgb_array'")
    shape = np.shape(frames[0])
    for index, frame in enumerate(frames):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.shape != shape:
            raise InputError(
                f"frame {index} for '{path}' has shape {frame.shape} and dtype {frame.dtype}; expected uint8 "
                f"[H, W, 3], as the first one with {shape}: fix the env's render()"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":
        _write_gif(frames, path, fps)
    else:
        _write_imageio(frames, path, fps)
    return path


def _write_gif(frames: Sequence[NDArray[np.uint8]], path: Path, fps: float) -> None:
    stride = int(np.ceil(fps / GIF_MAX_FPS))
    images = [Image.fromarray(frame) for frame in frames[::stride]]
    # A GIF counts in hundredths of a second: rounding the times, not the durations, keeps the pace over many frames.
    times = np.round(np.arange(len(images) + 1) * (100.0 * stride / fps))
    durations = [int(duration) * 10 for duration in np.diff(times)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0)


def _write_imageio(frames: Sequence[NDArray[np.uint8]], path: Path, fps: float) -> None:
    import imageio

    # The codecs' colour format halves both sides: even ones are needed, so an odd last row or column is doubled.
    odd = [(0, size % 2) for size in frames[0].shape[:2]]
    writer: Any = imageio.get_writer(
        path, fps=fps, codec=CODECS[path.suffix], macro_block_size=1, ffmpeg_log_level="error"
    )
    with writer:
        for frame in frames:
            writer.append_data(np.pad(frame, [*odd, (0, 0)], mode="edge"))
