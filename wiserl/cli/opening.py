"""Opening a run for `eval` and `play`: what of it is imported, and what its user names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from wiserl.policy.policy import Policy

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--env", metavar="ENV", help="the env, instead of the one that the run names"),
    click.option("--algo", metavar="ALGO", help="the algorithm, instead of the one that the run names"),
    click.option("--trust", is_flag=True, help="import what the run names, though you did not train it"),
)


def opening_options(command: CommandT) -> CommandT:
    """The options that `open_policy` takes."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def open_policy(run_dir: str, checkpoint: str, env: str | None, algo: str | None, trust: bool) -> tuple[Policy, str]:
    """A policy, and the env to act in.

    Args:
        run_dir: a run folder or a checkpoint.
        checkpoint: which of it.
        env: what the user names, as the next.
        algo: the algorithm.
        trust: import what the run names, whoever trained it.

    Raises:
        InputError: there is none, or it names code of a run that this user neither trained nor trusts.
    """
    from wiserl.policy.policy import load
    from wiserl.policy.trust import Names, check_env

    policy = load(run_dir, checkpoint, trust=trust, algo=algo)
    names = Names.of_manifest(policy.manifest)
    if env is None and not trust:
        check_env(names, run_dir)
    return policy, env or names.env
