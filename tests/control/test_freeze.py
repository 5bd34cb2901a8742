"""Freezing, with a pretended `fsfreeze`; the real one is in the end-to-end tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from isochrone.control.hooks import DEADLINE_VARIABLE

FSFREEZE = """#!/bin/sh
echo "$1" >> "$LOG"
grep -q -- "^fail $1" "$LOG" && { echo "fsfreeze: $2: Device or resource busy" >&2; exit 1; }
grep -q -- "^deny $1" "$LOG" && { echo "fsfreeze: Operation not permitted" >&2; exit 1; }
exit 0
"""


class Freezer:
    """`isochrone hook freeze /` in a process, with every call of `fsfreeze` on record."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "log"
        self._log.touch()
        program = folder / "fsfreeze"
        program.write_text(FSFREEZE)
        program.chmod(0o755)
        self._env = {
            **os.environ,
            "PATH": f"{folder}:{os.environ['PATH']}",
            "LOG": str(self._log),
        }

    def spoil(self, how: str, act: str) -> None:
        self._log.write_text(f"{how} {act}\n")

    def start(self, mount: str = "/", seconds: str = "20") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "isochrone", "hook", "freeze", mount],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._env | {DEADLINE_VARIABLE: seconds},
        )

    @property
    def calls(self) -> list[str]:
        return [line for line in self._log.read_text().splitlines() if line.startswith("--")]


@pytest.fixture
def freezer(tmp_path: Path) -> Freezer:
    return Freezer(tmp_path)


def ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def test_it_holds_until_its_input_ends(freezer: Freezer) -> None:
    process = freezer.start()
    ready(process)
    assert freezer.calls == ["--freeze"]
    assert (process.communicate(timeout=20), process.returncode) == (("", ""), 0)
    assert freezer.calls == ["--freeze", "--unfreeze"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_thaws(freezer: Freezer, number: signal.Signals) -> None:
    process = freezer.start()
    ready(process)
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert freezer.calls == ["--freeze", "--unfreeze"]


def test_the_deadline_thaws(freezer: Freezer) -> None:
    process = freezer.start(seconds="0.3")
    ready(process)
    assert process.stderr is not None
    said = process.stderr.read()
    assert process.wait(20) == 11
    assert "nobody said within 0.3 s that the copy is taken" in said
    assert freezer.calls == ["--freeze", "--unfreeze"]
    process.communicate()


@pytest.mark.parametrize(
    ("how", "act", "code", "said", "calls"),
    [
        ("fail", "--freeze", 11, "resource busy", ["--freeze", "--unfreeze"]),
        ("deny", "--freeze", 4, "not permitted", ["--freeze", "--unfreeze"]),
        ("fail", "--unfreeze", 11, "resource busy", ["--freeze", "--unfreeze"]),
    ],
)
def test_what_fsfreeze_refuses(
    freezer: Freezer, how: str, act: str, code: int, said: str, calls: list[str]
) -> None:
    """Also a thaw: then it was not frozen all the time."""
    freezer.spoil(how, act)
    process = freezer.start()
    _, err = process.communicate(timeout=20)
    assert (process.returncode, said in err) == (code, True), err
    assert freezer.calls == calls


def test_only_where_a_file_system_is_mounted(freezer: Freezer, tmp_path: Path) -> None:
    process = freezer.start(str(tmp_path / "none"))
    _, err = process.communicate(timeout=20)
    assert (process.returncode, "is not where a file system is mounted" in err) == (2, True)
    assert freezer.calls == []
