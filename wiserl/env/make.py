"""Making one env from what a user writes: a gymnasium id, a PettingZoo module, `module:function`, or a callable."""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import gymnasium as gym

from wiserl.util.errors import InputError, nearest
from wiserl.util.imports import import_module

EnvLike: TypeAlias = str | Callable[..., Any]

ATARI_PREFIX = "ALE/"
_EXTRA_OF_MODULE = {"mujoco": "mujoco", "imageio": "mujoco", "Box2D": "box2d", "pygame": "box2d", "cv2": "atari"}
_EXTRA_OF_PACKAGE = {"gymnasium.envs.mujoco": "mujoco", "gymnasium.envs.box2d": "box2d", "ale_py": "atari"}
EXTRA_OF_NAMESPACE = {"mpe2": "marl", "pettingzoo": "marl"}


def env_id(env: EnvLike) -> str:
    """A readable name: the string itself, or `module:qualname` of a callable (of what a `functools.partial` wraps)."""
    if isinstance(env, str):
        return env
    while isinstance(env, functools.partial):
        env = env.func
    name = getattr(env, "__qualname__", type(env).__qualname__)
    return f"{getattr(env, '__module__', type(env).__module__)}:{name}"


def is_parallel(env: Any) -> bool:
    """Whether a made env is a PettingZoo parallel env (by its interface, so that PettingZoo need not be imported)."""
    return not isinstance(env, gym.Env) and hasattr(env, "possible_agents") and not hasattr(env, "agent_iter")


def make_env(env: EnvLike, kwargs: Mapping[str, Any] | None = None, render_mode: str | None = None) -> Any:
    """Make one env.

    Args:
        env: a gymnasium id ("CartPole-v1"); a module that has `parallel_env`, with slashes ("mpe2/simple_spread_v3");
            "module:function" (the current directory is searched too); or a callable. The last two are called with
            `kwargs`.
        kwargs: arguments of the env.
        render_mode: passed on unless None.

    Returns:
        a `gymnasium.Env` or a `pettingzoo.ParallelEnv`.

    Raises:
        InputError: an unknown name, a missing optional package, an argument the env does not have, or what was made is
            no env.
    """
    arguments = dict(kwargs or {})
    if render_mode is not None:
        arguments["render_mode"] = render_mode
    made = _make_named(env, arguments) if isinstance(env, str) else _call(env, env_id(env), arguments)
    if isinstance(made, gym.Env) or is_parallel(made):
        return made
    if hasattr(made, "agent_iter"):
        raise InputError(
            f"env '{env_id(env)}' takes turns (PettingZoo AEC); expected a parallel env: "
            "wrap it with pettingzoo.utils.aec_to_parallel"
        )
    raise InputError(
        f"env '{env_id(env)}' gave a {type(made).__module__}.{type(made).__qualname__}; "
        "expected a gymnasium.Env or a pettingzoo.ParallelEnv"
    )


def check_reset(env: Any, name: EnvLike) -> None:
    """Check that a made env can be seeded, before anything is started.

    Raises:
        InputError: its `reset` has no argument `seed`.
    """
    for method in (env.reset, getattr(env, "unwrapped", env).reset):
        parameters = inspect.signature(method).parameters
        if "seed" not in parameters and not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
            raise InputError(
                f"env '{env_id(name)}' has reset({', '.join(map(str, parameters.values()))}), which takes no seed; expected "
                "reset(self, *, seed=None, options=None), with super().reset(seed=seed) as its first line"
            )


def _make_named(name: str, arguments: dict[str, Any]) -> Any:
    register_atari(name)
    if name in gym.registry:
        return _make_gymnasium(name, arguments)
    if ":" in name:
        return _make_from_module(name, arguments)
    if "/" in name:
        return _make_pettingzoo(name, arguments)
    try:
        gym.spec(name)
    except gym.error.Error as error:
        raise InputError(f"env '{name}' is not known: {_nearest_ids(name)}") from error
    return _make_gymnasium(name, arguments)


def _nearest_ids(name: str) -> str:
    close = nearest(name, gym.registry).split("Valid: ")[0]
    return (
        f"{close}Give a gymnasium id (CartPole-v1), a PettingZoo module (mpe2/simple_spread_v3) or module:function "
        "(my_envs:make)"
    )


def register_atari(name: str) -> None:
    """ale_py registers its ids when it is told to, which nobody remembers to do."""
    if not name.startswith(ATARI_PREFIX) or name in gym.registry:
        return
    try:
        gym.register_envs(importlib.import_module("ale_py"))
    except ImportError as error:
        raise _missing_package(name, "atari", error) from error


def _make_gymnasium(name: str, arguments: dict[str, Any]) -> gym.Env[Any, Any]:
    # The wrapper that checks "reset before step" costs 4 % of CartPole; the vector envs always reset first.
    spec = copy.deepcopy(gym.spec(name))
    spec.order_enforce = False
    if spec.entry_point is not None:
        try:
            creator = (
                spec.entry_point
                if callable(spec.entry_point)
                else gym.envs.registration.load_env_creator(spec.entry_point)
            )
        except (gym.error.DependencyNotInstalled, ImportError) as error:
            raise _missing_package(name, _extra_of(str(spec.entry_point), error), error) from error
        _check_arguments(creator, name, arguments, also=("max_episode_steps", "render_mode"))
        _check_own_arguments(name, arguments)
    try:
        return gym.make(spec, disable_env_checker=True, **arguments)
    except (gym.error.DependencyNotInstalled, ImportError) as error:
        raise _missing_package(name, _extra_of(str(spec.entry_point), error), error) from error


def _check_own_arguments(name: str, arguments: dict[str, Any]) -> None:
    """Raise InputError for arguments of gymnasium itself that it would fail on with an assertion."""
    steps, mode = arguments.get("max_episode_steps"), arguments.get("render_mode")
    if steps is not None and (type(steps) is not int or (steps < 1 and steps != -1)):
        raise InputError(
            f"env.max_episode_steps={steps!r} of env '{name}' is not valid: expected an integer from 1, or -1 for no limit"
        )
    if mode is not None and not isinstance(mode, str):
        raise InputError(f"env.render_mode={mode!r} of env '{name}' is not valid: expected a text, as rgb_array")


def _make_pettingzoo(name: str, arguments: dict[str, Any]) -> Any:
    module_name = name.replace("/", ".")
    if not all(module_name.split(".")):
        raise InputError(f"env '{name}' is not known: {_nearest_ids(name)}")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        top = name.split("/")[0]
        is_module_unknown = error.name is not None and error.name.startswith(f"{top}.")
        if top in EXTRA_OF_NAMESPACE and not is_module_unknown:
            raise _missing_package(name, EXTRA_OF_NAMESPACE[top], error) from error
        raise InputError(f"env '{name}' is not known ({error}): {_nearest_ids(name)}") from error
    if not hasattr(module, "parallel_env"):
        raise InputError(f"env '{name}': module {module_name} has no parallel_env; {_modules_with_parallel(module)}")
    _check_arguments(module.parallel_env, name, arguments)
    return module.parallel_env(**arguments)


def _modules_with_parallel(module: Any) -> str:
    names = [item for item in dir(module) if "_v" in item]
    return f"it has {', '.join(names)}" if names else "expected a PettingZoo module such as mpe2/simple_spread_v3"


def _make_from_module(name: str, arguments: dict[str, Any]) -> Any:
    module_name, _, attribute = name.partition(":")
    if not all(module_name.split(".")):
        raise InputError(
            f"env '{name}' names no module: expected module:function as Python imports it, my_envs:make for my_envs.py in the "
            "current folder"
        )
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise InputError(
                f"env '{name}': no module '{error.name}' found; expected module:function, with the module in the "
                "current directory or installed"
            ) from error
        raise
    function = getattr(module, attribute, None)
    if function is None and attribute in gym.registry:
        return _make_gymnasium(attribute, arguments)
    if not callable(function):
        functions = [item for item, value in vars(module).items() if callable(value) and not item.startswith("_")]
        valid = nearest(attribute, functions)
        raise InputError(f"env '{name}': module {module_name} has no function '{attribute}': {valid}")
    return _call(function, name, arguments)


def _call(function: Callable[..., Any], name: str, arguments: dict[str, Any]) -> Any:
    if not callable(function):
        raise InputError(f"env is {function!r}; expected an id, 'module:function' or a callable that makes an env")
    _check_arguments(function, name, arguments)
    return function(**arguments)


def _check_arguments(function: Any, name: str, arguments: Mapping[str, Any], also: tuple[str, ...] = ()) -> None:
    """Refuse arguments a function does not have before it is called: a TypeError from inside is the env's own."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return
    keyword = {item.name for item in parameters if item.kind in (item.KEYWORD_ONLY, item.POSITIONAL_OR_KEYWORD)}
    valid = keyword | set(also)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    for argument in arguments:
        if argument not in valid and not takes_any:
            expected = nearest(argument, valid) if valid else "it takes none"
            raise InputError(f"env '{name}' has no argument '{argument}': {expected}")
    unnamed = [item.name for item in parameters if item.kind is item.POSITIONAL_ONLY and item.default is item.empty]
    if unnamed:
        raise InputError(
            f"env '{name}' takes {', '.join(unnamed)} by position alone: expected a function that makes an env, with arguments that "
            "have names"
        )
    needed = {item.name for item in parameters if item.name in keyword and item.default is item.empty}
    missing = sorted(needed - set(arguments))
    if missing:
        given = "--set " + " --set ".join(f"env.{item}=..." for item in missing)
        raise InputError(f"env '{name}' needs {', '.join(missing)}: give {given}, or kwargs from Python")


def _extra_of(entry_point: str, error: Exception) -> str | None:
    module = (getattr(error, "name", None) or "").split(".")[0]
    if module in _EXTRA_OF_MODULE:
        return _EXTRA_OF_MODULE[module]
    return next((extra for package, extra in _EXTRA_OF_PACKAGE.items() if entry_point.startswith(package)), None)


def _missing_package(name: str, extra: str | None, error: Exception) -> InputError:
    what = f"pip install 'wiserl[{extra}]'" if extra else "install the package it names"
    return InputError(f"env '{name}' needs a package that is not installed ({error}): {what}")
