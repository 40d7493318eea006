from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wiserl.run_folder.metrics import MetricsWriter, read_metrics
from wiserl.run_folder.writing import AppendFile
from wiserl.util.errors import DiskError, InputError


def write(run_dir: Path, *rows: tuple[int, dict[str, float]], tensorboard: bool = False) -> None:
    with MetricsWriter(run_dir, tensorboard=tensorboard) as writer:
        for env_steps, row in rows:
            writer.write(env_steps, row)


def events_of(run_dir: Path) -> list[tuple[int, str, float]]:
    """Scalars of the event files that a viewer shows: what a later session purged is left out."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    shown: list[tuple[int, str, float]] = []
    for path in sorted(run_dir.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.session_log.status == SessionLog.START:
                shown = [item for item in shown if item[0] < event.step]
            shown += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return shown


def test_rows_are_on_disk_as_soon_as_written(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, tensorboard=False)
    writer.write(10, {"charts/SPS": 1000.0})
    assert (tmp_path / "metrics.csv").read_text() == "env_steps,charts/SPS\n10,1000\n"
    writer.close()


def test_columns_may_appear_later_and_no_row_is_lost(tmp_path: Path) -> None:
    write(tmp_path, (1, {"a": 1.5}), (2, {"b": 2.5}), (3, {"c,d": 3.0, "a": math.nan}), (4, {"b": math.inf}))
    metrics = read_metrics(tmp_path)
    np.testing.assert_equal(metrics["env_steps"], [1, 2, 3, 4])
    np.testing.assert_equal(metrics["a"], [1.5, np.nan, np.nan, np.nan])
    np.testing.assert_equal(metrics["b"], [np.nan, 2.5, np.nan, np.inf])
    np.testing.assert_equal(metrics["c,d"], [np.nan, np.nan, 3.0, np.nan])


ROWS = st.lists(st.dictionaries(st.sampled_from("abcd"), st.floats(width=32, allow_nan=False), min_size=1), max_size=8)


@given(rows=ROWS, reopen=st.booleans())
def test_float32_values_are_read_back_as_written(
    rows: list[dict[str, float]], reopen: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run_dir = tmp_path_factory.mktemp("run")
    for part in [rows[:4], rows[4:]] if reopen else [rows]:
        first = len(read_metrics(run_dir)["env_steps"]) if (run_dir / "metrics.csv").exists() else 0
        write(run_dir, *((first + index, row) for index, row in enumerate(part)))
    metrics = read_metrics(run_dir)
    assert list(metrics["env_steps"]) == list(range(len(rows)))
    for name in metrics.keys() - {"env_steps"}:
        expected = np.array([row.get(name, np.nan) for row in rows], dtype=np.float32)
        np.testing.assert_array_equal(metrics[name].astype(np.float32), expected)


def test_a_resumed_run_drops_the_rows_past_its_checkpoint_and_goes_on(tmp_path: Path) -> None:
    write(tmp_path, *((step, {"a": float(step)}) for step in (10, 20, 30)))
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.truncate_after(20)
        writer.write(30, {"a": -1.0})
    metrics = read_metrics(tmp_path)
    np.testing.assert_equal(metrics["env_steps"], [10, 20, 30])
    np.testing.assert_equal(metrics["a"], [10, 20, -1])


def test_a_row_cut_short_by_a_kill_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, (10, {"a": 1.0}), (20, {"a": 2.0}))
    path = tmp_path / "metrics.csv"
    path.write_text(path.read_text() + "3")
    assert list(read_metrics(tmp_path)["env_steps"]) == [10, 20]
    write(tmp_path, (30, {"a": 3.0}))
    assert list(read_metrics(tmp_path)["a"]) == [1, 2, 3]


def test_tensorboard_gets_the_same_values_and_hides_what_a_resume_takes_back(tmp_path: Path) -> None:
    write(tmp_path, (10, {"losses/value_loss": 1.0}), (20, {"losses/value_loss": 2.0}), tensorboard=True)
    with MetricsWriter(tmp_path) as writer:
        writer.truncate_after(10)
        writer.write(15, {"losses/value_loss": 3.0})
    assert events_of(tmp_path) == [(10, "losses/value_loss", 1.0), (15, "losses/value_loss", 3.0)]


def test_tensorboard_hides_what_a_restarted_learner_takes_back_from_rows_of_the_same_run(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as writer:
        for step in (10, 20):
            writer.write(step, {"a": 1.0})
        writer.truncate_after(10)
        writer.write(20, {"a": 2.0})
    assert events_of(tmp_path) == [(10, "a", 1.0), (20, "a", 2.0)]


@pytest.mark.parametrize("text", ["time,score\n1,2\n", "env_steps,a\nx,2\n", "env_steps,a\n\n"])
def test_a_foreign_metrics_file_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(InputError, match="no metrics file of wiserl"):
        MetricsWriter(tmp_path)
    with pytest.raises(InputError, match="no metrics file of wiserl"):
        read_metrics(tmp_path)
    assert (tmp_path / "metrics.csv").read_text() == text


def test_reading_a_folder_that_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no metrics\.csv; expected a folder that `wiserl train` wrote"):
        read_metrics(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        read_metrics(tmp_path / "nowhere")


def test_the_file_is_plain_csv(tmp_path: Path) -> None:
    write(tmp_path, (1_000_000, {"a": 1e-7, "b": 0.1}))
    with (tmp_path / "metrics.csv").open() as file:
        assert list(csv.reader(file)) == [["env_steps", "a", "b"], ["1000000", "1e-07", "0.1"]]


def test_what_is_not_finite_is_in_the_table_but_not_in_tensorboard(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Tensorboard cannot show it, and its writer would warn at each."""
    write(tmp_path, (5, {"a": math.nan, "b": 1.0}), tensorboard=True)
    assert events_of(tmp_path) == [(5, "b", 1.0)]
    assert math.isnan(read_metrics(tmp_path)["a"][0])
    assert "NaN or Inf" not in caplog.text


class Full:
    """A disk with room for some bytes more, in place of what `AppendFile` writes to."""

    def __init__(self, room: int) -> None:
        self.room = room

    def __call__(self, file: AppendFile, piece: bytes) -> None:
        inner = file._file

        class Short:
            truncate = inner.truncate

            def write(_, data: bytes) -> int:
                if not self.room:
                    raise OSError(28, "No space left on device")
                done = inner.write(data[: self.room])
                self.room -= done
                return done

        file._file = Short()  # type: ignore[assignment]
        try:
            self.append(file, piece)
        finally:
            file._file = inner

    append = staticmethod(AppendFile.append)


def test_rows_that_a_full_disk_refuses_are_written_in_order_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    with MetricsWriter(tmp_path, warn=told.append) as writer:
        writer.write(10, {"a": 1.0})
        with monkeypatch.context() as patch:
            full = Full(room=3)
            patch.setattr(AppendFile, "append", lambda file, piece: full(file, piece))
            for step in range(20, 320, 10):
                writer.write(step, {"a": float(step)})
        assert (tmp_path / "metrics.csv").read_text() == "env_steps,a\n10,1\n", "no half of a row"
        writer.write(320, {"a": 3.0, "b": 4.0})
    assert list(read_metrics(tmp_path)["env_steps"]) == list(range(10, 330, 10))
    assert [step for step, name, _ in events_of(tmp_path) if name == "a"] == list(range(10, 330, 10))
    assert len(told) == 2
    assert "metrics.csv' cannot be written: No space left on device (" in told[0]
    assert f"TensorBoard events in '{tmp_path}' cannot be written" in told[1]


def test_rows_that_can_never_be_written_are_an_error_at_the_end_unless_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AppendFile, "append", lambda file, piece: Full(room=0)(file, piece))
    with (
        pytest.raises(DiskError, match=r"metrics\.csv' cannot be written: No space left on device"),
        MetricsWriter(tmp_path) as writer,
    ):
        writer.write(10, {"a": 1.0})


def test_what_ended_a_run_is_told_and_not_that_rows_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AppendFile, "append", lambda file, piece: Full(room=0)(file, piece))

    def write_and_fail(writer: MetricsWriter) -> None:
        writer.write(10, {"a": 1.0})
        raise KeyError

    with pytest.raises(KeyError), MetricsWriter(tmp_path) as writer:
        write_and_fail(writer)


def test_the_header_that_cannot_be_written_anew_leaves_the_table_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(10, {"a": 1.0})
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", refuse)
            writer.write(20, {"b": 1.0})
            assert (tmp_path / "metrics.csv").read_text() == "env_steps,a\n10,1\n"
        writer.write(30, {"a": 3.0})
    assert (tmp_path / "metrics.csv").read_text() == "env_steps,a,b\n10,1,\n20,,1\n30,3,\n"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "content",
    [b"\x89PNG\r\n\x1a\n\0\0", b"env_steps,a\n1,\xff\n", b"env_steps,a\n1,x\n", "env_steps\n²\n".encode(), b"a\0b\n1\n",
        b"env_steps\n" + b"9" * 5000 + b"\n",
     b'env_steps,a\n1,"' + b"x" * 200_000 + b'"\n'],
    ids=lambda content: repr(content)[:30],
)  # fmt: skip
def test_a_file_that_is_no_table_of_metrics_is_refused_in_one_line(content, tmp_path):
    (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"metrics\.csv is no metrics file of wiserl") as refused:
        read_metrics(tmp_path)
    assert len(str(refused.value)) < 1000
    assert (tmp_path / "metrics.csv").read_bytes() == content


def test_a_folder_in_place_of_the_metrics_is_refused(tmp_path):
    (tmp_path / "metrics.csv").mkdir()
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        MetricsWriter(tmp_path)
