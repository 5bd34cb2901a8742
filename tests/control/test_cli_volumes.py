"""`isochrone volume …` against a real controller."""

from __future__ import annotations

from tests.control.process import Connect, Controller
from tests.control.shell import Shell

MIB = 1 << 20


def test_a_volume_from_create_to_delete(at: Shell) -> None:
    assert at("volume", "create", "v", "64MiB").code == 0
    shown = at("volume", "show", "v", "--output", "json").json
    assert (shown["name"], shown["size"], shown["mapped"]) == ("v", 64 * MIB, 0)
    at("volume", "create", "v", "1MiB").refused(4, "there is a volume 'v' already")
    assert "v" in at("volume", "list").out
    names = [volume["name"] for volume in at("-o", "json", "volume", "list").json["volumes"]]
    assert "v" in names
    assert at("volume", "resize", "v", "128MiB", "-o", "json").json["size"] == 128 * MIB
    at("volume", "resize", "v", "1MiB").refused(4, "would cut off its end", "--shrink")
    assert at("volume", "resize", "v", "1MiB", "--shrink", "-o", "json").json["size"] == MIB
    at("volume", "delete", "v").refused(2, "deleting the volume 'v' needs a", "--yes")
    assert at("volume", "show", "v").code == 0
    assert at("volume", "delete", "v", "--yes", "-o", "json").json == {"deleted": {"volume": "v"}}
    at("volume", "show", "v").refused(3, "there is no volume 'v'", "isochrone volume list")
    at("volume", "delete", "v").refused(3, "there is no volume 'v'")


def test_what_goes_through_the_front_door_is_counted(
    at: Shell, site: Controller, connect: Connect
) -> None:
    at("volume", "create", "counted", "1MiB")
    client = connect(site, "counted")
    assert client.size == MIB
    client.write(4096, b"\x07" * 8192)
    shown = at("volume", "show", "counted", "-o", "json").json
    assert (shown["mapped"], len(shown["clients"])) == (8192, 1)
    at("volume", "delete", "counted", "--yes").refused(4, "in use", "disconnect")
