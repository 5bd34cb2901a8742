"""Two controllers enrol each other, and mirror over TLS; nobody else gets in."""

from __future__ import annotations

import signal
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import pytest

from isochrone.mirror.identity import make_identity
from tests.control.process import Controller, Nbd, Start
from tests.control.shell import Shell

MIB = 1 << 20
LINK = ("--link", "127.0.0.1:0")


class Tell:
    """Commands in this process, for whichever controller: a process for each takes its time."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._shell = Shell(None, capsys, monkeypatch)

    def __call__(self, controller: Controller, *words: str, code: int = 0) -> Any:
        """Its JSON, or its messages if it is to fail."""
        said = self._shell("--site", controller.directory, "--output", "json", *words)
        assert said.code == code, said
        return said.err if code else said.json


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Tell:
    return Tell(capsys, monkeypatch)


@pytest.fixture
def sites(start: Start, folder: Path, tell: Tell) -> tuple[Controller, Controller]:
    """`east` with a group `g` of one volume, and `west`; each with a name and certificate."""
    east, west = start(folder / "e", *LINK), start(folder / "w", *LINK)
    tell(east, "site", "init", "east")
    tell(west, "site", "init", "west")
    tell(east, "volume", "create", "v", str(4 * MIB))
    tell(east, "group", "create", "g", "v")
    return east, west


def test_enrolled_sites_mirror_over_tls(sites: tuple[Controller, Controller], tell: Tell) -> None:
    east, west = sites
    port = east.address("link-tcp")
    said = tell(west, "mirror", "add", "g", "--source", "east", code=2)
    assert "neither an address nor an enrolled site" in said
    token = tell(east, "site", "invite", "--expires", "10m")["token"]
    joined = tell(west, "site", "join", token)
    assert (joined["name"], joined["role"], joined["address"]) == ("east", "takeover", port)
    here = tell(east, "site", "list")["sites"][0]
    assert (here["name"], here["address"]) == ("west", west.address("link-tcp"))
    assert here["fingerprint"] == tell(west, "site", "show")["fingerprint"]
    assert tell(east, "site", "show")["invitations"] == []

    with Nbd(east.address("nbd"), "v") as disk:
        disk.write(0, b"secret" * 1000)
    added = tell(west, "mirror", "add", "g", "--source", "east")
    assert added["source"] == "east"
    tell(west, "mirror", "wait", "g", "--timeout", "30")
    with Nbd(west.address("nbd"), "v") as disk:
        assert disk.read(0, 6) == b"secret"
    assert tell(east, "site", "list")["sites"][0]["connections"] == 1

    tell(west, "site", "join", token)  # whoever did not hear the answer may ask again
    assert len(tell(east, "site", "list")["sites"]) == 1
    tell(east, "site", "revoke", "west", code=2)
    tell(east, "site", "revoke", "west", "--yes")
    status = tell(west, "mirror", "wait", "g", "--timeout", "3", code=10)
    assert "SUSPENDED" in status
    assert "TLS" in status
    assert "not known here" in tell(west, "site", "join", token, code=8)
    tell(west, "site", "revoke", "east", "--yes")
    tell(west, "site", "join", tell(east, "site", "invite")["token"])
    with Nbd(east.address("nbd"), "v") as disk:
        disk.write(0, b"again!")
    tell(west, "mirror", "wait", "g", "--timeout", "30")
    for each in sites:
        code, _, log = each.end()
        assert code == 0
        assert "Traceback" not in log


def test_who_is_not_enrolled_gets_nothing(sites: tuple[Controller, Controller], tell: Tell) -> None:
    east, west = sites
    port = east.address("link-tcp")
    host, number = port.rsplit(":", 1)
    with socket.create_connection((host, int(number)), 5) as plain:
        plain.sendall(b"ILNK" + bytes(60))
        plain.settimeout(5)
        assert b"ILNK" not in plain.recv(4096)
    tell(west, "mirror", "add", "g", "--source", port, code=5)

    stranger = west.directory.parent / "stranger.pem"
    stranger.write_bytes(make_identity("west", "ff" * 16))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(stranger)
    with (
        socket.create_connection((host, int(number)), 5) as raw,
        context.wrap_socket(raw) as wire,
        pytest.raises(ssl.SSLError, match="unknown ca"),
    ):
        wire.recv(1)
    token = tell(east, "site", "invite", "--expires", "1s")["token"]
    broken = token[:-20]
    assert "is not a token" in tell(west, "site", "join", broken, code=2)
    time.sleep(1.1)  # by the controllers' own clocks
    assert "has run out" in tell(west, "site", "join", token, code=8)
    assert tell(west, "site", "list") == {"sites": []}
    assert tell(east, "site", "list") == {"sites": []}


def test_a_new_key_while_the_mirror_goes_on(
    sites: tuple[Controller, Controller], tell: Tell, start: Start, folder: Path
) -> None:
    east, west = sites
    tell(west, "site", "join", tell(east, "site", "invite")["token"])
    tell(west, "mirror", "add", "g", "--source", "east")
    tell(west, "mirror", "wait", "g", "--timeout", "30")
    old = tell(east, "site", "show")
    assert old["expires"] and not old["warning"]
    made = tell(east, "site", "renew")
    assert (made["done"], made["waiting"]) == (True, [])
    assert tell(east, "site", "show")["fingerprint"] == made["fingerprint"] != old["fingerprint"]
    (seen,) = tell(west, "site", "list")["sites"]
    assert (seen["fingerprint"], seen["renewing"]) == (old["fingerprint"], True)
    with Nbd(east.address("nbd"), "v") as disk:
        disk.write(0, b"with the old link")
    tell(west, "mirror", "wait", "g", "--timeout", "30")

    west.end(signal.SIGKILL)
    said = tell(east, "site", "renew", code=5)  # nobody is there to be told
    assert "west" in said
    waits = tell(east, "site", "show")
    assert (waits["fingerprint"], waits["renewal"]) == (made["fingerprint"], ["west"])
    assert "site renew" in tell(east, "status")["certificates"]
    east.end(signal.SIGKILL)
    east = start(east.directory, "--link", old["addresses"][0])
    west = start(west.directory, "--link", west.address("link-tcp"))
    with Nbd(east.address("nbd"), "v") as disk:
        disk.write(0, b"with a new link")
    tell(west, "mirror", "wait", "g", "--timeout", "30")
    (seen,) = tell(west, "site", "list")["sites"]
    assert (seen["fingerprint"], seen["renewing"]) == (made["fingerprint"], False)
    assert tell(east, "site", "renew")["done"]
    assert tell(west, "site", "renew")["done"], "the secondary's as well"
    tell(west, "mirror", "wait", "g", "--timeout", "30")
    with Nbd(west.address("nbd"), "v") as disk:
        assert disk.read(0, 15) == b"with a new link"
    for each in (east, west):
        code, _, log = each.end()
        assert code == 0
        assert "Traceback" not in log


def test_a_port_for_others_needs_a_certificate(start: Start, folder: Path, tell: Tell) -> None:
    refused = start(folder / "p", "--link", "0.0.0.0:0")
    assert refused.ready == ""
    assert "site init" in refused.wait()[2]
    first = start(folder / "p")
    tell(first, "site", "init", "p")
    first.end()
    assert start(folder / "p", "--link", "0.0.0.0:0").ready
