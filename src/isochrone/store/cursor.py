"""A cursor on the log: who follows the log goes on where it stopped, and searches for nothing.

Without one the batches from the beginning of a segment on are read again to find a record, which
takes longer than to read what was asked for. A point of the log stays what it is: bytes in front of
the head are never written again, and the number of a segment is never used twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from isochrone.errors import Damaged
from isochrone.store.format import decode_segment_header
from isochrone.store.log import Log
from isochrone.store.sections import Point, Section, read_sections
from isochrone.types import BLOCK, KIB

# Of a section: read and checked within half a millisecond, for which nobody else is served. One
# batch may have more, but no more than its append took.
BATCHES_MAX: Final = 128
META_BYTES_HELD: Final = 64 * KIB
WINDOW_BYTES: Final = 64 * KIB  # read at a time where batches are small


class Cursor:
    """Reads a log, each time from a record on; quick where the last time ended, or before."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._point: Point | None = None  # where the last reading ended

    def read(self, from_lsn: int, to_lsn: int) -> Iterator[Section]:
        """Sections with every record of a range, in order; also with others, at both ends.

        Raises `Damaged` at a gap. The log may be appended to between two of them.
        """
        point, remembered = self._start(from_lsn)
        while point.lsn < to_lsn:
            file = self._log.file(point.segment)
            found = read_sections(
                file, self._log.pool, point,
                batches_max=BATCHES_MAX, held_max=META_BYTES_HELD, window_bytes=WINDOW_BYTES,
            )  # fmt: skip
            section = next(found, None)
            if section is None:
                point = self._next_segment(point, from_lsn)
                continue
            point = section.end
            self._point = remembered = _last_inside(section, to_lsn) or remembered
            yield section

    def _start(self, from_lsn: int) -> tuple[Point, Point | None]:
        """Where to begin, and what is remembered of it."""
        firsts, known = self._log.first_lsns, self._point
        number = max((n for n, first in firsts.items() if first <= from_lsn), default=None)
        if number is None:
            raise _lost(from_lsn)
        if known is not None and known.segment == number and known.lsn < from_lsn:
            return known, known
        begun = self._begin(number)
        if begun is None:
            raise _lost(from_lsn)
        return begun, None

    def _begin(self, number: int) -> Point | None:
        """The first batch of a segment; None if it cannot be told."""
        header = decode_segment_header(self._log.file(number).read_at(BLOCK, 0))
        if header is None or (header.pool, header.number) != (self._log.pool, number):
            return None
        return Point(number, 1, header.first_lsn - 1, header.sum)

    def _next_segment(self, point: Point, from_lsn: int = 0) -> Point:
        """Where the log goes on, after a segment has ended at a point."""
        number = min((n for n in self._log.first_lsns if n > point.segment), default=None)
        begun = self._begin(number) if number is not None else None
        if begun is None or begun.lsn != point.lsn:
            self._point = None  # look for it anew, if anybody asks once more
            raise _lost(max(point.lsn + 1, from_lsn))
        return begun


def _lost(lsn: int) -> Damaged:
    return Damaged(f"the log no longer holds record {lsn}")


def _last_inside(section: Section, to_lsn: int) -> Point | None:
    """Where the batches of a section end that have no record after one; None: all have."""
    if section.end.lsn <= to_lsn:
        return section.end
    lasts = section.headers["first_lsn"] + section.headers["records"] - 1
    inside = int(np.searchsorted(lasts, to_lsn, "right"))
    return section.part(0, inside).end if inside else None
