"""Manifests of any content, and checkpoints with flipped bits: they open, or are refused in one line. Nothing they name is imported.

`pytest tests/fuzz -m slow` tries 10,000 of each kind.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import wiserl
from wiserl.cli.opening import open_policy
from wiserl.experiment.options import run_options_of
from wiserl.run_folder.checkpoint import open_checkpoint
from wiserl.run_folder.sealed import sealed_text
from wiserl.util.errors import InputError

PAST = Path(__file__).parents[1] / "past"
STEP = Path("checkpoints") / "step_64"
FEW, MANY = 150, int(os.environ.get("WISERL_FUZZ_INPUTS", "10000"))

# What others would like to have imported, and what looks like it.
NAMES = ["booby:make", "booby", "booby/x", "boobies/booby", "booby:Env-v0", "os:system", "ALE/booby", "GymV26Environment-v0",
         "booby.py", "CartPole-v1", "Pendulum-v1", "ppo", "dqn", "sac", "mlp", "cnn", "rnn", "Box", "Discrete", "float32", "O", "U", "",
         "\x00", "é" * 50]  # fmt: skip
NUMBERS = [-1, 0, 1, 2, 3, 4, 64, 70_000, 2**31, 2**63, 10**40, -0.5, 0.5, 1e308, float("inf"), float("nan")]
LEAVES = st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.sampled_from(NAMES) | st.text(max_size=5)
VALUES = st.recursive(
    LEAVES,
    lambda child: st.lists(child, max_size=3) | st.dictionaries(st.sampled_from(NAMES), child, max_size=3),
    max_leaves=6,
)
CHANGES = st.lists(st.tuples(st.integers(0, 10**6), VALUES | st.just(...)), min_size=1, max_size=3)


def with_counts(test: Callable[..., None]) -> Callable[..., None]:
    """The test with few examples, and with many where slow tests are asked for."""
    return pytest.mark.parametrize(
        "examples",
        [
            pytest.param(FEW, id="few"),
            pytest.param(MANY, id="many", marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
        ],
    )(test)


def run_examples(examples: int, strategy: Any, check: Callable[[Any], None]) -> None:
    settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))(
        given(strategy)(check)
    )()


@pytest.fixture
def booby(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules of these names, in a package as well: nobody may import them."""
    for folder in (tmp_path, tmp_path / "boobies"):
        folder.mkdir(exist_ok=True)
        (folder / "booby.py").write_text("def make(*args, **kwargs): pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    assert not [name for name in sys.modules if name.startswith("boob")]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """All entries below a JSON value, as (what holds it, its key)."""
    for key, child in list(value.items()) if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(child, dict | list):
            yield from places(child)


def changed(value: dict[str, Any], changes: list[tuple[int, Any]]) -> dict[str, Any]:
    """A copy with some entries replaced, or (where it is ...) taken out."""
    value = json.loads(json.dumps(value))
    for number, new in changes:
        found = list(places(value))
        if found:
            holder, key = found[number % len(found)]
            if new is ...:
                del holder[key]
            else:
                holder[key] = new
    return value


def opens_or_is_refused(task: Callable[[], object]) -> None:
    with contextlib.suppress(InputError):
        task()
    assert not [name for name in sys.modules if name.startswith("boob")], "code of a checkpoint was imported"


@with_counts
@pytest.mark.parametrize("algo", ["ppo", "dqn", "sac"])
def test_any_manifest_opens_or_is_refused(algo: str, examples: int, tmp_path: Path, booby: None) -> None:
    shutil.copytree(PAST / "format_2" / algo, tmp_path / "run", symlinks=True)
    path = tmp_path / "run" / STEP / "manifest.json"
    whole = json.loads(path.read_text())

    def check(changes: list[tuple[int, Any]]) -> None:
        path.write_text(sealed_text(changed(whole, changes)))
        opens_or_is_refused(lambda: open_policy(str(tmp_path / "run"), "last", None, None, False))

    run_examples(examples, CHANGES, check)


@with_counts
def test_any_config_is_read_or_refused(examples: int, tmp_path: Path, booby: None) -> None:
    shutil.copytree(PAST / "format_2" / "ppo", tmp_path / "run", symlinks=True)
    path = tmp_path / "run" / "config.json"
    whole = json.loads(path.read_text())

    def check(changes: list[tuple[int, Any]]) -> None:
        path.write_text(sealed_text(changed(whole, changes)))
        opens_or_is_refused(lambda: run_options_of(tmp_path / "run", {}))

    run_examples(examples, CHANGES, check)


@with_counts
def test_any_text_as_a_manifest_or_config_is_refused(examples: int, tmp_path: Path) -> None:
    shutil.copytree(PAST / "format_2" / "ppo", tmp_path / "run", symlinks=True)

    def check(data: bytes) -> None:
        for file in (tmp_path / "run" / STEP / "manifest.json", tmp_path / "run" / "config.json"):
            file.write_bytes(data)
        for task in (lambda: wiserl.load(tmp_path / "run"), lambda: run_options_of(tmp_path / "run", {})):
            with pytest.raises(InputError, match=r"manifest\.json|config\.json|format"):
                task()

    run_examples(examples, st.binary(max_size=50) | VALUES.map(lambda value: json.dumps(value).encode()), check)


@with_counts
@pytest.mark.parametrize("run", ["format_2/dqn", "format_1_last/dqn"])
def test_a_flipped_bit_is_named(run: str, examples: int, tmp_path: Path, booby: None) -> None:
    """In format 1 nothing tells of those in the manifest and config.json; they do no harm."""
    shutil.copytree(PAST / run, tmp_path / "run", symlinks=True)
    files = [*sorted((tmp_path / "run" / STEP).iterdir()), tmp_path / "run" / "config.json"]
    contents = [file.read_bytes() for file in files]

    def everything() -> None:
        run_options_of(tmp_path / "run", {})
        checkpoint = open_checkpoint(tmp_path / "run")
        checkpoint.state(), checkpoint.replay()
        open_policy(str(tmp_path / "run"), "last", None, None, False)

    def check(at: tuple[int, int]) -> None:
        index, bit = at[0] % len(files), at[1] % (8 * len(contents[at[0] % len(files)]))
        damaged = bytearray(contents[index])
        damaged[bit // 8] ^= 1 << bit % 8
        files[index].write_bytes(damaged)
        try:
            if run.startswith("format_1") and files[index].suffix == ".json":
                opens_or_is_refused(everything)
            else:
                with pytest.raises(InputError) as error:
                    everything()
                assert files[index].name in str(error.value)
                assert "\n" not in str(error.value)
        finally:
            files[index].write_bytes(contents[index])

    run_examples(examples, st.tuples(st.integers(0, 10), st.integers(0, 10**6)), check)
