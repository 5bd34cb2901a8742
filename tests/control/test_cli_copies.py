"""Holds, deletions, pruning and differences by command, against a real controller."""

from __future__ import annotations

import json

from isochrone.types import BLOCK, TRACK
from tests.control.process import Connect, Controller
from tests.control.shell import Shell

MIB = 1 << 20


def test_hold_pin_unpin(at: Shell) -> None:
    at.json("volume", "create", "h", "1MiB")
    at.json("copy", "take", "h", "--name", "h1")
    held = at.json("copy", "hold", "h1", "--until", "2099-12-31", "--reason", "audit")
    assert held["held_until_time"] == "2099-12-31T00:00:00.000Z"
    at("copy", "delete", "h1").refused(4, "held until 2099-12-31T00:00:00Z (audit)")
    at("copy", "hold", "h1", "--for", "30d").refused(4, "never shorter")
    assert at.json("copy", "hold", "h1", "--until", "2100-01-31")["hold_reason"] == "audit"
    assert at("copy", "pin", "h1").code == 0
    assert "pinned" in at("copy", "list").out
    at("copy", "delete", "h1").refused(4, "is pinned", "isochrone copy unpin h1")
    assert at.json("copy", "unpin", "h1")["held"] == "held until 2100-01-31T00:00:00Z"
    at("copy", "unpin", "h1").refused(4, "is not pinned")
    at("copy", "hold", "h1").refused(2, "until a date, or for a span", "--until")


def test_delete_several_or_by_age(at: Shell) -> None:
    at.json("volume", "create", "d", "1MiB")
    for n in range(4):
        at.json("copy", "take", "d", "--name", f"d{n}")
    at("copy", "delete", "d0", "no").refused(3, "there is no copy 'no'")
    dry = at.json("copy", "delete", "d0", "d1", "--dry-run")
    assert [v["copy"] for v in dry["verdicts"]] == ["d0", "d1"]
    assert "2 copies deleted" in at("copy", "delete", "d0", "d1").out
    assert at("copy", "delete", "d2").err == "copy d2 deleted\n"
    at("copy", "delete").refused(2, "which copies?", "--older-than")
    assert at.json("copy", "delete", "--older-than", "1h")["verdicts"] == []
    assert at("copy", "show", "d3").code == 0


def test_prune_says_why(at: Shell) -> None:
    at.json("volume", "create", "p", "1MiB")
    at.json("schedule", "set", "ps", "monthly keep 5", "--volume", "p")
    at.json("schedule", "run", "ps")
    rows = at.json("copy", "prune", "--schedule", "ps", "--dry-run")
    assert rows["dry_run"] is True
    assert rows["verdicts"][0]["why"].startswith("monthly (1 of 5)")
    assert "stays  monthly (1 of 5)" in at("copy", "prune", "--dry-run").out
    assert "0 copies deleted" in at("copy", "prune").out
    at("copy", "prune", "--schedule", "no").refused(3, "no schedule 'no'")


def test_diff(at: Shell, site: Controller, connect: Connect) -> None:
    at.json("volume", "create", "x", "1MiB")
    at.json("volume", "create", "y", "1MiB")
    at.json("copy", "take", "x", "y", "--name", "x1")
    client = connect(site, "x")
    client.write(0, b"1" * BLOCK)
    client.write(20 * BLOCK, b"2" * 2 * BLOCK)
    at.json("copy", "take", "x", "y", "--name", "x2")
    client.write(40 * BLOCK, b"3" * BLOCK)
    table = at("copy", "diff", "x1", "x2").out.splitlines()
    assert table[1].split() == ["x", "12", "KiB", "2", "1", "MiB", "x@x1", "x@x2"]
    assert table[2].split()[:4] == ["y", "0", "B", "0"]
    ranges = at("copy", "diff", "x1", "x", "--ranges", "--volume", "x").out
    assert ranges == f"x 0 4096\nx {20 * BLOCK} 8192\nx {40 * BLOCK} 4096\n"
    said = at("copy", "diff", "x1", "x2", "--tracks", "-o", "json")
    decoder, text, pages = json.JSONDecoder(), said.out, []
    while text.strip():
        page, end = decoder.raw_decode(text.lstrip())
        pages.append(page)
        text = text.lstrip()[end:]
    assert [p["volume"] for p in pages] == ["x", "y"]
    assert pages[0]["ranges"] == [[0, 2 * TRACK]]
    at("copy", "diff", "x1", "x1").refused(2, "does not differ from itself")
    at("copy", "diff", "x1", "no").refused(3, "no copy 'no'")


def test_diff_goes_on_over_pages(at: Shell, site: Controller, connect: Connect) -> None:
    at.json("volume", "create", "z", "64MiB")
    at.json("copy", "take", "z", "--name", "z1")
    client = connect(site, "z")
    for block in range(0, 2 * 4200, 2):
        client.write(block * BLOCK, b"z" * BLOCK)
    lines = at("copy", "diff", "z1", "z", "--ranges").out.splitlines()
    assert len(lines) == 4200
    assert lines[-1] == f"z {2 * 4199 * BLOCK} {BLOCK}"
