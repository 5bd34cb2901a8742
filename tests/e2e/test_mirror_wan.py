"""Two real controllers at the ends of a poor line: 20 Mbit/s, 2 % of packets lost, an outage.

The outage lasts `OUTAGE_S`; the workload is one that changes in that time what a busy volume
changes in an hour.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.control.process import Controller
from tests.e2e.namespaces import ADDRESSES, Inside, Line, line, need_namespaces
from tests.e2e.numbered import SIZE, Writer, standing_at
from tests.e2e.programs import isochrone, until

OUTAGE_S: Final = float(os.environ.get("ISOCHRONE_OUTAGE_S", "5"))
RATE: Final = "20mbit"
LOSS: Final = 0.02
VOLUMES: Final = ("db", "wal")
GROUP: Final = "shop"


@pytest.fixture
def wan() -> Iterator[Line]:
    need_namespaces()
    with line() as found:
        found.poor(RATE, LOSS)
        yield found


@pytest.fixture
def sites(wan: Line, folder: Path) -> Iterator[tuple[Controller, Controller]]:
    # The line is private: a test of the protocol, not of who may speak it.
    address = f"{ADDRESSES[0]}:7001"
    a = Inside(wan.names[0], folder / "a", "--link", address, "--insecure")
    b = Inside(wan.names[1], folder / "b")
    try:
        assert a.ready and b.ready, (a.ready or a.wait(), b.ready or b.wait())
        for name in VOLUMES:
            isochrone(a, "volume", "create", name, str(SIZE))
        isochrone(a, "group", "create", GROUP, *VOLUMES)
        isochrone(b, "mirror", "add", GROUP, "--source", address)
        yield a, b
    finally:
        for one in (a, b):
            if one.process.poll() is None:
                one.process.send_signal(signal.SIGCONT)
                one.end()


def ask(controller: Controller, *words: str) -> Any:
    return json.loads(isochrone(controller, "--output", "json", *words))


def copied(controller: Controller, name: str) -> int:
    """What the group's volumes stand at here, by a copy of them."""
    isochrone(controller, "copy", "take", *VOLUMES, "--name", name)
    members = [f"{volume}@{name}" for volume in VOLUMES]
    return standing_at(controller.directory / "nbd.sock", members)


def test_an_outage_on_a_poor_line(wan: Line, sites: tuple[Controller, Controller]) -> None:
    a, b = sites
    isochrone(b, "mirror", "wait", GROUP, "--timeout", "60")
    writer = Writer(a.directory / "nbd.sock", VOLUMES)
    writer.start()
    try:
        until(lambda: copied(b, f"c{time.monotonic_ns()}") > 0, 30, "the first writes")
        wan.down()
        before = writer.done
        time.sleep(OUTAGE_S)
        during = copied(b, "during")
        assert writer.done > before + 100, "production stood still during the outage"
        age = ask(b, "mirror", "status", GROUP)["recovery_point_age"]
        assert age >= OUTAGE_S - 2, f"the age of the recovery point lies: {age}"
        wan.up()
        until(lambda: copied(b, f"c{time.monotonic_ns()}") > during, 60, "the line's return")
    finally:
        writer.stop()
    isochrone(b, "mirror", "wait", GROUP, "--timeout", "120")
    assert copied(b, "after") == writer.done == copied(a, "all")
    for one in sites:
        one.end()
        isochrone(one, "check", str(one.directory))
