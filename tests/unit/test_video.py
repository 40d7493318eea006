from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import imageio
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from wiserl.policy.video import check_video_path, write_video
from wiserl.util.errors import InputError

Frames = list[NDArray[Any]]


def moving_square(count: int, height: int = 64, width: int = 48) -> Frames:
    frames = [np.zeros((height, width, 3), dtype=np.uint8) for _ in range(count)]
    for index, frame in enumerate(frames):
        frame[index : index + 20, 10:40] = (255, 0, 0)
    return frames


@pytest.mark.parametrize(("fps", "kept"), [(30.0, 30), (60.0, 15), (10.0, 30)])
def test_a_gif_keeps_the_pace_of_the_env(tmp_path: Path, fps: float, kept: int) -> None:
    path = write_video(moving_square(30), tmp_path / "new" / "play.gif", fps)
    with Image.open(path) as image:
        durations = [frame.info["duration"] for frame in ImageSequence.Iterator(image)]
        assert image.size == (48, 64)
    assert len(durations) == kept
    assert min(durations) >= 20
    assert sum(durations) == pytest.approx(1000 * 30 / fps, abs=10)


def test_a_gif_shows_the_frames_in_order(tmp_path: Path) -> None:
    frames = moving_square(4)
    with Image.open(write_video(frames, tmp_path / "play.gif", 10)) as image:
        read = [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
    np.testing.assert_array_equal(read, frames)


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_compressed_video_holds_all_frames_also_of_odd_size(tmp_path: Path, suffix: str) -> None:
    frames = moving_square(12, height=63, width=47)
    frames[-1][:] = 255
    path = write_video(frames, tmp_path / f"play{suffix}", 24)
    reader: Any
    with imageio.get_reader(path, "ffmpeg") as reader:
        read = np.stack(list(reader.iter_data()))
        assert reader.get_meta_data()["fps"] == 24
    assert read.shape == (12, 64, 48, 3)
    red = np.mean(np.stack(frames)[..., 0].astype(float), axis=(1, 2))
    assert read[-1].min() > 240, "a dark border where the odd side was made even"
    np.testing.assert_allclose(read[:, :63, :47, 0].mean(axis=(1, 2)), red, atol=8)


def test_a_missing_package_names_the_extra_before_anything_is_rendered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(InputError, match=r"pip install 'wiserl\[video\]'"):
        check_video_path(tmp_path / "play.mp4")
    check_video_path(tmp_path / "play.gif")


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    frames = moving_square(3)
    wrong: list[tuple[Frames, str, float, str]] = [
        (frames, "play.avi", 30, r"expected the suffix \.gif or \.mp4 or \.webm"),
        (frames, "play.gif", 0, "fps = 0; expected a number above 0"),
        ([], "play.gif", 30, "no frames .* render_mode='rgb_array'"),
        ([*frames, frames[0][:10]], "play.gif", 30, r"frame 3 .* shape \(10, 48, 3\)"),
        ([frame.astype(np.float32) for frame in frames], "play.gif", 30, "dtype float32; expected uint8"),
        ([frame[..., 0] for frame in frames], "play.gif", 30, r"frame 0 .* expected uint8 \[H, W, 3\]"),
    ]
    for given, name, fps, message in wrong:
        with pytest.raises(InputError, match=message):
            write_video(given, tmp_path / name, fps)
    assert not list(tmp_path.iterdir())
