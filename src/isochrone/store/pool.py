"""A pool: one log, the tables over it, and the way in for every change.

Everything here runs on the loop and is synchronous, except `flush` and `checkpoint`, which await a
sync or a transaction. Between two awaits nobody else runs, so the order of calls is the order of
the log.
"""

from __future__ import annotations

import asyncio
import errno
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog

from isochrone.errors import Damaged, IsochroneError, NoSpace, PoolFailed, Unavailable
from isochrone.store import records as r
from isochrone.store.checkpoint import Checkpointer, Frozen
from isochrone.store.format import BODY, DISCARD, MOVE, SEGMENT_BYTES, SLOT_BITS, WRITE, Batch
from isochrone.store.log import Log, segments
from isochrone.store.metadata import Metadata
from isochrone.store.recover import read_tail
from isochrone.store.spares import make_in_advance
from isochrone.store.stage import STAGE_BYTES_MAX, Stage
from isochrone.store.state import State
from isochrone.store.tracks import NODE_BYTES_BUDGET, Forest, Run, Table
from isochrone.types import BLOCK, MIB, Buffer
from isochrone.world import World
from isochrone.world.disk import Disk

T = TypeVar("T")

log = structlog.get_logger()

LARGE_DISCARD_BLOCKS: Final = 4096  # 16 MiB: may leave whole segments dead
ZEROS: Final = bytes(4 * MIB)


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a pool. The simulation uses small ones, so that it meets them often."""

    segment_bytes: int = SEGMENT_BYTES
    node_bytes: int = NODE_BYTES_BUDGET
    checkpoint_bytes: int = 512 * MIB  # log between checkpoints: a few seconds of replay
    garbage_bytes: int = 256 * MIB  # may lie uncollected; less is not worth a round
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
        self.attached: dict[int, dict[str, int]] = {}  # volume -> client -> connections
        self.failed: str = ""  # why nothing can be made durable any more
        self.on_change: list[Callable[[int, r.AnyRecord], None]] = []  # called after each body
        self._metadata = metadata
        self._checkpointer = Checkpointer(metadata, state)
        self._stage = Stage(limits.stage_bytes)
        self._turn_error: IsochroneError | None = None
        self._syncing: asyncio.Task[None] | None = None
        self._bytes_at_checkpoint = 0
        self.bytes_moved = 0  # by the cleaner
        self.damaged_reads = 0  # refused because a block was not what was written
        self.marked_nodes = metadata.marked_nodes

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
                    hint="restore the pool's files, or promote the mirror",
                )
            identity = world.dice.identity()
            metadata.initialise(identity)
        identity = str(identity)
        next_node = int(metadata.setting("next_node") or 1)
        state = State(Forest(metadata.node, next_id=next_node, budget=limits.node_bytes))
        start = metadata.position()
        Checkpointer.load(metadata, state)
        tail = read_tail(disk, bytes.fromhex(identity), start)
        log = Log(
            disk,
            world.clock,
            identity,
            lsn=tail.lsn,
            segment=tail.segment,
            first_lsns=tail.first_lsns,
            segment_bytes=limits.segment_bytes,
            reserve_bytes=limits.reserve_bytes,
            capacity_bytes=limits.capacity_bytes,
        )
        pool = cls(disk, world, metadata, state, log, limits)
        pool._checkpointer.loaded()
        log.forwarding.load(metadata.forwards())
        for batch in tail.batches:
            pool._replay(batch)
        return pool

    def _replay(self, batch: Batch) -> None:
        lsn, first, at, body_at = batch.header.first_lsn, batch.first_pointer, 0, 0
        sums = array("Q", batch.sums.tobytes())
        for kind, volume, block, count, size in batch.descriptors.tolist():
            if kind == BODY:
                self.state.apply(lsn, r.decode(batch.bodies[body_at : body_at + size]))
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
        step = self.limits.stage_bytes // 2
        for at in range(0, len(data), step):
            self._stage.write(volume, block + at // BLOCK, data[at : at + step])
            if self._stage.full:
                self.commit_part()

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

        Raises `NoSpace`, `Damaged` or `PoolFailed`; then nothing staged since may be called done.
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
        self._stage = Stage(self.limits.stage_bytes)
        if self._turn_error is not None:
            return  # the turn has failed already: later changes must not overtake earlier ones
        try:
            self._append(stage)
        except IsochroneError as e:
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
        done = 0
        for kind, volume, block, count in stage.updates:
            if kind == WRITE:
                self._map(lsn, volume, block, at + done, stage.sums[done : done + count])
                done += count
            elif kind == MOVE:
                self.log.forwarding.move(block, count, at + done)
                done += count
            else:
                self._unmap(lsn, volume, block, count)
            lsn += 1
        return self.log.lsn

    def _map(self, lsn: int, volume: int, block: int, first: int, sums: array[int]) -> None:
        self.state.forest.map(self.state.tables[volume], block, first, sums)
        found = self.state.volumes[volume]
        found.changed_lsn = lsn
        found.blocks_changed += len(sums)

    def _unmap(self, lsn: int, volume: int, block: int, count: int) -> None:
        self.state.forest.unmap(self.state.tables[volume], block, count)
        found = self.state.volumes[volume]
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
        self.state.apply(lsn, record)
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
        pieces: list[Buffer] = []
        read = self.log.read
        for run in self.state.forest.runs(table, block, count):
            if run.pointer:
                try:
                    pieces.append(read(run.pointer, run.sums))
                except (Damaged, OSError) as e:
                    raise self._damage(table, run, e) from e
            else:
                left = run.blocks * BLOCK
                while left:
                    n = min(left, len(ZEROS))
                    pieces.append(memoryview(ZEROS)[:n])
                    left -= n
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
        if isinstance(cause, Damaged):
            return cause
        return Damaged(f"the disk cannot read a block: {cause.strerror or cause}")

    # -- durability

    async def flush(self) -> None:
        """Return when everything committed before the call survives a power cut.

        All callers of one moment share a sync. Raises `PoolFailed`.
        """
        wanted = self.log.lsn
        while self.log.durable < wanted:
            self._writable()
            if self._syncing is None:
                self._syncing = asyncio.get_running_loop().create_task(self._sync())
            await asyncio.shield(self._syncing)

    async def _sync(self) -> None:
        try:
            ticket = self.log.begin_sync()
            await self.world.work.run(ticket.run)
            self.log.end_sync(ticket)
        except OSError as e:
            # After a failed sync the kernel may have dropped the pages: no later success means
            # anything, so nothing is ever called durable again.
            self.failed = f"a sync failed: {e.strerror or e}"
            raise PoolFailed(f"the pool cannot make data durable: {e.strerror or e}") from e
        finally:
            self._syncing = None

    async def checkpoint(self) -> None:
        """Save catalogue and tables, so that recovery starts here."""
        await self.checkpoint_then(lambda frozen: None)

    async def checkpoint_then(self, look: Callable[[Frozen], T]) -> tuple[Frozen, T]:
        """Save everything, and look at what was saved in a thread, before anything replaces it."""
        bytes_appended = self.log.bytes_appended
        found = await self._checkpointer.run(self, look)
        self._bytes_at_checkpoint = bytes_appended
        return found

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

    def pinned_lsn(self) -> int:
        """Records after this one are still needed by a mirror, as they lie in the log."""
        marks = (
            mark.lsn
            for group in self.state.groups.values()
            if group.role == "primary" and group.sessions
            for mark in group.marks
        )
        return min(marks, default=self.log.lsn)

    @property
    def checkpoint_due(self) -> bool:
        return self.log.bytes_appended - self._bytes_at_checkpoint >= self.limits.checkpoint_bytes
