"""The options of a run: where they come from (defaults, preset, file, flags), what they may be, what follows from them."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from wiserl.agent.catalogue import Algo, AlgoLike, algorithm_class, algorithm_name, algorithm_names, find_algorithm
from wiserl.core.config import (
    check_saved,
    convert,
    defaults_with,
    field_names,
    make_config,
    parse_value,
)
from wiserl.env.make import EnvLike, env_id
from wiserl.net.choice import NetworkConfig, with_net
from wiserl.policy.trust import Names, check_resume
from wiserl.run_folder.claim import read_config
from wiserl.training.plan import RunConfig
from wiserl.util.errors import InputError, nearest
from wiserl.util.option_files import read_file
from wiserl.util.paths import as_path
from wiserl.util.plain import plain

RUN_OPTIONS = tuple(name for name in field_names(RunConfig) if name not in ("algo", "env", "env_kwargs"))


_GONE = ("reset_at_checkpoint",)  # options of earlier versions, which saved runs still name

# What a resumed run cannot change.
_KEPT = (
    "envs",
    "runners",
    "seed",
    "sync",
    "vector",
    "preset",
    "dataset",
    "dataset_share",
    "net",
    "cell",
    "memory_units",
)


@functools.cache
def presets() -> dict[str, dict[str, dict[str, Any]]]:
    """Tuned options by algorithm and env."""
    text = resources.files("wiserl").joinpath("presets.yaml").read_text(encoding="utf-8")
    loaded: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load(text)
    return loaded


def preset_for(algo: Algo, env: EnvLike) -> Mapping[str, Any]:
    """The tuned options of an algorithm on an env, none for most. They are those of the algorithm of that name alone: a class
    derived from it has defaults of its own, which they would hide.
    """
    return presets().get(algorithm_name(algo.algorithm), {}).get(env_id(env), {})


def read_config_file(path: str | Path) -> dict[str, Any]:
    """Options from a YAML or JSON file: run options and hyper-parameters side by side, `env_kwargs` as a mapping.

    Raises:
        InputError: it does not exist, is no mapping, or no file that means one thing (`util.option_files`).
    """
    loaded = read_file(path, "config file")
    if not isinstance(loaded, dict):
        raise InputError(
            f"config file '{path}' holds {'nothing' if loaded is None else f'a {type(loaded).__name__}'}; expected a mapping of "
            "options to values"
        )
    return loaded


def read_options(algo: AlgoLike, env: EnvLike, config: str | Path | Mapping[str, Any] | None, resume: str | Path | None,
                 options: Mapping[str, Any]) -> tuple[RunConfig, Any]:  # fmt: skip
    """The run's options and the algorithm's configuration, from these arguments of `train`."""
    found = find_algorithm(algo)
    given = {**_given_config(config), **options}
    if resume is not None:
        saved_algo, saved_env, given = run_options_of(as_path(resume, "resume"), given)
        if (found.name, env_id(env)) != (saved_algo, saved_env):
            raise InputError(
                f"the run in '{resume}' trains {saved_algo} on {saved_env}, not {found.name} on {env_id(env)}; resume it with those "
                "names"
            )
    return resolve(found, env, given, use_preset=resume is None)


def _given_config(config: object) -> dict[str, Any]:
    """The options in the argument `config` of `train`."""
    if config is None:
        return {}
    if not isinstance(config, Mapping):
        return read_config_file(as_path(config, "config", "or a mapping of options to values"))
    for key in config:
        if not isinstance(key, str):
            raise InputError(f"config has the key {key!r}; expected names of options, which are text")
    return dict(config)


def resolve(algo: AlgoLike, env: EnvLike, options: Mapping[str, Any], use_preset: bool = True) -> tuple[RunConfig, Any]:
    """Everything a run needs to know, from what was given: the run's options and the algorithm's configuration.

    Args:
        algo: the algorithm, or what names it.
        env: what `make_env` takes.
        options: run options and hyper-parameters by name; `env.KEY` (or `env_kwargs`) goes to the env, and `network` is `net`.
            None: not given.
        use_preset: start from the preset of this algorithm and env, where there is one and the option `preset` is not off.

    Raises:
        InputError: an unknown algorithm or option, a value of the wrong type or out of range.
    """
    found = find_algorithm(algo)
    config_class, name = found.algorithm.config_class, found.name
    hyper_names = field_names(config_class)
    wanted = options.get("preset")
    use_preset &= wanted is None or convert(wanted, bool, "preset", "train")
    preset = preset_for(found, env) if use_preset else {}
    run_values: dict[str, Any] = {"env_kwargs": {}}
    hyper_values: dict[str, Any] = {}
    for source in (preset, with_net(options) if issubclass(config_class, NetworkConfig) else options):
        for key, value in source.items():
            if value is None and (key in RUN_OPTIONS or key == "env_kwargs"):
                continue
            if key == "env_kwargs":
                if not isinstance(value, Mapping):
                    raise InputError(f"env_kwargs={value!r} is not valid: expected a mapping of names to values")
                run_values["env_kwargs"].update(value)
            elif key.startswith("env."):
                run_values["env_kwargs"][key[4:]] = parse_value(value) if isinstance(value, str) else value
            elif key in hyper_names:
                hyper_values[key] = value
            elif key in RUN_OPTIONS:
                run_values[key] = value
            else:
                names = [*hyper_names, *RUN_OPTIONS, "env.KEY"]
                raise InputError(
                    f"unknown option '{key}' for {name}: {nearest(key, names)}.{_where_to_look(key, name)}"
                )
    run_values["env_kwargs"] = plain(run_values["env_kwargs"], "env_kwargs")
    run = make_config(RunConfig, {**run_values, "algo": found, "env": env}, "train")
    in_round = run.envs * (run.runners if run.sync else 1)
    config: Any = make_config(config_class, {**defaults_with(config_class, in_round), **hyper_values}, name)
    check_saved(config, name)
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,9})?", run.device):
        raise InputError(f"unknown device '{run.device}': expected auto, cpu, cuda or cuda:INDEX")
    return run, config


def _where_to_look(option: str, algo: str) -> str:
    """Which algorithms have an option that `algo` has not, and what lists those it has."""
    having = [name for name in algorithm_names() if option in field_names(algorithm_class(name).config_class)]
    others = f" '{option}' is an option of {', '.join(having)}." if having else ""
    return others if ":" in algo else f"{others} `wiserl list options {algo}` explains those of {algo}"


def run_options_of(folder: Path, changes: Mapping[str, Any]) -> tuple[str, Any, dict[str, Any]]:
    """Algorithm, env and options of a run folder, to resume it, with `changes` on top.

    Raises:
        InputError: no run there, or a change of algorithm, env, or of what its checkpoint depends on.
    """
    saved = read_config(folder)
    options = {**saved["run"], **saved["hyperparameters"]}
    algo, env = options.pop("algo"), options.pop("env")
    for name in _GONE:
        options.pop(name, None)
    if "net" in options:
        changes = with_net(changes)
        check_resume(Names.of_settings(saved), folder, named=changes.get("net") is not None)
    for key, value in changes.items():
        fixed = key in _KEPT and key in options and _differs(options[key], value)
        if value is not None and fixed:
            raise InputError(
                f"--resume with {key}={value}: the run in '{folder}' has {key}={options[key]}; train anew to change it"
            )
        if value is not None:
            options[key] = value
    options["run_dir"] = str(folder)
    return algo, env, options


def convert_like(example: Any, value: Any) -> Any:
    """`value` as the type of `example`, for comparison."""
    return convert(value, type(example), "value", "resume") if value is not None else value


def _differs(saved: Any, value: Any) -> bool:
    if isinstance(saved, list) or isinstance(value, list):  # layers, or a name where there were layers
        return bool(value != saved)
    return bool(convert_like(saved, value) != saved)
