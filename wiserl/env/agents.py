"""The agents of a parallel env: who can ever act."""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np

from wiserl.env.make import EnvLike, env_id
from wiserl.util.errors import InputError


def agents_of(env: Any, name: EnvLike) -> tuple[Any, ...]:
    """The possible agents of a made parallel env, in their order: text or numbers, which can be saved.

    Raises:
        InputError: there are none, one is there twice, or one is neither text nor a number.
    """
    hint = "set possible_agents to the names of all agents that can ever act, each once"
    agents = tuple(agent.item() if isinstance(agent, np.generic) else agent for agent in env.possible_agents or ())
    if not agents:
        raise InputError(f"env '{env_id(name)}' has no agents (possible_agents is {env.possible_agents!r}): {hint}")
    for agent in agents:
        if not isinstance(agent, str | int) or isinstance(agent, Enum):
            raise InputError(f"env '{env_id(name)}' has the agent {agent!r}; expected text or a number: {hint}")
        if [str(other) for other in agents].count(str(agent)) > 1:
            raise InputError(f"env '{env_id(name)}' has the agent {agent} twice in possible_agents: {hint}")
    return agents
