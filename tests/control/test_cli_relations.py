"""`isochrone relation` and `copy revert` against a real controller."""

from __future__ import annotations

from tests.control.process import Connect, Controller
from tests.control.shell import Shell

MIB, TRACK = 1 << 20, 1 << 16


def numbers(at: Shell) -> list[int]:
    return [x["relation"] for x in at("relation", "list", "-o", "json").json["relations"]]


def test_a_relation_from_establish_to_withdraw(
    at: Shell, site: Controller, connect: Connect
) -> None:
    for name in ("a", "b"):
        at("volume", "create", name, "2MiB")
    client = connect(site, "a")
    client.write(0, b"\x07" * TRACK)
    at("relation", "establish", "a=x").refused(3, "there is no volume 'x'")
    at("relation", "restore", "99").refused(3, "there is no relation 99")
    at("relation", "establish", "a=b").refused(2, "overwriting b needs a confirmation", "--yes")
    made = at("relation", "establish", "a=b", "--yes", "-o", "json").json["relations"]
    number = made[0]["relation"]
    assert "a" in at("relation", "list").out
    assert "differs now  0 of 32 tracks" in at("relation", "show", number).out
    client.write(0, b"\x08" * 4096)
    assert "1 of 32 tracks" in at("relation", "list").out
    assert "0 of 32 tracks" in at("relation", "refresh", number).out
    assert connect(site, "b").read(0, 4096) == b"\x08" * 4096
    at("relation", "refresh", number).refused(4, "'b' is in use")
    assert at("relation", "refresh", "--source", "a", "--online-ok").code == 0
    at("relation", "restore", number, "--yes").refused(4, "'a' is in use")
    at("relation", "restore", number).refused(2, f"the sources of relation {number} needs", "--yes")
    at("relation", "withdraw", number).refused(2, "what becomes of the targets?", "--discard")
    at("relation", "withdraw", number, "--discard").refused(2, "needs a confirmation", "--yes")
    at("volume", "delete", "b", "--yes").refused(4, "it is part of relation", "--keep")
    left = at(
        *("relation", "withdraw", number, "--discard", "--extent", "64KiB+64KiB"),
        *("--online-ok", "--yes", "-o", "json"),
    ).json["relations"][0]["extents"]
    assert [x["target_offset"] for x in left] == [0, 2 * TRACK]
    assert at("relation", "withdraw", "--target", "b", "--keep").code == 0
    assert numbers(at) == []
    at("relation", "show", number).refused(3, f"there is no relation {number}", "relation list")


def test_parts_of_several_volumes_at_once(at: Shell, site: Controller, connect: Connect) -> None:
    for name in ("p", "q", "r"):
        at("volume", "create", name, "2MiB")
    connect(site, "p").write(MIB, b"\x05" * TRACK)
    said = at(
        "relation", "establish", "p:1MiB+64KiB=q:0", "p:1MiB+64KiB=r:64KiB", "--once", "--yes"
    )
    assert (said.code, said.err) == (0, "volume q, r overwritten\n")
    assert connect(site, "q").read(0, TRACK) == b"\x05" * TRACK
    assert connect(site, "r").read(TRACK, TRACK) == b"\x05" * TRACK
    at("relation", "establish", "p:1MiB=q", "--yes").refused(2, "does not say where", "OFFSET")


def test_inhibit_shows(at: Shell) -> None:
    for name in ("s", "t"):
        at("volume", "create", name, "1MiB")
    assert at("relation", "establish", "s=t", "--inhibit", "--yes").code == 0
    assert at("volume", "show", "t", "-o", "json").json["read_only"] is True
    at("volume", "delete", "s", "--yes").refused(4, "it is part of relation", "relation withdraw")
    assert at("relation", "withdraw", "--target", "t", "--keep").code == 0


def test_a_volume_goes_back_and_forth(at: Shell, site: Controller, connect: Connect) -> None:
    at("volume", "create", "back", "1MiB")
    at("copy", "take", "back", "--name", "monday")
    client = connect(site, "back")
    client.write(0, b"\x01" * 4096)
    at("copy", "revert", "nothing", "--yes").refused(3, "there is no copy 'nothing'")
    at("copy", "revert", "monday").refused(2, "reverting to the copy 'monday' needs", "--yes")
    at("copy", "revert", "monday", "--yes").refused(4, "'back' is in use", "disconnect")
    undo = at("copy", "revert", "monday", "--online-ok", "--undo", "oops", "--yes", "-o", "json")
    assert undo.json["name"] == "oops"
    assert client.read(0, 4096) == bytes(4096)
    assert at("copy", "revert", "oops", "--volume", "back", "--online-ok", "--yes").code == 0
    assert client.read(0, 4096) == b"\x01" * 4096
