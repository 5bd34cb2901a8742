"""The copy of the metadata store, from which it can be rebuilt: when it is made, or given up.

A rebuild replays the log from the copy on, so the segments since then are kept. The older the copy
the more they are; each new copy writes the whole store once more. One that fails is no failure of
the checkpoint it follows. It is said once, and
tried again ever more rarely.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from isochrone.errors import Damaged, NoSpace
from isochrone.store.metadata import Metadata
from isochrone.types import BLOCK

if TYPE_CHECKING:
    from isochrone.store.pool import Pool

RATIO: Final = 8  # log kept for a rebuild over the store's size: an eighth is written on top
RATIO_PRESSED: Final = 2  # in need of space
ROOM_SHARE: Final = 32  # then, of the room: at most half of the slack that a full pool has
FAILURES_MAX: Final = 5  # after each the wait doubles: from half a GiB of log to 8
ROOM_STORES: Final = 2  # of free space under pressure: the old copy goes when the new one is there

log = structlog.get_logger()


class Backup:
    """Of one pool; called after each checkpoint."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._failures = 0  # in a row
        self._tried_at = 0  # bytes appended
        self._said: dict[str, None] = {}  # why there is no newer copy; empty: there is one

    @property
    def kept_from(self) -> int | None:
        """Segments from this one on are kept for a rebuild of the metadata store; None: none."""
        return self._metadata.kept_from

    async def look(self, pool: Pool, segment: int) -> None:
        """Copy the store if that is due; its replay starts at `segment`."""
        try:
            pressed = pool.log.pressed
            if not self._due(pool, segment, pressed):
                return
            if pressed and pool.log.free_bytes < ROOM_STORES * self._metadata.bytes_used():
                raise NoSpace("there is no room for a copy of the metadata store")
            if not self._worth_trying(pool):
                await self._give_up(pool)
                return
            self._tried_at = pool.log.bytes_appended
            self._failures += 1
            await pool.world.work.run(lambda: self._metadata.back_up(pool.disk, segment))
        except (OSError, NoSpace, Damaged) as e:
            self._say("the metadata store could not be copied", str(e))
            await self._give_up(pool)
            return
        # Under pressure it may soon be given up again: trust in it comes back step by step.
        self._failures = max(0, self._failures - 2) if pressed else 0
        if self._said:
            log.info("the metadata store has a copy again")
            self._said.clear()

    def _due(self, pool: Pool, segment: int, pressed: bool) -> bool:
        """Whether the log kept for a rebuild costs more than a copy of the store, or is in need."""
        if self.kept_from is None:
            return True  # there is none to rebuild from
        segments = segment - (self.kept_from or min(pool.log.first_lsns, default=segment))
        kept = segments * pool.log.segment_slots * BLOCK
        size = self._metadata.bytes_used()
        if pressed:
            room = (pool.log.bytes_on_disk + pool.log.free_bytes) // ROOM_SHARE
            return segments > 0 and kept >= min(RATIO_PRESSED * size, room)
        return segments > 0 and kept >= min(RATIO * size, self._much(pool))

    def _much(self, pool: Pool) -> int:
        """So much log is worth a look, whatever the store costs."""
        return max(pool.limits.garbage_bytes, RATIO * self._metadata.bytes_used() // 2)

    def _worth_trying(self, pool: Pool) -> bool:
        """Not with each checkpoint, once it has failed: each time costs the writing of a store."""
        since = pool.log.bytes_appended - self._tried_at
        return not self._failures or since >= self._much(pool) << min(self._failures, FAILURES_MAX)

    def _say(self, event: str, reason: str) -> None:
        if reason not in self._said:
            log.warning(event, reason=reason)
            self._said[reason] = None

    async def _give_up(self, pool: Pool) -> None:
        """What a rebuild would need must not stand between a full pool and free space."""
        try:
            if pool.log.pressed and self.kept_from is not None:
                self._failures, self._tried_at = self._failures + 1, pool.log.bytes_appended
                await pool.world.work.run(self._metadata.give_up_backup)
                log.warning("space is short: until the next copy no rebuild of it is possible")
        except (OSError, NoSpace, Damaged) as e:
            self._say("nothing can be given back now", str(e))
