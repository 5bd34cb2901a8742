"""Change recording against plain sets: at a primary over everything that changes a table, and at a
secondary over what arrives; through kills, power cuts at any record, checkpoints and cleaning."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from pyroaring import BitMap

from isochrone.errors import IsochroneError
from isochrone.store import changes, copies, relations, revert, volumes
from isochrone.store import records as r
from isochrone.store.catalogue import Group
from isochrone.store.changes import TRACK_BLOCKS
from isochrone.store.check import check_pool
from isochrone.store.cleaner import Cleaner
from isochrone.store.overwrite import Permission
from isochrone.store.pool import Pool
from isochrone.store.relations import Span, Wish
from isochrone.types import BLOCK, KIB, MIB, TRACK
from tests.store.pools import Rig, device, get, pattern, put, settle

GROUP = "g"
LINEAGE = "ab" * 16
AGREED = Permission(mirror="none")
MIRRORED = ["a", "b"]
NAMES = [*MIRRORED, "outside"]
PEERS = ["p", "q"]
SIZES = st.sampled_from([2 * MIB, 1 * MIB, 1 * MIB + 20 * KIB])
BLOCKS = st.sampled_from([0, 1, 15, 16, 17, 100, 255, 256, 259, 300, 500])
TRACKS = st.sampled_from([0, 1, 3, 7, 15, 16, 20])

Touched = dict[int, set[int]]  # volume -> tracks


def covered(block: int, count: int) -> set[int]:
    return set(range(block // TRACK_BLOCKS, -(-(block + count) // TRACK_BLOCKS)))


@dataclass
class Model:
    """What each remembered cut looked like, and what was touched after it."""

    images: dict[int, dict[int, bytes]] = field(default_factory=dict)  # cut -> volume -> bytes
    touched: dict[int, Touched] = field(default_factory=dict)  # cut -> since then

    def touch(self, volume: int, tracks: set[int]) -> None:
        for found in self.touched.values():
            found.setdefault(volume, set()).update(tracks)

    def place(self, cut: int, image: dict[int, bytes]) -> None:
        self.images[cut], self.touched[cut] = image, {}


def images(pool: Pool, group: Group) -> dict[int, bytes]:
    return {id: get(pool, pool.state.volumes[id].name) for id in group.volumes}


def differing(then: bytes, now: bytes) -> set[int]:
    """Tracks whose content differs; what is behind the end is zeros."""
    size = max(len(then), len(now))
    then, now = then.ljust(size, b"\0"), now.ljust(size, b"\0")
    return {at // TRACK for at in range(0, size, TRACK) if then[at:][:TRACK] != now[at:][:TRACK]}


class Machine(RuleBasedStateMachine):
    """What both sides have in common: lives, and what is compared."""

    rig: Rig
    pool: Pool
    step: int
    model: Model
    history: dict[int, Model]  # newest record -> the model then, for power cuts

    def start(self) -> None:
        self.rig = Rig()
        self.pool = self.rig.open()
        self.step, self.model, self.history = 0, Model(), {}

    @property
    def group(self) -> Group:
        return self.pool.state.groups[GROUP]

    def teardown(self) -> None:
        if hasattr(self, "model"):
            self.check()
            check_pool(self.pool)

    def check(self) -> None:
        state, group = self.pool.state, self.group
        marks = {mark.cut for mark in group.marks}
        assert marks <= set(self.model.touched)
        now = images(self.pool, group)
        for cut, touched in self.model.touched.items():
            found = changes.since(state, group, cut)
            if cut not in marks:
                assert found is None
                continue
            assert found is not None
            assert {id: set(bits) for id, bits in found.items()} == {
                id: tracks for id, tracks in touched.items() if tracks
            }
            assert changes.count_since(state, group, cut) == sum(map(len, touched.values()))
            for id, content in now.items():
                differs = differing(self.model.images[cut].get(id, b""), content)
                assert differs <= set(found.get(id, BitMap()))

    def done(self) -> None:
        """The end of a step: what a power cut may bring back."""
        self.step += 1
        self.history[self.pool.log.lsn] = deepcopy(self.model)

    @rule(how=st.sampled_from(["kill", "kill", "cut", "reopen", "checkpoint", "clean", "flush"]))
    def turn(self, how: str) -> None:
        match how:
            case "kill":
                self.pool = self.rig.kill()
            case "cut":
                self.pool = self.rig.cut(self.step)
                # What a step has as its first records, or a cleaner moved, changes nothing of it.
                lsn = self.pool.log.lsn
                self.history = {at: model for at, model in self.history.items() if at <= lsn}
                self.model = deepcopy(self.history[max(self.history)])
                self.after_loss()
            case "reopen":
                self.pool = self.rig.reopen(self.pool)
            case "checkpoint":
                settle(self.pool.checkpoint())
            case "clean":
                settle(Cleaner(self.pool).round())
            case "flush":
                settle(self.pool.flush())
        self.check()

    def after_loss(self) -> None:
        """Steps may have been undone."""


class Primary(Machine):
    @initialize(sizes=st.tuples(SIZES, SIZES, SIZES))
    def begin(self, sizes: tuple[int, int, int]) -> None:
        self.start()
        for name, size in zip(NAMES, sizes, strict=True):
            volumes.create(self.pool, name, size)
        ids = tuple(self.pool.state.names[name] for name in MIRRORED)
        self.pool.record(r.GroupCreated(name=GROUP, lineage=LINEAGE, volumes=ids))
        self.pool.record(r.SessionOpened(group=GROUP, peer=PEERS[0]))
        self.pool.record(r.CutPlaced(group=GROUP, cut=1, stamp=1))
        self.model.place(1, images(self.pool, self.group))
        settle(self.pool.flush())
        self.done()

    def blocks(self, name: str) -> int:
        return -(-self.size(name) // BLOCK)

    def size(self, name: str) -> int:
        return self.pool.state.volumes[self.pool.state.names[name]].size

    def touch(self, name: str, block: int, count: int) -> None:
        if name in MIRRORED:
            self.model.touch(self.pool.state.names[name], covered(block, count))

    def tries(self, act: object) -> bool:
        try:
            act()  # type: ignore[operator]
        except IsochroneError:
            return False
        return True

    @rule(name=st.sampled_from(NAMES), block=BLOCKS, count=st.integers(1, 20))
    def write(self, name: str, block: int, count: int) -> None:
        count = min(count, self.blocks(name) - block)
        if count > 0:
            put(self.pool, name, block * BLOCK, pattern(self.step, count * BLOCK))
            self.touch(name, block, count)
            self.done()

    @rule(name=st.sampled_from(NAMES), blocks=st.lists(BLOCKS, min_size=2, max_size=40))
    def write_many(self, name: str, blocks: list[int]) -> None:
        """Single blocks in one batch, as replay sees them in columns."""
        for block in blocks:
            if block < self.blocks(name):
                data = memoryview(pattern(self.step + block, BLOCK))
                device(self.pool, name).write(block * BLOCK, data)
                self.touch(name, block, 1)
        self.pool.commit()
        self.done()

    @rule(name=st.sampled_from(NAMES), block=BLOCKS, count=st.integers(1, 40))
    def discard(self, name: str, block: int, count: int) -> None:
        count = min(count, self.blocks(name) - block)
        if count > 0:
            device(self.pool, name).discard(block * BLOCK, count * BLOCK)
            self.pool.commit()
            self.touch(name, block, count)
            self.done()

    @rule(name=st.sampled_from(NAMES), size=SIZES)
    def resize(self, name: str, size: int) -> None:
        before = self.blocks(name)
        if self.tries(lambda: volumes.resize(self.pool, name, size, shrink=True)):
            if self.blocks(name) < before:
                self.touch(name, self.blocks(name), before - self.blocks(name))
            self.done()

    @rule(names=st.sets(st.sampled_from(NAMES), min_size=1))
    def copy(self, names: set[str]) -> None:
        if len(self.pool.state.copies) < 4:
            copies.take(self.pool, sorted(names), name=f"c{self.step}")
            self.done()

    @precondition(lambda self: self.pool.state.copies)
    @rule(data=st.data())
    def revert(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.pool.state.copies)))
        sizes = {volume: self.blocks(volume) for volume in NAMES}
        undo = f"u{self.step}"
        if self.tries(lambda: revert.revert(self.pool, name, undo_name=undo, permission=AGREED)):
            for source, _ in self.pool.state.copies[undo].members:
                volume = self.pool.state.volumes[source].name
                self.touch(volume, 0, max(sizes[volume], self.blocks(volume)))
            self.done()

    @rule(
        source=st.sampled_from(NAMES), onto=st.sampled_from(NAMES),
        first=TRACKS, at=TRACKS, count=st.integers(1, 4), once=st.booleans(),
    )  # fmt: skip
    def establish(
        self, source: str, onto: str, first: int, at: int, count: int, once: bool
    ) -> None:
        span = Span(first * TRACK, at * TRACK, count * TRACK)
        wish = Wish(source, onto, (span,))
        if self.tries(lambda: relations.establish(self.pool, [wish], once=once, permission=AGREED)):
            self.touch(onto, at * TRACK_BLOCKS, count * TRACK_BLOCKS)
            self.done()

    @precondition(lambda self: self.pool.state.relations)
    @rule(data=st.data(), how=st.sampled_from(["refresh", "restore", "keep", "discard"]))
    def related(self, data: st.DataObject, how: str) -> None:
        id = data.draw(st.sampled_from(sorted(self.pool.state.relations)))
        relation = self.pool.state.relations[id]
        extents, pool = list(relation.extents), self.pool
        target = pool.state.volumes[relation.target].name
        source = pool.state.volumes[relation.source].name
        act = {
            "refresh": lambda: relations.refresh(pool, [relation], AGREED),
            "restore": lambda: relations.restore(pool, [relation], AGREED),
            "keep": lambda: relations.withdraw(pool, [relation], discard=False),
            "discard": lambda: relations.withdraw(
                pool, [relation], discard=True, permission=AGREED
            ),
        }[how]
        if self.tries(act):
            for first, at, count in extents if how != "keep" else ():
                changed = (source, first) if how == "restore" else (target, at)
                self.touch(*changed, count)
            self.done()

    @rule(behind=st.dictionaries(st.sampled_from(PEERS), st.integers(0, 3), max_size=2))
    def cut(self, behind: dict[str, int]) -> None:
        cut = self.group.cut + 1
        acked = {peer: max(0, cut - 1 - n) for peer, n in behind.items()}
        self.pool.record(r.CutPlaced(group=GROUP, cut=cut, stamp=cut, acked=acked))
        self.model.place(cut, images(self.pool, self.group))
        self.done()

    @rule(peer=st.sampled_from(PEERS), how=st.sampled_from(["open", "open", "suspend", "close"]))
    def session(self, peer: str, how: str) -> None:
        there = peer in self.group.sessions
        if how == "open" and not there:
            self.pool.record(r.SessionOpened(group=GROUP, peer=peer))
        elif how == "suspend" and there:
            self.pool.record(r.SessionSuspended(group=GROUP, peer=peer, cause="x", stamp=1))
        elif how == "close" and there:
            self.pool.record(r.SessionClosed(group=GROUP, peer=peer))
        self.done()


class Secondary(Machine):
    """One volume `x`, and from the third cut on another one."""

    @initialize()
    def begin(self) -> None:
        self.start()
        self.pool.record(r.MirrorAdded(group=GROUP, source="there:1"))
        settle(self.pool.flush())
        self.pending: dict[int, Touched] = {}
        self.shadows: list[int] = []
        self.arrived: Touched = {}
        self.done()

    def after_loss(self) -> None:
        self.shadows, self.arrived = [], {}

    @rule(first=st.sampled_from([False, False, False, True]))
    def begin_group(self, first: bool) -> None:
        if self.group.role != "secondary":
            return
        group, state = self.group, self.pool.state
        places, ids = [], iter(state.new_ids(4))
        for remote, name in ((7, "x"), (8, "y"))[: 1 + (group.cut >= 2)]:
            local = group.remote_ids.get(remote) or next(ids)
            size = state.volumes[local].size if local in state.volumes else 2 * MIB
            places.append(r.IncomingVolume(remote, name, size, local, next(ids)))
        base = 0 if first else group.cut
        if base and len(places) > len(group.volumes):
            base = 0  # a new volume comes with a first copy
        self.pool.record(
            r.IncomingBegun(group=GROUP, lineage=LINEAGE, epoch=1, base=base, volumes=tuple(places))
        )
        self.base = base
        self.shadows, self.arrived = [v.shadow for v in places], {v.local: set() for v in places}
        self.done()

    @precondition(lambda self: self.shadows)
    @rule(at=st.integers(0, 1), block=BLOCKS, count=st.integers(1, 40), hole=st.booleans())
    def receive(self, at: int, block: int, count: int, hole: bool) -> None:
        shadow = self.shadows[at % len(self.shadows)]
        volume = self.pool.state.volumes[shadow]
        count = min(count, -(-volume.size // BLOCK) - block)
        if count > 0:
            if hole:
                self.pool.stage_discard(shadow, block, count)
            else:
                data = memoryview(pattern(self.step, count * BLOCK))
                self.pool.stage_write(shadow, block, data)
            self.pool.commit()
            self.arrived[volume.source] |= covered(block, count)
            self.done()

    @precondition(lambda self: self.shadows)
    @rule(size=SIZES)
    def resize(self, size: int) -> None:
        volume = self.pool.state.volumes[self.shadows[0]]
        before, after = -(-volume.size // BLOCK), -(-size // BLOCK)
        self.pool.record(r.VolumeResized(id=volume.id, size=size))
        if after < before:
            self.arrived[volume.source] |= covered(after, before - after)
        self.done()

    @precondition(lambda self: self.shadows)
    @rule()
    def commit(self) -> None:
        group = self.group
        cut = group.cut + 1
        self.pool.record(r.IncomingCommitted(group=GROUP, cut=cut, stamp=cut))
        if not self.base:
            self.model.touched.clear()
        for local, tracks in self.arrived.items():
            self.model.touch(local, tracks)
        self.model.place(cut, images(self.pool, group))
        self.after_loss()
        self.done()

    @precondition(lambda self: self.group.cut > 2)
    @rule(block=BLOCKS)
    def promote(self, block: int) -> None:
        """Then hosts write here."""
        if self.group.role == "secondary":
            self.pool.record(r.Promoted(group=GROUP, epoch=self.group.epoch + 1, stamp=1))
            self.after_loss()
            self.done()
        block = min(block, 255)
        put(self.pool, "x", block * BLOCK, pattern(self.step))
        self.model.touch(self.pool.state.names["x"], covered(block, 1))
        self.done()


TestPrimary = Primary.TestCase
TestPrimary.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestSecondary = Secondary.TestCase
TestSecondary.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
