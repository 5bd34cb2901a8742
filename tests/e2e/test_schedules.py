"""Schedules of one second against a real controller: kill -9, restart, holds, differences."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from tests.control.process import Controller, Start
from tests.e2e.programs import isochrone, run, socket_uri, until


def told(controller: Controller, *words: str) -> Any:
    return json.loads(isochrone(controller, *words, "-o", "json"))


def copies(controller: Controller) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = told(controller, "copy", "list")["copies"]
    return found


def test_every_second_through_kills_and_restarts(start: Start, folder: Path) -> None:
    controller = start(folder / "pool")
    for name in ("orders", "stock"):
        isochrone(controller, "volume", "create", name, "64MiB", "--label", "tier=gold")
    isochrone(controller, "schedule", "set", "s", "every 1s keep 3", "--label", "tier=gold")
    until(lambda: len(copies(controller)) == 3, what="three copies")
    held = copies(controller)[-1]["name"]  # the oldest may go at any moment
    isochrone(controller, "copy", "hold", held, "--for", "1d", "--reason", "audit")
    for _ in range(3):
        before = [c["name"] for c in copies(controller)]
        controller.end(signal.SIGKILL)
        controller = start(folder / "pool")
        assert controller.ready
        after = copies(controller)
        names = [c["name"] for c in after]
        assert held in names
        fresh = [c for c in after if c["schedule"] == "s" and c["name"] != held]
        assert len(fresh) <= 4, "three, and one that is not pruned yet"
        assert all(len(c["members"]) == 2 for c in after), "all of it or none of it"
        until(
            lambda: not {c["name"] for c in copies(controller)} & {*before} - {held},  # noqa: B023
            what="new copies instead of the old ones",
        )
    view = told(controller, "schedule", "show", "s")
    assert (view["error"], view["members"]) == ("", ["orders", "stock"])
    isochrone(controller, "volume", "create", "new", "1MiB", "--label", "tier=gold")
    until(lambda: len(copies(controller)[-1]["members"]) == 3, what="a copy of the new volume")
    isochrone(controller, "schedule", "delete", "s")
    left = [c["name"] for c in copies(controller)]
    assert held in left
    assert controller.end()[0] == 0
    controller = start(folder / "pool")
    assert [c["name"] for c in copies(controller)] == left


def test_a_difference_is_what_qemu_is_told_and_what_the_bytes_say(
    start: Start, folder: Path
) -> None:
    controller = start(folder / "pool")
    isochrone(controller, "volume", "create", "v", "16MiB")
    uri = socket_uri(controller.address("nbd"), "v")
    run("qemu-io", "-f", "raw", "-c", "write -P 1 0 8M", "-c", "flush", uri)
    isochrone(controller, "copy", "take", "v", "--name", "c1")
    changes = ("write -P 2 1M 64k", "write -P 3 5000k 8k", "discard 3M 1M", "write -P 4 12M 4k")
    run("qemu-io", "-f", "raw", *[w for c in changes for w in ("-c", c)], "-c", "flush", uri)
    isochrone(controller, "copy", "take", "v", "--name", "c2")
    controller.end(signal.SIGKILL)
    controller = start(folder / "pool")

    page = told(controller, "copy", "diff", "c1", "c2")
    ranges = [tuple(r) for r in page["ranges"]]
    images = []
    for name in ("c1", "c2"):
        run("nbdcopy", socket_uri(controller.address("nbd"), f"v@{name}"), folder / name)
        images.append((folder / name).read_bytes())
    assert ranges == different(*images)
    uri = socket_uri(controller.address("nbd"), "v")
    bitmap = json.loads(run("nbdinfo", "--json", "--map=qemu:dirty-bitmap:c1", uri))
    assert ranges == joined((e["offset"], e["length"]) for e in bitmap if e["type"])


def different(one: bytes, other: bytes) -> list[tuple[int, int]]:
    blocks = ((at, 4096) for at in range(0, len(one), 4096))
    return joined((at, n) for at, n in blocks if one[at : at + n] != other[at : at + n])


def joined(ranges: Any) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for at, length in ranges:
        if found and sum(found[-1]) == at:
            found[-1] = (found[-1][0], found[-1][1] + length)
        else:
            found.append((at, length))
    return found
