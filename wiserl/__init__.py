"""wiserl: distributed reinforcement learning on Ray and PyTorch, one data path for one agent or many.

Everything public is imported on first use, so that `import wiserl` costs nothing and needs neither ray nor torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from wiserl.core.agent import Agent
    from wiserl.core.by_hand import by_hand
    from wiserl.core.experiment import train
    from wiserl.core.gym_runner import GymRunner
    from wiserl.core.policy import load
    from wiserl.core.registry import WiseRL
    from wiserl.core.runner import Runner

_WHERE = {
    "Agent": "wiserl.core.agent",
    "GymRunner": "wiserl.core.gym_runner",
    "Runner": "wiserl.core.runner",
    "WiseRL": "wiserl.core.registry",
    "by_hand": "wiserl.core.by_hand",
    "load": "wiserl.core.policy",
    "train": "wiserl.core.experiment",
}
__all__ = ["Agent", "GymRunner", "Runner", "WiseRL", "by_hand", "load", "train"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'wiserl' has no attribute '{name}'; it has {', '.join(sorted(_WHERE))}")
    return getattr(importlib.import_module(_WHERE[name]), name)
