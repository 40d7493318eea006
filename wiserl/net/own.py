"""Networks of the user's own: a class or function, known by `module:Class`, that gives features from observations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from wiserl.core.spaces import observation_zeros
from wiserl.core.tree import Nested, tree_leaves, tree_map
from wiserl.net.encoder import Features
from wiserl.util.errors import InputError
from wiserl.util.imports import import_object

_ROWS = 3


def network_name(network: Callable[..., Any]) -> str:
    """`module:Class` of a class or function, the name to import it by wherever a policy is opened.

    Raises:
        InputError: it cannot be found by its name.
    """
    shown = getattr(network, "__qualname__", repr(network))
    advice = "a class or function of a module, which is called with the observation space and returns an nn.Module"
    if isinstance(network, nn.Module) or not hasattr(network, "__qualname__") or not hasattr(network, "__module__"):
        raise InputError(f"network={network!r} is not valid: expected {advice}")
    if "<" in shown or network.__module__ == "__main__":
        where = "a script (__main__)" if network.__module__ == "__main__" else "a function"
        raise InputError(
            f"network={shown} is known within {where} only, so that no checkpoint of it could be opened elsewhere: expected "
            f"{advice}. Move it into a module, my_networks.py say, and import it from there"
        )
    name = f"{network.__module__}:{shown}"
    if _import(name) is not network:
        raise InputError(f"network={shown}: {name} is something else than what was given; expected {advice}")
    return name


def _import(name: str) -> Any:
    try:
        return import_object(name)
    except (ModuleNotFoundError, ValueError, AttributeError) as error:
        raise InputError(
            f"network '{name}' cannot be imported ({error}): expected module:Class, with the module installed or in the current "
            "folder"
        ) from error


class OwnNetwork(Features):
    """The network that `module:Class` makes of the observation space. It takes observations as they are sent: tensors `[N, ...]`
    of the env's shapes, in a dict for Dict and Tuple spaces, and gives features `[N, F]`.

    Args:
        space: observation space of one agent.
        name: `module:Class`, or of a function.

    Raises:
        InputError: it cannot be imported, makes no `nn.Module`, or that gives no features from observations of the space.
    """

    keeps_weights: bool = True

    def __init__(self, space: spaces.Space[Any], name: str) -> None:
        super().__init__()
        make = _import(name)
        if not callable(make):
            raise InputError(f"network '{name}' is {make!r}: expected a class or function that returns an nn.Module")
        network = make(space)
        if not isinstance(network, nn.Module):
            raise InputError(f"network '{name}' made {type(network).__name__} of {space}: expected an nn.Module")
        self.network = network
        self.size = self._try(space, name)
        others = {str(parameter.dtype) for parameter in network.parameters()} - {"torch.float32"}
        if others:
            raise InputError(
                f"network '{name}' has parameters of {', '.join(sorted(others))}: expected torch.float32, as the layers on top have"
            )

    def _try(self, space: spaces.Space[Any], name: str) -> int:
        """The number of features, from an observation of zeros. Layers that find out their sizes do so here."""
        obs = tree_map(torch.from_numpy, observation_zeros(space, (_ROWS,)))
        was_training = self.network.training
        self.network.eval()  # normalisation over a batch learns nothing from zeros
        try:
            with torch.no_grad():
                features = self.network(obs)
        except Exception as error:
            raise InputError(
                f"network '{name}' fails on {_ROWS} observations of {space}, tensors of {_shapes(obs)} "
                f"({type(error).__name__}: {error}): expected features [{_ROWS}, F]"
            ) from error
        finally:
            self.network.train(was_training)
        if (
            not isinstance(features, Tensor)
            or features.ndim != 2
            or len(features) != _ROWS
            or not features.is_floating_point()
        ):
            given = (
                f"{features.dtype} {list(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
            )
            raise InputError(
                f"network '{name}' gives {given} for {_ROWS} observations of {space}: expected features [{_ROWS}, F] of floats; "
                "nn.Flatten() joins what is left of other axes"
            )
        return features.shape[1]

    def forward(self, obs: Nested) -> Tensor:
        """`[N, size]`."""
        rows = tree_leaves(obs)[0][1]
        if not len(rows):  # no episode ended, say; many a network's reshape(N, -1) fails on nothing
            return torch.zeros(0, self.size, dtype=torch.float32, device=rows.device)
        features: Tensor = self.network(obs)
        return features.float()


def _shapes(obs: Nested) -> str:
    shown = (f"{path} {leaf.dtype} {list(leaf.shape)}".strip() for path, leaf in tree_leaves(obs))
    return ", ".join(shown).replace("torch.", "")
