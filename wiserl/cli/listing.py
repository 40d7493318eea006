"""What `wiserl list` prints."""

from __future__ import annotations

import sys

import click
from rich.console import Console

from wiserl.agent.catalogue import algorithm_class, algorithm_names
from wiserl.cli.describe import option_table
from wiserl.experiment.options import presets
from wiserl.training.plan import RunConfig
from wiserl.util.errors import InputError


def list_algorithms() -> None:
    """Names of the algorithms, and what each can do."""
    for name in algorithm_names():
        algorithm = algorithm_class(name)
        click.echo(f"{name:8} {algorithm.title}\n         actions: {algorithm.spaces_line}; {algorithm.supports}")
    click.echo(
        "\nEach takes any observation (Box, image, Discrete, MultiDiscrete, MultiBinary, Dict, Tuple), one agent or many,"
    )
    click.echo(
        "local or on Ray, sync or async. `wiserl list options ALGO` for options, docs/algorithms/ for the methods."
    )


def list_options(algo: str | None) -> None:
    """All options of an algorithm.

    Raises:
        InputError: none was named, or there is no such algorithm.
    """
    if algo is None:
        raise InputError(f"list options: of which algorithm? Give one of {', '.join(algorithm_names())}")
    # A terminal folds long meanings; for a pipe, grep say, each option is a line.
    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 240)
    hyper = option_table(algorithm_class(algo).config_class)
    console.print(f"Hyper-parameters of {algo}, each for --set NAME=VALUE:", hyper, sep="\n")
    run = option_table(RunConfig, ("algo", "env", "env_kwargs"))
    console.print(
        "\nOptions of any run, for --set as well; `wiserl train --help` has those with a flag:", run, sep="\n"
    )


def list_presets() -> None:
    """The tuned options of each algorithm, by env."""
    for algo, envs in presets().items():
        for env, options in envs.items():
            click.echo(f"{algo:8} {env:28} {' '.join(f'{key}={value}' for key, value in options.items())}")
