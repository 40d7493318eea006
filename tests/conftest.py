"""Settings that all tests share: one thread per process, no screen, and GPU tests only where there is a GPU."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# Before numpy and torch are imported, here and in every process a test starts.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
# Runs under test are signed by a key of the tests' own. The folder is removed when its object is, at the end.
_CONFIG_FOLDER = tempfile.TemporaryDirectory()
os.environ["XDG_CONFIG_HOME"] = _CONFIG_FOLDER.name

# Env pools, Ray workers and command lines under test find `tests.envs:name` as well.
ROOT = Path(__file__).parent.parent
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

# No deadline: a shared machine stalls at times. In CI the examples are the same each time.
settings.register_profile("wiserl", deadline=None, derandomize=bool(os.environ.get("CI")), print_blob=True)
settings.load_profile("wiserl")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take tests marked `gpu` out of the collection where CUDA is not there; torch is imported only to find out."""
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch

    if not torch.cuda.is_available():
        config.hook.pytest_deselected(items=gpu_items)
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]
