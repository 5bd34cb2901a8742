"""Comparisons of the groups that are mirrored here with their primaries: begun, kept, repeated.

How far a pass is is kept in the metadata store, so it goes on after a restart, and after a link
that broke. A pass ends when all of a group was looked at; then damage that was healed meanwhile is
told apart from what was not, and if that was asked for, what differs is sent again by the primary.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec
import structlog
from pyroaring import BitMap

from isochrone.errors import Conflict, InvalidInput, IsochroneError, PeerFault, Unavailable
from isochrone.mirror.comparison import FINDINGS_MAX, Comparison, Found, Progress, Result
from isochrone.mirror.groups import find_group
from isochrone.mirror.mover import Mover
from isochrone.mirror.repair import Repairs
from isochrone.store.pool import Pool
from isochrone.types import KIB, TRACK

RATE_BYTES_MIN: Final = 64 * KIB  # a second; slower, a pass of a day would look at 5 GiB
EVERY_SECONDS_MIN: Final = 60.0
HISTORY_KEPT: Final = 10  # passes
LOOK_SECONDS: Final = 10.0  # between looks at whether a pass is due
RETRY_SECONDS_MIN: Final = 0.5
RETRY_SECONDS_MAX: Final = 30.0
FAULTS_MAX: Final = 5  # in a row, of a primary that makes no sense: then the pass has failed
HEAL_TRIES: Final = 10  # looks at whether what was found is healed
HEAL_SECONDS: Final = 2.0  # between them
RESEND_SECONDS_MAX: Final = 600.0  # for tracks that are sent again
KEY: Final = "verify"  # of the setting

log = structlog.get_logger("isochrone.verify")

_DECODER: Final = msgspec.json.Decoder(dict[str, Progress])


class Verifier:
    """Of one pool. `run` never returns by itself; `close` lets go of the pool."""

    def __init__(self, pool: Pool, mover: Callable[[str], Mover | None], repairs: Repairs) -> None:
        self._pool = pool
        self._mover = mover
        self._repairs = repairs
        self._progress = _load(pool.setting(KEY))
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def progress(self, group: str) -> Progress:
        """Of a group that is here. Raises `NotFound`."""
        lineage = find_group(self._pool, group).lineage
        found = self._progress.get(group)
        if found is None or found.lineage not in ("", lineage):
            return Progress(group=group)  # nothing is known of what it is now
        return found

    def age(self, group: str) -> float:
        """Seconds since a pass over a group last came to its end; -1: never."""
        last = self.progress(group).last
        if last is None:
            return -1.0
        return max(0.0, (self._pool.world.clock.wall_ns() - last.stamp) / 1e9)

    def unhealed(self, group: str) -> int:
        """What the last pass over a group has found, and was not healed by its end."""
        last = self.progress(group).last
        return last.found - last.healed if last is not None else 0

    # -- asking

    async def start(
        self, group: str, *, read: bool = False, repair: bool = False, rate: int = 0
    ) -> Progress:
        """Begin a pass; while one runs, only its rate and whether it repairs change.

        Raises `Conflict` for a group that is not mirrored to this controller.
        """
        if rate and rate < RATE_BYTES_MIN:
            raise InvalidInput(f"{rate} bytes a second are too few to come to an end")
        progress = self._followed(group)
        if progress.state != "running":
            await self._end(group)  # one that is just writing down how it ended
        if progress.state == "running":
            progress.rate, progress.repair = rate, progress.repair or repair
        else:
            progress = self._begin(progress, read=read, repair=repair, rate=rate)
        await self._save()
        self._run(group)
        return progress

    async def schedule(
        self, group: str, every: float, *, read: bool, repair: bool, rate: int
    ) -> Progress:
        """A pass so many seconds after the end of the last one, from now on; 0: none by itself."""
        if every and every < EVERY_SECONDS_MIN:
            raise InvalidInput(f"a comparison every {every:g} s would never be over")
        progress = self._followed(group)
        progress.every = every
        if progress.state != "running":
            progress.read, progress.repair, progress.rate = read, repair, rate
        self._progress[group] = progress
        await self._save()
        return progress

    async def stop(self, group: str) -> Progress:
        """Give a pass up; the next begins anew. Raises `Conflict` if none runs."""
        progress = self.progress(group)
        if progress.state != "running":
            raise Conflict(f"no comparison of group {group!r} is running: it is {progress.state}")
        progress.state = "stopped"
        await self._end(group)
        await self._save()
        return progress

    async def ended(self, group: str, seconds: float) -> None:
        """Wait until no pass runs over a group, but not for longer."""
        if task := self._tasks.get(group):
            await asyncio.wait({task}, timeout=seconds)

    def _followed(self, group: str) -> Progress:
        progress = self.progress(group)
        if find_group(self._pool, group).role != "secondary":
            raise Conflict(
                f"group {group!r} is not mirrored to this controller",
                hint="run `isochrone mirror verify` at the secondary",
            )
        return progress

    # -- living

    async def run(self) -> None:
        """Go on with what an earlier process has begun, and begin what is due."""
        for name, progress in self._progress.items():
            if progress.state == "running":
                self._run(name)
        while True:
            await self._pool.world.clock.sleep(LOOK_SECONDS)
            for name in [n for n in self._progress if n not in self._pool.state.groups]:
                await self._end(name)
                del self._progress[name]
            for name, progress in list(self._progress.items()):
                if self._due(name, progress):
                    self._begin(
                        progress, read=progress.read, repair=progress.repair, rate=progress.rate
                    )
                    self._run(name)

    def _due(self, name: str, progress: Progress) -> bool:
        if not progress.every or progress.state == "running" or name in self._tasks:
            return False
        tried = max(progress.started, progress.last.stamp if progress.last else 0)
        since = (self._pool.world.clock.wall_ns() - tried) / 1e9
        group = self._pool.state.groups[name]
        return since >= progress.every and group.role == "secondary" and bool(group.cut)

    async def close(self) -> None:
        """End all tasks; what runs goes on with the next `run`."""
        for name in list(self._tasks):
            await self._end(name)

    async def _end(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _begin(self, old: Progress, *, read: bool, repair: bool, rate: int) -> Progress:
        progress = self._progress[old.group] = Progress(
            group=old.group, state="running", every=old.every, read=read, repair=repair, rate=rate,
            started=self._pool.world.clock.wall_ns(), lineage=old.lineage,
            last=old.last, last_read=old.last_read,
            history=old.history,
        )  # fmt: skip
        log.info("comparison with the primary begins", group=old.group, read=read)
        return progress

    def _run(self, name: str) -> None:
        if name in self._tasks:
            return
        task = asyncio.get_running_loop().create_task(self._guarded(self._progress[name]))
        self._tasks[name] = task
        task.add_done_callback(lambda task: self._over(name, task))

    def _over(self, name: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(name) is task:
            del self._tasks[name]
        if not task.cancelled() and (error := task.exception()) is not None:
            progress = self._progress[name]
            progress.state, progress.reason = "failed", f"a bug: {error!r}"
            log.error("a comparison ended by itself", group=name, exc_info=error)

    async def _save(self) -> None:
        text = msgspec.json.encode(self._progress).decode()
        await self._pool.keep_setting(KEY, text)

    # -- a pass

    async def _guarded(self, progress: Progress) -> None:
        """A pass until it ends, over as many connections as that needs."""
        wait, faults = RETRY_SECONDS_MIN, 0
        clock = self._pool.world.clock
        while True:
            before = (progress.volume, progress.track)
            work = Comparison(self._pool, progress, lambda: self._mover(progress.group), self._save)
            try:
                await work.run(self._finish)
                return
            except Unavailable as e:
                progress.reason = str(e)
            except PeerFault as e:
                faults = 1 if self._moved(progress, before) else faults + 1
                progress.reason = str(e)
                if faults >= FAULTS_MAX:
                    break
            except (IsochroneError, OSError) as e:
                progress.reason = str(e)
                break
            if self._moved(progress, before):
                wait = RETRY_SECONDS_MIN
            await clock.sleep(self._pool.world.dice.between(wait / 2, wait))
            wait = min(2 * wait, RETRY_SECONDS_MAX)
        progress.state = "failed"
        log.error("a comparison failed", group=progress.group, reason=progress.reason)
        await self._save()

    @staticmethod
    def _moved(progress: Progress, before: tuple[int, int]) -> bool:
        return (progress.volume, progress.track) != before

    async def _finish(self, work: Comparison) -> None:
        """All was looked at: see what is healed, and write down what came of it."""
        progress, clock = self._progress[work.group], self._pool.world.clock
        if progress.repair and progress.differing:
            await self._resend(progress)
        await self._healed(work, progress)
        progress.findings.sort(key=lambda found: (found.volume, found.offset))
        for found in progress.findings:
            if not found.healed:
                self._report(progress, found)
        if progress.found > len(progress.findings):
            log.error("more was found; see: isochrone mirror verify GROUP --status")
        healed = sum(found.healed for found in progress.findings)
        now = clock.wall_ns()
        result = Result(
            stamp=now, cut=self._pool.state.groups[progress.group].cut, read=progress.read,
            bytes=progress.bytes, unstable_bytes=progress.unstable_bytes, found=progress.found,
            healed=healed, seconds=(now - progress.started) / 1e9,
        )  # fmt: skip
        progress.lineage = self._pool.state.groups[progress.group].lineage
        progress.last, progress.history = result, [*progress.history, result][-HISTORY_KEPT:]
        if progress.read:
            progress.last_read = result
        progress.state, progress.reason = "done", ""
        log.info(
            "comparison with the primary is complete", group=progress.group, bytes=result.bytes,
            found=result.found, healed=healed, unstable_bytes=result.unstable_bytes,
        )  # fmt: skip
        await self._save()

    def _report(self, progress: Progress, found: Found) -> None:
        differs = found.kind in ("different", "size")
        hint = f"isochrone mirror verify {progress.group} --repair" if differs else ""
        log.error(
            "THE SITES DIFFER" if differs else "damage was found",
            group=progress.group, volume=found.volume, offset=found.offset, bytes=found.bytes,
            cause=found.cause, next=hint,
        )  # fmt: skip

    async def _resend(self, progress: Progress) -> None:
        """Have the primary send what differs; it is here with the next cut, as one."""
        tracks: dict[int, BitMap] = {}
        for remote, first, count in progress.differing:
            tracks.setdefault(remote, BitMap()).update(range(first, first + count))
        mover = self._mover(progress.group)
        if mover is None:
            return
        size = sum(map(len, tracks.values())) * TRACK
        log.warning("what differs is sent again by the primary", group=progress.group, bytes=size)
        mover.resend(tracks)
        try:
            async with asyncio.timeout(RESEND_SECONDS_MAX):
                while mover.differing:
                    await mover.changed.wait()
                progress.differing = []
        except TimeoutError:
            log.error("what differs could not be sent again yet", group=progress.group)

    async def _healed(self, work: Comparison, progress: Progress) -> None:
        """Look again at all that was found, until it is well or time is over."""
        assert len(progress.findings) <= FINDINGS_MAX
        for attempt in range(HEAL_TRIES):
            bad = [f for f in progress.findings if not f.healed and f.bytes]
            if not progress.repair:
                bad = [f for f in bad if f.kind != "different"]
            if not bad:
                return
            if attempt:
                await self._pool.world.clock.sleep(HEAL_SECONDS)
            await self._repairs.settled(HEAL_SECONDS)
            for found in bad:
                first = found.offset // TRACK
                count = (found.offset + found.bytes - 1) // TRACK - first + 1
                read = found.kind != "different"
                found.healed = await work.compare(
                    found.remote, first, min(count, 64), read=read, again=True
                )


def _load(kept: str) -> dict[str, Progress]:
    """What an earlier process has noted; nothing if it cannot be understood."""
    if not kept:
        return {}
    try:
        return _DECODER.decode(kept)
    except msgspec.MsgspecError as e:
        log.warning("how far the last comparison was is not known", reason=str(e))
        return {}
