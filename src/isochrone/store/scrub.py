"""Scrubbing: every living block of an open pool is read again and compared with its checksum.

A pass goes over the segments in order, up to the one that was the newest when it began. What lives
is known by a mark, as for the cleaner; what was moved since then was verified when it was moved,
and lies behind the end of the pass. A segment that should be there and is not in the log, because
its file was gone or its header unreadable at the start, is gone over like the others. Nothing is
called damage by what a pass has read: suspects are looked up in the tables of that moment and read
again, so what died, or moved, is let go.

How far a pass is is kept in the metadata store, so it goes on after a restart. Reading is done in a
thread, a piece at a time, below a rate that may change, and slower while others are served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, Literal

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from isochrone.errors import Conflict, Damaged, InvalidInput, IsochroneError
from isochrone.store.check import Finding, check_catalogue
from isochrone.store.checkpoint import Frozen
from isochrone.store.format import pointer, segment_name
from isochrone.store.mark import Marks, mark
from isochrone.store.owners import Nodes, Reference, find
from isochrone.store.pool import Pool
from isochrone.store.verdict import confirm, names, ranges
from isochrone.store.walk import Piece, Segment, Suspect, walk
from isochrone.types import BLOCK, MIB

RATE_DEFAULT: Final = 64 * MIB  # bytes a second: 1 TiB in under five hours
RATE_BYTES_MIN: Final = MIB  # a piece a second; slower, a pass would end after the next disk
FINDINGS_MAX: Final = 1000  # ranges kept with their names; beyond, they are only counted
EVENTS_MAX: Final = 100  # lines in the log of a pass: damage comes in thousands
SUSPECTS_MAX: Final = 65536  # looked up at a time: a few segments' worth
SAVE_SECONDS: Final = 2.0  # between notes of how far a pass is; what a crash may repeat
LOOK_SHARE: Final = 10  # a lookup is as long ago as ten of them take, before the next one
WAIT_SECONDS: Final = 0.25  # slept at a time: how soon a new rate, a pause or a stop is heard
BUSY_SECONDS: Final = 0.001  # a turn of the loop that takes longer serves somebody
BUSY_SHARE: Final = 4  # then four times as long is waited as was read
KEY: Final = "scrub"  # of the setting

log = structlog.get_logger("isochrone.scrub")

State = Literal["idle", "running", "paused", "stopped", "done"]


class Progress(msgspec.Struct, kw_only=True):
    """A pass, and what is left of earlier ones. Kept as JSON."""

    state: State = "idle"
    reason: str = ""  # why it is paused, if nobody asked for it
    passes: int = 0  # begun so far
    started: int = 0  # ns since 1970
    ended: int = 0
    rate: int = RATE_DEFAULT  # bytes a second
    next: int = 0  # segment where it goes on
    last: int = 0  # segment where it ends
    living: int = 0  # blocks that are verified in all, as last counted
    blocks: int = 0  # verified so far
    bytes_read: int = 0
    segments: int = 0  # read so far
    nodes: int = 0  # of the tables, verified
    dismissed: int = 0  # suspects that were dead, moved, or right when they were read again
    damaged: int = 0  # ranges found
    damaged_bytes: int = 0
    findings: list[Finding] = []  # of this pass, or the last one; at most FINDINGS_MAX
    completed: int = 0  # when a pass last came to its end; 0: never
    completed_damaged: int = 0  # what that one found


class Scrub:
    """Passes over a pool, one at a time. Call `resume` once it serves, `close` before it ends."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.progress = _load(pool.setting(KEY))
        self._task: asyncio.Task[None] | None = None
        self._halt = False
        self._living: dict[int, NDArray[np.uint8]] = {}  # a bit for each slot, by segment
        self._unlisted: set[int] = set()  # segments of these that the log does not have
        self._suspects: list[Suspect] = []
        self._events = 0
        self._debt = 0.0  # bytes read beyond the rate
        self._saved_at = 0.0
        self._look_after = 0.0
        self._appended = 0

    # -- asking

    def start(self, rate: int = 0) -> None:
        """Begin a pass, or go on with a paused one; at another rate, also if one is running."""
        if rate:
            if rate < RATE_BYTES_MIN:
                raise InvalidInput(
                    f"{rate} bytes a second are too few to come to an end",
                    hint=f"the least is {RATE_BYTES_MIN // MIB} MiB a second",
                )
            self.progress.rate = rate
        if self.progress.state == "running":
            return
        if self._task is not None:
            raise Conflict("a scrub is just ending", hint="try again")
        if self.progress.state != "paused":
            self._begin_pass()
        self.progress.state, self.progress.reason = "running", ""
        self._run()

    def resume(self) -> None:
        """Go on with a pass that the end of an earlier process has interrupted."""
        if self.progress.state == "running" and self._task is None:
            self._run()

    async def pause(self) -> None:
        """Raises `Conflict` if nothing runs."""
        await self._end("paused", "running")

    async def stop(self) -> None:
        """Give a pass up; the next one begins anew. Raises `Conflict` if there is none."""
        await self._end("stopped", "running", "paused")

    async def _end(self, state: State, *before: State) -> None:
        if self.progress.state not in before:
            raise Conflict(
                f"no scrub is {' or '.join(before)}: it is {self.progress.state}",
                hint="see: isochrone scrub status",
            )
        self.progress.state = state
        await self.close()
        if state == "stopped":
            self.progress.ended = self._pool.world.clock.wall_ns()
            self._living.clear()
        await self._save()

    async def ended(self, seconds: float) -> None:
        """Wait until nothing runs, but not for longer."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=seconds)

    def now(self) -> int:
        """The wall clock that `started`, `ended` and `completed` are of."""
        return self._pool.world.clock.wall_ns()

    async def close(self) -> None:
        """Let go of the pool soon; a running pass goes on after the next `resume`."""
        if self._task is None:
            return
        self._halt = True
        await asyncio.wait({self._task})
        self._halt = False
        with suppress(IsochroneError, OSError):  # then more of it is done again
            await self._save()

    # -- a pass

    def _begin_pass(self) -> None:
        old, position = self.progress, self._pool.log.position
        self.progress = Progress(
            passes=old.passes + 1,
            started=self._pool.world.clock.wall_ns(),
            rate=old.rate,
            last=position[0],
            completed=old.completed,
            completed_damaged=old.completed_damaged,
        )
        self._events = 0

    def _run(self) -> None:
        self._halt = False
        self._task = asyncio.get_running_loop().create_task(self._guarded())
        self._task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self.progress.state, self.progress.reason = "paused", f"a bug: {error!r}"
            log.error("a scrub ended by itself", exc_info=error)

    async def _guarded(self) -> None:
        """A pass until it ends, or cannot go on for now."""
        try:
            await self._pass()
        except (IsochroneError, OSError) as e:
            if self._halt:
                return
            self.progress.state, self.progress.reason = "paused", str(e)
            log.error("a scrub cannot go on", reason=str(e))
        finally:
            if self._suspects:  # not looked up: they are to be met again
                again = min(suspect.segment for suspect in self._suspects)
                self.progress.next = min(self.progress.next, again)

    async def _pass(self) -> None:
        progress, pool = self.progress, self._pool
        self._suspects.clear()
        if not progress.next:
            log.info("scrub begins", segments=len(pool.log.first_lsns), rate=progress.rate)
        await self._plan()
        await self._save()
        for number in sorted(self._living):
            if not await self._segment(number):
                return
            progress.next = number + 1
            await self._rest()
        await self._look_up()
        if self._halt:
            return
        progress.state, progress.ended = "done", pool.world.clock.wall_ns()
        progress.completed, progress.completed_damaged = progress.ended, progress.damaged
        self._living.clear()
        await self._save()
        log.info(
            "scrub is complete",
            blocks=progress.blocks,
            damaged_ranges=progress.damaged,
            seconds=round((progress.ended - progress.started) / 1e9),
        )

    async def _plan(self) -> None:
        """Find out what lives, and verify the nodes of the tables on the way."""
        pool, progress = self._pool, self.progress
        try:
            check_catalogue(pool)
        except Damaged as e:
            self._report(Finding(e.message, [], 0, 0))
        nodes = Nodes(pool.marked_nodes, lambda: self._halt)
        slots = pool.log.segment_slots

        def look(frozen: Frozen) -> tuple[Marks, list[Reference]]:
            marks = mark(frozen.roots, nodes, slots)
            if not nodes.damaged:
                return marks, []
            return marks, find(frozen.roots, Nodes(pool.marked_nodes), (), nodes.damaged)

        frozen, (marks, lost) = await pool.checkpoint_then(look)
        for reference in lost:
            self._report(
                Finding(
                    nodes.damaged[reference.node],
                    names(self._pool, frozen, reference),
                    reference.block * BLOCK,
                    reference.blocks * BLOCK,
                )
            )
        progress.nodes = nodes.count
        marks.resolve(pool.log.forwarding)
        self._living = {
            number: np.packbits(marks.bits(number))
            for number in pool.log.first_lsns.keys() | marks.segments()
            if progress.next <= number <= progress.last
        }
        self._unlisted = self._living.keys() - pool.log.first_lsns.keys()
        ahead = sum(int(np.bitwise_count(bits).sum()) for bits in self._living.values())
        progress.living = progress.blocks + ahead

    async def _segment(self, number: int) -> bool:
        """Read a segment; False if told to halt before its end.

        With a handle of our own: the log may close its own at any time.
        """
        pool, progress = self._pool, self.progress
        living = np.flatnonzero(np.unpackbits(self._living[number], count=pool.log.segment_slots))
        numbers = pool.log.first_lsns
        if self._emptied(number):
            return not self._halt
        ends = numbers[number + 1] - 1 if number + 1 in numbers else 0
        needed = ends > pool.pinned_lsn()
        if not len(living) and not needed:
            return not self._halt
        try:
            file = pool.disk.open_uncached(segment_name(number))
        except FileNotFoundError:
            self._suspects += [Suspect(number, slot, "block") for slot in living.tolist()]
            return not self._halt
        wanted = Segment(pool.log.pool, number, living, pool.log.segment_slots, ends, needed)
        pieces = walk(file, wanted)
        found: list[Suspect] = []
        blocks = 0
        try:
            while not self._halt and (piece := await self._read(pieces)) is not None:
                if self._emptied(number):
                    progress.dismissed += len(found) + len(piece.suspects)
                    # It was emptied, and what we have read may be another segment's.
                    return not self._halt
                found += piece.suspects
                blocks += piece.blocks
                progress.bytes_read += piece.bytes_read
        finally:
            file.close()
        if self._halt:
            return False
        progress.segments += 1
        progress.blocks += blocks
        self._suspects += found
        return True

    def _emptied(self, number: int) -> bool:
        """Whether a segment was given up since the pass was planned."""
        return number not in self._pool.log.first_lsns and number not in self._unlisted

    async def _read(self, pieces: Iterator[Piece]) -> Piece | None:
        """The next piece, and then no faster than allowed."""
        clock = self._pool.world.clock
        begun = clock.monotonic()
        piece = await self._pool.world.work.run(lambda: next(pieces, None))
        took = clock.monotonic() - begun
        if piece is not None:
            self._debt += piece.bytes_read
        while self._debt > 0 and not self._halt:
            wait = min(WAIT_SECONDS, self._debt / self.progress.rate)
            self._debt -= wait * self.progress.rate
            await clock.sleep(max(0.0, wait - took))
            took = max(0.0, took - wait)
        await self._yield(took)
        return piece

    async def _yield(self, took: float) -> None:
        """Let others go first: if there are any, for longer."""
        clock, appended = self._pool.world.clock, self._pool.log.bytes_appended
        begun = clock.monotonic()
        await clock.sleep(0)
        if clock.monotonic() - begun > BUSY_SECONDS or appended != self._appended:
            self._appended = appended
            await clock.sleep(min(WAIT_SECONDS, took * BUSY_SHARE))

    async def _rest(self) -> None:
        """Between two segments: look suspects up, note how far the pass is."""
        now = self._pool.world.clock.monotonic()
        if self._suspects and (now >= self._look_after or len(self._suspects) >= SUSPECTS_MAX):
            await self._look_up()
            done = self._pool.world.clock.monotonic()
            self._look_after = done + LOOK_SHARE * (done - now)
        if not self._suspects and now >= self._saved_at + SAVE_SECONDS:
            await self._save()

    async def _save(self) -> None:
        self._saved_at = self._pool.world.clock.monotonic()
        await self._pool.keep_setting(KEY, msgspec.json.encode(self.progress).decode())

    # -- from suspects to findings

    async def _look_up(self) -> None:
        """Report those suspects that somebody reads, and that are wrong again."""
        suspects = {pointer(s.segment, s.slot): s for s in self._suspects}
        if not suspects:
            return
        wrong = await confirm(self._pool, suspects, lambda: self._halt)
        self.progress.dismissed += len(suspects) - len({w.place for w in wrong})
        self._suspects.clear()
        for finding in ranges(wrong):
            self._report(finding)

    def _report(self, finding: Finding) -> None:
        progress = self.progress
        if finding in progress.findings:
            return  # met before this pass was interrupted
        progress.damaged += 1
        progress.damaged_bytes += finding.bytes
        if len(progress.findings) < FINDINGS_MAX:
            progress.findings.append(finding)
        for name in finding.exports:
            for told in self._pool.on_damage if name in self._pool.state.names else ():
                told(self._pool.state.names[name], finding.offset // BLOCK, finding.bytes // BLOCK)
        self._events += 1
        if self._events < EVENTS_MAX:
            log.error(
                "scrub found damage",
                exports=" ".join(finding.exports) or "-",
                offset=finding.offset,
                bytes=finding.bytes,
                segment=finding.segment,
                cause=finding.cause,
            )
        elif self._events == EVENTS_MAX:
            log.error("scrub found more damage; see: isochrone scrub status")


def _load(kept: str) -> Progress:
    """What an earlier process has noted; a new beginning if it cannot be understood."""
    if not kept:
        return Progress()
    try:
        return msgspec.json.decode(kept, type=Progress)
    except msgspec.MsgspecError as e:
        log.warning("how far the last scrub was is not known", reason=str(e))
        return Progress()
