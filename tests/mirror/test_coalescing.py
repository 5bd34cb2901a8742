"""The last version of each block, and what was discarded, against a dict; however much there is."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.mirror import coalescing
from isochrone.mirror.coalescing import (
    KEY_SHIFT,
    Holes,
    Interval,
    keys_of,
    last_of_each,
    merged,
)

RANKS = 3
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("w"), st.integers(0, RANKS - 1), st.integers(0, 20), st.integers(1, 6)),
        st.tuples(st.just("d"), st.integers(0, RANKS - 1), st.integers(0, 20), st.integers(1, 30)),
    ),
    max_size=60,
)


def write(interval: Interval, rank: int, block: int, count: int, stamp: int) -> None:
    blocks = np.arange(block, block + count, dtype=np.uint64)
    pointers = np.arange(stamp, stamp + count, dtype=np.uint64)
    interval.write(keys_of(np.full(count, rank, np.uint64), blocks), pointers, pointers + 7)


def found_in(interval: Interval) -> dict[int, tuple[int, int]]:
    """Key -> pointer and checksum, of all pieces; they must ascend, and name a key once."""
    found: dict[int, tuple[int, int]] = {}
    newest = -1
    for rows in interval.rows():
        for key, _, pointer, sum in rows.T.tolist():
            assert key > newest
            newest = key
            found[key] = (pointer, sum)
    return found


@settings(max_examples=200, deadline=None)
@given(STEPS, st.sampled_from([1, 3, 16, 16384]))
def test_it_is_a_dict(steps: list[tuple[str, int, int, int]], rows_sorted: int) -> None:
    before, coalescing.ROWS_SORTED = coalescing.ROWS_SORTED, rows_sorted  # type: ignore[misc]
    try:
        interval = Interval()
        expected: dict[int, tuple[int, int]] = {}
        holes: set[int] = set()
        for n, (kind, rank, block, count) in enumerate(steps):
            keys = range((rank << KEY_SHIFT) + block, (rank << KEY_SHIFT) + block + count)
            if kind == "w":
                write(interval, rank, block, count, n * 100)
                expected.update({key: (n * 100 + i, n * 100 + i + 7) for i, key in enumerate(keys)})
            else:
                interval.discard(rank, block, count)
                holes.update(keys)
                for key in keys:
                    expected.pop(key, None)
        assert found_in(interval) == expected
        told = [
            (rank << KEY_SHIFT) + at
            for rank, block, count in interval.holes.ranges()
            for at in range(block, block + count)
        ]
        assert told == sorted(holes), "each discarded block is in one range"
        interval.clear()
        assert not found_in(interval) and not len(interval.holes)
    finally:
        coalescing.ROWS_SORTED = before  # type: ignore[misc]


def test_no_step_takes_more_than_some_thousand_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: the caller lets others run between two steps."""
    monkeypatch.setattr(coalescing, "ROWS_SORTED", 64)
    random = Random(1)
    for shape in ("scattered", "ascending", "the same"):
        interval = Interval()
        for n in range(4000):
            block = {"scattered": random.randrange(1 << KEY_SHIFT), "ascending": n}.get(shape, 5)
            write(interval, 0, block, 1, n)
        pieces = [rows.shape[1] for rows in interval.rows()]
        assert max(pieces) <= 4 * 64, shape
        assert sum(pieces) == (1 if shape == "the same" else 4000)


def test_the_last_of_equal_keys_stays() -> None:
    keys = np.array([9, 3, 9, 3, 1, 9], np.uint64)
    assert last_of_each(keys).tolist() == [4, 3, 5]
    assert last_of_each(keys[:1]).tolist() == [0]


def test_the_largest_key_has_room_beside_its_place() -> None:
    """The last block of the last volume of the largest group."""
    rank = coalescing.GROUP_VOLUMES_MAX - 1
    interval = Interval()
    for n in range(3):
        write(interval, rank, (1 << KEY_SHIFT) - 1, 1, n)
        write(interval, 0, 0, 1, n)
    assert found_in(interval) == {0: (2, 9), (rank + 1 << KEY_SHIFT) - 1: (2, 9)}


def test_of_parts_the_later_one_counts() -> None:
    def part(keys: list[int], stamp: int) -> coalescing.Rows:
        row = np.array(keys, np.uint64)
        return np.stack((row, row * 0 + np.uint64(stamp), row, row))

    (rows,) = merged([part([1, 5, 9], 1), part([5, 6], 2), part([9], 3)])
    assert rows[:2].tolist() == [[1, 5, 6, 9], [1, 2, 2, 3]]
    assert list(merged([])) == []


def test_others_are_served_while_the_edges_of_many_parts_are_looked_up() -> None:
    keys = np.arange(100, dtype=np.uint64)
    parts = [np.stack((keys, keys * 0 + np.uint64(n), keys, keys)) for n in range(70)]
    sizes = [rows.shape[1] for rows in merged(parts)]
    assert sizes[:4] == [0] * (70 // coalescing.PARTS_CUT)
    assert sum(sizes) == 100

    interval = Interval()
    for n in range(40):
        interval.write(keys, keys, keys * 0 + np.uint64(n))
        interval._sort()
        interval.discard(0, n, 1)
    found = [key for rows in interval.rows() for key in rows[0].tolist()]
    assert found == [key for key in range(100) if key != 39]


def test_a_discard_does_not_reach_into_the_next_volume() -> None:
    interval = Interval()
    write(interval, 1, 0, 1, 1)
    interval.discard(0, (1 << KEY_SHIFT) - 1, 0xFFFFFFFF)
    assert list(found_in(interval)) == [1 << KEY_SHIFT]


def test_a_later_hole_splits_an_earlier_one() -> None:
    holes = Holes()
    holes.add(0, 10, 1)
    holes.add(3, 5, 2)
    assert [column.tolist() for column in holes.columns()] == [[0, 3, 5], [3, 5, 10], [1, 2, 1]]
    holes.add(0, 10, 3)
    assert list(holes.ranges()) == [(0, 0, 10)]
