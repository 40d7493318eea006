"""Which names of envs bring no code but that of packages known to hold envs."""

from __future__ import annotations

import gymnasium as gym

from wiserl.env.make import EXTRA_OF_NAMESPACE, register_atari

_MAKE_OTHERS = ("GymV21Environment", "GymV26Environment")  # of any name in their arguments, also one to import


def is_registered(env: str) -> bool:
    """Whether an env's name is an id registered with gymnasium, or a module of PettingZoo or mpe2.

    Making an env of another name imports a module that the name chooses; a name that is none at all is refused there.

    Raises:
        InputError: it is an Atari game, and ale_py is not installed.
    """
    register_atari(env)
    if env in gym.registry:
        return gym.registry[env].name not in _MAKE_OTHERS
    top, slash, rest = env.partition("/")
    if top in EXTRA_OF_NAMESPACE:
        return all(part.isidentifier() for part in rest.split("/"))
    return not slash and ":" not in env
