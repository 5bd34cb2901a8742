"""A planned switch and a failback, by commands, over two real controllers."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isochrone.control.client import Client, path
from tests.control.process import Connect, Controller, Start
from tests.control.shell import Shell

MIB = 1 << 20


Tell = Callable[..., Any]


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Tell:
    """Types a command; its JSON, or its messages if it is to fail."""
    shell = Shell(None, capsys, monkeypatch)

    def say(controller: Controller, *words: str, code: int = 0) -> Any:
        said = shell("--site", controller.directory, "-o", "json", *words)
        assert said.code == code, said
        return said.err if code else said.json

    return say


def link(controller: Controller) -> str:
    return controller.address("link")


@pytest.fixture
def sites(start: Start, fresh: Path, tell: Tell) -> tuple[Controller, Controller]:
    """A primary with a group `g`, and a secondary that has it."""
    primary, secondary = start(fresh / "p"), start(fresh / "s")
    client = Client(str(primary.directory))
    client.call("POST", path("volumes"), {"name": "db", "size": 8 * MIB})
    client.call("POST", path("groups"), {"name": "g", "volumes": ["db"]})
    client.close()
    tell(secondary, "mirror", "add", "g", "--source", link(primary))
    tell(secondary, "mirror", "wait", "g", "--timeout", "30")
    return primary, secondary


def test_a_planned_switch_and_back(
    sites: tuple[Controller, Controller], connect: Connect, tell: Tell
) -> None:
    east, west = sites
    here = connect(east, "db")
    here.write(0, b"written at east")
    check = tell(west, "group", "promote", "g", "--check")
    assert check["primary_connected"]
    assert "loses nothing" in tell(west, "promote", "g", "--yes", code=4)
    assert "open for writing" in tell(west, "group", "switch", "g", code=8)
    here.__exit__(None)
    report = tell(west, "group", "switch", "g", "--timeout", "30")
    assert (report["epoch"], report["steps"][-1]) == (2, "take over")
    connect(west, "db").write(0, b"written at west")
    status = tell(east, "mirror", "wait", "g", "--timeout", "30")
    assert (status["role"], status["state"], status["epoch"]) == ("secondary", "DUPLEX", 2)
    assert status["bytes_received"] < MIB // 8
    assert connect(east, "db").read(0, 15) == b"written at west"
    tell(east, "group", "switch", "g", "--force")
    assert tell(east, "group", "show", "g")["role"] == "primary"


def test_a_site_comes_back(
    sites: tuple[Controller, Controller], connect: Connect, start: Start, tell: Tell
) -> None:
    east, west = sites
    tail = connect(east, "db")
    tail.write(0, b"common")
    tail.flush()
    tell(west, "mirror", "wait", "g", "--timeout", "30")
    west.end(signal.SIGKILL)  # so that what follows cannot arrive
    tail.write(4 * MIB, b"only east has this")
    tail.flush()
    east.end(signal.SIGKILL)
    west = start(west.directory)
    tell(west, "promote", "g", "--yes")
    connect(west, "db").write(6 * MIB, b"west went on")
    east = start(east.directory)
    end = time.monotonic() + 20  # it is told within five seconds
    while (shown := tell(east, "group", "show", "g"))["role"] != "fenced":
        assert time.monotonic() < end
    assert shown["diverged"] == {"db": 65536}
    assert "rejoin" in shown["next_command"]
    size = tell(east, "group", "rejoin", "g", "--dry-run")
    assert (size["done"], size["first_copy"], size["diverged"]) == (False, False, {"db": 65536})
    assert "--yes" in tell(east, "group", "rejoin", "g", code=2)
    report = tell(east, "group", "rejoin", "g", "--yes")
    assert report["orphans"] == "orphaned-g-1"
    tell(east, "mirror", "wait", "g", "--timeout", "30")
    here = connect(east, "db")
    assert here.read(0, 6) == b"common"
    assert here.read(4 * MIB, 18) == bytes(18)
    assert here.read(6 * MIB, 12) == b"west went on"
    assert connect(east, "db@orphaned-g-1").read(4 * MIB, 18) == b"only east has this"
    tell(east, "copy", "delete", "orphaned-g-1", "--yes", code=4)
    assert tell(east, "mirror", "repoint", "g", link(west), "--dry-run")["diverged"] == {}
    tell(east, "group", "switch", "g", "--cancel", code=4)
