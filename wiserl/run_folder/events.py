"""TensorBoard's event files, written by the thread that has something to write.

tensorboardX's own writer has a thread and a queue. An error of the disk ends that thread, and the queue then fills until the
run waits for it for ever.
"""

from __future__ import annotations

import math
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wiserl.run_folder.writing import AppendFile


class EventFile:
    """One session's events of a run folder. The file is made by the first `write`.

    Args:
        run_dir: the run folder.
        purge_from: env steps from which a viewer is to hide what earlier files hold; None: none of it.
    """

    def __init__(self, run_dir: Path, purge_from: int | None = None) -> None:
        self._run_dir, self._purge_from = run_dir, purge_from
        self._file: AppendFile | None = None
        self._header = b""

    def write(self, env_steps: int, row: Mapping[str, float]) -> None:
        """Append the finite values of a row.

        Raises:
            OSError: they could not be written; the file is as it was.
        """
        # Imported here: `import wiserl` and the command line's help must not pay for it.
        from tensorboardX.proto.summary_pb2 import Summary
        from tensorboardX.summary import scalar

        values = [scalar(name, float(value)).value[0] for name, value in row.items() if math.isfinite(value)]
        if self._file is None:
            # The time counts in nanoseconds: after a quick resume there would be two files of one name.
            now = time.time_ns()
            name = f"events.out.tfevents.{now // 1_000_000_000:010d}.{socket.gethostname()}.{now}"
            self._file = AppendFile(self._run_dir / name)
            self._header = self._first_records()
        self._file.append(self._header + _record(step=int(env_steps), summary=Summary(value=values)))
        self._header = b""

    def _first_records(self) -> bytes:
        from tensorboardX.proto.event_pb2 import SessionLog

        version = _record(file_version="brain.Event:2")
        if self._purge_from is None:
            return version
        return version + _record(step=self._purge_from, session_log=SessionLog(status=SessionLog.START))

    def close(self) -> None:
        """Close the file; all that was written is in it."""
        if self._file is not None:
            self._file.close()


def _record(**event: Any) -> bytes:
    """An event as a record of the file: its length and content, each with a check sum."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    content: bytes = Event(wall_time=time.time(), **event).SerializeToString()
    length = struct.pack("<Q", len(content))
    sums = (struct.pack("<I", masked_crc32c(part)) for part in (length, content))
    return length + next(sums) + content + next(sums)
