"""Command lines nobody thought of: exit code 0, 1 or 2, one line where it is 2, no traceback, nothing lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.harness import Tally, check, fuzzing, inputs, stamp, wiserl
from tests.fuzz.strategies import NAMES, WORDS
from wiserl.experiment.experiment import Experiment
from wiserl.util.errors import InputError

ENVS = ["tests.envs:Chain", "tests.clumsy:Takes", "CartPole-v1", "tests.envs:DyingAgents", "tests.envs:DictObs"]
TRAIN = ["train", "ppo", "tests.envs:Chain", "--total-steps", "64", "--envs", "2", "--vector", "inline", "--backend", "local", "--quiet",
         "--eval-episodes", "1", "--device", "cpu", "--set", "n_steps=8", "--set", "hidden_sizes=8", "--run-dir", "run"]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a trained run, some of its ruins, and files that are none; a run that would begin gives back what it took."""
    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    assert wiserl(*TRAIN).code == 0
    for name in ("half", "torn", "odd"):
        shutil.copytree("run", name, symlinks=True)
    shutil.rmtree("half/checkpoints/step_64")
    for path in ("torn/config.json", "torn/metrics.csv", "torn/checkpoints/step_64/manifest.json"):
        Path(path).write_bytes(b"\x89PNG\0\xff{")
    Path("odd/checkpoints/step_5").write_text("a file")
    Path("file").write_text("seed: 1\n")
    Path("options.yaml").write_text("seed: 1\nn_steps: 8\n")
    Path("net.json").write_text('[{"type": "linear", "in_features": 8, "out_features": 4}]')
    Path("nowhere").symlink_to("nothing")
    Path("empty").mkdir()

    def begin(self: Experiment, quiet: bool, json_summary: bool) -> dict[str, Any]:
        with self.claimed.undo_on_bad_input():
            raise InputError("a run begins")

    monkeypatch.setattr(Experiment, "execute", begin)
    return deep


def outside(text: str) -> bool:
    """Whether an argument may name a path outside the folder, in which a fuzzer has no business."""
    return ".." in text or text.lstrip("- ").startswith(("/", "~")) or any(f"{sign}/" in text for sign in "= ")


ANY = (st.text(max_size=8) | WORDS).filter(lambda text: not outside(text))


def mostly(usual: list[str]) -> st.SearchStrategy[str]:
    """One of these nine times in ten, else any text."""
    return st.integers(0, 9).flatmap(lambda roll: st.sampled_from(usual) if roll else ANY)


PATHS = mostly(
    ["run", "run", "run/", "run/checkpoints/last", "run/checkpoints/step_64", "run/config.json", "half", "torn", "odd", "file", "file/x",
     "nowhere", "nowhere/x", "empty", "new", "new/deep", "x" * 300, "", ".", "é", "\ud800", "a\0b", "net.json", "options.yaml", "curve.png",
     "new.gif", "empty/x.svg", "file.mp4", "new.webm", "/dev/null", "/dev/null/x", "/proc/nothing"]
)  # fmt: skip
ALGOS = mostly(
    3 * ["ppo", "dqn", "sarsa", "qrdqn"] + ["sac", "ppoo", "", ":", "x:Y", ".:x", "os:system", "tests.envs:Chain"]
)
ENV = mostly(
    6 * ENVS
    + ["./my_envs:make", ":x", "x/", "//", "tests.envs:", "tests.envs:nothing", "tests/envs", "tests.envs:Broken", "tests.clumsy:NoAgents",
       "tests.clumsy:NoEntries", "CartPole-v9", "ALE/x", "mpe2/x", "json:loads"]
)  # fmt: skip
NUMBERS = mostly(
    4 * ["1", "2", "3", "5", "8"]
    + ["0", "-1", "1.5", "1e1", "1_0", "x", "", "inf", "nan", "٣", "99999999999999999999", "9" * 5000]
)
SETTINGS = st.builds(
    lambda key, sign, value: f"{key}{sign}{value}",
    mostly([*NAMES, "env.x", "env.", "env", "config", "algo", "resume", "quiet", "transform"]),
    st.sampled_from(["=", "=", "=", "=", "=", "=", "", " = ", "=="]),
    st.one_of(
        NUMBERS, NUMBERS, WORDS, mostly(["{a: 1}", "{a: 1, a: 1}", "[[1]]", "[" * 100, "!!python/name:os.system", "run", "new", "true"])
    ),
).filter(lambda text: not outside(text))  # fmt: skip
CHECKPOINT = mostly(["last", "best", "64", "5", "064", "-1", "../last", "", "64/../64", "x" * 300])


def command(
    name: str, positional: list[st.SearchStrategy[str]], flags: dict[str, st.SearchStrategy[str] | None]
) -> Any:
    """Command lines of one command: its arguments and some flags, one thing left out, put in, or doubled now and then."""

    @st.composite
    def lines(draw: Any) -> list[str]:
        words = [draw(each) for each in positional]
        for flag in draw(st.lists(st.sampled_from(sorted(flags)), max_size=3)):
            value = flags[flag]
            words += [flag] if value is None else [flag, draw(value)]
        slip = draw(st.integers(0, 19))
        if slip == 0 and words:
            del words[draw(st.integers(0, len(words) - 1))]
        elif slip == 1:
            words.insert(draw(st.integers(0, len(words))), draw(ANY))
        return [name, *words]

    return lines()


def count(flag: str) -> dict[str, st.SearchStrategy[str]]:
    return {flag: NUMBERS.filter(lambda text: not text.strip().startswith("9"))}  # so many episodes would be played


FLAGS: dict[str, st.SearchStrategy[str] | None] = {
    **{f"--{name}": NUMBERS for name in ("total-steps", "runners", "envs", "seed", "eval-every", "eval-episodes", "checkpoint-every")},
    **dict.fromkeys(["--sync", "--no-sync", "--no-preset", "--json", "--quiet"]),
    "--vector": st.just("inline"), "--backend": mostly(["local", "local", "spark"]), "--run-dir": PATHS, "--resume": PATHS,
    "--device": mostly(["cpu", "cpu", "auto", "cuda:99", "cuda:x"]), "--config": PATHS, "--set": SETTINGS,
    "--net": mostly(["mlp", "rnn", "auto", "net.json", "torn/config.json", "cnn", "x:Y", "file"]),
}  # fmt: skip
RESUMED = [st.just(word) for word in ("ppo", "tests.envs:Chain", "--total-steps", "128", "--resume", "run")]
TRAINING = st.one_of(
    command("train", [ALGOS, ENV], FLAGS),
    command("train", [ALGOS, ENV], FLAGS),
    command(
        "train", RESUMED, {flag: values for flag, values in FLAGS.items() if flag not in ("--run-dir", "--config")}
    ),
)
OTHERS = st.one_of(
    command("eval", [PATHS], {**count("--episodes"), "--checkpoint": CHECKPOINT, "--stochastic": None, "--json": None}),
    command("play", [PATHS], {**count("--episodes"), "--checkpoint": CHECKPOINT, "--video": PATHS}),
    command("check-env", [ENV], {"--set": SETTINGS}),
    command("plot", [PATHS], {"--out": PATHS, "--y": mostly(["losses/value_loss", "x"])}),
    command(
        "list",
        [mostly(["algos", "options", "presets"])],
        {"ppo": None, "dqn": None, "x": None, "--help": None},
    ),
    st.lists(ANY | st.sampled_from(["train", "eval", "--help", "--version", "-h", "--"]), max_size=4),
)


@pytest.mark.parametrize(
    ("what", "lines", "begins"), [("train", TRAINING, True), ("others", OTHERS, False)], ids=["train", "others"]
)
@inputs(100)
def test_a_command_line_ends_as_one_does(
    inputs: int, what: str, lines: st.SearchStrategy[list[str]], begins: bool, folder: Path
) -> None:
    kept = stamp(folder)
    with Tally(f"command lines, {what}") as tally:

        @fuzzing(inputs)
        @given(lines)
        def fuzz(line: list[str]) -> None:
            line = [*line, *(["--vector", "inline", "--backend", "local"] if begins and "--" not in line else [])]
            outcome = wiserl(*line)
            check(outcome)
            found = stamp(folder)
            lost = {path: was for path, was in kept.items() if found.get(path) != was and not is_picture(path)}
            assert not lost, f"changed: {lost}"
            new = [path for path in found if path not in kept]
            assert all(map(is_picture, new)), f"left: {new}"
            for path in new:
                (folder / path).unlink()
            tally.counts["begins" if "a run begins" in outcome.err else f"exit code {outcome.code}"] += 1

        fuzz()


def is_picture(path: str) -> bool:
    return path.endswith((".png", ".svg", ".pdf", ".gif", ".mp4", ".webm"))


def test_the_fuzzer_notices_what_it_looks_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(how: Callable[[], Any]) -> None:
        monkeypatch.setattr("wiserl.cli.listing.list_algorithms", how)
        check(wiserl("list", "algos"))

    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        broken(lambda: 1 / 0)
    with pytest.raises(BaseException, match=r"os\.system"):
        broken(lambda: __import__("os").system("true"))
    monkeypatch.setattr("tests.fuzz.harness.SECONDS", 0.1)
    with pytest.raises(BaseException, match="sleep"):
        broken(lambda: __import__("time").sleep(5))
