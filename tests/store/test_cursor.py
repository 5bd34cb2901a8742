"""A cursor finds what a search finds, and reads little of what it has read before."""

from __future__ import annotations

from random import Random

import pytest

from isochrone.errors import Damaged
from isochrone.sim.disk import Platter
from isochrone.store.cursor import BATCHES_MAX, Cursor
from isochrone.store.format import segment_name
from isochrone.store.log import Log
from isochrone.types import BLOCK
from tests.store.test_log import append, disk, log, platter

__all__ = ["disk", "log", "platter"]

POINTERS = tuple[int, list[int], list[int]]  # first lsn, of each batch: pointers, checksums


def by_search(log: Log, first: int, last: int) -> dict[int, POINTERS]:
    found = {}
    for batch in log.batches(first, last):
        blocks = range(batch.first_pointer, batch.first_pointer + len(batch.sums))
        found[batch.header.first_lsn] = (batch.header.records, list(blocks), batch.sums.tolist())
    return found


def by_cursor(cursor: Cursor, first: int, last: int) -> dict[int, POINTERS]:
    """The batches of a range; those around it, which a section may have, are left out."""
    found = {}
    for section in cursor.read(first, last):
        assert len(section.headers) <= BATCHES_MAX
        pointers, at = section.pointers().tolist(), 0
        for batch in section.batches():
            stop = at + len(batch.sums)
            if batch.header.last_lsn >= first and batch.header.first_lsn <= last:
                lsn = batch.header.first_lsn
                found[lsn] = (batch.header.records, pointers[at:stop], batch.sums.tolist())
            at = stop
    return found


@pytest.mark.parametrize("seed", range(20))
def test_it_finds_what_a_search_finds(log: Log, seed: int) -> None:
    """From cut to cut, from an older one once more, and over the ends of segments."""
    random = Random(seed)
    cursor, last = Cursor(log), 0
    for n in range(40):
        for _ in range(random.choice([0, 1, 1, 3])):
            append(log, *range(n, n + random.choice([1, 1, 2, 4])))
        if last < log.lsn:
            first = last + 1 if random.random() < 0.7 else random.randint(1, log.lsn)
            last = random.randint(first, log.lsn)
            assert by_cursor(cursor, first, last) == by_search(log, first, last)


def test_it_goes_on_where_it_was(log: Log, platter: Platter) -> None:
    """Not from the beginning of the segment, which is what costs."""
    for n in range(6):
        append(log, n)
    cursor = Cursor(log)
    by_cursor(cursor, 1, 6)
    append(log, 6)
    places: list[int] = []
    file = log.file(1)
    read_at = file.read_at
    file.read_at = lambda length, offset: places.append(offset) or read_at(length, offset)  # type: ignore[method-assign,func-returns-value]
    assert list(by_cursor(cursor, 7, 7)) == [7]
    assert min(places) == 13 * BLOCK


def test_the_head_may_move_on_while_it_reads(log: Log) -> None:
    for n in range(4):
        append(log, n)
    cursor = Cursor(log)
    found = []
    for section in cursor.read(1, 20):
        found += [batch.header.first_lsn for batch in section.batches()]
        while log.lsn < 20:
            append(log, log.lsn)
    assert found == list(range(1, 21))
    assert list(by_cursor(cursor, 20, 20)) == [20]


def test_what_is_gone_is_said(log: Log) -> None:
    for n in range(20):
        append(log, n)
    cursor = Cursor(log)
    by_cursor(cursor, 1, 3)
    del log.first_lsns[1]
    with pytest.raises(Damaged, match="no longer holds record 4"):
        by_cursor(cursor, 4, 9)
    assert list(by_cursor(cursor, 9, 12)) == [9, 10, 11, 12]
    with pytest.raises(Damaged, match=f"no longer holds record {log.lsn + 1}"):
        by_cursor(cursor, log.lsn, log.lsn + 1)


@pytest.mark.parametrize("slot", [0, 1, 5, 13])
def test_a_gap_in_the_middle_is_damage(log: Log, platter: Platter, slot: int) -> None:
    """A mirror that skipped records would be wrong for ever, and not know it."""
    for n in range(30):
        append(log, n)
    platter.flip(segment_name(2), slot * BLOCK + 30)
    bad = 8 + max(slot - 1, 0) // 2
    cursor = Cursor(log)
    for _ in range(2):
        with pytest.raises(Damaged, match=f"record {bad}"):
            by_cursor(cursor, 1, 30)
    assert list(by_cursor(cursor, 1, bad - 1)) == list(range(1, bad))
    assert list(by_cursor(cursor, 15, 30)) == list(range(15, 31))


def test_an_append_that_failed_is_not_read(log: Log, platter: Platter) -> None:
    for n in range(6):
        append(log, n)
    cursor = Cursor(log)
    by_cursor(cursor, 1, 6)
    platter.capacity = 15 * BLOCK - BLOCK // 2  # the meta of the next batch, and half of its block
    with pytest.raises(OSError):
        append(log, 6)
    platter.capacity = None
    append(log, 7, 8, 9)  # goes to the next segment
    assert log.position[0] == 2
    assert by_cursor(cursor, 7, 9) == by_search(log, 7, 9)
