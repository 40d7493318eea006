from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from wiserl.experiment import console as module
from wiserl.experiment.console import Console, format_seconds, format_value, json_line


class Terminal(io.StringIO):
    """Stands in for a terminal on stderr."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    screen = Terminal()
    monkeypatch.setattr(module, "sys", SimpleNamespace(stderr=screen, stdout=sys.stdout))
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "TTY_COMPATIBLE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return screen


def test_without_a_terminal_a_plain_line_comes_after_2_seconds_then_at_most_every_5(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Console(1000) as console:
        for second in range(1, 13):
            clock[0] = 1000.0 + second
            console.update(second * 50, {"charts/SPS": 50.0, "charts/episodic_return": 1.5, "losses/value_loss": 3.0})
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "100/1,000 steps (10%)  steps/s 50.00  return 1.50  0:00:18 left",
        "350/1,000 steps (35%)  steps/s 50.00  return 1.50  0:00:13 left",
        "600/1,000 steps (60%)  steps/s 50.00  return 1.50  0:00:08 left",
    ]


def test_a_resumed_run_counts_only_its_own_steps_into_the_time_left(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Console(1000) as console:
        clock[0] = 1003.0
        console.begin_at(500)
        clock[0] = 1013.0
        console.update(600, {})
    assert "600/1,000 steps (60%)  0:00:40 left" in capsys.readouterr().err


def test_a_terminal_shows_table_bar_and_time_left_without_a_thread(clock: list[float], terminal: Terminal) -> None:
    with Console(1000) as console:
        clock[0] = 1004.0
        console.update(200, {"charts/episodic_return": 21.5, "losses/[odd]": 0.25})
        console.message("picked [inline]")
    text = terminal.getvalue()
    for part in ("return", "21.50", "[odd]", "0.25", "200/1,000 steps", "20%", "0:00:16 left", "picked [inline]"):
        assert part in text
    assert console._live is None


def test_a_terminal_is_redrawn_at_most_twice_a_second(clock: list[float], terminal: Terminal) -> None:
    with Console(1000) as console:
        drawn = []
        for step in range(1, 101):
            clock[0] = 1000.0 + step / 50
            before = terminal.tell()
            console.update(step, {})
            drawn.append(terminal.tell() > before)
    assert sum(drawn) == 4


def test_values_missing_from_a_row_stay_as_last_seen(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Console(10) as console:
        console.update(1, {"eval/return_mean": 480.0})
        console.update(2, {"charts/episodic_return": float("nan")})
    assert "return -  eval return 480.00" in capsys.readouterr().err


def test_quiet_shows_warnings_only(capsys: pytest.CaptureFixture[str]) -> None:
    with Console(10, quiet=True) as console:
        console.update(10, {"charts/SPS": 1.0})
        console.message("nothing to see")
        console.warning("runner 1 died [and was restarted]")
    console.summary({"algo": "ppo"}, Path("runs/x"))
    out, err = capsys.readouterr()
    assert (out, err) == ("", "wiserl: warning: runner 1 died [and was restarted]\n")


def test_summary_is_a_table_with_what_to_do_next(capsys: pytest.CaptureFixture[str]) -> None:
    Console(10).summary({"algo": "ppo", "env_steps": 100000, "eval_return_mean": 487.25, "other": 1}, Path("runs/x"))
    out, _ = capsys.readouterr()
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[:3] == ["algo ppo", "env steps 100,000", "eval return mean 487.25"]
    assert lines[-2:] == ["wiserl play runs/x", "wiserl plot runs/x"]
    assert "other" not in out


@pytest.mark.parametrize("quiet", [False, True])
def test_json_summary_is_one_valid_line_on_stdout(capsys: pytest.CaptureFixture[str], quiet: bool) -> None:
    values = {"eval_return_mean": float("nan"), "steps": np.int64(3), "runs": [Path("a"), {"x": np.float32(0.5)}]}
    with Console(10, quiet=quiet, json=True) as console:
        console.update(5, {"a": 1.0})
    console.summary(values, Path("runs/x"))
    out, _ = capsys.readouterr()
    assert out.count("\n") == 1
    assert json.loads(out) == {"eval_return_mean": None, "steps": 3, "runs": ["a", {"x": 0.5}]}


def test_json_keeps_booleans_and_refuses_what_it_cannot_say() -> None:
    assert json_line({"sync": True, "n": 2}) == '{"sync": true, "n": 2}'
    with pytest.raises(TypeError):
        json_line({"env": object()})


def test_an_error_inside_ends_the_live_display_and_passes(terminal: Terminal) -> None:
    with pytest.raises(RuntimeError, match="boom"), Console(10) as console:
        raise RuntimeError("boom")
    assert console._live is None
    assert terminal.getvalue().endswith("\x1b[?25h")  # the cursor is shown again


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234567, "1,234,567"),
        (12345.6, "12,346"),
        (-2500.0, "-2,500"),
        (99.123, "99.12"),
        (0.000312345, "0.000312"),
        (0.0, "0"),
        (None, "-"),
        (float("inf"), "-"),
        (True, "True"),
        ("ppo", "ppo"),
    ],
)
def test_values_are_shown_as_people_read_them(value: object, text: str) -> None:
    assert format_value(value) == text


def test_durations_are_shown_in_hours_minutes_seconds() -> None:
    assert [format_seconds(s) for s in (0.2, 61, 36001, float("inf"))] == ["0:00:00", "0:01:01", "10:00:01", "-"]


def test_a_log_on_a_full_disk_ends_no_run(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "sys", SimpleNamespace(stderr=Full(), stdout=sys.stdout))
    with Console(1000) as console:
        console.message("text")
        console.warning("text")
        clock[0] += 100.0
        console.update(50, {"charts/SPS": 50.0})
