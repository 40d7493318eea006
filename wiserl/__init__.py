"""wiserl: distributed reinforcement learning on Ray and PyTorch, one data path for one agent or many.

Everything public is imported on first use, so that `import wiserl` costs nothing and needs neither ray nor torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from wiserl.util.version import __version__ as __version__

if TYPE_CHECKING:
    from wiserl.core.agent import Agent
    from wiserl.core.runner import Runner
    from wiserl.experiment.by_hand import by_hand
    from wiserl.experiment.experiment import train
    from wiserl.policy.policy import load
    from wiserl.training.gym_runner import GymRunner
    from wiserl.transport.registry import WiseRL

_WHERE = {
    "Agent": "wiserl.core.agent",
    "GymRunner": "wiserl.training.gym_runner",
    "Runner": "wiserl.core.runner",
    "WiseRL": "wiserl.transport.registry",
    "by_hand": "wiserl.experiment.by_hand",
    "load": "wiserl.policy.policy",
    "train": "wiserl.experiment.experiment",
}
__all__ = ["Agent", "GymRunner", "Runner", "WiseRL", "by_hand", "load", "train"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'wiserl' has no attribute '{name}'; it has {', '.join(sorted(_WHERE))}")
    return getattr(importlib.import_module(_WHERE[name]), name)
