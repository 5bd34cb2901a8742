"""Mirror commands over two real controllers, from `group create` to `promote`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from isochrone.control.client import Client, path
from tests.control.process import Connect, Controller, Start

MIB = 1 << 20


def tell(controller: Controller, *words: str, code: int = 0) -> Any:
    """Run a command; its JSON, or its messages if it is to fail."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "isochrone", "--site", str(controller.directory)),
            *("--output", "json", *words),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done
    return done.stderr if code else json.loads(done.stdout)


@pytest.fixture
def sites(start: Start, fresh: Path) -> tuple[Controller, Controller]:
    """A primary with a group `g` of two volumes, and an empty secondary."""
    primary, secondary = start(fresh / "p"), start(fresh / "s")
    client = Client(str(primary.directory))  # no process for each step: they take their time
    for name in ("v1", "v2"):
        client.call("POST", path("volumes"), {"name": name, "size": 4 * MIB})
    client.call("POST", path("groups"), {"name": "g", "volumes": ["v1", "v2"]})
    client.close()
    return primary, secondary


def link(primary: Controller) -> str:
    return primary.address("link")


def test_a_site_is_lost(sites: tuple[Controller, Controller], connect: Connect) -> None:
    primary, secondary = sites
    one, two = connect(primary, "v1"), connect(primary, "v2")
    one.write(0, b"a" * MIB)
    added = tell(secondary, "mirror", "add", "g", "--source", link(primary))
    assert (added["role"], added["source"]) == ("secondary", link(primary))
    tell(secondary, "mirror", "wait", "g", "--timeout", "30")
    one.write(0, b"instant")
    two.write(0, b"instant")
    tell(primary, "copy", "take", "--name", "c", "v1", "v2")
    one.write(0, b"later..")
    two.flush()
    status = tell(secondary, "mirror", "wait", "g", "--copy", "c", "--timeout", "30")
    assert status["state"] == "DUPLEX"
    assert 0 < status["bytes_commands"] < 4096
    assert connect(secondary, "v1@c").read(0, 7) == b"instant"
    tell(secondary, "mirror", "wait", "g", "--timeout", "30")
    before = tell(secondary, "mirror", "status", "g")
    assert before["recovery_point_time"].endswith("Z")
    assert before["recovery_point_age"] >= 0
    assert tell(secondary, "volume", "show", "v1")["read_only"]
    assert [p["connected"] for p in tell(primary, "group", "show", "g")["peers"]] == [True]
    primary.end(signal.SIGKILL)

    assert "--yes" in tell(secondary, "promote", "g", code=2)
    report = tell(secondary, "promote", "g", "--yes")
    assert (report["epoch"], report["copies"], report["volumes"]) == (2, ["c"], ["v1", "v2"])
    here = connect(secondary, "v1")
    assert here.read(0, 7) == b"later.."
    here.write(0, b"goes on")
    assert tell(secondary, "group", "show", "g")["role"] == "primary"
    tell(secondary, "promote", "g", "--yes", code=4)


def test_a_copy_that_does_not_come(sites: tuple[Controller, Controller]) -> None:
    primary, secondary = sites
    tell(secondary, "mirror", "add", "g", "--source", link(primary))
    said = tell(secondary, "mirror", "wait", "g", "--copy", "nix", "--timeout", "1", code=10)
    assert "copy 'nix' did not come within 1 s" in said


def test_the_wrong_way_round(sites: tuple[Controller, Controller]) -> None:
    primary, secondary = sites
    tell(secondary, "mirror", "add", "nix", "--source", link(primary), code=8)
    assert tell(secondary, "group", "list") == {"groups": []}
    tell(primary, "mirror", "add", "g", "--source", link(primary), code=4)
    assert "at the secondary" in tell(primary, "mirror", "wait", "g", code=4)
    tell(primary, "mirror", "remove", "g", code=4)


def test_a_mirror_that_is_not_wanted_any_more(
    sites: tuple[Controller, Controller], connect: Connect
) -> None:
    primary, secondary = sites
    tell(secondary, "mirror", "add", "g", "--source", link(primary))
    tell(secondary, "mirror", "wait", "g", "--timeout", "30")
    assert tell(secondary, "mirror", "remove", "g") == {"removed": {"mirror": "g"}}
    connect(secondary, "v1").write(0, b"mine now")
    assert tell(secondary, "volume", "show", "v1")["group"] == ""


def test_both_stop_in_order_while_they_mirror(sites: tuple[Controller, Controller]) -> None:
    primary, secondary = sites
    tell(secondary, "mirror", "add", "g", "--source", link(primary))
    tell(secondary, "mirror", "wait", "g", "--timeout", "30")
    for controller in sites:
        code, _, err = controller.end()
        assert code == 0, err
        assert "Traceback" not in err
        assert "level=error" not in err, err
