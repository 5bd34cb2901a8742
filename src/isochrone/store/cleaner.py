"""Free-space collection: dead segments are deleted, half-dead ones are emptied first.

A round: checkpoint, mark in a thread, delete what is dead, move living blocks out of the segments
where that pays most. Moved blocks are appended to the log like any write; their new place is noted
in the forwarding table, and only when that is durable, and noted to be so, the emptied segment is
deleted.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import structlog

from isochrone.errors import Damaged, IsochroneError, NoSpace, Unavailable
from isochrone.store.checkpoint import Frozen
from isochrone.store.format import MOVE, SLOT_BITS, WRITE, Batch, pointer
from isochrone.store.kept import Kept
from isochrone.store.log import scan_segment
from isochrone.store.mark import Bits, Marks, mark
from isochrone.store.pool import Pool
from isochrone.store.sacrifice import Sacrifices
from isochrone.store.windows import Shedding
from isochrone.types import BLOCK, MIB

GARBAGE_SHARE: Final = 0.5  # of what lives: a log a third empty is cleaned at little cost
LIVE_SHARE_MAX: Final = 0.95  # emptying a fuller segment gains next to nothing
MOVE_BLOCKS_MAX: Final = 128  # moved between two breaths: 512 KiB, under a millisecond
ROUND_SECONDS: Final = 0.5  # between looks at whether a round is due; a fast writer fills 1 GiB
BUSY_BYTES: Final = 16 * MIB  # appended between two looks: somebody writes in earnest
BUSY_ROUNDS: Final = 10  # 5 s: so long after that it counts as one burst
BREATH_SECONDS: Final = 0.001  # between moves while somebody writes: most of the loop is theirs
REST: Final = 9  # times as long as a round took, before one for deletions alone: 1/10 of a thread
IDLE_ROUNDS: Final = 600  # 5 min without an append: then spare segments are given back

log = structlog.get_logger()


class Candidate(NamedTuple):
    """A segment that may be emptied."""

    number: int
    live: int  # blocks
    age: int  # records written since it was filled


class Move(NamedTuple):
    """Blocks born one after the other that also lie one after the other."""

    birth: int
    place: int
    sums: array[int]


@dataclass(slots=True)
class Report:
    """What a round did."""

    live_bytes: int = 0
    freed_segments: int = 0
    moved_bytes: int = 0


def worth(candidate: Candidate, slots: int) -> float:
    """Benefit over cost of emptying a segment: space gained, weighted by age, over blocks moved.

    Old segments keep what they have; young ones will be emptier soon (Rosenblum and Ousterhout,
    "The design and implementation of a log-structured file system", 1992).
    """
    share = candidate.live / slots
    return (1 - share) * (1 + candidate.age) / (1 + share)


def choose(candidates: Sequence[Candidate], slots: int, wanted: int) -> list[Candidate]:
    """Which segments to empty to gain `wanted` blocks, the worthiest first."""
    chosen = []
    for candidate in sorted(candidates, key=lambda c: worth(c, slots), reverse=True):
        if wanted <= 0:
            break
        if candidate.live <= LIVE_SHARE_MAX * slots:
            chosen.append(candidate)
            wanted -= slots - candidate.live
    return chosen


class Cleaner:
    """Gives space back, in the background. `run` never returns by itself."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._seen = -1  # bytes appended when the last round began
        self._deletions_seen = -1
        self._appended_before = pool.log.bytes_appended
        self._idle_rounds = 0  # looks since somebody wrote
        self._calm_rounds = BUSY_ROUNDS  # looks since somebody wrote much
        self._lenient = False  # the last round left more than it would have left in calm times
        self._rested_at = 0.0  # monotonic
        self._sacrifices = Sacrifices(pool)
        self._shedding = Shedding(pool)
        self._turn = asyncio.Lock()
        self._stopping = False
        self._task: asyncio.Task[object] | None = None  # the round, or the note, that goes on
        self.last = Report()

    async def run(self) -> None:
        while True:
            # While writers wait for room, one round follows the other.
            waited_for = self._pool.space.short and self.last.freed_segments > 0
            pause = BREATH_SECONDS if waited_for else ROUND_SECONDS
            await self._pool.world.clock.sleep(pause)
            try:
                self._look()
                due = self.due
            except OSError as e:  # the disk did not say how much is free; it is asked again
                log.warning("free space is not known", reason=str(e))
                continue
            if self._pool.failed:
                continue
            # A task of its own: cancelling this loop must not tear a transaction.
            work = self.round() if due else self._pool.note_durable()
            self._task = asyncio.get_running_loop().create_task(work)
            try:
                await asyncio.shield(self._task)
            except IsochroneError as e:
                log.error("free-space collection stopped short", reason=e.message)

    def _look(self) -> None:
        """See how much is written, and give spares back when nobody writes or space is short."""
        self._pool.space.look()
        if not self._shedding.look():  # points go before copies
            self._sacrifices.look()
        log = self._pool.log
        appended = log.bytes_appended - self._appended_before
        self._appended_before = log.bytes_appended
        self._idle_rounds = 0 if appended else self._idle_rounds + 1
        self._calm_rounds = 0 if appended >= BUSY_BYTES else self._calm_rounds + 1
        if (self._idle_rounds >= IDLE_ROUNDS or log.pressed) and not self._pool.failed:
            log.spares.trim()

    @property
    def _busy(self) -> bool:
        """In a burst of writes: what would be moved now may be dead before it is over."""
        return self._calm_rounds < BUSY_ROUNDS and not self._pool.space.short

    async def stop(self) -> None:
        """Let a running round come to a quick end, or a note be written, and start no other."""
        self._stopping = True
        async with self._turn:
            pass
        if self._task is not None:
            await asyncio.wait({self._task})

    @property
    def due(self) -> bool:
        """Whether enough may have died since the last round."""
        pool = self._pool
        appended = pool.log.bytes_appended - max(self._seen, 0)
        enough = max(pool.limits.garbage_bytes, int(self.last.live_bytes * GARBAGE_SHARE))
        return (
            appended >= enough
            or (self._lenient and not self._busy)
            or (pool.state.deletions != self._deletions_seen and self._rested)
            or (pool.space.short and appended > 0)
            or (self._shedding.unsure and self._rested)
        )

    @property
    def _rested(self) -> bool:
        """Ten thousand copies take seconds to mark, and one may be deleted each second."""
        return self._pool.space.short or self._pool.world.clock.monotonic() >= self._rested_at

    async def round(self) -> Report:
        """Collect once. Raises `Damaged` for a block that cannot be moved, and pool errors."""
        async with self._turn:
            clock = self._pool.world.clock
            began = clock.monotonic()
            try:
                return await self._round()
            except OSError as e:
                raise Unavailable(f"the disk under the pool does not work: {e.strerror}") from e
            finally:
                now = clock.monotonic()
                self._rested_at = now + REST * (now - began)

    async def _round(self) -> Report:
        pool = self._pool
        self._seen, self._deletions_seen = pool.log.bytes_appended, pool.state.deletions
        mapped = pool.state.forest.newly_mapped
        passing, kept = pool.state.passing(), Kept(pool.log.segment_slots)
        history = pool.state.history()
        frozen, marks = await pool.checkpoint_then(lambda f: self._mark(f, passing, history, kept))
        self._resolve(marks)
        report = self.last = Report(live_bytes=marks.total * BLOCK)
        candidates = self._candidates(frozen, marks)
        for dead in [c for c in candidates if not c.live]:
            self._free(dead.number, report)
        until = pointer(frozen.position.segment, frozen.position.slot)
        pool.space.history = marks.history
        pool.space.marked(report.live_bytes, mapped, kept, until)
        for victim in choose(
            [c for c in candidates if c.live], pool.log.segment_slots, self._wanted(marks)
        ):
            if not self._stopping:
                await self._empty(victim.number, marks, report)
        if report.freed_segments:
            log.info(
                "space collected",
                segments=report.freed_segments,
                moved_bytes=report.moved_bytes,
                live_bytes=report.live_bytes,
            )
        return report

    def _mark(
        self, frozen: Frozen, passing: set[int], history: dict[int, str], kept: Kept
    ) -> Marks:
        """Mark what lives; of it, what more than one table keeps. Pinned images do not."""
        keeping: list[bytes] = []
        others = frozen.roots[len(frozen.volumes) :]
        points: dict[str, list[bytes]] = {group: [] for group in history.values()}
        for id, root in zip(frozen.volumes, frozen.roots, strict=False):
            whose = points[history[id]] if id in history else others if id in passing else keeping
            whose.append(root)
        pool = self._pool
        return mark(keeping, pool.marked_nodes, pool.log.segment_slots, kept, others, points)

    def _resolve(self, marks: Marks) -> None:
        """From births to places: a moved block lives where it is now, not where it was born."""
        forwarding = self._pool.log.forwarding
        moved = []
        for segment in forwarding.segments():
            slots, places = forwarding.rows(segment)
            alive = marks.bits(segment)[slots]
            moved.append((segment, slots, places[alive]))
            forwarding.keep(segment, alive)
        for segment, slots, _ in moved:
            marks.unmark(segment, slots)
        for _, _, places in moved:
            marks.mark(places)

    def _candidates(self, frozen: Frozen, marks: Marks) -> list[Candidate]:
        """Segments that recovery and the mirror do not need any more."""
        pool = self._pool
        first_lsns = pool.log.first_lsns
        numbers = sorted(first_lsns)
        pinned = pool.pinned_lsn()
        replayed = pool.replayed_from(frozen.position.segment)
        found = []
        for number, following in pairwise(numbers):
            ended = first_lsns[following] - 1  # the newest record it can hold
            if number < replayed and ended <= pinned:
                found.append(Candidate(number, marks.count(number), pool.log.lsn - ended))
        return found

    def _wanted(self, marks: Marks) -> int:
        """Blocks to gain by moving."""
        pool = self._pool
        live = marks.total * BLOCK
        unmarked = pool.log.bytes_appended - self._seen  # since the checkpoint; most of it lives
        garbage = pool.log.bytes_on_disk - live - unmarked
        allowed = max(pool.limits.garbage_bytes, int(live * GARBAGE_SHARE))
        self._lenient = self._busy and garbage > allowed
        if self._lenient:
            allowed += pool.limits.burst_bytes
        return max(0, garbage - allowed, pool.space.wanted) // BLOCK

    def _free(self, number: int, report: Report) -> None:
        self._pool.log.remove(number)
        report.freed_segments += 1

    async def _empty(self, number: int, marks: Marks, report: Report) -> None:
        """Move what lives in a segment, make that durable, delete the segment."""
        pool = self._pool
        file = pool.log.file(number)
        bits = marks.bits(number)
        found = 0
        for moves in groups(scan_segment(file, pool.log.pool, number, 1), bits):
            pool.append_moves(
                [(birth, pool.log.read_place(place, sums), sums) for birth, place, sums in moves]
            )
            blocks = sum(len(sums) for _, _, sums in moves)
            found += blocks
            report.moved_bytes += blocks * BLOCK
            await pool.world.clock.sleep(BREATH_SECONDS if self._busy else 0)
            if self._stopping:
                return  # what was moved is moved; the rest is alive where it is
        if found != int(bits.sum()):
            raise Damaged(
                f"segment {number} holds {found} of {int(bits.sum())} living blocks",
                hint="run: isochrone check DIR",
            )
        await pool.flush()
        # Else a block among these that rots makes their batch, the newest, pass for a torn end.
        with suppress(NoSpace):  # there soon is some
            await pool.note_durable(at_once=True)
        self._free(number, report)


def groups(batches: Iterable[Batch], alive: Bits) -> Iterator[list[Move]]:
    """What lives in a segment, in groups that are moved as one batch each."""
    group: list[Move] = []
    blocks = 0
    for batch in batches:
        for move in living_runs(batch, alive):
            if blocks + len(move.sums) > MOVE_BLOCKS_MAX:
                yield group
                group, blocks = [], 0
            group.append(move)
            blocks += len(move.sums)
    if group:
        yield group


def living_runs(batch: Batch, alive: Bits) -> Iterator[Move]:
    """(birth, place, checksums) of living blocks that were born, and lie, one after the other.

    `alive` has a flag for each slot of the segment.
    """
    slot = batch.header.payload_slot
    at = 0
    sums = array("Q", batch.sums.tobytes())
    segment = batch.header.segment << SLOT_BITS
    for kind, _, block, count, _ in batch.descriptors.tolist():
        if kind not in (WRITE, MOVE):
            continue
        start = 0
        for n in range(count + 1):
            if n < count and alive[slot + at + n] and n - start < MOVE_BLOCKS_MAX:
                continue
            if n > start:
                place = segment | (slot + at + start)
                birth = block + start if kind == MOVE else place
                yield Move(birth, place, sums[at + start : at + n])
            start = n if n < count and alive[slot + at + n] else n + 1
        at += count
