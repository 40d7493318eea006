"""What README and docs say is so: blocks run, commands parse, links lead somewhere, tables agree with the code."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from docs.tables import PAGES, ROOT, fill, score_table
from wiserl.cli.main import _settings, cli
from wiserl.env.check import check_env
from wiserl.experiment.options import resolve

ALL_PAGES = [*PAGES, ROOT / "CONTRIBUTING.md"]
EXAMPLES = ROOT / "example"
FENCE = re.compile(r"^```(\w*)$")


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Lines of a page inside fences of a language, with their numbers."""
    found, inside = [], ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = FENCE.match(line)
        if fence:
            inside = "" if inside else fence[1] or "text"
        elif inside == language:
            found.append((number, line))
    assert not inside, f"{page} ends inside a fence"
    return found


def having(language: str) -> list[pytest.param]:
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in ALL_PAGES if blocks(page, language)]


def run(script: Path, *arguments: str, cwd: Path, backend: str = "local") -> str:
    """Output of a script in a process of its own."""
    environment = {**os.environ, "WISERL_BACKEND": backend, "RAY_ADDRESS": "local"}
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("page", having("python"))
def test_python_blocks_run(page: Path, tmp_path: Path) -> None:
    lines = dict(blocks(page, "python"))
    script = tmp_path / f"{page.stem}.py"  # a line has the number it has in the page, for tracebacks
    script.write_text("\n".join(lines.get(number, "") for number in range(1, max(lines) + 1)), encoding="utf-8")
    run(script, cwd=tmp_path)


def check_wiserl(arguments: list[str]) -> None:
    name, *rest = arguments
    command = cli.commands[name]
    parameters = command.make_context(name, rest).params
    if name == "train":
        options = {key: value for key, value in parameters.items() if value is not None}
        for key in ("config", "resume", "as_json", "quiet"):
            options.pop(key, None)
        options.update(_settings(options.pop("settings")))
        resolve(options.pop("algo"), options.pop("env"), options)


def check_command(words: list[str]) -> None:
    """Fail unless a command is one that exists, with the arguments it is given."""
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    program, *arguments = words
    program = program.removeprefix(".venv/bin/")
    if program == "wiserl":
        check_wiserl(arguments)
    elif program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    elif program == "python" and arguments[0] == "-m":
        assert importlib.util.find_spec(arguments[1]), f"no module {arguments[1]}"
    elif program == "python":
        assert arguments[0] == "script.py" or (ROOT / arguments[0]).is_file(), f"no script {arguments[0]}"
    elif program == "pip":
        extras = re.findall(r"\.\[([\w,]+)\]", " ".join(arguments))
        known = metadata.metadata("wiserl").get_all("Provides-Extra")
        assert {extra for group in extras for extra in group.split(",")} <= set(known)
    else:
        assert [program, *arguments[:1]] == ["ray", "start"], f"a command that is not checked: {words}"


@pytest.mark.parametrize("page", having("bash"))
def test_commands_parse(page: Path) -> None:
    for _, line in blocks(page, "bash"):
        words = shlex.split(line, comments=True)
        if words:
            check_command(words)


@pytest.mark.parametrize(
    "line", ["wiserl tarin ppo X", "wiserl train ppo X --set n_stepz=1", "make nothing", "rm -rf x"]
)
def test_a_wrong_command_is_noticed(line: str) -> None:
    with pytest.raises(Exception):  # noqa: B017  (whichever way it is wrong)
        check_command(shlex.split(line))


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [heading.lower().replace(" ", "-") for heading in headings], f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tables_agree_with_the_code(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == fill(page), "run `python -m docs.tables`"


def test_rows_of_a_peer_come_with_the_command_that_measures_them() -> None:
    measured = score_table(lambda cell: cell.name in ("sac-halfcheetah", "sac-pendulum"))
    assert measured is not None
    assert measured.endswith(
        "Measured with `python -m benchmarks.scores --cells sac-pendulum --cells sac-halfcheetah`, Stable-Baselines3 with "
        "`python -m benchmarks.scores --peer sb3 --cells sac-halfcheetah`."
    )
    assert "--peer" not in str(score_table(lambda cell: cell.name == "sac-pendulum"))


def test_readme_has_a_command_for_every_example() -> None:
    commands = [shlex.split(line)[:2] for _, line in blocks(ROOT / "README.md", "bash")]
    scripts = {words[1].split("/")[1] for words in commands if words[:1] == ["python"]}
    assert scripts == {folder.name for folder in EXAMPLES.iterdir() if any(folder.glob("*.py"))}


@pytest.mark.parametrize("backend", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_hello_ray_finds_the_best_machine(backend: str, tmp_path: Path) -> None:
    script = EXAMPLES / "hello_ray" / "hello_ray.py"
    assert len([line for line in script.read_text(encoding="utf-8").splitlines() if line]) < 40
    averages = [float(word) for word in re.findall(r"-?\d\.\d*", run(script, cwd=tmp_path, backend=backend))]
    assert len(averages) == 5
    assert averages[4] == max(averages)


@pytest.mark.parametrize(
    ("backend", "options"),
    [
        ("local", ()),
        ("local", ("--async",)),
        # `tests/contract/test_public_interface.py` runs such a script on Ray
        pytest.param("ray", (), marks=[pytest.mark.ray, pytest.mark.slow]),
    ],
)
def test_custom_agent_runs(backend: str, options: tuple[str, ...], tmp_path: Path) -> None:
    script = EXAMPLES / "custom_agent" / "custom_agent.py"
    out = run(script, "--total-steps", "400", "--warmup", "150", "--json", *options, cwd=tmp_path, backend=backend)
    summary = json.loads(out.splitlines()[-1])
    assert summary["env_steps"] == 400
    assert -2000 < summary["eval_return_mean"] < 0


TRAINING = {
    "hindsight": ("hindsight/hindsight.py", "--bits", "6", "--total-steps", "1500"),
    "qrdqn": ("qrdqn/qrdqn.py", "--total-steps", "1300"),
    "ddpg": ("ddpg/ddpg.py", "--total-steps", "1100", "--noise", "ornstein_uhlenbeck"),
    "td3": ("td3/td3.py", "--total-steps", "1100", "--policy-delay", "3"),
    "sac": ("sac/sac.py", "--total-steps", "700", "--ent-coef", "auto"),
    "ppo": ("ppo/ppo.py", "--total-steps", "512"),
    "recurrent": ("recurrent/recurrent.py", "--total-steps", "512", "--cell", "gru"),
    "dqn": ("dqn/dqn.py", "--total-steps", "1200", "--prioritized", "--dueling", "--n-step", "3"),
    "sarsa": ("sarsa/sarsa.py", "--total-steps", "1024", "--sampled"),
    "spread": ("multi_agent/multi_agent.py", "--env", "mpe2/simple_spread_v3", "--total-steps", "1000"),
}


@pytest.mark.parametrize("name", TRAINING)
def test_training_examples_run(name: str, tmp_path: Path) -> None:
    script, *arguments = TRAINING[name]
    out = run(EXAMPLES / script, *arguments, "--run-dir", "run", cwd=tmp_path)
    assert "return" in out
    assert json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))["updates"] > 0


def test_returns_of_agents_that_leave_are_of_one_episode_each(tmp_path: Path) -> None:
    script = EXAMPLES / "multi_agent" / "multi_agent.py"
    run(script, "--total-steps", "8192", "--run-dir", "run", cwd=tmp_path)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    worst, best = -3 * 30 * 0.1, 3.0  # nobody finds the door; everybody does at once
    assert worst <= summary["train_return_mean"] <= best
    assert worst <= summary["eval_return_mean"] <= best


def test_the_example_env_has_no_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES / "multi_agent"))
    assert check_env("corridor:Corridor", {}) == []
