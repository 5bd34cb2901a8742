"""`volume detach` and `audit` against a real controller."""

from __future__ import annotations

import os

import pytest

from tests.control.process import Controller, Nbd
from tests.control.shell import Shell


def test_a_host_is_let_go(at: Shell, site: Controller) -> None:
    assert at("volume", "create", "v", "1MiB").code == 0
    me = f"uid {os.getuid()}"
    with Nbd(site.address("nbd"), "v") as host:
        host.write(0, b"x" * 512)
        said = at("volume", "delete", "v", "--yes")
        said.refused(4, "'v' is in use by", f"isochrone volume detach v --host '{me}'")
        at("volume", "detach", "v", "--host", me).refused(2, "needs a confirmation", "--yes")
        at("volume", "detach", "v", "--host", "who", "--yes").refused(3, "'who' does not have 'v'")
        shown = at.json("volume", "detach", "v", "--host", me, "--yes")
        assert shown["attachments"] == []
        with pytest.raises(ConnectionError):
            host.write(0, b"y" * 512)
    with Nbd(site.address("nbd"), "v"):
        at("volume", "delete", "v", "--yes").refused(4, "in use")
        assert at("volume", "delete", "v", "--yes", "--force-overlay").code == 0
    entries = at.json("audit")["entries"]
    assert [(e["act"], e["allowed"]) for e in entries] == [
        ("deleted", False), ("detached", True), ("deleted", False), ("deleted", True),
    ]  # fmt: skip
    assert at.json("audit", "--last", "1")["entries"] == entries[-1:]
    table = at("audit").out
    assert "forced, although a host has it open" in table
    assert f"{me} (app)" in table
