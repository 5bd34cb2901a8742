"""How full a pool is, and what follows from it: when to clean, whom to slow down, what to refuse.

An overwrite needs new room before the old block's can be had again. So a pool must not be filled
with living blocks to the brim: *slack* is what would be free if all garbage were gone. While there
is enough of it, the cleaner can always make room, and overwriting does not fail; writers that are
faster than the cleaner wait for it. When slack runs short, blocks that have no data yet are
refused, and so are those that a copy keeps: these are what makes a pool fuller.

    |  living blocks  |  garbage  |  free: headroom | one segment | reserve |
                      |<---------- slack ---------->|
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from isochrone.store.kept import Kept
from isochrone.store.log import Log
from isochrone.store.tracks import Forest, Table
from isochrone.types import BLOCK

HEADROOM_SHARE: Final = 4  # a quarter of the slack is kept free; older garbage is cheaper to clean
HEADROOM_RESERVES: Final = 2  # but no more than so many reserves: a second of fast writing
ROUND_SHARE: Final = 64  # of what lives is gained by a round at least
SLACK_SHARE_MIN: Final = 16  # of the room: fuller than 94 %, each write would cost ten moves
SLACK_SEGMENTS_MIN: Final = 4
TIGHT_TIMES: Final = 2  # as much slack: expendable copies go, in time for a round of cleaning
PACE_S_MAX: Final = 0.05  # that one turn of writers waits at a time
STUCK_TURNS: Final = 200  # so many waits in a row, 10 s, bring no room: they get the error
OVERHEAD: Final = 32  # living blocks take a part of so many more, for headers and ends of segments


class Space:
    """Of one pool. `look` is cheap, and called with every segment and twice a second."""

    def __init__(self, log: Log, forest: Forest, reserve_bytes: int) -> None:
        self._log = log
        self._forest = forest
        self._reserve = reserve_bytes
        self._live: int | None = None  # bytes, when last marked; None: not known yet
        self._mapped_then = 0
        self._kept: Kept | None = None  # when last marked,
        self._until = 0  # of what is born before this place of the log
        self._headroom = 1 << 62  # what writers may take before they are refused; else measured
        self._waits = 0
        self.full = False  # only blocks that have data may be written
        self.tight = False  # it will be, before long: what is expendable should go
        self.markings = 0
        self.history: dict[str, int] = {}  # bytes that only points of a group kept, when marked
        self.short = False  # segments should be emptied now

    def marked(
        self, live_bytes: int, mapped_then: int, kept: Kept | None = None, until: int = 0
    ) -> None:
        """The cleaner has counted what lived when `forest.newly_mapped` stood at `mapped_then`.

        `kept` are blocks that several tables had, when the log ended at the place `until`.
        """
        self.markings += 1
        self._live = live_bytes
        self._mapped_then = mapped_then
        self._kept, self._until = kept, until
        self.look()

    def keeps(self, table: Table, pointers: array[int]) -> bool:
        """Whether another table may keep one of these blocks of a table.

        What gave it up since the marking is not known before the next one. What got it since is.
        """
        if table.lent > self._until and any(0 < p < table.lent for p in pointers):
            return True
        return self._kept is not None and self._kept.among(pointers)

    def look(self) -> None:
        """Measure. If the disk does not say what is free, nothing changes."""
        with suppress(OSError):
            self._headroom = self._log.free_bytes - self._reserve - self._segment
        self.short = self._headroom < self._target()
        room = self._log.bytes_on_disk + self._headroom
        least = max(room // SLACK_SHARE_MIN, SLACK_SEGMENTS_MIN * self._segment)
        self.full = self._live is not None and self._slack < least
        self.tight = self._live is not None and self._slack < TIGHT_TIMES * least

    @property
    def _segment(self) -> int:
        return self._log.segment_slots * BLOCK

    @property
    def _slack(self) -> int:
        if self._live is None:
            return self._headroom
        live = self._live + (self._forest.newly_mapped - self._mapped_then) * BLOCK
        return self._headroom + self._log.bytes_on_disk - live - live // OVERHEAD

    @property
    def pressed(self) -> bool:
        """Writers wait for room, and of what they may take half of the least is gone."""
        return self.short and self._headroom < self._target() // 2

    def _target(self) -> int:
        most = HEADROOM_RESERVES * self._reserve
        if self._live is None:
            return most
        return max(self._segment, min(most, self._slack // HEADROOM_SHARE))

    @property
    def wanted(self) -> int:
        """Bytes to gain by emptying segments, while space is short."""
        if not self.short:
            return 0
        # A round has to mark everything that lives, so it must gain in proportion.
        target = self._target()
        gain = max(target // 2, (self._live or 0) // ROUND_SHARE)
        return max(0, target + gain - self._headroom)

    def pace(self, changing: Callable[[], bool] = lambda: True) -> tuple[float, bool]:
        """Seconds that writers wait before their next turn, and whether to ask again after it.

        `changing`: whether there are any; who only reads is no reason to lose patience.
        """
        if not self.short or not changing():
            return 0.0, False
        self.look()
        headroom, target = self._headroom, self._target()
        if headroom >= target:
            return 0.0, False
        if headroom > 0:
            self._waits = 0
            return PACE_S_MAX * (1 - headroom / target) ** 2, False
        self._waits += 1
        return (PACE_S_MAX, True) if self._waits < STUCK_TURNS else (0.0, False)
