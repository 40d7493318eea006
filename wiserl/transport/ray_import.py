"""The one file that imports ray: first it sets the environment variables that ray reads when it is imported."""

from __future__ import annotations

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
import ray as ray
from ray import exceptions as exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as NodeAffinitySchedulingStrategy
