"""Stdout of a command: readers that leave, full disks, encodings that lack characters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def wiserl(*arguments: str, **options) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, **options.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-m", "wiserl", *arguments], env=environment, check=False, timeout=120, stderr=subprocess.PIPE,
        **options,
    )  # fmt: skip


@pytest.mark.parametrize("arguments", [("list", "presets"), ("list", "options", "sac"), ("list", "algos"), ("--help",)])
def test_a_reader_that_has_left_is_no_error(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = wiserl(*arguments, stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_full_disk_under_stdout_is_one_line():
    with Path("/dev/full").open("wb") as full:
        done = wiserl("list", "presets", stdout=full)
    assert done.returncode == 1
    assert done.stderr.decode() == (
        "wiserl: error: stdout cannot be written (No space left on device): what the command printed is not complete\n"
    )


@pytest.mark.parametrize(
    "variables", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_what_a_terminal_cannot_print_is_spelled(variables):
    done = wiserl("list", "options", "sac", stdout=subprocess.PIPE, env=variables)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"number >= 0 or auto" in done.stdout
    refused = wiserl("train", "ppo", "é", stdout=subprocess.PIPE, env=variables)
    assert refused.returncode == 2
    assert refused.stderr.startswith(b"wiserl: error: env '")
    assert refused.stderr.count(b"\n") == 1


def test_a_folder_that_is_gone_is_one_line(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    script = "cd $1 && rmdir $1 && exec $0 -m wiserl list algos"
    done = subprocess.run(
        ["sh", "-c", script, sys.executable, str(gone)], check=False, timeout=120, capture_output=True
    )
    assert done.returncode == 2
    assert b"the current folder cannot be used" in done.stderr
    assert done.stderr.count(b"\n") == 1
