"""`pool` and `scrub`, end to end: a real controller, its real files, a real command line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.control.process import Connect, Controller, Start

MIB = 1 << 20
BLOCK = 4096


def command(directory: Path, *words: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "isochrone", "--site", str(directory), *words],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout


def document(directory: Path, *words: str, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(command(directory, *words, "-o", "json", code=code))
    return found


@pytest.fixture
def filled(start: Start, fresh: Path, connect: Connect) -> Controller:
    """200 MiB in a volume, a copy, and 1 MiB on top."""
    controller = start(fresh)
    command(fresh, "volume", "create", "v", "256MiB")
    with connect(controller, "v") as client:
        for at in range(0, 200 * MIB, 4 * MIB):
            client.write(at, Random(at).randbytes(4 * MIB))
        client.flush()
        command(fresh, "copy", "take", "v", "--name", "c")
        client.write(0, Random(1).randbytes(MIB))
        client.flush()
    return controller


def test_capacity(filled: Controller) -> None:
    view = document(filled.directory, "pool", "show")
    assert (view["mapped"], view["living"]) == (400 * MIB, 201 * MIB)
    assert {(s["kind"], s["own"]) for s in view["shares"]} == {("volume", MIB), ("copy", MIB)}
    assert view["written"] == 201 * MIB
    log = sum(path.stat().st_size for path in filled.directory.glob("segment-*"))
    assert view["log"] == log
    assert "Shares" in command(filled.directory, "pool", "show")


def test_damage_is_found_exactly(filled: Controller, start: Start) -> None:
    directory = filled.directory
    command(directory, "scrub", "start", "--rate", "4GiB/s", "--follow")
    filled.end()
    path = directory / "segment-0000000000000002"
    with path.open("r+b") as file:
        file.seek(1000 * BLOCK + 5)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 4]))
    again = start(directory)
    assert "complete" in command(directory, "status")
    view = document(directory, "scrub", "start", "--rate", "4GiB", "--follow", code=9)
    (found,) = view["findings"]
    assert (found["exports"], found["bytes"], found["segment"]) == (["v", "v@c"], BLOCK, 2)
    assert "is not what was written" in command(directory, "scrub", "status", code=9)
    _, _, log = again.end()
    assert log.count("scrub found damage") == 1
    offline = command_check(directory)
    assert f"v: {BLOCK} bytes at {found['offset']}: {found['cause']}" in offline


def command_check(directory: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "isochrone", "check", str(directory)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 9, (done.stdout, done.stderr)
    return done.stdout


def test_a_killed_controller_goes_on_where_it_was(filled: Controller, start: Start) -> None:
    directory = filled.directory
    command(directory, "scrub", "start", "--rate", "32MiB")
    while (before := document(directory, "scrub", "status"))["segments"] < 2:
        pass
    command(directory, "scrub", "pause")
    command(directory, "scrub", "start")  # paused and begun again: both are noted
    filled.end(signal.SIGKILL)
    start(directory)
    after = document(directory, "scrub", "status")
    assert (after["state"], after["started_time"]) == ("running", before["started_time"])
    assert after["segments"] >= 2
    assert after["verified"] >= before["verified"] > 0
    view = document(directory, "scrub", "start", "--rate", "4GiB", "--follow")
    assert (view["state"], view["verified"]) == ("done", 201 * MIB)
    assert view["segments"] <= 4 + 1  # those that were read before are not read again


def test_words_that_make_no_sense(filled: Controller) -> None:
    for words in (("scrub", "start", "--rate", "7"), ("scrub", "start", "--rate", "fast")):
        command(filled.directory, *words, code=2)
    for word in ("pause", "stop"):
        command(filled.directory, "scrub", word, code=4)
