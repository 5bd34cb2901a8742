"""Images that are sent, broken off and gone on with, lead to exactly the content of the cut."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from copy import deepcopy
from random import Random
from typing import Any

import pytest

from isochrone.errors import PeerFault
from isochrone.mirror import cuts, groups, images, shipment
from isochrone.mirror.messages import Command, Compare, Digests, Partial, Reached
from isochrone.mirror.shipment import Shipment, starting_at
from isochrone.mirror.sidefile import Blocks, HoleRanges
from isochrone.sim.fabric import SimFabric
from isochrone.sim.loop import run
from isochrone.sim.site import Site
from isochrone.store import changes, copies, volumes
from isochrone.store import records as r
from isochrone.store.pool import Pool
from isochrone.store.records import Position
from isochrone.store.tracks import blocks_of
from isochrone.store.volume import VolumeDevice
from isochrone.types import BLOCK, MIB, TRACK
from tests.mirror.sites import GROUP, LIMITS

PEER = "ee" * 16
NAMES = ("a", "b", "c")
Content = dict[int, int]  # block -> pointer


class BrokenOff(Exception):
    pass


class Primary:
    """A pool with a group, and what hosts may do to it."""

    def __init__(self, seed: int, size: int = 5 * MIB) -> None:
        site = Site("a", SimFabric(asyncio.get_running_loop(), Random(seed)), seed)
        self.dice = Random(seed)
        self.pool = Pool.open(site.disk, site.world, LIMITS)
        for name in NAMES:
            volumes.create(self.pool, name, size)
        self.group = groups.create(self.pool, GROUP, NAMES)
        self.pool.record(r.SessionOpened(group=GROUP, peer=PEER))
        self.stamps = 0

    def cut(self) -> Any:
        return cuts.place(self.pool, self.group, {PEER: self.group.sessions[PEER].cut})

    def write(self, name: str, block: int, count: int = 1) -> None:
        data = self.dice.randbytes(count * BLOCK)
        VolumeDevice(self.pool, self.pool.state.names[name]).write(block * BLOCK, memoryview(data))
        self.pool.commit()

    def discard(self, name: str, block: int, count: int) -> None:
        device = VolumeDevice(self.pool, self.pool.state.names[name])
        device.discard(block * BLOCK, count * BLOCK)
        self.pool.commit()

    def anything(self) -> None:
        """One thing that hosts or operators do."""
        dice, state = self.dice, self.pool.state
        name = dice.choice(NAMES)
        volume = state.volumes[state.names[name]]
        blocks = blocks_of(volume.size)
        at = dice.randrange(blocks)
        acts = ("write", "discard", "size", "copy", "delete", "clone")
        match dice.choices(acts, (9, 4, 1, 3, 1, 1))[0]:
            case "write":
                self.write(name, at, min(blocks - at, dice.choice((1, 3, 40))))
            case "discard":
                self.discard(name, at, min(blocks - at, dice.choice((1, 16, 100))))
            case "size":
                size = dice.choice((3, 4, 5, 6)) * MIB - dice.choice((0, BLOCK, TRACK))
                self.pool.record(r.VolumeResized(id=volume.id, size=size))
            case "copy":
                self.stamps += 1
                taken = [n for n in NAMES if dice.random() < 0.7] or [name]
                copies.take(self.pool, taken, name=f"copy-{self.stamps}")
                if dice.random() < 0.3:
                    copies.classify(self.pool, f"copy-{self.stamps}", "application")
            case "delete" if state.copies:
                copies.delete(self.pool, dice.choice(sorted(state.copies)))
            case "clone":
                self.stamps += 1
                copies.take(self.pool, [name], name=f"clone-{self.stamps}", writable=True)
                if dice.random() < 0.5:
                    self.write(f"{name}@clone-{self.stamps}", dice.randrange(blocks))

    def content(self, id: int) -> Content:
        forest, state = self.pool.state.forest, self.pool.state
        blocks = blocks_of(state.volumes[id].size)
        pointers, _ = forest.row(state.tables[id], 0, blocks)
        return {at: pointer for at, pointer in enumerate(pointers) if pointer}

    def group_content(self) -> dict[int, Content]:
        return {id: self.content(id) for id in self.group.volumes}


class Secondary:
    """What arrives: content by volume, copies, and how far it is known to have come."""

    def __init__(self, content: dict[int, Content], dice: Random) -> None:
        self.shadows = {id: dict(of) for id, of in content.items()}
        self.copies: dict[str, dict[int, Content]] = {}
        self.consistency: dict[str, str] = {}
        self.safe: Any = None
        self.position: Position | None = None
        self.taken_since = False
        self.blocks = 0
        self.left = 1 << 62
        self.dice = dice
        self.fuse = -1

    def _burn(self) -> None:
        if self.fuse == 0:
            raise BrokenOff
        self.fuse -= 1

    async def item(self, item: Any) -> int:
        self._burn()
        match item:
            case Blocks():
                for block, pointer in zip(item.blocks, item.pointers, strict=True):
                    self.shadows[item.volume][block] = pointer
                self.blocks += len(item.blocks)
                assert list(item.blocks) == sorted(item.blocks)
                return len(item.blocks)
            case HoleRanges(ranges=ranges):
                for volume, block, count in ranges:
                    assert count > 0
                    for at in range(block, block + count):
                        self.shadows[volume].pop(at, None)
        return 0

    async def breathe(self) -> None:
        pass

    async def send(self, message: Any) -> None:
        self._burn()
        match message:
            case Reached() as at:
                self.position = Position(at.floor, at.begun, at.step, at.volume, at.block)
                self.taken_since = False
                self.safe = deepcopy((self.shadows, self.copies, self.position))
            case Command(body=body):
                self.command(r.decode(body))

    def crash(self) -> None:
        """What came after the newest word of how far it has come is lost."""
        if self.position is not None:
            self.shadows, self.copies, self.position = deepcopy(self.safe)
            self.taken_since = False

    def command(self, record: r.AnyRecord) -> None:
        match record:
            case r.VolumeResized(id=id, size=size):
                for block in [b for b in self.shadows[id] if b >= blocks_of(size)]:
                    del self.shadows[id][block]
            case r.CopyDeleted(name=name):
                self.copies.pop(name, None)
            case r.CopyTaken(name=name, members=members):
                assert name not in self.copies
                self.copies[name] = {source: dict(self.shadows[source]) for source, _ in members}
                self.taken_since = True
            case r.CopyClassified(name=name, consistency=what):
                self.consistency[name] = what
            case other:
                raise AssertionError(other)

    def partial(self, primary: Primary, base: int) -> Partial | None:
        at, group = self.position, primary.group
        if at is None or (self.taken_since and at.begun):
            return None
        step, volume, block = at.step, at.volume, at.block
        if self.taken_since:
            step, volume, block = step + 1, 0, 0
        return Partial(
            pool=primary.pool.identity, lineage=group.lineage, epoch=group.epoch, base=base,
            floor=at.floor, begun=at.begun, step=step, volume=volume, block=block,
        )  # fmt: skip


def in_a_loop(act: Callable[[], Any]) -> None:
    async def main() -> None:
        await act()

    run(main())


def ship(primary: Primary, base: int, offered: Partial | None) -> tuple[Shipment, Any]:
    start = starting_at(primary.pool, primary.group, base, offered)
    assert start is not None
    mark = cuts.place(
        primary.pool, primary.group, {PEER: base}, whole=PEER, begun=(start.floor, start.begun)
    )
    return Shipment(primary.pool, primary.group, mark, start, base=base, told=True), mark


async def break_off(
    primary: Primary, there: Secondary, offered: Partial | None, *, fuse: int
) -> None:
    """A first copy whose connection breaks after so many messages."""
    sending, _ = ship(primary, 0, offered)
    there.fuse = fuse
    with pytest.raises(BrokenOff):
        await sending.send(there)  # type: ignore[arg-type]
    sending.close()


def expected_copies(primary: Primary, after: int) -> dict[str, dict[int, Content]]:
    state = primary.pool.state
    return {
        copy.name: {source: primary.content(member) for source, member in copy.members}
        for copy in state.copies.values()
        if copy.lsn > after
        and all(state.volumes[m].changed_lsn == copy.lsn for _, m in copy.members)
    }


@pytest.mark.parametrize("first", [False, True], ids=["resend", "first copy"])
@pytest.mark.parametrize("seed", range(60))
def test_whatever_happens_meanwhile(
    seed: int, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken off again and again, with writes between, it ends with the content of the cut."""
    monkeypatch.setattr(shipment, "PROGRESS_BYTES", (8, 120)[seed % 2] * BLOCK)
    monkeypatch.setattr(images, "DATA_BLOCKS_MAX", 4)

    async def act() -> None:
        primary = Primary(seed)
        dice = Random(seed)
        for _ in range(15):
            primary.anything()
        content = {id: {} for id in primary.group.volumes} if first else primary.group_content()
        base = 0 if first else primary.cut().cut
        after = primary.pool.log.lsn
        for _ in range(dice.choice((0, 3, 30))):
            primary.anything()
        there = Secondary(content, dice)
        for attempt in range(30):
            offered = there.partial(primary, base)
            if offered is None:  # the shadows of a part that cannot be gone on with are dropped
                there = Secondary(content, dice)
            sending, _mark = ship(primary, base, offered)
            assert sending.resumed is (offered is not None)
            content_then = primary.group_content()
            copies_then = expected_copies(primary, after if not first else 1 << 62)
            for _ in range(dice.choice((0, 2, 6))):  # hosts go on while it is sent
                primary.anything()
            there.fuse = -1 if attempt == 29 else dice.choice((1, 5, 20, 60, 200))
            pins = len(primary.pool.state.pins)
            try:
                await sending.send(there)  # type: ignore[arg-type]
                break
            except BrokenOff:
                if dice.random() < 0.5:
                    there.crash()
            finally:
                sending.close()
                assert len(primary.pool.state.pins) < pins
        assert there.shadows == content_then
        assert there.shadows.keys() == set(primary.group.volumes)
        for name, members in copies_then.items():
            assert there.copies[name] == members, name
        gone = set(there.copies) - set(copies_then)
        if not first:
            assert all(
                name not in primary.pool.state.copies or primary.pool.state.copies[name].writable
                for name in gone
            )
        assert sending.todo == 0

    in_a_loop(act)


def test_what_was_sent_and_is_gone_by_now_becomes_a_hole(monkeypatch: pytest.MonkeyPatch) -> None:
    """It came after the newest word of how far it was, and the new image has nothing there."""
    monkeypatch.setattr(images, "DATA_BLOCKS_MAX", 4)

    async def act() -> None:
        primary = Primary(1)
        primary.write("a", 0, 64)
        there = Secondary({id: {} for id in primary.group.volumes}, primary.dice)
        await break_off(primary, there, None, fuse=8)
        assert there.blocks
        primary.discard("a", 0, 64)
        primary.write("a", 2)
        there.fuse = -1
        sending, _ = ship(primary, 0, there.partial(primary, 0))
        assert sending.resumed
        await sending.send(there)  # type: ignore[arg-type]
        assert there.shadows == primary.group_content()

    in_a_loop(act)


def test_a_connection_that_breaks_at_once_loses_nothing_of_the_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shipment, "PROGRESS_BYTES", 8 * BLOCK)
    monkeypatch.setattr(images, "DATA_BLOCKS_MAX", 4)

    async def act() -> None:
        primary = Primary(1)
        primary.write("a", 0, 64)
        there = Secondary({id: {} for id in primary.group.volumes}, primary.dice)
        await break_off(primary, there, None, fuse=20)
        reached = there.position
        assert reached is not None
        assert reached.block > 16
        for fuse in (1, 2, 3):
            await break_off(primary, there, there.partial(primary, 0), fuse=fuse)
            there.crash()
            assert there.position == reached

    in_a_loop(act)


def test_a_resend_sends_what_was_changed_and_little_more() -> None:
    async def act() -> None:
        primary = Primary(1, 64 * MIB)
        for name in NAMES:
            primary.write(name, 0, 16 * 1024)
        base = primary.cut().cut
        content = primary.group_content()
        for _ in range(100):
            name = primary.dice.choice(NAMES)
            primary.write(name, primary.dice.randrange(16 * 1024 - 16), 16)
        changed = changes.count_since(primary.pool.state, primary.group, base)
        there = Secondary(content, primary.dice)
        sending, _ = ship(primary, base, None)
        assert changed is not None
        assert sending.todo == changed * 16
        await sending.send(there)  # type: ignore[arg-type]
        assert there.blocks == sending.sent <= changed * 16
        assert there.shadows == primary.group_content()

    in_a_loop(act)


def test_what_the_other_side_changed_itself_is_sent_too() -> None:
    async def act() -> None:
        primary = Primary(1)
        primary.write("a", 0, 64)
        base = primary.cut().cut
        there = Secondary(primary.group_content(), primary.dice)
        id = primary.group.volumes[0]
        there.shadows[id][17] = 4711
        start = Position(floor=base)
        mark = cuts.place(primary.pool, primary.group, {PEER: base})
        diverged = {id: changes.whole(2 * TRACK)}
        sending = Shipment(
            primary.pool, primary.group, mark, start, base=base, told=True, diverged=diverged
        )
        await sending.send(there)  # type: ignore[arg-type]
        assert there.shadows == primary.group_content()
        assert there.blocks == 32

    in_a_loop(act)


def test_what_was_said_of_copies_comes_also_when_the_second_try_breaks_off() -> None:
    """Its base was never remembered, so where it goes on is behind what was said."""

    async def act() -> None:
        primary = Primary(1)
        pool, group = primary.pool, primary.group
        copies.take(pool, ["a"], name="c1")
        base = primary.cut().cut
        copies.classify(pool, "c1", "application")
        floor = primary.cut()
        begun = cuts.place(pool, group, {PEER: base}, whole=PEER, begun=(floor.cut,))
        start = Position(floor.cut, begun.cut, begun.lsn)
        mark = cuts.place(pool, group, {PEER: base}, whole=PEER, begun=(floor.cut, begun.cut))
        assert group.mark(base) is None
        sending = Shipment(pool, group, mark, start, base=base, told=True)
        said = [x for part in sending._way.passes for x in part.ending]
        assert r.CopyClassified(name="c1", consistency="application") in said
        sending.close()

    in_a_loop(act)


def test_a_part_of_somebody_else_is_not_gone_on_with() -> None:
    async def act() -> None:
        primary = Primary(1)
        base = primary.cut().cut
        begun = cuts.place(primary.pool, primary.group, {PEER: base}).cut
        good = {
            "pool": primary.pool.identity, "lineage": primary.group.lineage, "epoch": 1,
            "base": base, "floor": base, "begun": begun, "step": 9, "volume": 1, "block": 5,
        }  # fmt: skip
        found = starting_at(primary.pool, primary.group, base, Partial(**good))  # type: ignore[arg-type]
        assert found == Position(base, begun, 9, 1, 5)
        wrong: dict[str, Any] = {
            "pool": "x", "lineage": "x", "epoch": 2, "base": 0, "floor": 77, "begun": 1 << 60,
        }  # fmt: skip
        for field, value in wrong.items():
            offered = Partial(**{**good, field: value})  # type: ignore[arg-type]
            started = starting_at(primary.pool, primary.group, base, offered)
            assert started == Position(floor=base), field
        assert starting_at(primary.pool, primary.group, 77, None) is None

    in_a_loop(act)


def test_digests_that_nobody_asked_for() -> None:
    async def act() -> None:
        primary = Primary(1)
        sending, _ = ship(primary, 0, None)
        with pytest.raises(PeerFault, match="nobody asked"):
            sending.answered(Digests(volume=1, track=0, digests=b""))
        for wrong in (
            Digests(volume=2, track=0, digests=b""),
            Digests(volume=1, track=1, digests=b""),
            Digests(volume=1, track=0, digests=bytes(8)),
        ):
            sending._asked = Compare(volume=1, track=0, count=2)
            sending._answer = asyncio.get_running_loop().create_future()
            with pytest.raises(PeerFault):
                sending.answered(wrong)

    in_a_loop(act)
