"""Filters as words, and through the API and the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from isochrone.control.filters import parse_chain
from isochrone.errors import InvalidInput
from isochrone.nbd.filters import Delay, Error, Pause, Rate, ReadOnly, bare
from isochrone.world.dice import SystemDice
from tests.control.process import Connect, Controller, Start
from tests.nbd.memory import MemoryBackend

DICE = SystemDice()


def test_words() -> None:
    disk = MemoryBackend().add("disk")
    device = parse_chain(
        ["read-only", "rate=10MiB/s", "delay=2.5ms", "error=0.5%", "pause"], DICE
    ).dress(disk)
    kinds = []
    while device is not disk:
        kinds.append(type(device))
        device = device.inner
    assert kinds == [ReadOnly, Rate, Delay, Error, Pause]
    assert bare(device) is disk
    assert parse_chain(["delay=1s"], DICE).dress(disk).due(1.0, 0) == 2.0


@pytest.mark.parametrize(
    "words",
    [
        *([], ["x"], ["read-only=1"], ["pause=2s"], ["rate"], ["rate=5"], ["rate=0/s"]),
        *(["rate=-1MiB/s"], ["rate=10MB/s"], ["delay=5"], ["delay=0ms"], ["delay=61s"]),
        *(["delay=inf"], ["error=1"], ["error=0%"], ["error=101%"], ["error=nan%"], [""]),
        ["delay=1ms", "delay=2ms"],
    ],
)
def test_words_that_are_none(words: list[str]) -> None:
    with pytest.raises(InvalidInput):
        parse_chain(words, DICE)


def command(controller: Controller, *words: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "isochrone", "--site", str(controller.directory), *words],
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_drill(start: Start, fresh: Path, connect: Connect) -> None:
    controller = start(fresh)
    assert command(controller, "volume", "create", "v", "1MiB")[0] == 0
    client = connect(controller, "v")
    client.write(0, b"before")
    code, out, _ = command(controller, "filter", "set", "v", "read-only", "delay=1ms")
    assert (code, out) == (0, "EXPORT  FILTERS\nv       read-only delay=1ms\n")
    with pytest.raises(PermissionError):
        client.write(0, b"during")
    assert "a drill goes on\nEXPORT  FILTERS" in command(controller, "status")[1]
    told = json.loads(command(controller, "filter", "list", "-o", "json")[1])
    assert told == {"filters": [{"export": "v", "filters": ["read-only", "delay=1ms"]}]}
    assert command(controller, "filter", "clear", "v")[0] == 0
    client.write(0, b"after.")
    assert client.read(0, 6) == b"after."
    assert "drill" not in command(controller, "status")[1]
    assert command(controller, "filter", "clear", "v")[0] == 3
    assert command(controller, "filter", "set", "nothing", "pause")[0] == 3
    code, _, err = command(controller, "filter", "set", "v", "rate=10")
    assert code == 2
    assert "hint: write it like rate=10MiB/s" in err
