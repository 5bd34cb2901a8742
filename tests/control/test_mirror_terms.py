"""Suspending, resuming and limiting a mirror, with two real controllers."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isochrone.control.client import Client, path
from tests.control.process import Connect, Controller, Start
from tests.control.test_mirroring import tell

MIB = 1 << 20
PATIENCE_S = 30.0


def until(true: Callable[[], bool], what: str) -> None:
    """Ask again until something is so: only the other process knows when that is."""
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def group(controller: Controller) -> Any:
    """Status without a process for each question."""
    client = Client(str(controller.directory))
    try:
        return json.loads(client.call("GET", path("groups", "g")))
    finally:
        client.close()


@pytest.fixture
def pair(start: Start, fresh: Path) -> tuple[Controller, Controller]:
    primary = start(fresh / "p", "--api", "127.0.0.1:0")
    secondary = start(fresh / "s")
    client = Client(str(primary.directory))
    client.call("POST", path("volumes"), {"name": "v1", "size": 4 * MIB})
    client.call("POST", path("groups"), {"name": "g", "volumes": ["v1"]})
    client.close()
    tell(secondary, "mirror", "add", "g", "--source", primary.address("link"))
    tell(secondary, "mirror", "wait", "g", "--timeout", "30")
    return primary, secondary


def test_a_mirror_is_suspended_and_resumed(
    pair: tuple[Controller, Controller], connect: Connect
) -> None:
    primary, secondary = pair
    until(lambda: group(primary)["peers"][0]["state"] == "ACTIVE", "it is not followed")
    set_ = tell(primary, "mirror", "set", "g", "--policy", "pace", "--limit-age", "60")
    assert (set_["peers"][0]["policy"], set_["peers"][0]["limit_seconds"]) == ("pace", 60.0)
    assert tell(primary, "mirror", "suspend", "g")["state"] == "SUSPENDED"
    with connect(primary, "v1") as client:
        client.write(0, b"while it was suspended")
        client.flush()
    until(lambda: group(secondary)["cause_kind"] == "refused", "it was not told")
    (peer,) = group(primary)["peers"]
    assert (peer["cause"], peer["missing"], peer["keeps_log"]) == ("command", {"v1": 65536}, False)
    with urllib.request.urlopen(f"http://{primary.address('api-tcp')}/metrics", timeout=10) as page:
        assert b'isochrone_group_suspended{group="g"} 1' in page.read()

    primary.end()
    again = Controller(primary.directory, "--api", "127.0.0.1:0")
    try:
        assert group(again)["peers"][0]["state"] == "SUSPENDED"
        assert tell(again, "mirror", "resume", "g")["peers"][0]["state"] == "INACTIVE"
        tell(secondary, "mirror", "wait", "g", "--timeout", "30")
        with connect(secondary, "v1") as client:
            assert client.read(0, 22) == b"while it was suspended"
        until(lambda: group(secondary)["state"] == "DUPLEX", "it is not mirrored again")
        assert group(secondary)["suspensions"][-1]["until"]
    finally:
        code, _, err = again.end()
        assert (code, "Traceback" in err) == (0, False), err
