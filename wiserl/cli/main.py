"""The command line. What takes long to import is imported by the command that needs it."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

import click

from wiserl.cli.opening import open_policy, opening_options
from wiserl.cli.streams import safe_output
from wiserl.transport.cluster import STOPPING
from wiserl.util.errors import InputError, Interrupted, WiserlError, lacks_memory, nearest

_LONGEST = 4000  # characters of an error's one line

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(context_settings=_SETTINGS)
@click.version_option(package_name="wiserl")
def cli() -> None:
    """Distributed reinforcement learning on Ray and PyTorch. Counts of steps are env steps over all runners and envs."""


@cli.command()
@click.argument("algo")
@click.argument("env")
@click.option("--total-steps", metavar="N", help="env steps to train for")
@click.option("--runners", metavar="N", help="runners that sample side by side")
@click.option("--envs", metavar="N", help="envs per runner")
@click.option("--vector", metavar="KIND", help="how a runner steps them: auto, native, inline or process")
@click.option("--backend", metavar="NAME", help="auto (local for one runner, Ray for more), local or ray")
@click.option("--device", metavar="NAME", help="of the learner: auto, cpu or cuda")
@click.option("--sync/--no-sync", default=None, help="whether runners wait for every new set of weights")
@click.option(
    "--net", metavar="NET", help="auto, mlp, cnn, impala_cnn, rnn, cnn_rnn, lstm_cnn, FILE.json of layers, module:Class"
)
@click.option("--seed", metavar="S")
@click.option("--run-dir", metavar="DIR", help="default: runs/ALGO-ENV-sSEED")
@click.option("--resume", metavar="RUN_DIR", help="go on with a run from its last checkpoint")
@click.option("--eval-every", metavar="N", help="env steps between evaluations; 0: at the end only")
@click.option("--eval-episodes", metavar="N")
@click.option("--checkpoint-every", metavar="N", help="env steps between checkpoints; default: five in a run")
@click.option("--config", metavar="FILE", help="YAML or JSON file of options")
@click.option(
    "--preset/--no-preset", default=None, help="whether to start from the preset for ALGO and ENV; default: yes"
)
@click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="any hyper-parameter, run option, or env.KEY for the env",
)
@click.option("--json", "as_json", is_flag=True, help="print the summary as the last line of stdout, as JSON")
@click.option("--quiet", is_flag=True, help="print warnings only")
def train(algo: str, env: str, config: str | None, resume: str | None, settings: tuple[str, ...], as_json: bool, quiet: bool,
          **options: Any) -> None:  # fmt: skip
    """Train ALGO on ENV: a gymnasium id, package/module of a PettingZoo env, or module:function.

    Options that are not given come from the preset for ALGO and ENV (`wiserl list presets`), if there is one, else from the
    defaults. `wiserl list options ALGO` lists all that --set takes.
    """
    from wiserl.experiment.experiment import train as run_training

    given = {key: value for key, value in options.items() if value is not None}
    given.update(_settings(settings, refused=("algo", "env", "config", "resume", "quiet", "json_summary", "transform")))
    run_training(algo, env, config=config, resume=resume, quiet=quiet, json_summary=as_json, **given)


@cli.command("eval")
@click.argument("run_dir")
@click.option("--episodes", metavar="N", default="20", show_default=True)
@click.option(
    "--checkpoint", metavar="NAME", default="last", show_default=True, help="best, last or a number of env steps"
)
@click.option("--stochastic", is_flag=True, help="draw actions from the policy instead of taking the likeliest")
@opening_options
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def evaluate_command(
    run_dir: str, episodes: str, checkpoint: str, stochastic: bool, as_json: bool, **opening: Any
) -> None:
    """Evaluate a trained policy on an env of its own."""
    from wiserl.policy.evaluation import run_episodes

    policy, env = open_policy(run_dir, checkpoint, **opening)
    manifest = policy.manifest
    count = _positive(episodes, "--episodes")
    returns, success = run_episodes(policy, env, manifest["env_kwargs"], count, manifest["seed"], not stochastic)
    result = {
        "algo": manifest["algo"],
        "env": env,
        "checkpoint_env_steps": manifest["env_steps"],
        "episodes": count,
        "eval_return_mean": float(returns.mean()),
        "eval_return_std": float(returns.std()),
        "eval_returns": returns.tolist(),
    }
    if success is not None:
        result["eval_success_rate"] = float(success.mean())
    if as_json:
        click.echo(json.dumps(result))
    else:
        click.echo(
            f"{result['algo']} on {result['env']} after {result['checkpoint_env_steps']:,} env steps: return "
            f"{returns.mean():.2f} ± {returns.std():.2f} over {count} episodes (lowest {returns.min():.2f}, highest {returns.max():.2f})"
            + ("" if success is None else f"; success {success.mean():.0%}")
        )


@cli.command()
@click.argument("run_dir")
@click.option("--video", metavar="FILE", help="write a video (.gif, .mp4, .webm) instead of opening a window")
@click.option("--episodes", metavar="N", default="1", show_default=True)
@click.option(
    "--checkpoint", metavar="NAME", default="last", show_default=True, help="best, last or a number of env steps"
)
@opening_options
def play(run_dir: str, video: str | None, episodes: str, checkpoint: str, **opening: Any) -> None:
    """Watch a trained policy, in a window or as a video."""
    from wiserl.policy.play import play_episodes

    count = _positive(episodes, "--episodes")
    policy, env = open_policy(run_dir, checkpoint, **opening)
    returns = play_episodes(policy, env, count, Path(video) if video else None)
    click.echo(f"return {', '.join(f'{value:.2f}' for value in returns)}" + (f"; video: {video}" if video else ""))


@cli.command()
@click.argument("run_dirs", nargs=-1, required=True)
@click.option("--out", metavar="FILE", help="PNG or SVG; default: curve.png in the first folder given")
@click.option(
    "--y",
    "column",
    metavar="COLUMN",
    default="charts/episodic_return",
    show_default=True,
    help="a column of metrics.csv",
)
def plot(run_dirs: tuple[str, ...], out: str | None, column: str) -> None:
    """Plot training curves of runs, or of folders of runs: those that differ in their seed alone become one line with a band,
    the others are labelled by what differs.
    """
    from wiserl.run_folder.plotting import plot_runs
    from wiserl.util.paths import as_path

    folders = [as_path(folder, "RUN_DIRS") for folder in run_dirs]
    click.echo(plot_runs(folders, Path(out) if out else folders[0] / "curve.png", y=column))


@cli.command("list")
@click.argument("what", type=click.Choice(["algos", "options", "presets"]))
@click.argument("algo", required=False)
def list_command(what: str, algo: str | None) -> None:
    """List algorithms, all options of ALGO, or the envs that have tuned options."""
    from wiserl.cli.listing import list_algorithms, list_options, list_presets

    if what == "options":
        list_options(algo)
    elif algo is not None:
        raise InputError(f"list {what} {algo}: expected `wiserl list {what}` alone, or `wiserl list options {algo}`")
    elif what == "algos":
        list_algorithms()
    else:
        list_presets()


@cli.command("check-env")
@click.argument("env")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="arguments of the env")
def check_env_command(env: str, settings: tuple[str, ...]) -> None:
    """Say what is wrong with an env, and how to fix it. Exit code 1 if anything is."""
    from wiserl.core.config import parse_value
    from wiserl.env.check import check_env
    from wiserl.env.check_masks import masks_line

    kwargs = {key.removeprefix("env."): parse_value(value) for key, value in _settings(settings).items()}
    problems = check_env(env, kwargs)
    for number, problem in enumerate(problems, 1):
        click.echo(f"{number}. {problem.what}\n   {problem.fix}")
    if problems:
        raise click.exceptions.Exit(1)
    click.echo(f"'{env}': nothing found; a resumed run continues its episodes exactly")
    click.echo(masks_line(env, kwargs))


def _settings(settings: tuple[str, ...], refused: tuple[str, ...] = ()) -> dict[str, str]:
    """The keys and values of `--set`; `refused` are no options, but arguments of the command or of Python's `train`."""
    parsed = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise InputError(f"--set {setting}: expected KEY=VALUE, as in --set learning_rate=3e-4")
        if key.strip() in refused:
            raise InputError(
                f"--set {setting}: '{key.strip()}' is no option: `wiserl train --help` has the arguments and flags, and arguments of the "
                "env are env.KEY"
            )
        parsed[key.strip()] = value.strip()
    return parsed


def _positive(text: str, option: str) -> int:
    from wiserl.core.config import PositiveInt, convert

    number: int = convert(text, PositiveInt, option, "wiserl")
    return number


def main() -> None:
    """Run the command line and exit: 0; 2 for bad input, 1 for what failed while running, 128 + signal when interrupted."""
    end: SystemExit | None = None
    with safe_output() as output:
        try:
            _run()
        except SystemExit as error:
            end = error
    if output is not None and output.lost is not None:
        _fail(f"stdout cannot be written ({output.lost.strerror}): what the command printed is not complete", 1)
    if end is not None:
        raise end


def _run() -> None:
    try:
        _check_current_folder()
        # Not cli.main(): it takes an EOFError or a BrokenPipeError of a user's env for its own, and drops the traceback.
        with cli.make_context("wiserl", sys.argv[1:] or ["--help"]) as context:
            cli.invoke(context)
    except click.exceptions.Exit as error:
        raise SystemExit(error.exit_code) from None
    except click.UsageError as error:
        message = error.format_message().replace("\n", " ")
        if error.ctx is not None and error.ctx.command is cli and "No such command" in message:
            command = message.split("'")[1]
            message = f"no command '{command}': {nearest(command, cli.commands)}"
        _fail(message, 2)
    except InputError as error:
        _fail(str(error), 2)
    except WiserlError as error:
        _fail(str(error), 1)
    except Interrupted as error:
        _ignore_signals()
        raise SystemExit(128 + error.signum) from None
    except KeyboardInterrupt:
        _ignore_signals()
        raise SystemExit(128 + signal.SIGINT) from None
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        at = traceback.extract_tb(error.__traceback__)[-1]
        what = str(error).partition("\n")[0] or "out of memory"
        _fail(
            f"not enough memory: {what} (in {at.name}, {at.filename}:{at.lineno}): lower what is large of envs, n_steps, batch_size, "
            "buffer_size and hidden_sizes",
            1,
        )
    except SystemExit as error:  # wiserl itself raises none in a command
        traceback.print_exc()
        _fail(
            f"code of the env or of the algorithm called sys.exit({error.code!r}), so the command did not end (traceback above): raise "
            "an exception instead, or end the episode",
            1,
        )


def _check_current_folder() -> None:
    try:
        os.getcwd()
    except OSError as error:
        raise InputError(f"the current folder cannot be used ({error.strerror}): change to one that is there") from None


def _ignore_signals() -> None:
    """All is closed: another Ctrl-C would only change the exit code."""
    for signum in STOPPING:
        signal.signal(signum, signal.SIG_IGN)


def _fail(message: str, code: int) -> NoReturn:
    line = " ".join(message.split())
    line = line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
    # What a file or an argument says does not steer the terminal.
    line = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)
    print(f"wiserl: error: {line}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
