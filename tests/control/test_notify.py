"""sd_notify, heard on a real socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from isochrone.control.notify import Notifier


@pytest.fixture
def manager(fresh: Path) -> Iterator[tuple[socket.socket, str]]:
    path = f"{fresh}.notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wire:
        wire.bind(path)
        wire.settimeout(5)
        yield wire, path


def test_what_the_manager_hears(manager: tuple[socket.socket, str]) -> None:
    wire, path = manager
    notifier = Notifier({"NOTIFY_SOCKET": path}, 1)
    notifier.ready("3 volumes")
    assert wire.recv(999) == b"READY=1\nSTATUS=3 volumes"
    notifier.status("3 volumes")  # nothing new: not sent
    notifier.status("4 volumes")
    assert wire.recv(999) == b"STATUS=4 volumes"
    notifier.alive()
    assert wire.recv(999) == b"WATCHDOG=1"
    notifier.stopping("draining")
    assert wire.recv(999) == b"STOPPING=1\nSTATUS=draining"


def test_an_abstract_address() -> None:
    name = f"isochrone-test-{id(object())}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wire:
        wire.bind("\0" + name)
        wire.settimeout(5)
        assert Notifier({"NOTIFY_SOCKET": "@" + name}, 1).send("READY=1")
        assert wire.recv(99) == b"READY=1"


def test_without_a_manager_nothing_is_sent() -> None:
    assert not Notifier({}, 1).send("READY=1")


def test_a_deaf_manager_stops_nobody(tmp_path: Path) -> None:
    assert not Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}, 1).send("READY=1")


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "42"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "43"}, 0.0),  # meant for another process
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_watchdog_interval(environment: dict[str, str], seconds: float) -> None:
    assert Notifier(environment, 42).watchdog_s == seconds
