"""A primary is not trusted: what it should not say is refused, and leaves nothing behind.

And a group appears as one step, over all volumes, whatever a power cut does around it.
"""

from __future__ import annotations

import asyncio
import errno
from array import array
from collections.abc import Callable
from random import Random
from typing import Any, Literal, get_args, get_origin

import msgspec
import pytest

from isochrone.errors import Conflict, Damaged, IsochroneError, NoSpace, PeerFault
from isochrone.mirror.apply import Receiver
from isochrone.mirror.messages import (
    COMMAND_BYTES_MAX,
    Begin,
    Command,
    Compare,
    Cut,
    Data,
    Holes,
    Partial,
    Reached,
    RemoteVolume,
)
from isochrone.mirror.partial import part_of
from isochrone.sim.fabric import SimFabric
from isochrone.sim.loop import Crashed, run
from isochrone.sim.site import Site
from isochrone.store import copies, volumes
from isochrone.store import records as r
from isochrone.store.check import check_pool
from isochrone.store.pool import Pool
from isochrone.store.volume import VolumeDevice
from isochrone.types import BLOCK, MIB, VOLUME_BYTES_MAX, Lineage
from tests.mirror.messages import data
from tests.mirror.sites import LIMITS, fill

LINEAGE = Lineage("11" * 16, 1)
PRIMARY = "aa" * 16
DB, WAL = RemoteVolume(70, "db", MIB), RemoteVolume(71, "wal", MIB)
BOTH = (DB, WAL)
SENT: dict[str, Any] = {}


def blocks_of(volume: int, blocks: list[int], text: str) -> Data:
    return data(volume, blocks, b"".join(fill(f"{text} {at}") for at in blocks))


def record(body: r.AnyRecord) -> Command:
    return Command(body=r.encode(body))


def taken(name: str = "c1", members=((70, 900), (71, 901)), writable: bool = False) -> Command:
    return record(r.CopyTaken(name=name, writable=writable, stamp=1, members=tuple(members)))


def copied(*steps: tuple[int, int, tuple[int, int, int]], once: bool = True) -> Command:
    """Parts of volumes become parts of others."""
    new = tuple(r.NewRelation(0, source, target, (extent,)) for source, target, extent in steps)
    return record(r.RelationsEstablished(relations=new, stamp=0, once=once))


class Secondary:
    """A pool with a mirrored group, and a receiver, outside any connection."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.open()

    def open(self) -> None:
        self.pool = Pool.open(self.site.disk, self.site.world, LIMITS)
        if "g" not in self.pool.state.groups:
            self.pool.record(r.MirrorAdded(group="g", source="a:7001"))
        self.connect()

    def connect(self) -> None:
        """A new connection: what the last one left is known from the log alone."""
        self.group = self.pool.state.groups["g"]
        self.receiver = Receiver(self.pool, self.group, LINEAGE, PRIMARY)

    def send(self, *messages: Any) -> None:
        for message in messages:
            take: dict[type, Callable[[Any], None]] = {
                Begin: self.receiver.begin,
                Data: self.receiver.data,
                Holes: self.receiver.holes,
                Command: self.receiver.command,
                Reached: self.receiver.reached,
                Compare: self.receiver.compare,
                Cut: self.receiver.commit,
            }
            take[type(message)](message)

    def cut(self, cut: int, base: int, *messages: Any) -> None:
        """One whole group."""
        blocks = sum(len(m.blocks) for m in messages if isinstance(m, Data))
        self.send(Begin(base=base, cut=cut, volumes=BOTH), *messages)
        self.send(Cut(cut=cut, stamp=cut, blocks=blocks, token=0))

    def seen(self) -> dict[str, bytes]:
        """Everything a client of this site can see."""
        found = {}
        for name, id in self.pool.state.names.items():
            device = VolumeDevice(self.pool, id)
            found[name] = b"".join(device.read(0, device.size))
        return found


def in_a_pool(act: Callable[[Secondary], Any], *, first: bool = True) -> None:
    """Run a test on a secondary; by default cut 1 is there."""

    async def main() -> None:
        site = Site("b", SimFabric(asyncio.get_running_loop(), Random(1)), 1)
        there = Secondary(site)
        if first:
            there.cut(1, 0, blocks_of(70, [0, 1], "one"), blocks_of(71, [0], "one"))
        act(there)

    run(main())


def test_what_was_refused_half_way_is_nobody_elses_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the next client here, who wants to free space perhaps, is told of a full pool."""

    def act(there: Secondary) -> None:
        pool = there.pool
        there.send(Begin(base=1, cut=2, volumes=BOTH))

        def refuse(*of: Any, **how: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(pool.space, "full", True)
            patch.setattr(pool.space, "keeps", lambda table, pointers: False)
            patch.setattr(pool.log, "append", refuse)
            with pytest.raises(NoSpace):
                there.send(blocks_of(70, [0, 9], "x"))
        pool.commit()
        with pytest.raises(PeerFault):
            there.send(Holes(ranges=((70, 0, 1), (99, 0, 1))))
        lsn = pool.log.lsn
        pool.commit()
        assert pool.log.lsn == lsn

    in_a_pool(act)


def test_a_first_copy_appears_at_its_end() -> None:
    def act(there: Secondary) -> None:
        there.send(Begin(base=0, cut=5, volumes=BOTH), blocks_of(70, [3, 4, 9], "x"))
        assert there.receiver.bytes_collected == 3 * BLOCK
        there.send(Holes(ranges=()), taken())
        assert there.seen() == {}
        assert not there.pool.state.copies
        there.send(Cut(cut=5, stamp=99, blocks=3, token=0))
        assert set(there.seen()) == {"db", "wal", "db@c1", "wal@c1"}
        assert there.seen()["db"][3 * BLOCK : 4 * BLOCK] == fill("x 3")
        assert there.group.cut == 5
        assert there.group.cut_stamp == 99
        assert there.group.identity == LINEAGE
        assert not any(v.kind == "shadow" for v in there.pool.state.volumes.values())
        check_pool(there.pool)

    in_a_pool(act, first=False)


def test_everything_a_group_may_hold() -> None:
    def act(there: Secondary) -> None:
        before = there.seen()["db"]
        there.cut(
            2, 1,
            blocks_of(70, [5], "before the copy"), taken(),
            Holes(ranges=((70, 0, 1),)), blocks_of(70, [5, 6], "after"),
            record(r.VolumeResized(id=71, size=2 * MIB)), blocks_of(71, [500], "grown"),
        )  # fmt: skip
        seen = there.seen()
        assert (
            seen["db@c1"] == before[: 5 * BLOCK] + fill("before the copy 5") + before[6 * BLOCK :]
        )
        assert seen["db"][:BLOCK] == bytes(BLOCK)
        assert seen["db"][5 * BLOCK : 7 * BLOCK] == fill("after 5") + fill("after 6")
        assert seen["wal"][500 * BLOCK : 501 * BLOCK] == fill("grown 500")
        there.cut(3, 2, record(r.CopyDeleted(name="c1")), taken("c2"))
        there.cut(4, 3, taken("c3"), record(r.CopyDeleted(name="c3")))
        assert set(there.pool.state.copies) == {"c2"}
        assert set(there.seen()) == {"db", "wal", "db@c2", "wal@c2"}
        check_pool(there.pool)

    in_a_pool(act)


def test_a_copy_onto_a_volume_has_its_place_among_the_writes() -> None:
    def act(there: Secondary) -> None:
        there.cut(
            2, 1,
            blocks_of(70, [5], "before"), copied((70, 71, (5, 16, 3)), (71, 70, (0, 64, 1))),
            blocks_of(70, [5], "after"), taken(), blocks_of(71, [17], "own"),
        )  # fmt: skip
        seen = there.seen()
        assert seen["wal"][16 * BLOCK : 18 * BLOCK] == fill("before 5") + fill("own 17")
        assert seen["wal@c1"][16 * BLOCK : 18 * BLOCK] == fill("before 5") + bytes(BLOCK)
        assert seen["db"][64 * BLOCK : 65 * BLOCK] == fill("one 0")
        assert there.pool.state.relations == {}
        check_pool(there.pool)

    in_a_pool(act)


def test_what_a_copy_is_may_be_known_before_or_after_it_appears() -> None:
    def act(there: Secondary) -> None:
        def known(name: str) -> Command:
            return record(r.CopyClassified(name=name, consistency="application"))

        there.cut(2, 1, taken("c1"), known("c1"), taken("c2"), taken("c3"))
        there.cut(3, 2, known("c2"), known("nobody"))
        found = {copy.name: copy.consistency for copy in there.pool.state.copies.values()}
        assert found == {"c1": "application", "c2": "application", "c3": "crash"}

    in_a_pool(act)


# -- what is refused

BEGIN = Begin(base=1, cut=2, volumes=BOTH)
REACHED = Reached(floor=1, begun=2, step=9, volume=70, block=4, left=0)
NOTHING = Cut(cut=2, stamp=1, blocks=0, token=0)


def damaged() -> Data:
    good = blocks_of(70, [0], "x")
    return Data(good.volume, good.blocks, array("Q", [good.sums[0] ^ 1]), good.payload)


HOSTILE: dict[str, tuple[Any, ...]] = {
    "wrong base": (Begin(base=7, cut=9, volumes=BOTH),),
    "old base": (Begin(base=1, cut=1, volumes=BOTH),),
    "cut repeated": (Begin(base=0, cut=1, volumes=BOTH),),
    "no volumes": (Begin(base=1, cut=2, volumes=()),),
    "no volumes in a full copy": (Begin(base=0, cut=2, volumes=()),),
    "a volume missing": (Begin(base=1, cut=2, volumes=(DB,)),),
    "a volume more": (Begin(base=1, cut=2, volumes=(*BOTH, RemoteVolume(72, "x", MIB))),),
    "a volume twice": (Begin(base=1, cut=2, volumes=(*BOTH, WAL)),),
    "a name twice": (Begin(base=0, cut=2, volumes=(DB, RemoteVolume(71, "db", MIB))),),
    "no size": (Begin(base=0, cut=2, volumes=(DB, RemoteVolume(71, "wal", 0))),),
    "a huge size": (Begin(base=0, cut=2, volumes=(DB, RemoteVolume(71, "wal", 1 << 62))),),
    "data before begin": (blocks_of(70, [0], "x"),),
    "holes before begin": (Holes(ranges=((70, 0, 1),)),),
    "a copy before begin": (taken(),),
    "a deletion before begin": (record(r.CopyDeleted(name="c1")),),
    "a resize before begin": (record(r.VolumeResized(id=70, size=2 * MIB)),),
    "a cut without begin": (NOTHING,),
    "unknown volume in data": (BEGIN, blocks_of(72, [0], "x")),
    "a local id in data": (BEGIN, blocks_of(1, [0], "x")),
    "unknown volume in holes": (BEGIN, Holes(ranges=((70, 0, 1), (72, 0, 1)))),
    "unknown volume in a resize": (BEGIN, record(r.VolumeResized(id=72, size=2 * MIB))),
    "past the end": (BEGIN, blocks_of(70, [255, 256], "x")),
    "far past the end": (BEGIN, blocks_of(70, [2**64 - 1], "x")),
    "past the end after a good run": (BEGIN, blocks_of(70, [0, 1, 300], "x"), NOTHING),
    "bad checksum": (BEGIN, damaged()),
    "too few blocks": (BEGIN, Cut(cut=2, stamp=1, blocks=1, token=0)),
    "too many blocks": (BEGIN, blocks_of(70, [0], "x"), NOTHING),
    "another cut than promised": (BEGIN, Cut(cut=3, stamp=1, blocks=0, token=0)),
    "an older cut than promised": (BEGIN, Cut(cut=1, stamp=1, blocks=0, token=0)),
    "a cut twice": (BEGIN, Cut(cut=2, stamp=1, blocks=1, token=0), NOTHING),
    "unknown record": (BEGIN, Command(body=b"\x81\xa1t\xa7tomorrow")),
    "no record": (BEGIN, Command(body=b"")),
    "a record that is no text": (
        BEGIN, Command(body=b"\x82\xa1t\xaccopy-deleted\xa4name\xa1\xff"),
    ),
    "progress without a group": (REACHED,),
    "progress of a group from the log": (BEGIN, REACHED),
    "progress in an unknown volume": (
        msgspec.structs.replace(BEGIN, images=True), msgspec.structs.replace(REACHED, volume=72),
    ),
    "going on with nothing": (msgspec.structs.replace(BEGIN, images=True, resumed=True),),
    "a comparison before begin": (Compare(volume=70, track=0, count=1),),
    "a comparison behind the end": (BEGIN, Compare(volume=70, track=16, count=1)),
    "a comparison of an unknown volume": (BEGIN, Compare(volume=72, track=0, count=1)),
    "a bottomless record": (
        BEGIN, Command(body=b"\x82\xa1t\xaccopy-deleted\xa1x" + b"\x91" * (COMMAND_BYTES_MAX - 20)),
    ),
    "copy without volumes of the group": (BEGIN, taken(members=((72, 900),))),
    "copy of nothing": (BEGIN, taken(members=())),
    "copy of one volume twice": (BEGIN, taken(members=((70, 900), (70, 901)))),
    "copy with a bad name": (BEGIN, taken("x@y")),
    "copy with no name": (BEGIN, taken("")),
    "copy with a huge name": (BEGIN, taken("x" * 100_000)),
    "deletion of a bad name": (BEGIN, record(r.CopyDeleted(name="c1@5"))),
    "a copied part before begin": (copied((70, 71, (0, 0, 16))),),
    "nothing is copied": (BEGIN, copied()),
    "an unknown source": (BEGIN, copied((72, 71, (0, 0, 16)))),
    "an unknown target": (BEGIN, copied((70, 72, (0, 0, 16)))),
    "copied from behind the end": (BEGIN, copied((70, 71, (250, 0, 16)))),
    "copied behind the end": (BEGIN, copied((70, 71, (0, 250, 16)))),
    "copied from before the start": (BEGIN, copied((70, 71, (-1, 0, 16)))),
    "a part without blocks": (BEGIN, copied((70, 71, (0, 0, 0)))),
    "two parts at one place": (BEGIN, copied((70, 71, (0, 0, 16)), (70, 71, (32, 8, 16)))),
    "too many parts": (BEGIN, copied(*[(70, 71, (0, n % 200, 1)) for n in range(1025)])),
    "resize to nothing": (BEGIN, record(r.VolumeResized(id=70, size=0))),
    "resize below nothing": (BEGIN, record(r.VolumeResized(id=70, size=-MIB))),
    "resize beyond all": (BEGIN, record(r.VolumeResized(id=70, size=VOLUME_BYTES_MAX + 512))),
}  # fmt: skip

MIRRORED = {
    r.CopyTaken, r.CopyClassified, r.CopyDeleted, r.VolumeResized, r.RelationsMirrored,
    r.RelationsEstablished,  # if it is only the content
}  # fmt: skip


def example(kind: type[Any]) -> Any:
    """A record, or a part of one, with something in every field that must be there."""
    required = [field for field in msgspec.structs.fields(kind) if field.required]
    return kind(**{field.name: something(field.type) for field in required})


def something(kind: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return example(kind)
    origin, values = get_origin(kind), {int: 1, str: "x", bool: True, float: 1.0, bytes: b"x"}
    if origin is Literal:
        return get_args(kind)[0]
    return origin() if origin in (tuple, dict, list) else values[kind]


# Every other kind that there is, those of tomorrow included.
FOREIGN = [
    *(example(kind) for kind in r.AnyRecord.__args__ if kind not in MIRRORED),
    r.RelationsEstablished(relations=(), stamp=1),
]


def refuses(there: Secondary, messages: tuple[Any, ...]) -> IsochroneError:
    """Nothing of it becomes visible, now or after a restart, and the next cut is exact."""
    before, copies_before = there.seen(), set(there.pool.state.copies)
    with pytest.raises(IsochroneError) as e:
        there.send(*messages)
    assert there.seen() == before
    assert set(there.pool.state.copies) == copies_before
    assert there.group.cut == 1
    there.pool.abandon()
    there.site.crash(power=False)
    there.open()
    assert there.seen() == before
    assert there.group.cut == 1
    there.cut(2, 1, blocks_of(70, [1], "two"))
    assert there.seen()["db"] == before["db"][:BLOCK] + fill("two 1") + before["db"][2 * BLOCK :]
    assert there.seen()["wal"] == before["wal"]
    check_pool(there.pool)
    return e.value


@pytest.mark.parametrize("what", HOSTILE)
def test_it_is_refused_and_leaves_nothing(what: str) -> None:
    def act(there: Secondary) -> None:
        error = refuses(there, HOSTILE[what])
        assert isinstance(error, Damaged if what == "bad checksum" else PeerFault)
        assert len(error.message) < 500

    in_a_pool(act)


@pytest.mark.parametrize("body", FOREIGN, ids=lambda b: type(b).__name__)
def test_only_few_kinds_of_record_can_be_mirrored(body: r.AnyRecord) -> None:
    def act(there: Secondary) -> None:
        assert "cannot be mirrored" in refuses(there, (BEGIN, record(body))).message

    in_a_pool(act)


@pytest.mark.parametrize("name", ["", "a@b", "a~1", "../x", "a b", "x" * 129, "\n"])
def test_volumes_with_bad_names(name: str) -> None:
    def act(there: Secondary) -> None:
        with pytest.raises(PeerFault, match="bad name"):
            there.send(Begin(base=0, cut=1, volumes=(RemoteVolume(70, name, MIB),)))
        assert there.group.incoming is None

    in_a_pool(act, first=False)


def test_huge_holes_are_cut_at_the_end() -> None:
    def act(there: Secondary) -> None:
        there.cut(2, 1, Holes(ranges=((70, 0, 1 << 62), (71, 1 << 62, 1 << 62), (71, 0, 0))))
        assert not any(there.seen()["db"])
        assert there.seen()["wal"][:BLOCK] == fill("one 0")

    in_a_pool(act)


# -- names


@pytest.mark.parametrize("incoming", [False, True])
def test_a_name_that_is_taken_here(incoming: bool) -> None:
    def act(there: Secondary) -> None:
        if incoming:
            there.pool.record(r.MirrorAdded(group="h", source="c:1"))
            other = Receiver(there.pool, there.pool.state.groups["h"], Lineage("22" * 16, 1))
            other.begin(Begin(base=0, cut=1, volumes=(RemoteVolume(1, "wal", MIB),)))
        else:
            volumes.create(there.pool, "wal", MIB)
        with pytest.raises(Conflict, match="'wal'") as e:
            there.send(Begin(base=0, cut=1, volumes=BOTH))
        assert e.value.hint
        assert there.group.incoming is None

    in_a_pool(act, first=False)


def test_a_name_that_is_promised_cannot_be_taken_meanwhile() -> None:
    def act(there: Secondary) -> None:
        there.send(Begin(base=0, cut=1, volumes=BOTH))
        with pytest.raises(Conflict):
            volumes.create(there.pool, "db", MIB)
        there.connect()
        there.send(Begin(base=0, cut=1, volumes=BOTH))  # its own promise is no obstacle
        there.send(Cut(cut=1, stamp=1, blocks=0, token=0))
        assert set(there.seen()) == {"db", "wal"}

    in_a_pool(act, first=False)


def test_a_copy_of_the_same_name_made_here_stays() -> None:
    def act(there: Secondary) -> None:
        copies.take(there.pool, ["db"], name="c1")
        there.cut(2, 1, taken("c1"))
        assert set(there.pool.state.copies) == {"c1", "c1~2"}
        assert set(there.seen()) == {"db", "wal", "db@c1", "db@c1~2", "wal@c1~2"}
        check_pool(there.pool)

    in_a_pool(act)


def test_a_deletion_spares_copies_made_here() -> None:
    def act(there: Secondary) -> None:
        copies.take(there.pool, ["db"], name="mine")
        there.cut(2, 1, record(r.CopyDeleted(name="mine")), record(r.CopyDeleted(name="nobody")))
        assert set(there.pool.state.copies) == {"mine"}

    in_a_pool(act)


# -- one after the other


def test_a_second_begin_drops_the_first() -> None:
    def act(there: Secondary) -> None:
        before = there.seen()
        there.send(BEGIN, blocks_of(70, [0, 9], "lost"), taken("lost"))
        there.send(Begin(base=1, cut=3, volumes=BOTH), blocks_of(71, [4], "kept"))
        assert there.receiver.bytes_collected == BLOCK
        there.send(Cut(cut=3, stamp=1, blocks=1, token=0))
        seen = there.seen()
        assert seen["db"] == before["db"]
        assert seen["wal"][4 * BLOCK : 5 * BLOCK] == fill("kept 4")
        assert not there.pool.state.copies
        ids = {v.id for v in there.pool.state.volumes.values() if v.kind != "point"}
        assert len(ids) == 2, "shadows or hidden members were left behind"

    in_a_pool(act)


def test_a_full_copy_replaces_what_was_there() -> None:
    def act(there: Secondary) -> None:
        there.send(Begin(base=0, cut=9, volumes=(DB, RemoteVolume(71, "wal", 2 * MIB))))
        there.send(blocks_of(70, [7], "new"))
        assert there.seen()["db"][:BLOCK] == fill("one 0")
        there.send(Cut(cut=9, stamp=1, blocks=1, token=0))
        assert there.seen()["db"] == bytes(7 * BLOCK) + fill("new 7") + bytes(MIB - 8 * BLOCK)
        assert there.seen()["wal"] == bytes(2 * MIB)

    in_a_pool(act)


# -- groups that are gone on with

IMAGES = Begin(base=0, cut=2, volumes=BOTH, images=True)
ON = Begin(base=0, cut=3, volumes=BOTH, images=True, resumed=True)


def restarted(there: Secondary) -> None:
    there.pool.abandon()
    there.site.crash(power=False)
    there.open()


def test_a_part_outlives_the_process_and_is_gone_on_with() -> None:
    def act(there: Secondary) -> None:
        there.send(IMAGES, blocks_of(70, [0, 1], "early"), REACHED, blocks_of(70, [2], "late"))
        restarted(there)
        part = part_of(there.pool, there.group)
        assert part == Partial(
            pool=PRIMARY, lineage=LINEAGE.id, epoch=1, base=0, floor=1, begun=2, step=9, volume=70,
            block=4, volumes=(70, 71),
        )  # fmt: skip
        there.send(ON, blocks_of(70, [1], "newer"), Cut(cut=3, stamp=1, blocks=1, token=0))
        assert there.seen()["db"][: 2 * BLOCK] == fill("early 0") + fill("newer 1")
        assert there.group.cut == 3
        assert part_of(there.pool, there.group) is None
        check_pool(there.pool)

    in_a_pool(act, first=False)


def test_a_copy_that_was_taken_since_is_not_taken_again() -> None:
    def act(there: Secondary) -> None:
        of_copy = msgspec.structs.replace(REACHED, begun=0)
        there.send(IMAGES, of_copy, taken("c1"))
        part = part_of(there.pool, there.group)
        assert part is not None
        assert (part.step, part.volume, part.block) == (10, 0, 0)
        restarted(there)
        assert part_of(there.pool, there.group) == part
        there.send(ON, msgspec.structs.replace(of_copy, step=12))
        assert part_of(there.pool, there.group).step == 12  # type: ignore[union-attr]
        there.send(taken("c2"), Cut(cut=3, stamp=1, blocks=0, token=0))
        assert set(there.pool.state.copies) == {"c1", "c2"}

    in_a_pool(act, first=False)


@pytest.mark.parametrize(
    "changed",
    [{"base": 1}, {"volumes": (DB, RemoteVolume(72, "wal", MIB))}, {"images": False}],
    ids=["another base", "other volumes", "by the log"],
)
def test_what_is_gone_on_with_is_what_was_offered(changed: dict[str, Any]) -> None:
    def act(there: Secondary) -> None:
        there.send(IMAGES, REACHED)
        there.connect()
        with pytest.raises(PeerFault):
            there.send(msgspec.structs.replace(ON, **changed))
        assert there.group.cut == 0

    in_a_pool(act, first=False)


def test_a_part_of_another_primary_or_epoch_is_not_gone_on_with() -> None:
    def act(there: Secondary) -> None:
        there.send(IMAGES, REACHED)
        for lineage, pool in ((LINEAGE, "bb" * 16), (Lineage("11" * 16, 2), PRIMARY)):
            receiver = Receiver(there.pool, there.group, lineage, pool)
            with pytest.raises(PeerFault, match="another group"):
                receiver.begin(ON)

    in_a_pool(act, first=False)


def test_a_seed_is_what_a_first_copy_starts_with() -> None:
    def act(there: Secondary) -> None:
        volumes.create(there.pool, "restored", 2 * MIB)
        device = VolumeDevice(there.pool, there.pool.state.names["restored"])
        device.write(0, memoryview(b"".join(fill(f"seed {n}") for n in range(300))))
        there.pool.commit()
        there.group.seeds = {"db": there.pool.state.names["restored"]}
        there.send(IMAGES)
        (answer,) = [there.receiver.compare(Compare(volume=70, track=0, count=16))]
        assert len(answer.digests) == 8 * 16
        assert there.receiver.compare(Compare(volume=71, track=0, count=16)).digests == b""
        there.send(blocks_of(70, [7], "new"), Cut(cut=2, stamp=1, blocks=1, token=0))
        seen = there.seen()
        assert seen["db"][6 * BLOCK : 8 * BLOCK] == fill("seed 6") + fill("new 7")
        assert len(seen["db"]) == MIB
        assert seen["restored"][7 * BLOCK : 8 * BLOCK] == fill("seed 7")
        assert there.group.seeds == {}
        there.pool.record(r.VolumeDeleted(id=there.pool.state.names["restored"]))
        check_pool(there.pool)

    in_a_pool(act, first=False)


# -- one step, or none


def cut_at(at: int, seed: int) -> tuple[int, str]:
    """Cut the power at a disk call around the commit of cut 2; (calls made, image found)."""
    found = ""
    calls = 0

    async def main() -> None:
        nonlocal found, calls
        fabric = SimFabric(asyncio.get_running_loop(), Random(1))
        site = Site("b", fabric, seed)
        there = Secondary(site)
        there.cut(1, 0, blocks_of(70, [0, 1], "one"), blocks_of(71, [0], "one"))
        await site.spawn(there.pool.flush())
        old = there.seen()
        start = site.platter.calls

        def watch(call: str, name: str) -> None:
            if site.platter.calls - start == at:
                site.crash(power=True)

        async def second() -> None:
            there.cut(
                2, 1, blocks_of(70, [0], "two"), taken(), blocks_of(71, [0, 200], "two"),
                record(r.VolumeResized(id=70, size=2 * MIB)), blocks_of(70, [1, 400], "two"),
                Holes(ranges=((71, 0, 1),)),
            )  # fmt: skip
            await there.pool.flush()
            there.pool.record(r.MirrorAdded(group="later", source="x"))
            await there.pool.flush()

        site.platter.watch = watch
        crashed = False
        try:
            await site.spawn(second())
        except Crashed:
            crashed = True
        site.platter.watch = None
        calls = site.platter.calls - start
        new = SENT.setdefault("new", there.seen()) if not crashed else SENT["new"]
        flushed = crashed and there.pool.log.durable > 0 and there.group.cut == 2 and (
            there.pool.log.durable >= there.pool.state.volumes[there.group.volumes[0]].changed_lsn
        )  # fmt: skip
        if not crashed:
            site.crash(power=True)
        there.open()
        seen = there.seen()
        assert seen in (old, new), "a mix of two cuts is visible"
        if flushed or not crashed:
            assert seen == new, "a cut that was hardened is lost"
        assert there.group.cut == (2 if seen == new else 1)
        check_pool(there.pool)
        found = "new" if seen == new else "old"
        if found == "old":
            there.cut(2, 1)
            assert there.seen() == old

    run(main())
    return calls, found


def test_a_power_cut_at_any_disk_call_leaves_the_old_image_or_the_new_one() -> None:
    calls, found = cut_at(0, 1)
    assert found == "new"
    assert calls > 10
    images = [cut_at(at, seed)[1] for at in range(1, calls + 1) for seed in range(6)]
    assert set(images) == {"old", "new"}
