"""A run may name code to import: an algorithm, an env, a network. It is imported where this user trained the run, named it, or
trusts whoever did.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wiserl.env.registered import is_registered
from wiserl.run_folder.signature import is_signed, key_file, sign
from wiserl.util.errors import InputError

SIGNATURE = "signature"


@dataclass(frozen=True)
class Names:
    """What a run names: what `config.json` and manifests say of it.

    Attributes:
        algo: its algorithm.
        env: its env.
        env_kwargs: the arguments of that.
        net: its network: a name, or a list of layers; None for an algorithm that has no such option.
        signature: of the other four, by the key of who trained it; None where they bring no code, or in runs of before.
    """

    algo: str
    env: str
    env_kwargs: Mapping[str, Any]
    net: Any
    signature: object

    @classmethod
    def of_manifest(cls, manifest: Mapping[str, Any]) -> Names:
        """Those of a checkpoint."""
        net = manifest["config"].get("net")
        return cls(manifest["algo"], manifest["env"], manifest["env_kwargs"], net, manifest.get(SIGNATURE))

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any]) -> Names:
        """Those of what `config.json` holds."""
        net, run = settings["hyperparameters"].get("net"), settings["run"]
        return cls(run["algo"], run["env"], run["env_kwargs"], net, settings.get(SIGNATURE))

    @property
    def own_algo(self) -> bool:
        """Whether a module is imported for the algorithm."""
        return ":" in self.algo

    @property
    def own_env(self) -> bool:
        """Whether a module that its name chooses is imported for the env."""
        return not is_registered(self.env)

    @property
    def own_net(self) -> bool:
        """Whether a module is imported for the network."""
        return isinstance(self.net, str) and ":" in self.net

    def signed(self) -> dict[str, str]:
        """The entry of the signature, where one is needed and can be made.

        Raises:
            InputError: others may read the key.
        """
        made = sign(self._content) if self.own_algo or self.own_env or self.own_net else None
        return {} if made is None else {SIGNATURE: made}

    @property
    def ours(self) -> bool:
        """Whether this user trained the run."""
        return is_signed(self._content, self.signature)

    @property
    def _content(self) -> dict[str, Any]:
        return {"algo": self.algo, "env": self.env, "env_kwargs": self.env_kwargs, "net": self.net}


def check_policy(names: Names, where: object, named: bool) -> None:
    """Check that what is imported to act with a policy may be.

    Args:
        names: the run's.
        where: its checkpoint, for messages.
        named: whether the user named the algorithm.

    Raises:
        InputError: the run names code, and this user did not train it.
    """
    if names.own_algo and not named and not names.ours:
        raise _refusal(where, "algorithm", names.algo, f"name it by --algo {names.algo} (load(..., algo=...)), or say")
    if names.own_net and not names.ours:
        raise _refusal(where, "network", names.net, "say")


def check_env(names: Names, where: object) -> None:
    """Check that the run's env may be made.

    Raises:
        InputError: as `check_policy`.
    """
    if names.own_env and not names.ours:
        raise _refusal(where, "env", names.env, f"name it by --env {names.env}, or say")


def check_resume(names: Names, where: object, named: bool) -> None:
    """Check that what is imported to train a run further may be; the user has named its algorithm and env.

    Args:
        names: the run's.
        where: its folder, for messages.
        named: whether the user named the network.

    Raises:
        InputError: as `check_policy`.
    """
    if names.own_net and not named and not names.ours:
        raise InputError(
            f"{_reason(where, 'network', names.net)}: if you know it, name it by --net {names.net} (network=...)"
        )


def _refusal(where: object, what: str, name: str, advice: str) -> InputError:
    return InputError(
        f"{_reason(where, what, name)}: if you know it, {advice} --trust (trust=True) if you trust who made the run"
    )


def _reason(where: object, what: str, name: str) -> str:
    return f"'{where}' names code of its own, {what} '{name}', which runs when it is opened, and your key ({key_file()}) did not sign it"
