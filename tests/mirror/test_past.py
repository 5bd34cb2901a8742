"""What was seen of mirrors outlives the process, or begins anew; it stops nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from isochrone.mirror import past
from isochrone.mirror.history import History
from isochrone.mirror.past import NAME, SAVE_SECONDS, SUSPENSIONS_MAX, Document, Past, Seen
from isochrone.mirror.service import Mirrors
from isochrone.mirror.sessions import SUSPENSIONS_KEPT, Trail
from isochrone.mirror.status import Suspension
from isochrone.sim.fabric import SimFabric
from isochrone.sim.loop import run
from isochrone.store.pool import Pool
from isochrone.world.documents import FolderDocuments
from tests.mirror.sites import GROUP, LIMITS, Host, Two


class KeepingHost(Host):
    """A site whose documents are real files, in a folder of the test."""

    def __init__(self, name: str, fabric: SimFabric, folder: Path) -> None:
        super().__init__(name, fabric, 1, 0.2)
        self.documents = FolderDocuments(folder)
        folder.mkdir()

    async def _start(self) -> None:
        world = self.site.world
        self.pool = Pool.open(self.site.disk, world, LIMITS)
        self.mirrors = Mirrors(self.pool, world, interval=self.interval, documents=self.documents)
        await self.mirrors.listen(self.address)
        await self.mirrors.start()

    def saved(self) -> Document:
        content = self.documents.read(NAME)
        assert content is not None
        return past._decode(content)


class KeepingTwo(Two):
    a: KeepingHost
    b: KeepingHost

    def __init__(self, folder: Path) -> None:
        self.fabric = SimFabric(asyncio.get_running_loop(), Random(1))
        self.a = KeepingHost("a", self.fabric, folder / "a")
        self.b = KeepingHost("b", self.fabric, folder / "b")


def play(folder: Path, scenario: Callable[[KeepingTwo], Awaitable[None]]) -> None:
    async def main() -> None:
        two = KeepingTwo(folder)
        await two.a.start()
        await two.b.start()
        await two.make()
        await two.mirror()
        await scenario(two)

    run(main())


async def outage(two: KeepingTwo, seconds: float) -> None:
    two.fabric.cut("a", "b")
    await asyncio.sleep(seconds)
    two.fabric.heal_all()
    await two.b.wait()


def told(suspensions: list[Suspension]) -> list[tuple[str, int]]:
    return [(x.cause, x.stamp) for x in suspensions]


def test_a_day_and_the_suspensions_outlive_a_stop(tmp_path: Path) -> None:
    async def scenario(two: KeepingTwo) -> None:
        await asyncio.sleep(600)
        await outage(two, 100)
        before, at_a = two.b.status(), two.a.status().peers[0]
        assert before.day.max > 90
        assert told(before.suspensions)
        assert told(at_a.suspensions)
        for host in (two.a, two.b):
            await host.stop()
            await host.start()
        await two.b.wait()
        after, at_a_now = two.b.status(), two.a.status().peers[0]
        assert after.day.samples >= before.day.samples
        assert after.day.max >= before.day.max
        assert after.day.p50 <= before.day.p50 * 1.2
        assert told(after.suspensions)[: len(before.suspensions)] == told(before.suspensions)
        count = len(at_a.suspensions)
        assert told(at_a_now.suspensions)[:count] == told(at_a.suspensions)
        assert all(x.until for x in after.suspensions)

    play(tmp_path, scenario)


def test_a_crash_costs_a_minute(tmp_path: Path) -> None:
    async def scenario(two: KeepingTwo) -> None:
        await asyncio.sleep(600)
        before = two.b.status().day.samples
        await two.b.restart()
        assert two.b.status().day.samples >= before - SAVE_SECONDS - 2
        await two.b.wait()

    play(tmp_path, scenario)


def test_what_goes_on_over_a_restart_is_one_suspension(tmp_path: Path) -> None:
    async def scenario(two: KeepingTwo) -> None:
        two.fabric.cut("a", "b")
        await asyncio.sleep(100)
        (open_now,) = [x for x in two.b.status().suspensions if not x.until]
        await two.b.restart()
        await asyncio.sleep(20)
        assert [x.stamp for x in two.b.status().suspensions if not x.until] == [open_now.stamp]
        two.fabric.heal_all()
        await two.b.wait()
        found = {x.stamp: x.until for x in two.b.status().suspensions}
        assert found[open_now.stamp] > open_now.stamp

    play(tmp_path, scenario)


def change_a_bit(content: bytes) -> bytes:
    return bytes([content[0] ^ 1]) + content[1:]


def sealed(body: bytes) -> bytes:
    return body + b"\n%016x\n" % past.checksum(body)


@pytest.mark.parametrize(
    "spoil",
    [
        change_a_bit,
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"\x00" * 100,
        lambda content: sealed(b"[]"),
        lambda content: sealed(b'{"version":2}'),
        lambda content: sealed(b'{"version":1,"followed":{"g":{"lineage":"","ages":[[1,-1,{}]]}}}'),
        lambda content: sealed(b'{"version":1,"followed":{"g":{"lineage":7}}}'),
    ],
)
def test_a_document_that_makes_no_sense_is_begun_anew(
    tmp_path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    async def scenario(two: KeepingTwo) -> None:
        await asyncio.sleep(70)
        content = two.b.documents.read(NAME)
        assert content is not None
        two.b.crash()
        two.b.documents.write(NAME, spoil(content))
        with capture_logs() as lines:
            await two.b.start()
        assert [x["event"] for x in lines if x["log_level"] == "warning"] == [
            "the history of mirrors begins anew"
        ]
        assert two.b.status().day.samples == 0
        await two.b.wait()
        await asyncio.sleep(3)
        await two.b.stop()
        assert two.b.saved().followed[GROUP].ages

    play(tmp_path, scenario)


class Full(FolderDocuments):
    def write(self, name: str, content: bytes) -> None:
        raise OSError(28, "No space left on device")


def test_a_full_disk_is_said_once_and_stops_nothing(tmp_path: Path) -> None:
    async def scenario(two: KeepingTwo) -> None:
        two.b.mirrors._past._documents = Full(tmp_path)
        with capture_logs() as lines:
            await asyncio.sleep(5 * SAVE_SECONDS)
        assert sum("cannot be saved" in x["event"] for x in lines) == 1
        await two.b.wait()

    play(tmp_path, scenario)


def test_what_is_gone_is_not_kept(tmp_path: Path) -> None:
    async def scenario(two: KeepingTwo) -> None:
        await outage(two, 30)
        await asyncio.sleep(SAVE_SECONDS)
        assert GROUP in two.b.saved().followed
        assert GROUP in two.a.saved().served
        await two.b.call(two.b.mirrors.remove(GROUP))
        await asyncio.sleep(SAVE_SECONDS + 1)
        assert two.b.saved() == two.a.saved() == Document()

    play(tmp_path, scenario)


def test_another_history_under_the_same_name_begins_anew(tmp_path: Path) -> None:
    async def scenario(two: KeepingTwo) -> None:
        documents = two.b.documents
        suspension = Suspension(cause="link", why="", stamp=1, until=2)
        seen = Seen(lineage="one", suspensions=[suspension])
        documents.write(NAME, past._encode(Document(followed={"g": seen})))
        for lineage, count in (("two", 0), ("one", 1)):
            trail = Trail("pair")
            Past(documents, two.b.site.world).take_up("g", lineage, History(), trail)
            assert len(trail.suspensions) == count

    play(tmp_path, scenario)


def test_too_many_suspensions_leave_the_newest() -> None:
    def some(first: int) -> list[Suspension]:
        return [
            Suspension(cause="link", why="x" * 300, stamp=first + n)
            for n in range(SUSPENSIONS_KEPT)
        ]

    groups = SUSPENSIONS_MAX // SUSPENSIONS_KEPT + 10
    document = Document(served={str(n): {"peer": some(1000 * n)} for n in range(groups)})
    past._thin_out(document)
    left = [x.stamp for peers in document.served.values() for x in peers["peer"]]
    assert len(left) == SUSPENSIONS_MAX
    assert min(left) >= 9000
    assert len(past._encode(document)) < 2 << 20


def test_the_largest_document_is_read_again() -> None:
    """As many samples as fit, in as many steps as there are."""
    history = History()
    for second in range(0, 100_000, 5):
        history.add(0.05 * 1.1 ** (second // 5 % 200), second)
    seen = Seen(lineage="x" * 36, ages=history.saved(29_000_000))
    content = past._encode(Document(followed={"g": seen}))
    assert len(content) < 400_000
    decoded: Any = past._decode(content)
    assert msgspec.to_builtins(decoded.followed["g"]) == msgspec.to_builtins(seen)
