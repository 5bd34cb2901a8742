"""Whole pools against a plain model, over every kind of end of a process."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from isochrone.errors import Conflict, Damaged, IsochroneError, PoolFailed, Unavailable
from isochrone.store import copies, relations, volumes
from isochrone.store.check import check_pool
from isochrone.store.cleaner import Cleaner
from isochrone.store.format import describe, segment_name
from isochrone.store.pool import Pool
from isochrone.store.stage import Stage
from isochrone.types import BLOCK, MIB
from isochrone.world.disk import FolderDisk
from tests.store.pools import (
    SMALL,
    Image,
    Rig,
    State,
    catalogue,
    device,
    get,
    open_on,
    pattern,
    pieces,
    put,
    settle,
    shown,
)

SIZES = [MIB, MIB + 512, MIB + 3 * BLOCK + 1024]
LENGTHS = st.sampled_from([1, 511, BLOCK, BLOCK + 1, 3 * BLOCK, 70_000, 300_000])
OFFSETS = st.integers(0, 20).map(lambda n: n * BLOCK) | st.integers(0, MIB - 1)
PICK = st.integers(0, 1000)
CHANGES = st.lists(st.tuples(PICK, OFFSETS, LENGTHS, st.booleans()), min_size=1, max_size=4)
SEEDS = st.integers(0, 1 << 30)


class Machine(RuleBasedStateMachine):
    """After a crash the pool is in one of the states it had, and not before the last flush."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[State] = []
        self.known: dict[int, tuple[int, dict[str, bytes]]] = {}  # lsn -> state, catalogue
        self.n = 0

    @initialize(seed=SEEDS)
    def begin(self, seed: int) -> None:
        self.rig = Rig(seed)
        self.pool = self.rig.open()
        self.states = [{}]
        self.note()
        self.create(0, 0)
        self.turn([(0, 0, 300_000, True)])

    @property
    def model(self) -> State:
        return self.states[-1]

    def note(self) -> None:
        """The newest state is that of the log as it is."""
        self.known[self.pool.log.lsn] = (len(self.states) - 1, catalogue(self.pool))

    def becomes(self, **images: Image) -> None:
        self.states.append({**self.model, **images})
        self.note()

    def writable(self) -> list[str]:
        state = self.pool.state
        return [n for n in sorted(self.model) if not state.read_only(volumes.find(self.pool, n))]

    def plain(self) -> list[str]:
        return [name for name in sorted(self.model) if "@" not in name]

    # -- changes

    @rule(number=st.integers(0, 2), size=st.integers(0, 2))
    def create(self, number: int, size: int) -> None:
        if f"v{number}" not in self.model:
            volumes.create(self.pool, f"v{number}", SIZES[size])
            self.becomes(**{f"v{number}": Image(SIZES[size])})

    def stage(self, changes: list[tuple[int, int, int, bool]]) -> None:
        """Stage changes, and note every state between them that a crash may leave."""
        names = self.writable()
        for pick, offset, length, write in changes:
            if not names:
                return
            name = names[pick % len(names)]
            length = min(length, self.model[name].size - offset)
            self.n += 1
            data = pattern(self.n, length) if write else bytes(length)
            for at, piece in pieces(offset, data):
                step = SMALL.stage_bytes // 2
                for start in range(0, len(piece), step):
                    image = self.model[name].put(at + start, piece[start : start + step])
                    self.states.append({**self.model, name: image})
            if write:
                device(self.pool, name).write(offset, memoryview(data))
            else:
                device(self.pool, name).discard(offset, length)

    @rule(changes=CHANGES)
    def turn(self, changes: list[tuple[int, int, int, bool]]) -> None:
        self.stage(changes)
        self.pool.commit()
        self.note()

    @rule(changes=CHANGES, call=st.integers(1, 6))
    def failing_turn(self, changes: list[tuple[int, int, int, bool]], call: int) -> None:
        """One call to the disk fails in it: some first part of the turn was done."""
        before = len(self.states) - 1
        faults = self.rig.platter.faults
        faults.fail_at = call
        try:
            self.stage(changes)
            self.pool.commit()
        except IsochroneError:
            faults.fail_at = 0
            with contextlib.suppress(IsochroneError):
                self.pool.commit()  # what was staged before the error, as the front door does
            found = shown(self.pool)
            assert found in self.states[before:]
            self.states.append(found)
        faults.fail_at = 0
        self.note()

    @rule(picks=st.lists(PICK, min_size=1, max_size=3), number=st.integers(0, 3), rw=st.booleans())
    def copy(self, picks: list[int], number: int, rw: bool) -> None:
        names = [name for name in sorted(self.model) if name.count("@") < 3]
        sources = list(dict.fromkeys(names[pick % len(names)] for pick in picks if names))
        name = f"c{number}"
        if not sources or name in self.pool.state.copies or len(self.model) > 8:
            return
        copies.take(self.pool, sources, name=name, writable=rw)
        self.becomes(**{f"{source}@{name}": self.model[source] for source in sources})

    def without(self, gone: list[str]) -> None:
        self.states.append({n: image for n, image in self.model.items() if n not in gone})
        self.note()

    @rule(pick=PICK)
    def delete_copy(self, pick: int) -> None:
        names = sorted(self.pool.state.copies)
        if names:
            name = names[pick % len(names)]
            state = self.pool.state
            gone = [state.volumes[member].name for _, member in state.copies[name].members]
            copies.delete(self.pool, name)
            self.without(gone)

    @rule(pick=PICK)
    def delete_volume(self, pick: int) -> None:
        names = self.plain()
        if len(names) > 1:
            name = names[pick % len(names)]
            volumes.delete(self.pool, name)
            self.without([name])

    @rule(pick=PICK, size=st.sampled_from([MIB, MIB + 512, MIB + 9 * BLOCK + 512, 2 * MIB]))
    def resize(self, pick: int, size: int) -> None:
        names = self.plain()
        if names:
            name = names[pick % len(names)]
            volumes.resize(self.pool, name, size, shrink=True)
            self.becomes(**{name: self.model[name].resized(size)})

    # -- durability and space

    @rule()
    def flush(self) -> None:
        settle(self.pool.flush())
        assert self.pool.log.durable == self.pool.log.lsn

    @rule(changes=CHANGES, busy=st.booleans())
    def checkpoint(self, changes: list[tuple[int, int, int, bool]], busy: bool) -> None:
        if busy:
            self.rig.work.before = self.rig.work.after = lambda: self.turn(changes)
        settle(self.pool.checkpoint())
        self.rig.work.before = self.rig.work.after = None

    @rule(changes=CHANGES, busy=st.booleans())
    def clean(self, changes: list[tuple[int, int, int, bool]], busy: bool) -> None:
        """Collect free space; what is seen stays the same, and the log grows by moves alone."""
        if busy:
            self.rig.work.before = self.rig.work.after = lambda: self.turn(changes)
        settle(Cleaner(self.pool).round())
        self.rig.work.before = self.rig.work.after = None
        self.note()

    # -- ends

    def start_over(self) -> None:
        self.states = [self.model]
        self.known = {}
        self.note()
        check_pool(self.pool)

    @rule()
    def reopen(self) -> None:
        items = catalogue(self.pool)
        self.pool = self.rig.reopen(self.pool)
        assert shown(self.pool) == self.model
        assert catalogue(self.pool) == items
        self.start_over()

    @rule()
    def kill(self) -> None:
        lsn, items = self.pool.log.lsn, catalogue(self.pool)
        self.pool = self.rig.kill()
        assert self.pool.log.lsn == lsn
        assert shown(self.pool) == self.model
        assert catalogue(self.pool) == items
        self.start_over()

    @rule(seed=SEEDS, recovery=st.integers(0, 60))
    def power_cut(self, seed: int, recovery: int) -> None:
        """Perhaps another one while it recovers from the first."""
        lsn, durable = self.pool.log.lsn, self.pool.log.durable
        platter, random = self.rig.platter, Random(seed)
        platter.power_cut(random)
        if recovery:
            platter.faults.fail_at, platter.faults.fail_for_ever = recovery, True
            with contextlib.suppress(Unavailable):
                self.rig.open()
            platter.faults.fail_at, platter.faults.fail_for_ever = 0, False
            platter.power_cut(random)
        self.pool = self.rig.open()
        found = self.pool.log.lsn
        assert durable <= found <= lsn
        exact = self.known.get(found)
        if exact is not None:
            state, items = exact
            assert catalogue(self.pool) == items
            assert shown(self.pool) == self.states[state]
        else:
            first = max(s for at, (s, _) in self.known.items() if at < found)
            last = min(s for at, (s, _) in self.known.items() if at > found)
            assert shown(self.pool) in self.states[first : last + 1]
        self.states.append(shown(self.pool))
        self.start_over()

    @precondition(lambda self: len(self.states) > 5)
    @rule()
    def look(self) -> None:
        assert shown(self.pool) == self.model

    def teardown(self) -> None:
        if self.states:
            assert shown(self.pool) == self.model
            check_pool(self.pool)
            self.kill()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


# -- durability


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def pool(rig: Rig) -> Pool:
    pool = rig.open()
    volumes.create(pool, "disk", MIB)
    return pool


def test_many_flushes_share_few_syncs(rig: Rig, pool: Pool) -> None:
    async def client(n: int) -> None:
        for m in range(5):
            put(pool, "disk", (n * 5 + m) % 256 * BLOCK, pattern(n))
            wanted = pool.log.lsn
            await pool.flush()
            assert pool.log.durable >= wanted

    async def clients() -> None:
        await asyncio.gather(*(client(n) for n in range(50)))

    settle(clients())
    assert rig.work.runs <= 2 * 5 + 2


def test_a_flush_waits_for_what_came_before_it_and_no_longer(rig: Rig, pool: Pool) -> None:
    put(pool, "disk", 0, b"before")
    rig.work.before = lambda: put(pool, "disk", BLOCK, b"while it was syncing")
    settle(pool.flush())
    assert rig.work.runs == 1
    assert pool.log.durable == pool.log.lsn - 1
    rig.work.before = None
    settle(pool.flush())
    assert pool.log.durable == pool.log.lsn
    settle(pool.flush())
    assert rig.work.runs == 2  # nothing to do for the third


def test_a_flush_that_nobody_waits_for_harms_no_other(rig: Rig, pool: Pool) -> None:
    put(pool, "disk", 0, b"x")

    async def impatient() -> None:
        first = asyncio.ensure_future(pool.flush())
        second = asyncio.ensure_future(pool.flush())
        await asyncio.sleep(0)
        first.cancel()
        await second
        with pytest.raises(asyncio.CancelledError):
            await first

    settle(impatient())
    assert pool.log.durable == pool.log.lsn


@pytest.mark.parametrize("seed", range(40))
def test_flushed_is_flushed(seed: int) -> None:
    random = Random(seed)
    rig = Rig(seed)
    pool = rig.open()
    volumes.create(pool, "disk", MIB)
    flushed = dict.fromkeys(range(256), 0)
    newest = dict(flushed)
    history = [dict(newest)]
    settle(pool.flush())
    for n in range(1, random.randrange(2, 60)):
        newest[random.randrange(256)] = n
        block = next(b for b, m in newest.items() if m == n)
        put(pool, "disk", block * BLOCK, pattern(n))
        history.append(dict(newest))
        if random.random() < 0.2:
            settle(pool.flush())
            flushed = dict(newest)
    pool = rig.cut(seed)
    found = {b: get(pool, "disk", b * BLOCK, BLOCK) for b in range(256)}
    told = {pattern(n): n for n in range(1, 60)} | {bytes(BLOCK): 0}
    state = {b: told[data] for b, data in found.items()}
    assert state in history[history.index(flushed) :]


# -- opening


def test_what_breaks_in_the_middle_of_a_turn_fails_the_whole_turn(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is: nobody may hear that changes are done which went with the stage."""
    for name in ("a", "b"):
        volumes.create(pool, name, MIB)
    append = pool.log.append

    def no_memory(*rest: object, **more: object) -> int:
        monkeypatch.setattr(pool.log, "append", append)
        raise MemoryError

    monkeypatch.setattr(pool.log, "append", no_memory)
    device(pool, "a").write(0, memoryview(pattern(1)))
    with contextlib.suppress(MemoryError):
        device(pool, "b").write(0, memoryview(pattern(2, MIB // 2)))  # more than a stage holds
    with pytest.raises(MemoryError):
        pool.commit()
    assert not any(get(pool, "a") + get(pool, "b"))
    put(pool, "a", 0, pattern(3))
    assert get(pool, "a", 0, BLOCK) == pattern(3)


def test_what_cannot_be_mapped_keeps_nothing_else_of_its_batch_from_it(
    rig: Rig, pool: Pool
) -> None:
    """All of it is in the log: a mirror sends it, and a restart replays it."""
    for name in ("a", "b"):
        volumes.create(pool, name, MIB)
        put(pool, name, 0, pattern(1))
    pool = rig.reopen(pool)
    ((_, leaf),) = pool.state.forest.leaf_ids(pool.state.tables[volumes.find(pool, "a").id])
    pool._metadata._writer.execute("UPDATE node SET sum = sum + 1 WHERE id = ?", (leaf,))
    pool.state.forest._nodes.clear()
    device(pool, "a").write(0, memoryview(pattern(2)))
    device(pool, "b").write(0, memoryview(pattern(3)))
    device(pool, "b").discard(BLOCK, BLOCK)
    with pytest.raises(Damaged, match="node"):
        pool.commit()
    assert get(pool, "b", 0, BLOCK) == pattern(3)
    assert volumes.find(pool, "b").changed_lsn == pool.log.lsn


def test_a_record_that_cannot_be_applied_is_never_half_of_a_checkpoint(
    rig: Rig, pool: Pool
) -> None:
    """It is in the log: a restart applies all of it, or says what is damaged."""
    for name in ("a", "b"):
        volumes.create(pool, name, 16 * MIB)
    for offset in (0, 8 * MIB):
        put(pool, "a", offset, pattern(offset))
    pool = rig.reopen(pool)
    *_, (_, leaf) = pool.state.forest.leaf_ids(pool.state.tables[volumes.find(pool, "a").id])
    damage = "UPDATE node SET sum = sum + ? WHERE id = ?"
    pool._metadata._writer.execute(damage, (1, leaf))
    pool.state.forest._nodes.clear()
    shifted = relations.Wish("a", "b", (relations.Span(0, MIB // 2, 12 * MIB),))
    with pytest.raises(Damaged, match=f"node {leaf} "):
        relations.establish(pool, [shifted])
    with pytest.raises(PoolFailed, match=f"node {leaf} "):
        put(pool, "disk", 0, pattern(1))
    with pytest.raises(PoolFailed):
        settle(pool.checkpoint())
    pool._metadata._writer.execute(damage, (-1, leaf))
    pool = rig.kill()
    assert get(pool, "b", MIB // 2, 12 * MIB) == get(pool, "a", 0, 12 * MIB)
    assert len(pool.state.relations) == 1


def test_one_process_at_a_time(rig: Rig, pool: Pool) -> None:
    with pytest.raises(Conflict):
        rig.open()


def test_a_log_without_its_metadata_is_refused(tmp_path: Path) -> None:
    disk = FolderDisk(tmp_path)
    pool = open_on(disk)
    volumes.create(pool, "disk", MIB)
    pool.abandon()
    before = (tmp_path / "segment-0000000000000001").read_bytes()
    (tmp_path / "metadata.sqlite").unlink()
    for _ in range(2):
        with pytest.raises(Damaged, match="metadata store that belongs to it is gone"):
            open_on(disk)
    assert (tmp_path / "segment-0000000000000001").read_bytes() == before
    disk.close()


def test_who_fills_segments_has_room_reserved_until_the_next_start(tmp_path: Path) -> None:
    def taken(number: int) -> int:
        return (tmp_path / segment_name(number)).stat().st_blocks * 512

    disk = FolderDisk(tmp_path)
    limits = replace(SMALL, segment_bytes=4 * MIB)
    pool = open_on(disk, limits=limits)
    volumes.create(pool, "disk", 8 * MIB)
    assert taken(1) < MIB  # a pool that is hardly used is small
    for number in range(5):
        put(pool, "disk", number * MIB, pattern(number, MIB))
    pool.abandon()
    if taken(2) < limits.segment_bytes:
        pytest.skip("this file system does not reserve room")
    pool = open_on(disk, limits=limits)
    assert taken(2) < 3 * MIB
    assert get(pool, "disk", 4 * MIB, MIB) == pattern(4, MIB)
    pool.abandon()
    disk.close()


def test_pools_have_identities(tmp_path: Path) -> None:
    disk = FolderDisk(tmp_path)
    pool = open_on(disk)
    identity = pool.identity
    assert len(bytes.fromhex(identity)) == 16
    pool.abandon()
    again = open_on(disk)
    assert again.identity == identity
    again.abandon()
    disk.close()


def test_a_record_of_a_newer_version_is_refused(rig: Rig, pool: Pool) -> None:
    stage = Stage()
    stage.body(b"\x81\xa1t\xaevolume-painted")
    pool._append(stage)
    before = bytes(rig.platter.names["segment-0000000000000001"].data)
    for _ in range(2):
        with pytest.raises(Damaged, match="cannot be understood"):
            rig.kill()
    assert bytes(rig.platter.names["segment-0000000000000001"].data) == before


def test_a_descriptor_of_a_newer_version_is_refused(rig: Rig, pool: Pool) -> None:
    stage = Stage()
    stage.descriptors.append(describe(9, 1, 0, 256, 0))
    put(pool, "disk", 0, pattern(1))
    pool._append(stage)
    with pytest.raises(Damaged, match="kind 9"):
        rig.kill()


def test_listeners_hear_of_each_record_once_it_is_applied(pool: Pool) -> None:
    heard: list[tuple[int, object, bool]] = []
    pool.on_change.append(
        lambda lsn, record: heard.append((lsn, record, "new" in pool.state.names))
    )
    volumes.create(pool, "new", MIB)
    put(pool, "new", 0, b"no body record")
    volumes.delete(pool, "new")
    assert [(lsn, type(record).__name__, there) for lsn, record, there in heard] == [
        (2, "VolumeCreated", True),
        (4, "VolumeDeleted", False),
    ]


def test_a_checkpoint_is_due_by_bytes(pool: Pool) -> None:
    assert not pool.checkpoint_due
    for n in range(9):
        put(pool, "disk", 0, pattern(n, 500_000))
    assert pool.checkpoint_due
    settle(pool.checkpoint())
    assert not pool.checkpoint_due


def test_what_was_flushed_last_is_noted(rig: Rig) -> None:
    """So its loss is told from a torn end, though nothing was written after it."""
    pool = rig.open()
    volumes.create(pool, "v", MIB)
    put(pool, "v", 0, pattern(1))
    settle(pool.flush())
    settle(pool.note_durable())
    calls = rig.platter.calls
    settle(pool.note_durable())
    assert rig.platter.calls == calls, "there was nothing new to note"
    put(pool, "v", 0, pattern(2))
    settle(pool.flush())
    noted = pool.setting("durable")
    settle(pool.note_durable())
    assert pool.setting("durable") == noted, "that was too soon after the last"
    settle(pool.note_durable(at_once=True))
    assert int(pool.setting("durable")) == pool.log.durable > int(noted)
    segment, slot = pool.log.position
    rig.platter.flip(segment_name(segment), (slot - 2) * BLOCK + 90)
    with pytest.raises(Damaged, match="was durable"):
        rig.kill()
