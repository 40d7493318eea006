"""What the learning tests share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """One small cluster that this process is connected to, for all tests of a file."""
    import ray

    folder = tempfile.mkdtemp(prefix="wr", dir="/tmp")  # short: Ray's sockets have names of at most 107 bytes
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=folder,
            _system_config={"worker_niceness": 0},  # as in clusters of wiserl's own
        )  # fmt: skip
        yield
        ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
