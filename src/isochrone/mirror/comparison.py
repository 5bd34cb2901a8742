"""The secondary's end of a comparison: range by range, until all of a group has been looked at.

Both sides are looked at as of the same cut. Here the volumes are that cut, until the next is
committed; so what is here is taken in the same step as the question is made. Tracks that the
primary has changed since are compared again as of the next cut, of which it keeps the image.

Equal checksums are not believed to be equal data unless the data is read, too: `Progress.read`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, Literal

import msgspec
import numpy as np
from pyroaring import BitMap

from isochrone.errors import Conflict, DeadlinePassed, PeerFault, Unavailable
from isochrone.mirror import digests
from isochrone.mirror.conversation import HEARTBEAT_SECONDS, Conversation
from isochrone.mirror.images import TRACK_BLOCKS
from isochrone.mirror.messages import (
    VERIFY_SUMS_MAX,
    VERIFY_TRACKS_MAX,
    Heartbeat,
    Verified,
    Verify,
)
from isochrone.mirror.mover import Mover, greet
from isochrone.mirror.pairs import Pair
from isochrone.mirror.witness import row, unpack
from isochrone.store import records as r
from isochrone.store import reread
from isochrone.store.catalogue import Group, Volume
from isochrone.store.format import checksum
from isochrone.store.pool import Pool
from isochrone.types import BLOCK, TRACK

CAPABILITY: Final = "verify"
READ_TRACKS: Final = 512  # of which the data is read for one question: 32 MiB, well below a second
TRIES_MAX: Final = (
    6  # looks at a track that keeps changing; the second is at an image, if cuts come
)
CUT_SECONDS_MAX: Final = 15.0  # for a cut that was asked for
WAIT_SECONDS: Final = 0.25  # slept at a time: how soon a new rate or a stop is heard
SAVE_SECONDS: Final = 30.0  # between notes of how far it is: what a crash may repeat
FINDINGS_MAX: Final = 1000  # kept; beyond, they are only counted
DIFFERING_MAX: Final = 4096  # ranges of tracks that are sent again
ANSWER_SECONDS_MAX: Final = 120.0  # of a disk that reads 32 MiB, and beats meanwhile
ZERO_SUM: Final = checksum(bytes(BLOCK))

State = Literal["never", "running", "stopped", "failed", "done"]
Kind = Literal["damaged here", "damaged there", "different", "size"]


class Found(msgspec.Struct, kw_only=True):
    """Blocks of a volume that one site cannot read, or that are not the same at both."""

    kind: Kind
    volume: str
    remote: int  # id at the primary
    offset: int
    bytes: int
    cause: str = ""
    healed: bool = False


class Result(msgspec.Struct, kw_only=True):
    """What a pass that came to its end has shown."""

    stamp: int
    cut: int  # the newest that it looked at
    read: bool
    bytes: int  # compared
    unstable_bytes: int  # of them never stood still, and are not known to be equal
    found: int
    healed: int
    seconds: float


class Progress(msgspec.Struct, kw_only=True):
    """A pass over a group, and what is left of earlier ones. Kept as JSON."""

    group: str
    lineage: str = ""  # of the history that was compared; empty: none yet
    state: State = "never"
    reason: str = ""  # why it stands still
    every: float = 0.0  # seconds from the end of one pass to the next; 0: none by itself
    read: bool = False
    repair: bool = False
    rate: int = 0  # bytes a second, read at each site or told; 0: no limit
    started: int = 0  # ns since 1970
    volume: int = 0  # id at the primary, where it goes on,
    track: int = 0
    total: int = 0  # bytes of the group's volumes
    bytes: int = 0  # compared
    bytes_read: int = 0  # here
    unstable_bytes: int = 0
    found: int = 0
    findings: list[Found] = []
    differing: list[tuple[int, int, int]] = []  # volume, first track, tracks
    last: Result | None = None
    last_read: Result | None = None  # that also read the data
    history: list[Result] = []  # oldest first


class Comparison:
    """A pass, or the rest of one, over one connection. What it finds goes into the progress."""

    def __init__(
        self,
        pool: Pool,
        progress: Progress,
        mover: Callable[[], Mover | None],
        save: Callable[[], Awaitable[None]],
    ) -> None:
        self._pool = pool
        self._progress = progress
        self._mover = mover
        self._save = save
        self._talk: Conversation | None = None
        self._committed = asyncio.Event()
        self._hot = False  # something changed while it was looked at: have images kept
        self._saved_at = pool.world.clock.monotonic()
        self._debt = 0.0
        self.group = progress.group

    async def run(self, then: Callable[[Comparison], Awaitable[None]]) -> None:
        """Go on from where the progress stands, to the end, and do the rest over the same link.

        Raises `Unavailable` and `PeerFault` for the link, `Conflict` if nothing can be compared.
        """
        group = self._group()
        talk = self._talk = Conversation(await self._pool.world.net.connect(group.source))
        beat = asyncio.get_running_loop().create_task(self._beat(talk))
        self._pool.on_change.append(self._noticed)
        try:
            welcome = await greet(self._pool, talk, group, purpose="verify")
            if CAPABILITY not in welcome.capabilities:
                raise Conflict(f"the primary of group {group.name} is too old to be compared with")
            await self._pass()
            await then(self)
        finally:
            self._pool.on_change.remove(self._noticed)
            beat.cancel()
            await asyncio.gather(beat, return_exceptions=True)
            talk.close()

    async def _beat(self, talk: Conversation) -> None:
        while True:
            await self._pool.world.clock.sleep(HEARTBEAT_SECONDS)
            await talk.send(Heartbeat(stamp=self._pool.world.clock.wall_ns()))

    def _noticed(self, lsn: int, record: r.AnyRecord) -> None:
        if isinstance(record, r.IncomingCommitted) and record.group == self._progress.group:
            self._committed.set()

    def _group(self) -> Group:
        """The group, if what is here is a cut of it. Raises `Conflict`."""
        group = self._pool.state.groups.get(self._progress.group)
        if group is None or group.role != "secondary":
            raise Conflict(f"group {self._progress.group} is not mirrored to this controller")
        if not group.cut or group.diverged:
            raise Conflict(
                f"nothing of group {group.name} is here that could be compared yet",
                hint=f"see: isochrone mirror status {group.name}",
            )
        return group

    # -- going through

    async def _pass(self) -> None:
        progress, volumes = self._progress, self._pool.state.volumes
        places = sorted(self._group().remote_ids.items())
        progress.total = sum(volumes[local].size for _, local in places)
        for remote, _ in places:
            if remote < progress.volume:
                continue
            track = progress.track if remote == progress.volume else 0
            step = READ_TRACKS if progress.read else VERIFY_TRACKS_MAX
            while track < (end := -(-(size := self._size(remote)) // TRACK)):
                count = min(step, end - track)
                await self.compare(remote, track, count, read=progress.read)
                progress.bytes += min(size, (track + count) * TRACK) - track * TRACK
                track += count
                progress.volume, progress.track = remote, track
                await self._rest()

    async def _rest(self) -> None:
        """Keep to the rate, and note how far it is."""
        clock = self._pool.world.clock
        while self._progress.rate and self._debt > 0:
            wait = min(WAIT_SECONDS, self._debt / self._progress.rate)
            self._debt -= wait * self._progress.rate
            await clock.sleep(wait)
        if clock.monotonic() >= self._saved_at + SAVE_SECONDS:
            self._saved_at = clock.monotonic()
            await self._save()

    async def compare(
        self, remote: int, track: int, count: int, *, read: bool, again: bool = False
    ) -> bool:
        """Compare tracks of a volume until each stood still once; whether they are all equal.

        `again`: what is found was found before.
        """
        left, well = BitMap(range(track, track + count)), True
        for _ in range(TRIES_MAX):
            if read:
                well &= await self._read(remote, track, count, again=again)
            told, mine, _ = await self._ask(remote, track, count, read=read)
            if told.damaged:
                well = False
                self._note_there(remote, told.damaged, again=again)
            read = False
            if told.same and told.known:
                self._check_size(remote, told, again=again)
                return well
            unstable = self._unstable(told, track, count)
            differing = digests.differing(mine, told.digests, track, count)
            if told.same:
                differing = BitMap()
            equal, later = await self._drill(remote, differing & (left - unstable), again=again)
            well &= equal
            left &= unstable | later
            if not left:
                return well
            self._hot = True
            if not await self._next_cut():
                break
        if not again:
            self._progress.unstable_bytes += len(left) * TRACK
        return well

    def _unstable(self, told: Verified, track: int, count: int) -> BitMap:
        if not told.known or told.size != self._size(told.volume):
            return BitMap(range(track, track + count))
        return unpack(told.unstable, track, count)

    def _size(self, remote: int) -> int:
        return self._here(remote).size

    def _here(self, remote: int) -> Volume:
        """A volume of the primary as it is here. Raises `Unavailable` once it left the group."""
        id = self._group().remote_ids.get(remote)
        if id is None:
            raise Unavailable(f"volume {remote} has left the group {self._group().name}")
        return self._pool.state.volumes[id]

    async def _next_cut(self) -> bool:
        """Ask for a cut, and wait until it is here; False if none can come."""
        mover = self._mover()
        if mover is None or mover.state is not Pair.DUPLEX:
            return False
        self._committed.clear()
        await mover.sync()
        try:
            async with asyncio.timeout(CUT_SECONDS_MAX):
                await self._committed.wait()
        except TimeoutError:
            return False
        return True

    async def _ask(
        self, remote: int, track: int, count: int, *, sums: bool = False, read: bool = False
    ) -> tuple[Verified, bytes, int]:
        """What the primary answers, what was here when it was asked, and as of which cut."""
        group = self._group()
        table = self._pool.state.tables[self._here(remote).id]
        mine, cut = row(self._pool, table, track, count, sums=sums), group.cut
        question = Verify(
            cut=cut, volume=remote, track=track, count=count,
            whole=checksum(mine).to_bytes(8, "little"), sums=sums, read=read, freeze=self._hot,
        )  # fmt: skip
        assert self._talk is not None
        await self._talk.send(question)
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                told = await self._talk.answer(Verified)
        except TimeoutError:
            raise DeadlinePassed(f"{self._talk.peer} did not answer a comparison") from None
        check(question, told)
        self._debt += len(told.digests)
        return told, mine, cut

    # -- what is found

    async def _read(self, remote: int, track: int, count: int, *, again: bool) -> bool:
        """Read what is here; whether all of it is what was written."""
        local = self._here(remote).id
        damaged, size = await reread.damaged(
            self._pool, local, track * TRACK_BLOCKS, count * TRACK_BLOCKS
        )
        self._progress.bytes_read += size
        self._debt += size
        self._pool.met_damage(local, damaged)
        if not again:
            cause = "this site cannot read what it has written; it is healed from the primary"
            self._note_blocks("damaged here", remote, damaged, cause)
        return not damaged

    def _note_there(self, remote: int, damaged: tuple[int, ...], *, again: bool) -> None:
        if not again:
            cause = "the primary cannot read what it has written; it is healed from here"
            self._note_blocks("damaged there", remote, damaged, cause)

    def _check_size(self, remote: int, told: Verified, *, again: bool) -> None:
        if told.size != self._size(remote) and not again:
            self._note("size", remote, 0, 0, f"{told.size} bytes there, {self._size(remote)} here")

    async def _drill(self, remote: int, tracks: BitMap, *, again: bool) -> tuple[bool, BitMap]:
        """Which blocks differ: whether none does, and the tracks that changed meanwhile."""
        equal, later = True, BitMap()
        for first, count in runs(tracks, VERIFY_SUMS_MAX):
            told, mine, _ = await self._ask(remote, first, count, sums=True, read=True)
            unstable = self._unstable(told, first, count)
            later |= unstable
            different = differing_blocks(mine, told.digests, first, count) if not told.same else []
            blocks = [b for b in different if b // TRACK_BLOCKS not in unstable]
            if not blocks:
                continue
            equal = False
            if not again:
                await self._note_different(remote, blocks, told)
        return equal, later

    async def _note_different(self, remote: int, blocks: list[int], told: Verified) -> None:
        """Both tables are sound, and do not say the same: no disk does that."""
        local = self._here(remote).id
        bad = {b for b in blocks if (await reread.damaged(self._pool, local, b, 1))[0]}
        there = set(told.damaged)
        for first, count in _together(blocks):
            part = set(range(first, first + count))
            words = "at both sites it is what was written"
            if part & bad or part & there:
                sites = [w for w, s in (("here", bad), ("at the primary", there)) if part & s]
                words = f"it cannot be read {' or '.join(sites)}"
            self._note(
                "different", remote, first, count, f"the sites do not hold the same; {words}"
            )
        for track, n in runs(BitMap([b // TRACK_BLOCKS for b in blocks]), 1 << 30):
            if len(self._progress.differing) < DIFFERING_MAX:
                self._progress.differing.append((remote, track, n))

    def _note_blocks(
        self, kind: Kind, remote: int, blocks: tuple[int, ...] | list[int], cause: str
    ) -> None:
        for first, count in _together(sorted(blocks)):
            self._note(kind, remote, first, count, cause)

    def _note(self, kind: Kind, remote: int, block: int, count: int, cause: str) -> None:
        progress = self._progress
        volume = self._here(remote).name
        found = Found(
            kind=kind, volume=volume, remote=remote, offset=block * BLOCK, bytes=count * BLOCK,
            cause=cause,
        )  # fmt: skip
        if found in progress.findings:
            return  # met before this pass was interrupted
        progress.found += 1
        if len(progress.findings) < FINDINGS_MAX:
            progress.findings.append(found)


# -- pure


def check(asked: Verify, told: Verified) -> None:
    """Raise `PeerFault` for what is no answer to a question."""
    if (told.volume, told.track) != (asked.volume, asked.track):
        raise PeerFault("an answer came for other tracks than asked for")
    size = 8 * asked.count * (TRACK_BLOCKS if asked.sums else 1)
    if len(told.digests) not in (0, size):
        raise PeerFault(f"{len(told.digests)} bytes of digests for {asked.count} tracks")
    first, end = asked.track * TRACK_BLOCKS, (asked.track + asked.count) * TRACK_BLOCKS
    if any(not first <= block < end for block in told.damaged):
        raise PeerFault("blocks are called damaged that were not asked about")


def differing_blocks(mine: bytes, theirs: bytes, track: int, count: int) -> list[int]:
    """Blocks whose checksums say that they differ. A block of zeros is the same as none."""
    rows = []
    for sums in (mine, theirs):
        row = np.frombuffer(sums, "<u8") if sums else np.zeros(count * TRACK_BLOCKS, "<u8")
        rows.append(np.where(row == ZERO_SUM, 0, row))
    found: list[int] = (np.flatnonzero(rows[0] != rows[1]) + track * TRACK_BLOCKS).tolist()
    return found


def runs(tracks: BitMap, most: int) -> Iterator[tuple[int, int]]:
    """(first, count) of members that follow each other, at most so many at a time."""
    for first, count in _together(list(tracks)):
        for at in range(first, first + count, most):
            yield at, min(most, first + count - at)


def _together(numbers: list[int]) -> Iterator[tuple[int, int]]:
    start = 0
    for at in range(1, len(numbers) + 1):
        if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
            yield numbers[start], at - start
            start = at
