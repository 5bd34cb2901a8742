"""Real controllers take a group over from one another, as planned and by force, and come back.

Numbered writes go on wherever hosts may write. No acknowledged write is lost by a planned switch;
what a forced takeover loses is what it said before, and is kept at the old primary.
"""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from isochrone.control.client import Client, path
from isochrone.errors import Conflict, PeerFault
from tests.control.process import Nbd, Start
from tests.e2e.faulty_link import FaultyLink
from tests.e2e.numbered import BLOCK, SIZE, Writer, standing_at
from tests.e2e.programs import isochrone, until

ROUNDS: Final = int(os.environ.get("ISOCHRONE_FAILOVERS", "1"))
SEED: Final = 1
VOLUMES: Final = ("db", "wal")
ARCHIVE: Final = 8 << 20  # written once: what a delta must not move again
DELTA_MAX: Final = 3 << 20  # both small volumes whole, and headers
GROUP: Final = "shop"


class Site:
    """A controller, its link as others reach it, and whoever writes at it."""

    def __init__(self, folder: Path, start: Start) -> None:
        self._start = start
        self.controller = start(folder, "--link", "127.0.0.1:0")
        assert self.controller.ready, self.controller.wait()
        self.link = FaultyLink(self.controller.address("link-tcp"), SEED)
        self._writers: list[Writer] = []
        self._client = Client(str(folder))

    @property
    def socket(self) -> Path:
        return self.controller.directory / "nbd.sock"

    def ask(self, method: str, *words: str, wait: float = 0, **body: Any) -> Any:
        """By the API: a process for each question would take its time."""
        document = self._client.call(method, path(*words), body or None, wait=wait)
        return json.loads(document) if document else None

    def group(self) -> Any:
        return self.ask("GET", "groups", GROUP)

    def follow(self, other: Site) -> None:
        self.ask("POST", "mirrors", group=GROUP, source=other.link.address)
        self.catch_up()

    def catch_up(self) -> Any:
        return self.ask("POST", "mirrors", GROUP, "wait", timeout=30, wait=30)

    def switch(self, **options: Any) -> Any:
        """Take the group over as planned."""
        address = self.link.address
        return self.ask("POST", "groups", GROUP, "switch", address=address, wait=60, **options)

    def rejoin(self, **options: Any) -> Any:
        return self.ask("POST", "groups", GROUP, "rejoin", wait=30, **options)

    def write(self, first: int) -> Writer:
        self._writers.append(Writer(self.socket, VOLUMES, first))
        self._writers[-1].start()
        return self._writers[-1]

    def stands_at(self, copy: str = "") -> int:
        """What the volumes, or their members in a copy, hold."""
        with Nbd(str(self.socket), f"archive@{copy}" if copy else "archive") as nbd:
            held = b"".join(nbd.read(at, 1 << 20) for at in range(0, ARCHIVE, 1 << 20))
        assert held == archive(), "the volume that nobody writes to is another"
        return standing_at(self.socket, [f"{v}@{copy}" if copy else v for v in VOLUMES])

    def close(self) -> None:
        for writer in self._writers:
            writer.stop()
        self.link.close()
        self._client.close()

    def check(self) -> None:
        """Nothing went wrong unseen, and its pool is whole."""
        code, _, err = self.controller.end()
        assert (code, "Traceback" in err) == (0, False), err
        isochrone(self.controller, "check", str(self.controller.directory))


@cache
def archive() -> bytes:
    return Random(SEED).randbytes(ARCHIVE)


NewSite = Callable[[str], Site]


@pytest.fixture
def site(folder: Path, start: Start) -> Iterator[NewSite]:
    made: list[Site] = []

    def make(name: str) -> Site:
        made.append(Site(folder / name, start))
        return made[-1]

    yield make
    for each in made:
        each.close()


def primary(site: Site) -> Site:
    for name, size in (("db", SIZE), ("wal", SIZE), ("archive", ARCHIVE)):
        site.ask("POST", "volumes", name=name, size=size)
    with Nbd(str(site.socket), "archive") as nbd:
        data = archive()
        for at in range(0, ARCHIVE, 1 << 20):
            nbd.write(at, data[at : at + (1 << 20)])
    site.ask("POST", "groups", name=GROUP, volumes=[*VOLUMES, "archive"])
    return site


def write_some(site: Site, first: int, count: int = 150) -> Writer:
    writer = site.write(first)
    until(lambda: writer.done >= first + count or writer.error, what="some writes")
    assert writer.error is None
    return writer


def equal(one: Site, other: Site, number: int) -> None:
    """Both hold write `number`, and nothing after it."""
    assert (one.stands_at(), other.stands_at()) == (number, number)


def switch_under_load(old: Site, new: Site, done: int) -> int:
    """A planned switch that nobody was told of, and the way back; the newest write."""
    old.link.heal()
    writer = write_some(old, done + 1)
    with pytest.raises(PeerFault, match="open for writing"):
        new.switch()
    epoch = new.switch(force=True)["epoch"]
    assert old.group()["epoch"] == epoch
    until(lambda: writer.error is not None, what="the end of writing at the old primary")
    assert writer.error is not None
    assert writer.error.errno == errno.EPERM
    equal(new, old, writer.done)  # all that was acknowledged, and no more
    writer = write_some(new, writer.done + 1)
    writer.stop()
    assert old.catch_up()["bytes_received"] < DELTA_MAX, "it was copied anew"
    old.switch()
    equal(new, old, writer.done)
    assert [old.group()["role"], new.group()["role"]] == ["primary", "secondary"]
    return writer.done


def taken_over(old: Site, new: Site, done: int) -> tuple[Writer, int]:
    """A forced takeover while the old primary, cut off, is written to; what `new` stands at."""
    writer = write_some(old, done + 1)
    new.catch_up()
    with pytest.raises(Conflict, match="alive and connected"):
        new.ask("POST", "groups", GROUP, "promote")
    old.link.refuse = True
    old.link.cut()
    until(lambda: new.group()["state"] == "SUSPENDED", what="the loss of the link")
    seen = writer.done
    until(lambda: writer.done > seen + 150, what="writes that nobody gets")
    said = new.ask("GET", "groups", GROUP, "loss")
    report = new.ask("POST", "groups", GROUP, "promote")
    reached = new.stands_at()
    assert (report["cut"], report["epoch"]) == (said["cut"], said["epoch"])
    assert writer.done_before(said["recovery_point"]) <= reached < writer.done - 150
    assert 0 <= said["lost_bytes"] <= (writer.done + 1 - reached) * 2 * BLOCK, "more than there was"
    assert new.group()["fence_pending"]
    assert writer.error is None, "the old primary cannot know yet"
    return writer, reached


def come_back(old: Site, new: Site, writer: Writer, newer: Writer) -> None:
    """The old primary is fenced, keeps what only it has, and follows by delta.

    `writer` is the one that was cut off, `newer` the one at the new primary.
    """
    old.link.heal()
    until(lambda: old.group()["role"] == "fenced", what="the fence")
    until(lambda: writer.error is not None, what="the end of writing at the old primary")
    orphaned = writer.done
    assert old.stands_at() == orphaned
    assert not new.group()["fence_pending"]
    would = old.rejoin(source=new.link.address, dry_run=True)
    assert (would["first_copy"], would["done"]) == (False, False)
    assert set(would["diverged"]) == set(VOLUMES)
    kept = old.rejoin(source=new.link.address)["orphans"]
    assert old.stands_at(kept) == orphaned
    newer.stop()
    received = old.catch_up()["bytes_received"]
    assert 0 < received < DELTA_MAX, "more than what has changed"
    equal(new, old, newer.done)
    assert old.stands_at(kept) == orphaned


def test_there_and_back(site: NewSite) -> None:
    a, b = primary(site("a")), site("b")
    b.follow(a)
    done = 0
    for number in range(ROUNDS):
        done = switch_under_load(a, b, done)
        stale, done = taken_over(a, b, done)
        # Fewer than the old primary has: its blocks must go, not only be overwritten.
        newer = write_some(b, done + 1, 40)
        if number % 2 == 0:
            newer.stop()
        come_back(a, b, stale, newer)
        a.switch()
        done = newer.done
        equal(a, b, done)
    a.check()
    b.check()


def test_a_third_site(site: NewSite) -> None:
    """It follows the secondary, then the primary, and at last the one that took over."""
    a, b, c = primary(site("a")), site("b"), site("c")
    b.follow(a)
    c.follow(b)
    writer = write_some(a, 1)
    writer.stop()
    c.catch_up()  # all that the primary has, two links away
    equal(a, c, writer.done)
    assert (c.group()["epoch"], c.group()["cut"]) == (1, b.group()["cut"])
    c.rejoin(source=a.link.address)
    done = writer.done
    for last in (c, b, c):  # each has cuts of its own, in turns
        writer = write_some(a, done + 1, 10)
        writer.stop()
        done = writer.done
        last.catch_up()
    assert c.group()["bytes_received"] < DELTA_MAX
    _, done = taken_over(a, b, done)
    a.controller.end(signal.SIGKILL)
    until(lambda: c.group()["state"] == "SUSPENDED", what="the loss of the primary")
    moved = c.rejoin(source=b.link.address)  # it does not follow another history by itself
    assert (moved["first_copy"], moved["epoch"]) == (False, 2)
    newer = write_some(b, done + 1)
    newer.stop()
    assert c.catch_up()["bytes_received"] < DELTA_MAX
    equal(b, c, newer.done)
    c.check()
