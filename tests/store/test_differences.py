"""Differences of copies: always those of the bytes, in pages, in time that follows the change."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.errors import Conflict, InvalidInput, NotFound
from isochrone.sim.loop import run as settle
from isochrone.store import copies, differences, extents, volumes
from isochrone.store.differences import Pair, pairs
from isochrone.store.pool import Pool
from isochrone.types import BLOCK, GIB, MIB, TRACK
from tests.store.pools import Rig, device, get, pattern, put

Ranges = list[tuple[int, int]]


def pool_with(*names: str, size: int = MIB) -> Pool:
    pool = Rig().open()
    for name in names:
        volumes.create(pool, name, size)
    return pool


def diff(
    pool: Pool, pair: Pair, *, limit: int = differences.RANGES_MAX, unit: int = BLOCK
) -> Ranges:
    """All pages, joined where one ends in the middle of a range."""
    found: Ranges = []
    at = 0
    while True:
        page = settle(differences.page(pool, pair, at, limit=limit, unit=unit))
        assert len(page.ranges) <= limit
        for offset, length in page.ranges:
            assert at <= offset < offset + length <= page.end or page.end == pair.size
            if found and found[-1][0] + found[-1][1] == offset:
                found[-1] = (found[-1][0], found[-1][1] + length)
            else:
                assert not found or found[-1][0] + found[-1][1] < offset
                found.append((offset, length))
        assert page.changed == sum(length for _, length in page.ranges)
        if page.end == pair.size:
            return found
        assert page.end > at
        at = page.end


def by_bytes(before: bytes, after: bytes, unit: int = BLOCK) -> Ranges:
    """The same, by looking at every byte."""
    size = max(len(before), len(after))
    before, after = before.ljust(size, b"\0"), after.ljust(size, b"\0")
    found: Ranges = []
    for at in range(0, size, unit):
        if before[at : at + unit] == after[at : at + unit]:
            continue
        length = min(unit, size - at)
        if found and found[-1][0] + found[-1][1] == at:
            found[-1] = (found[-1][0], found[-1][1] + length)
        else:
            found.append((at, length))
    return found


def one(pool: Pool, before: str, after: str) -> Pair:
    (pair,) = pairs(pool, before, after)
    return pair


# -- which volumes


def test_common_volumes_in_the_order_of_their_names() -> None:
    pool = pool_with("a", "b", "c")
    copies.take(pool, ["c", "a"], name="k1")
    copies.take(pool, ["b", "c", "a"], name="k2")
    assert [p.name for p in pairs(pool, "k1", "k2")] == ["a", "c"]
    assert [p.name for p in pairs(pool, "k1", "k2", "c")] == ["c"]
    assert [(p.before.name, p.after.name) for p in pairs(pool, "k2", "b")] == [("b@k2", "b")]
    assert [(p.before.name, p.after.name) for p in pairs(pool, "a@k1", "a@k2")] == [
        ("a@k1", "a@k2")
    ]
    volumes.delete(pool, "a")
    assert [p.name for p in pairs(pool, "k1", "k2")] == ["a", "c"], "its copies are still there"


def test_a_clone_is_compared_with_what_it_came_from() -> None:
    pool = pool_with("a")
    put(pool, "a", 0, pattern(1))
    copies.take(pool, ["a"], name="lab", writable=True)
    put(pool, "a@lab", BLOCK, pattern(2))
    assert diff(pool, one(pool, "lab", "a")) == [(BLOCK, BLOCK)]
    assert diff(pool, one(pool, "a", "lab")) == [(BLOCK, BLOCK)]


def test_what_cannot_be_compared() -> None:
    pool = pool_with("a", "b")
    copies.take(pool, ["a"], name="k1")
    copies.take(pool, ["a", "b"], name="k2")
    for error, call in (
        (Conflict, lambda: pairs(pool, "k1", "b")),
        (NotFound, lambda: pairs(pool, "k1", "no")),
        (NotFound, lambda: pairs(pool, "no", "k1")),
        (NotFound, lambda: pairs(pool, "k1", "k2", "b")),
        (NotFound, lambda: pairs(pool, "k1", "k2", "no")),
    ):
        with pytest.raises(error):
            call()
    pair = one(pool, "k1", "k2")
    for offset, unit in ((1, BLOCK), (BLOCK, TRACK), (-BLOCK, BLOCK), (2 * MIB, BLOCK), (0, 512)):
        with pytest.raises(InvalidInput):
            settle(differences.page(pool, pair, offset, unit=unit))
    copies.delete(pool, "k2")
    with pytest.raises(NotFound, match="was deleted meanwhile"):
        settle(differences.page(pool, pair))


# -- what differs

CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 400), st.integers(1, 40)),
        st.tuples(st.just("write small"), st.integers(0, 400 * BLOCK), st.integers(1, 9000)),
        st.tuples(st.just("discard"), st.integers(0, 400), st.integers(1, 100)),
        st.tuples(st.just("resize"), st.sampled_from([MIB, MIB + 512, 5 * MIB // 4, 2 * MIB])),
        st.tuples(st.just("copy")),
        st.tuples(st.just("restart"), st.sampled_from(["kill", "reopen"])),
    ),
    max_size=30,
)


def change(rig: Rig, pool: Pool, kind: str, where: tuple, n: int) -> Pool:
    volume = device(pool, "a")
    if kind == "copy":
        copies.take(pool, ["a"], name=f"k{n}")
    elif kind == "restart":
        settle(pool.flush())
        return rig.kill() if where[0] == "kill" else rig.reopen(pool)
    elif kind == "resize":
        volumes.resize(pool, "a", where[0], shrink=True)
    else:
        scale = 1 if kind == "write small" else BLOCK
        offset, length = where[0] * scale, where[1] * scale
        offset = min(offset, volume.size - 1)
        length = min(length, volume.size - offset)
        if kind == "discard":  # of whole blocks: parts are zeroed, which is a write
            offset -= offset % BLOCK
            whole = -(-length // BLOCK) * BLOCK
            volume.discard(offset, min(whole, volume.size - offset))
        else:  # no two writes have a byte in common, and none is zero
            data = Random(n).randbytes(length).replace(b"\0", b"\1")
            volume.write(offset, memoryview(data))
        pool.commit()
    return pool


@settings(max_examples=60, deadline=None)
@given(CHANGES, st.sampled_from([BLOCK, TRACK]), st.sampled_from([1, 3, 4096]), st.randoms())
def test_it_is_the_difference_of_the_bytes(changes, unit, limit, random) -> None:
    rig = Rig()
    pool = rig.open()
    volumes.create(pool, "a", MIB)
    copies.take(pool, ["a"], name="first")
    for n, (kind, *where) in enumerate(changes):
        pool = change(rig, pool, kind, where, n)
    sides = [*pool.state.copies, "a"]
    for before, after in [(random.choice(sides), random.choice(sides)) for _ in range(4)]:
        pair = one(pool, before, after)
        images = [get(pool, pair.before.name), get(pool, pair.after.name)]
        found = diff(pool, pair, limit=limit, unit=unit)
        extra = units(found, unit) - units(by_bytes(*images, unit), unit)
        assert units(by_bytes(*images, unit), unit) <= units(found, unit)
        # Written again with the same bytes: only the block that growing from its middle clears.
        assert extra <= {MIB // unit}
        assert not extra or MIB + 512 in (where[0] for kind, *where in changes if where)
        if before in pool.state.copies and after == "a" and unit == BLOCK:
            assert units(found, BLOCK) == units(dirty(pool, before, pair), BLOCK)


def units(ranges: Ranges, unit: int) -> set[int]:
    return {at // unit for offset, length in ranges for at in range(offset, offset + length, unit)}


def dirty(pool: Pool, copy: str, pair: Pair) -> Ranges:
    """What `qemu:dirty-bitmap:COPY` answers, and what a shrinking took, which it cannot know."""
    volume = device(pool, "a")
    found: Ranges = []
    at = 0
    while at < volume.size:
        base = volume.copies()[copy]
        for length, changed in volume.changed(base, at, volume.size - at, 7):
            if changed and found and found[-1][0] + found[-1][1] == at:
                found[-1] = (found[-1][0], found[-1][1] + length)
            elif changed:
                found.append((at, length))
            at += length
    if pair.before.size > volume.size:
        tail = get(pool, pair.before.name)[-(-volume.size // BLOCK) * BLOCK :]
        behind = pair.before.size - len(tail)
        found += [(offset + behind, length) for offset, length in by_bytes(tail, b"")]
    return found


# -- bounds


def test_the_work_follows_the_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_with("a", size=2048 * GIB)
    copies.take(pool, ["a"], name="k")
    for n in range(20):
        put(pool, "a", n * 100 * GIB, pattern(n))
    looked = []
    node = pool.state.forest.node
    monkeypatch.setattr(pool.state.forest, "node", lambda id: looked.append(id) or node(id))
    assert diff(pool, one(pool, "k", "a")) == [(n * 100 * GIB, BLOCK) for n in range(20)]
    assert len(looked) < 20 * (2 * 512 + 8), "chunks without a change are not opened"


def test_a_page_is_bounded_however_much_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where nothing is found, it ends after so many looks, and goes on from there."""
    pool = pool_with("a", size=64 * GIB)
    copies.take(pool, ["a"], name="k")
    put(pool, "a", 64 * GIB - BLOCK, pattern(1))
    monkeypatch.setattr(differences, "LOOKS_MAX", 1)
    monkeypatch.setattr(extents, "LEAVES_MAX", 16)
    pair = one(pool, "k", "a")
    first = settle(differences.page(pool, pair))
    assert first.ranges == []
    assert 0 < first.end < pair.size
    assert diff(pool, pair) == [(64 * GIB - BLOCK, BLOCK)]


def test_tracks_are_told_once_however_small_the_pages_are() -> None:
    pool = pool_with("a")
    copies.take(pool, ["a"], name="k")
    for n in range(0, 256, 3):
        put(pool, "a", n * BLOCK, pattern(n))
    pair = one(pool, "k", "a")
    assert diff(pool, pair, limit=1, unit=TRACK) == [(0, MIB)]
    assert len(diff(pool, pair, limit=2)) == 86
