"""A pool: one log, the tables over it, and the way in for every change.

Everything here runs on the loop and is synchronous, except `flush` and `checkpoint`, which await a
sync or a transaction. Between two awaits nobody else runs, so the order of calls is the order of
the log.
"""

from __future__ import annotations

import asyncio
import errno
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog

from isochrone.errors import Damaged, NoSpace, PoolFailed, Unavailable
from isochrone.store import records as r
from isochrone.store.attachments import Attachments
from isochrone.store.blocks import fetch, fetch_one, zeros
from isochrone.store.catalogue import Place
from isochrone.store.changes import log_pin
from isochrone.store.checkpoint import Checkpointer, Frozen
from isochrone.store.format import (
    BODY,
    DISCARD,
    MOVE,
    SEGMENT_BYTES,
    SLOT_BITS,
    WRITE,
    Batch,
    pointer,
)
from isochrone.store.holds import HoldClock
from isochrone.store.log import Log, segments
from isochrone.store.metadata import REBUILD, Metadata
from isochrone.store.overlay import Decision
from isochrone.store.points import WindowClock
from isochrone.store.recover import read_tail
from isochrone.store.replay import Replay
from isochrone.store.space import Space
from isochrone.store.spares import make_in_advance
from isochrone.store.stage import STAGE_BYTES_MAX, Stage
from isochrone.store.state import State
from isochrone.store.sync import SharedSync
from isochrone.store.tracks import NODE_BYTES_BUDGET, Forest, Run, Table
from isochrone.types import BLOCK, GIB, MIB, Buffer, Synced
from isochrone.world import World
from isochrone.world.disk import Disk

T = TypeVar("T")

log = structlog.get_logger()

NOTE_SECONDS: Final = 2.0  # at least, between notes of what is durable: each costs a sync
LARGE_DISCARD_BLOCKS: Final = 4096  # 16 MiB: may leave whole segments dead


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a pool. The simulation uses small ones, so that it meets them often."""

    segment_bytes: int = SEGMENT_BYTES
    node_bytes: int = NODE_BYTES_BUDGET
    checkpoint_bytes: int = 512 * MIB  # log between checkpoints: a few seconds of replay
    garbage_bytes: int = 256 * MIB  # may lie uncollected; less is not worth a round
    burst_bytes: int = 2 * GIB  # more of it while somebody writes much: most is soon wholly dead
    reserve_bytes: int = 4 * SEGMENT_BYTES  # kept for the cleaner, deletes and metadata
    capacity_bytes: int = 0  # of the segment files; 0: what the file system has
    sweep_nodes: int = 1024  # rows of the metadata store below which dead ones may stay

    @property
    def stage_bytes(self) -> int:
        """Payload of one batch: any fits into a segment, and wastes little of the last one."""
        return min(STAGE_BYTES_MAX, self.segment_bytes // 4)


LIMITS: Final = Limits()


class Pool:
    """An open pool. Use `Pool.open`."""

    def __init__(
        self, disk: Disk, world: World, metadata: Metadata, state: State, log: Log, limits: Limits
    ) -> None:
        self.disk = disk
        self.world = world
        self.state = state
        self.log = log
        self.identity = log.pool.hex()
        self.limits = limits
        self.attached = Attachments(world.clock)
        self.on_decision: list[Callable[[Decision], None]] = []  # about volumes that are overlaid
        self.failed: str = ""  # why nothing can be made durable any more
        self.on_change: list[Callable[[int, r.AnyRecord], None]] = []  # called after each body
        self._metadata = metadata
        self._checkpointer = Checkpointer(metadata, state)
        self._stage_bytes = limits.stage_bytes
        self._stage = Stage(self._stage_bytes)
        self._turn_error: Exception | None = None
        self._sync = SharedSync(log, world.work, self._sync_failed)
        self._bytes_at_checkpoint = 0
        self._segment_seen = 0
        self._durable_noted = 0  # newest record that the metadata store says is durable
        self._note_after = 0.0
        self.bytes_moved = 0  # by the cleaner
        self.bytes_written = 0  # payload of clients and mirrors
        self.space = Space(log, state.forest, limits.reserve_bytes)
        self.on_damage: list[Callable[[int, int, int], None]] = []  # volume, block, blocks
        self.damaged_reads = 0  # refused because a block was not what was written
        self.marked_nodes = metadata.marked_nodes
        self.hold_clock = HoldClock(world.clock)
        self.window_clock = WindowClock(world.clock)

    # -- opening and closing

    @classmethod
    def open(cls, disk: Disk, world: World, limits: Limits = LIMITS) -> Pool:
        """Open the pool of a disk, or make one if it is empty.

        Raises `Damaged` if what was durable cannot be found again.
        """
        try:
            metadata = Metadata(disk)
            try:
                return cls._open(disk, world, limits, metadata)
            except BaseException:
                metadata.close()
                raise
        except OSError as e:
            raise Unavailable(f"the disk under the pool does not work: {e.strerror or e}") from e

    @classmethod
    def _open(cls, disk: Disk, world: World, limits: Limits, metadata: Metadata) -> Pool:
        identity = metadata.setting("pool")
        if identity is None:
            if segments(disk):
                raise Damaged(
                    "there is a log, but the metadata store that belongs to it is gone",
                    hint=REBUILD,
                )
            identity = world.dice.identity()
            metadata.initialise(identity)
        identity = str(identity)
        next_node = int(metadata.setting("next_node") or 1)
        state = State(Forest(metadata.node, next_id=next_node, budget=limits.node_bytes))
        start = metadata.position()
        Checkpointer.load(metadata, state)
        forwards = metadata.forwards()  # before the log is touched: it may be damaged
        noted = int(metadata.setting("durable") or 0)
        tail = read_tail(disk, bytes.fromhex(identity), start, noted)
        log = Log(
            disk,
            world.clock,
            identity,
            lsn=tail.lsn,
            segment=tail.segment,
            first_lsns=tail.first_lsns,
            last_sum=tail.last_sum,
            segment_bytes=limits.segment_bytes,
            reserve_bytes=limits.reserve_bytes,
            capacity_bytes=limits.capacity_bytes,
        )
        pool = cls(disk, world, metadata, state, log, limits)
        pool._checkpointer.loaded()
        pool._durable_noted = noted
        log.forwarding.load(forwards)
        replay = Replay(state, pool._replay, pool._relieve)
        for section in tail.replay(disk, log.pool):
            replay.apply(section)
        replay.finish()
        pool.hold_clock.start(state.trusted.stamp)
        points = (point.kept_at for w in state.windows.values() for point in w.points[-1:])
        pool.window_clock.start(max(points, default=0))
        return pool

    def _relieve(self) -> None:
        """While replaying: save nodes without a checkpoint, so that memory stays bounded.

        Nothing leads to them in the store before the next checkpoint; if there is none, the ids
        come again, and the rows are replaced. On a full disk they stay in memory: without an open
        pool nobody can make room.
        """
        forest = self.state.forest
        if forest.fresh_bytes >= self.limits.node_bytes:
            nodes = forest.freeze(self.state.all_tables())
            try:
                self._metadata.add_nodes((node.id, node.words) for node in nodes.values())
            except NoSpace:
                forest.not_saved()
            else:
                forest.saved()

    def _replay(self, batch: Batch) -> None:
        lsn, first, at, body_at = batch.header.first_lsn, batch.first_pointer, 0, 0
        sums = array("Q", batch.sums.tobytes())
        for kind, volume, block, count, size in batch.descriptors.tolist():
            if kind == BODY:
                record = r.decode(batch.bodies[body_at : body_at + size])
                self.state.apply(Place(lsn, first + len(sums)), record)
                body_at += size
            elif kind == WRITE:
                self._map(lsn, volume, block, first + at, sums[at : at + count])
                at += count
            elif kind == MOVE:
                self.log.forwarding.move(block, count, first + at)
                at += count
            elif kind == DISCARD:
                self._unmap(lsn, volume, block, count)
            else:
                raise Damaged(
                    f"record {lsn} is of kind {kind}, which this version does not know",
                    hint="it was written by a newer version: start that one",
                )
            lsn += 1

    def abandon(self) -> None:
        """Let go of the files without saving anything, as a crash does."""
        self.log.close()
        self._metadata.close()

    async def close(self) -> None:
        """Make everything durable, save a checkpoint, let go of the files."""
        try:
            if not self.failed:
                await self.flush()
                await self.checkpoint()
        finally:
            self.abandon()

    # -- changing

    def stage_write(self, volume: int, block: int, data: memoryview) -> None:
        """Stage a write of whole blocks; `data` must not change before `commit`."""
        self._writable()
        if self.space.full:
            self._check_growth(volume, block, len(data) // BLOCK)
        step = self._stage_bytes // 2
        for at in range(0, len(data), step):
            self._stage.write(volume, block + at // BLOCK, data[at : at + step])
            if self._stage.full:
                self.commit_part()

    def stage_runs(
        self, volume: int, runs: Sequence[tuple[int, int]], data: memoryview, sums: array[int]
    ) -> None:
        """As `stage_write`, for runs (block, count) in one piece that has been verified."""
        if self.space.full or len(data) > self._stage_bytes // 2:
            for block, count in runs:
                self.stage_write(volume, block, data[: count * BLOCK])
                data = data[count * BLOCK :]
            return
        self._writable()
        self._stage.write_runs(volume, runs, data, sums)
        if self._stage.full:
            self.commit_part()

    def _check_growth(self, volume: int, block: int, count: int) -> None:
        """In a full pool only what makes it no fuller: blocks with data that no copy keeps."""
        self.commit_part()
        table = self.state.tables[volume]
        pointers, _ = self.state.forest.row(table, block, count)
        if 0 in pointers:
            raise NoSpace("the pool is full: there is room for blocks that have data only")
        if self.space.keeps(table, pointers):
            raise NoSpace(
                "the pool is full: there is no room beside blocks that a copy keeps, or a volume"
            )

    def append_moves(self, moves: Sequence[tuple[int, bytes, array[int]]]) -> None:
        """Append living blocks again, at the head of the log; for the cleaner.

        Each is the birth place of its first block, the blocks, and their checksums. Nothing else
        is in their batch, and an error is raised at once.
        """
        self._writable()
        self.commit_part()
        stage = Stage(self.limits.stage_bytes)
        for birth, data, sums in moves:
            stage.move(birth, memoryview(data), sums)
        self._append(stage, privileged=True)
        self.bytes_moved += stage.blocks * BLOCK

    def stage_discard(self, volume: int, block: int, count: int) -> None:
        self._writable()
        while count > 0:
            n = min(count, 0xFFFFFFFF)
            self._stage.discard(volume, block, n)
            if self._stage.full:
                self.commit_part()
            block, count = block + n, count - n

    def commit(self) -> None:
        """Append all that was staged since the last call, and make it visible.

        Raises `NoSpace`, `Damaged` or `PoolFailed`, or what else broke, be it for want of memory;
        then nothing staged since may be called done.
        """
        self.commit_part()
        error, self._turn_error = self._turn_error, None
        if error is not None:
            raise error

    def commit_part(self) -> None:
        """Append what is staged in the middle of a turn. An error is kept for `commit`."""
        stage = self._stage
        if not stage:
            return
        self._stage = Stage(self._stage_bytes)
        if self._turn_error is not None:
            return  # the turn has failed already: later changes must not overtake earlier ones
        try:
            self._append(stage)
        except Exception as e:  # noqa: BLE001 - what was staged is gone: `commit` has to say so
            self._turn_error = e

    def _append(self, stage: Stage, *, privileged: bool = False) -> int:
        """Append a stage and update the tables; the lsn of its last record."""
        lsn = self.log.lsn + 1
        with self._disk_errors():
            at = self.log.append(
                stage.descriptors,
                stage.sums,
                b"".join(stage.bodies),
                stage.payload,
                privileged=privileged or not stage.payload,
            )
        if self.log.position[0] != self._segment_seen:
            self._segment_seen = self.log.position[0]
            with suppress(OSError):  # what was appended must reach the tables, come what may
                self.space.look()
        self.bytes_written += 0 if privileged else stage.blocks * BLOCK
        self._update(stage, lsn, at)
        return self.log.lsn

    def _update(self, stage: Stage, lsn: int, at: int) -> None:
        """Bring what was appended into the tables, all that can be: a restart or a mirror finds it.

        A node may be damaged. That is raised in the end.
        """
        failure: Exception | None = None
        done = 0
        for kind, volume, block, count in stage.updates:
            first, done = done, done + (count if kind != DISCARD else 0)
            try:
                if kind == WRITE:
                    self._map(lsn, volume, block, at + first, stage.sums[first:done])
                elif kind == MOVE:
                    self.log.forwarding.move(block, count, at + first)
                else:
                    self._unmap(lsn, volume, block, count)
            except Exception as e:  # noqa: BLE001 - raised below
                failure = failure or e
            lsn += 1
        if failure is not None:
            raise failure

    def _map(self, lsn: int, volume: int, block: int, first: int, sums: array[int]) -> None:
        self.state.changes.note(volume, block, len(sums))
        self.state.forest.map(self.state.tables[volume], block, first, sums)
        found = self.state.changing(volume)
        found.changed_lsn = lsn
        found.blocks_changed += len(sums)

    def _unmap(self, lsn: int, volume: int, block: int, count: int) -> None:
        self.state.changes.note(volume, block, count)
        self.state.forest.unmap(self.state.tables[volume], block, count)
        found = self.state.changing(volume)
        found.changed_lsn = lsn
        found.blocks_changed += count
        if count >= LARGE_DISCARD_BLOCKS:
            self.state.deletions += 1

    def record(self, record: r.AnyRecord) -> int:
        """Append one body record behind everything staged, and apply it; its lsn.

        It is in the log, not yet durable: `flush` before telling a person that it is done.
        """
        self._writable()
        self.commit_part()
        stage = Stage()
        stage.body(r.encode(record))
        lsn = self._append(stage)
        try:
            self.state.apply(Place(lsn, pointer(*self.log.position)), record)
        except BaseException as e:
            # The log has it, and what is in memory may be half of it: no checkpoint may hold that.
            self.failed = f"record {lsn} cannot be applied: {e}"
            raise
        for told in self.on_change:
            told(lsn, record)
        return lsn

    def _writable(self) -> None:
        if self.failed:
            raise PoolFailed(f"the pool is read-only: {self.failed}")

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            if e.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpace("the disk under the pool is full; nothing was written") from e
            raise Damaged(f"the disk refused an append: {e.strerror or e}") from e

    # -- reading

    def read(self, table: Table, block: int, count: int) -> list[Buffer]:
        """Whole blocks of a table, in pieces. Raises `Damaged` for blocks that do not verify."""
        if self._stage:
            self.commit_part()
        pieces = fetch(self.log, *self.state.forest.row(table, block, count))
        return pieces if pieces is not None else self._read_runs(table, block, count)

    def read_one(self, table: Table, block: int) -> Buffer:
        """The same for one block: most of what clients ask for at random."""
        if self._stage:
            self.commit_part()
        piece = fetch_one(self.log, *self.state.forest.at(table, block))
        return piece if piece is not None else self._read_runs(table, block, 1)[0]

    def _read_runs(self, table: Table, block: int, count: int) -> list[Buffer]:
        """Look again, run by run, at a range that could not be read: which blocks are it, why?"""
        pieces: list[Buffer] = []
        for run in self.state.forest.runs(table, block, count):
            if not run.pointer:
                pieces += zeros(run.blocks * BLOCK)
                continue
            try:
                pieces.append(self.log.read(run.pointer, run.sums))
            except (Damaged, OSError) as e:
                raise self._damage(table, run, e) from e
        return pieces

    def _damage(self, table: Table, run: Run, cause: Damaged | OSError) -> Damaged:
        """Tell the operator which blocks cannot be read; the error for the reader."""
        self.damaged_reads += 1
        names = [self.state.volumes[id].name for id, t in self.state.tables.items() if t is table]
        log.error(
            "blocks cannot be read",
            volume=names[0] if names else "(a frozen image)",
            offset=run.block * BLOCK,
            bytes=run.blocks * BLOCK,
            segment=self.log.forwarding.place(run.pointer) >> SLOT_BITS,
            cause=str(cause),
        )
        for id in [id for id, t in self.state.tables.items() if t is table]:
            self.met_damage(id, range(run.block, run.block + run.blocks))
        if isinstance(cause, Damaged):
            return cause
        return Damaged(f"the disk cannot read a block: {cause.strerror or cause}")

    def met_damage(self, volume: int, blocks: Iterable[int]) -> None:
        """Somebody could not read these, or one of them: tell whoever may heal them."""
        for block in blocks:
            for told in self.on_damage:
                told(volume, block, 1)

    # -- durability

    def when_durable(self, done: Synced, *, alone: bool = False) -> None:
        """Call `done` when everything committed so far survives a power cut, or with `PoolFailed`.

        All who wait share a sync. `alone`: nobody needs the loop meanwhile, so it may run here.
        """
        if self.failed and self.log.durable < self.log.lsn:
            done(PoolFailed(f"the pool is read-only: {self.failed}"))
        else:
            self._sync.when_durable(done, alone=alone)

    async def flush(self, *, alone: bool = False) -> None:
        """As `when_durable`, for those who can await. Raises `PoolFailed`."""
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def tell(failure: BaseException | None) -> None:
            if durable.done():  # whoever waited was cancelled
                return
            if failure is None:
                durable.set_result(None)
            else:
                durable.set_exception(failure)

        self.when_durable(tell, alone=alone)
        await durable

    def _sync_failed(self, reason: str) -> None:
        self.failed = reason

    async def checkpoint(self) -> None:
        """Save catalogue and tables, so that recovery starts here."""
        await self.checkpoint_then(lambda frozen: None)

    async def checkpoint_then(self, look: Callable[[Frozen], T]) -> tuple[Frozen, T]:
        """Save everything, and look at what was saved in a thread, before anything replaces it."""
        bytes_appended = self.log.bytes_appended
        found = await self._checkpointer.run(self, look)
        self._bytes_at_checkpoint = bytes_appended
        self._durable_noted = max(self._durable_noted, found[0].position.lsn)
        return found

    async def keep_setting(self, key: str, value: str) -> None:
        """Keep a word beside the checkpoint; durable when this returns."""
        await self._checkpointer.keep(self, key, value)

    def setting(self, key: str) -> str:
        """What `keep_setting` kept last; empty if nothing."""
        found = self._metadata.setting(key)
        return "" if found is None else str(found)

    async def note_durable(self, *, at_once: bool = False) -> None:
        """Keep, beside the log, how far it is durable: the log itself says so one batch later.

        Called often, so not each call does it. With it, the loss of what was flushed last is told
        from a torn end.
        """
        durable, now = self.log.durable, self.world.clock.monotonic()
        due = at_once or now >= self._note_after
        if durable > self._durable_noted and due and not self.failed:
            self._note_after = now + NOTE_SECONDS
            await self.keep_setting("durable", str(durable))
            self._durable_noted = durable

    @property
    def metadata_bytes(self) -> tuple[int, int]:
        """(on disk, written by checkpoints since the start)."""
        return self._metadata.bytes_on_disk(), self._checkpointer.bytes_saved

    async def make_spares(self) -> None:
        """Write segment files in advance, until cancelled."""
        rolled = asyncio.Event()
        self.log.on_roll = rolled.set
        # A pool that has not filled a segment needs no other; a full one has no room for them.
        await make_in_advance(
            self.world,
            self.log.spares,
            lambda: not self.failed and len(self.log.first_lsns) > 1 and not self.log.pressed,
            rolled,
        )

    def replayed_from(self, segment: int) -> int:
        """Where replay begins: with the checkpoint, or a rebuild of the metadata store before."""
        kept = self._checkpointer.backup.kept_from
        return segment if kept is None else min(kept, segment)

    def pinned_lsn(self) -> int:
        """Records after this one are still needed by a mirror, as they lie in the log."""
        pins = (log_pin(group) for group in self.state.groups.values())
        return min((pin[0] for pin in pins if pin is not None), default=self.log.lsn)

    @property
    def checkpoint_due(self) -> bool:
        appended = self.log.bytes_appended - self._bytes_at_checkpoint
        # Writes that are spread over much of a large volume change a leaf of 4 KiB each.
        return (
            appended >= self.limits.checkpoint_bytes
            or self.state.forest.fresh_bytes >= self.limits.node_bytes
        )
