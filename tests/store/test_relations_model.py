"""Volumes, copies and relations against plain dictionaries, over crashes and checkpoints."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from isochrone.errors import IsochroneError
from isochrone.store import copies, relations, revert, volumes
from isochrone.store.check import check_pool
from isochrone.store.cleaner import Cleaner
from isochrone.store.relations import Span, Wish
from isochrone.types import BLOCK, KIB, MIB, TRACK
from tests.store.pools import Rig, device, get, pattern, put, settle

TRACK_BLOCKS = TRACK // BLOCK
NAMES = ["a", "b", "c"]
SIZES = st.sampled_from([6 * MIB, 6 * MIB, 1 * MIB, 1 * MIB + 20 * KIB])
TRACKS = st.sampled_from([0, 1, 3, 15, 16, 63, 64, 65])
LENGTHS = st.sampled_from([1, 2, 16, 64])
BLOCKS = st.sampled_from([0, 1, 15, 16, 17, 255, 256, 1023, 1024, 1030])

Blocks = dict[int, bytes]


class Plain:
    """A volume as a dictionary; `own` are the blocks a host wrote since the relation's instant."""

    def __init__(self, size: int, blocks: Blocks) -> None:
        self.size = size
        self.blocks = dict(blocks)
        self.written: dict[int, int] = {}  # block -> step of the newest write

    def put(self, step: int, block: int, data: bytes) -> None:
        self.blocks[block], self.written[block] = data, step

    def wipe(self, block: int, count: int) -> None:
        for at in range(block, block + count):
            self.blocks.pop(at, None)
            self.written.pop(at, None)

    def read(self) -> bytes:
        found = bytearray(-(-self.size // BLOCK) * BLOCK)
        for at, data in self.blocks.items():
            found[at * BLOCK : (at + 1) * BLOCK] = data
        return bytes(found[: self.size])


class Bond:
    def __init__(self, source: str, target: str, extents: list[tuple[int, int, int]], step: int):
        self.source, self.target, self.extents, self.step = source, target, extents, step


class Machine(RuleBasedStateMachine):
    @initialize(sizes=st.tuples(SIZES, SIZES, SIZES))
    def begin(self, sizes: tuple[int, int, int]) -> None:
        self.rig = Rig()
        self.pool = self.rig.open()
        self.step = 0
        self.model: dict[str, Plain] = {}
        self.bonds: dict[int, Bond] = {}
        self.copies = 0
        for name, size in zip(NAMES, sizes, strict=True):
            volumes.create(self.pool, name, size)
            self.model[name] = Plain(size, {})

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            self.check()
            check_pool(self.pool)

    def check(self) -> None:
        for name, plain in self.model.items():
            assert get(self.pool, name) == plain.read(), name
        assert set(self.pool.state.names) == set(self.model)
        assert {x.id: x.extents for x in self.pool.state.relations.values()} == {
            id: bond.extents for id, bond in self.bonds.items()
        }

    def refused(self, act: Any) -> bool:
        """Whether a command is refused; then nothing has changed."""
        lsn = self.pool.log.lsn
        try:
            act()
        except IsochroneError:
            assert self.pool.log.lsn == lsn
            return True
        self.step += 1
        return False

    # -- hosts

    @rule(name=st.sampled_from(NAMES), block=BLOCKS, count=st.integers(1, 20))
    def write(self, name: str, block: int, count: int) -> None:
        plain = self.model[name]
        count = min(count, plain.size // BLOCK - block)
        if count > 0:
            self.step += 1
            data = pattern(self.step, count * BLOCK)
            put(self.pool, name, block * BLOCK, data)
            for n in range(count):
                plain.put(self.step, block + n, data[n * BLOCK : (n + 1) * BLOCK])

    @rule(name=st.sampled_from(NAMES), block=BLOCKS, count=st.integers(1, 40))
    def discard(self, name: str, block: int, count: int) -> None:
        plain = self.model[name]
        count = min(count, plain.size // BLOCK - block)
        if count > 0:
            self.step += 1
            device(self.pool, name).discard(block * BLOCK, count * BLOCK)
            self.pool.commit()
            plain.wipe(block, count)

    @rule(name=st.sampled_from(NAMES), size=SIZES)
    def resize(self, name: str, size: int) -> None:
        plain = self.model[name]
        if not self.refused(lambda: volumes.resize(self.pool, name, size, shrink=True)):
            blocks = -(-size // BLOCK)
            plain.wipe(blocks, max(0, -(-plain.size // BLOCK) - blocks))
            plain.size = size
        else:
            assert any(name in (b.source, b.target) for b in self.bonds.values())

    # -- copies

    @rule(names=st.sets(st.sampled_from(NAMES), min_size=1))
    def copy(self, names: set[str]) -> None:
        if self.copies < 4:
            self.copies += 1
            copies.take(self.pool, sorted(names), name=f"p{self.copies}")
            for name in names:
                plain = self.model[name]
                self.model[f"{name}@p{self.copies}"] = Plain(plain.size, plain.blocks)

    @precondition(lambda self: self.pool.state.copies)
    @rule(data=st.data())
    def delete_copy(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.pool.state.copies)))
        if not self.refused(lambda: copies.delete(self.pool, name)):
            self.model = {n: p for n, p in self.model.items() if not n.endswith(f"@{name}")}

    @precondition(lambda self: self.pool.state.copies)
    @rule(data=st.data())
    def revert(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.pool.state.copies)))
        undo = f"u{self.step}"
        if not self.refused(lambda: revert.revert(self.pool, name, undo_name=undo)):
            for volume in [n for n in NAMES if f"{n}@{name}" in self.model]:
                plain, then = self.model[volume], self.model[f"{volume}@{name}"]
                self.model[f"{volume}@{undo}"] = Plain(plain.size, plain.blocks)
                self.model[volume] = Plain(then.size, then.blocks)

    # -- relations

    def become(self, steps: list[tuple[str, str, list[tuple[int, int, int]]]]) -> None:
        before = {source: dict(self.model[source].blocks) for source, _, _ in steps}
        for source, target, extents in steps:
            plain = self.model[target]
            for first, at, count in extents:
                plain.wipe(at, count)
                for n in range(count):
                    if first + n in before[source]:
                        plain.blocks[at + n] = before[source][first + n]

    @rule(
        pairs=st.lists(
            st.tuples(st.integers(0, 9), st.sampled_from(NAMES), TRACKS, TRACKS, LENGTHS),
            min_size=1,
            max_size=3,
        ),
        once=st.booleans(),
    )
    def establish(self, pairs: list[tuple[int, str, int, int, int]], once: bool) -> None:
        names = sorted(self.model)
        wishes = []
        for source, target, first, at, count in pairs:
            wishes.append(self.wish(names[source % len(names)], target, first, at, count))
        made: list[relations.Relation] = []

        def act() -> None:
            made.extend(relations.establish(self.pool, wishes, once=once))

        if self.refused(act):
            return
        steps: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
        for wish in wishes:
            whole = Span(0, 0, self.model[wish.source].size)
            for span in wish.spans or (whole,):
                steps.setdefault((wish.source, wish.target), []).append(
                    (
                        span.source_offset // BLOCK,
                        span.target_offset // BLOCK,
                        -(-span.length // BLOCK),
                    )
                )
        self.become([(s, t, extents) for (s, t), extents in steps.items()])
        for relation, ((s, t), extents) in zip(made, steps.items(), strict=not once):
            self.bonds[relation.id] = Bond(s, t, extents, self.step)

    def wish(self, source: str, target: str, first: int, at: int, count: int) -> Wish:
        """Mostly one that fits."""
        here, there = (self.model[name].size // TRACK for name in (source, target))
        if count == 64 and here <= there:
            return Wish(source, target)
        count = min(count, here, there)
        first, at = min(first, here - count), min(at, there - count)
        return Wish(source, target, (Span(first * TRACK, at * TRACK, count * TRACK),))

    def some(self, data: st.DataObject) -> list[int]:
        return sorted(
            data.draw(st.sets(st.sampled_from(sorted(self.bonds)), min_size=1, max_size=3))
        )

    @precondition(lambda self: self.bonds)
    @rule(data=st.data())
    def refresh(self, data: st.DataObject) -> None:
        ids = self.some(data)
        if not self.refused(lambda: relations.refresh(self.pool, relations.select(self.pool, ids))):
            bonds = [self.bonds[id] for id in ids]
            self.become([(b.source, b.target, b.extents) for b in bonds])
            for bond in bonds:
                bond.step = self.step

    @precondition(lambda self: self.bonds)
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        ids = self.some(data)
        if not self.refused(lambda: relations.restore(self.pool, relations.select(self.pool, ids))):
            bonds = [self.bonds[id] for id in ids]
            self.become(
                [(b.target, b.source, [(at, s, n) for s, at, n in b.extents]) for b in bonds]
            )
            for bond in bonds:
                bond.step = self.step

    @precondition(lambda self: self.bonds)
    @rule(data=st.data(), discard=st.booleans(), part=st.none() | st.tuples(TRACKS, LENGTHS))
    def withdraw(self, data: st.DataObject, discard: bool, part: tuple[int, int] | None) -> None:
        id = self.some(data)[0]
        ranges = () if part is None else ((part[0] * TRACK, part[1] * TRACK),)
        if self.refused(
            lambda: relations.withdraw(
                self.pool, relations.select(self.pool, [id]), discard=discard, ranges=ranges
            )
        ):
            assert part is not None
            return
        bond = self.bonds[id]
        low, high = (0, 1 << 40) if part is None else (part[0] * 16, (part[0] + part[1]) * 16)
        plain, left = self.model[bond.target], []
        for first, at, count in bond.extents:
            inside = [n for n in range(count) if low <= at + n < high]
            if discard and inside:
                self.drop_old(plain, bond.step, at + inside[0], at + inside[-1] + 1)
            left += self.outside(first, at, count, inside)
        bond.extents = left
        if not left:
            del self.bonds[id]

    @staticmethod
    def drop_old(plain: Plain, step: int, block: int, end: int) -> None:
        for track in range(block, end, TRACK_BLOCKS):
            blocks = range(track, min(end, track + TRACK_BLOCKS))
            if not any(plain.written.get(b, -1) > step for b in blocks):
                plain.wipe(track, len(blocks))

    @staticmethod
    def outside(first: int, at: int, count: int, inside: list[int]) -> list[tuple[int, int, int]]:
        if not inside:
            return [(first, at, count)]
        low, high = inside[0], inside[-1] + 1
        before = [(first, at, low)] if low else []
        after = [(first + high, at + high, count - high)] if high < count else []
        return before + after

    # -- lives

    @rule(how=st.sampled_from(["kill", "cut", "reopen", "checkpoint", "clean", "look"]))
    def turn(self, how: str) -> None:
        settle(self.pool.flush())
        match how:
            case "kill":
                self.pool = self.rig.kill()
            case "cut":
                self.pool = self.rig.cut(self.step)
            case "reopen":
                self.pool = self.rig.reopen(self.pool)
            case "checkpoint":
                settle(self.pool.checkpoint())
            case "clean":
                settle(Cleaner(self.pool).round())
        self.check()


TestRelations = Machine.TestCase
TestRelations.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
