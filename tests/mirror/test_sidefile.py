"""What a window sends brings the state at one cut to the state at another, and no more than that.

The model is a dict of blocks per volume; it knows nothing of logs.
"""

from __future__ import annotations

import dataclasses
import itertools
from array import array
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.errors import Damaged
from isochrone.mirror import sidefile
from isochrone.mirror.messages import HOLES_MAX
from isochrone.mirror.sidefile import Barrier, Blocks, HoleRanges, Item, read_blocks, window
from isochrone.store import copies, volumes
from isochrone.store import records as r
from isochrone.store.cursor import BATCHES_MAX, Cursor
from isochrone.store.pool import Pool
from isochrone.types import BLOCK, MIB
from tests.mirror.sites import Host, Two, play

Image = dict[int, dict[int, bytes]]  # volume -> block -> content

NAMES = ("v0", "v1", "w")  # w is not in the group
SIZES = (1 * MIB, 1 * MIB + 512, 2 * MIB)  # 256, 257 and 512 blocks

block = st.one_of(st.integers(0, 12), st.integers(0, 255))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 2), block, st.integers(1, 9)),
        st.tuples(st.just("write"), st.integers(0, 2), block, st.integers(1, 9)),
        st.tuples(st.just("discard"), st.integers(0, 2), block, st.integers(1, 300)),
        st.tuples(st.just("copy"), st.integers(1, 7), st.just(0), st.just(0)),
        st.tuples(st.just("delete"), st.integers(0, 9), st.just(0), st.just(0)),
        st.tuples(st.just("resize"), st.integers(0, 2), st.integers(0, 2), st.just(0)),
        st.tuples(st.just("commit"), st.just(0), st.just(0), st.just(0)),
    ),
    max_size=40,
)


def content(host: Host, ids: list[int]) -> Image:
    """Every block of some volumes that is not zero, as a client sees it."""
    found: Image = {}
    for id in ids:
        volume = host.pool.state.volumes[id]
        data = host.image(volume.name)
        blocks = {
            at // BLOCK: data[at : at + BLOCK].ljust(BLOCK, b"\0")
            for at in range(0, len(data), BLOCK)
        }
        found[id] = {at: block for at, block in blocks.items() if any(block)}
    return found


class Secondary:
    """Applies items to an image, and checks that no block comes twice between two barriers.

    `often`: there may be more intervals than barriers.
    """

    def __init__(self, image: Image, *, often: bool = False) -> None:
        self.often = often
        self.image = {id: dict(blocks) for id, blocks in image.items()}
        self.seen: set[tuple[int, int]] = set()
        self.copies: dict[str, Image] = {}
        self.blocks = 0

    def apply(self, pool: Pool, item: Item) -> None:
        match item:
            case HoleRanges(ranges=ranges):
                assert 0 < len(ranges) <= HOLES_MAX
                if self.often:
                    self.seen.clear()
                assert not self.seen, "a hole came after blocks of its interval"
                for volume, first, count in ranges:
                    for at in [b for b in self.image[volume] if first <= b < first + count]:
                        del self.image[volume][at]
            case Blocks():
                assert list(item.blocks) == sorted(set(item.blocks))
                data = read_blocks(pool.log, item)
                for n, at in enumerate(item.blocks):
                    assert (item.volume, at) not in self.seen, "a block came twice"
                    self.seen.add((item.volume, at))
                    content = data[n * BLOCK : (n + 1) * BLOCK]
                    self.image[item.volume][at] = content
                self.blocks += len(item.blocks)
            case Barrier(record=record):
                self.seen.clear()
                self._at_barrier(record)

    def _at_barrier(self, record: r.AnyRecord) -> None:
        match record:
            case r.CopyTaken(name=name, members=members):
                sources = [s for s, _ in members if s in self.image]
                assert sources
                self.copies[name] = {s: dict(self.image[s]) for s in sources}
            case r.CopyDeleted(name=name):
                self.copies.pop(name, None)
            case r.VolumeResized(id=id, size=size):
                end = -(-size // BLOCK)
                for at in [b for b in self.image[id] if b >= end]:
                    del self.image[id][at]
            case other:
                raise AssertionError(other)

    def stripped(self) -> Image:
        """Without blocks that are all zero."""
        return {v: {at: b for at, b in m.items() if any(b)} for v, m in self.image.items()}


def items(
    pool: Pool, group: list[int], after: int, to: int, blocks_max: int = 256
) -> Iterator[Any]:
    found = window(pool.log, group, after, to, blocks_max=blocks_max)
    return (item for item in found if item is not None)


def take(host: Host, step: tuple[str, int, int, int], n: int) -> None:
    """One step of the workload; nothing where it makes no sense."""
    kind, a, b, c = step
    pool = host.pool
    if kind in ("write", "discard"):
        device = host.device(NAMES[a])
        first, count = b * BLOCK, min(c * BLOCK, device.size - b * BLOCK)
        if count > 0 and kind == "write":
            device.write(first, memoryview((f"{n} ".encode() * count)[:count]))
        elif count > 0:
            device.discard(first, count)
    elif kind == "copy":
        names = [name for at, name in enumerate(NAMES) if a >> at & 1]
        copies.take(pool, names, name=f"c{n}")
    elif kind == "delete" and pool.state.copies:
        copies.delete(pool, sorted(pool.state.copies)[a % len(pool.state.copies)])
    elif kind == "resize":
        volumes.resize(pool, NAMES[a], SIZES[b], shrink=True)
    elif kind == "commit":
        pool.commit()


def in_a_pool(act) -> None:
    """Run a test on the pool of one site, with the three volumes."""

    async def scenario(two: Two) -> None:
        for name in NAMES:
            volumes.create(two.a.pool, name, SIZES[0])
        await act(two.a)

    play(scenario, made=False)


@settings(max_examples=120, deadline=None)
@given(STEPS, STEPS, st.sampled_from([1, 3, 256]))
def test_a_window_is_exactly_the_difference(before, between, blocks_max: int) -> None:
    async def act(host: Host) -> None:
        pool = host.pool
        group = [pool.state.names[name] for name in NAMES[:2]]
        for n, step in enumerate(before):
            take(host, step, n)
        pool.commit()
        after, start = pool.log.lsn, content(host, group)
        taken: dict[str, Image] = {}
        for n, step in enumerate(between, 1000):
            take(host, step, n)
            if f"c{n}" in pool.state.copies:
                taken[f"c{n}"] = content(host, group)
        pool.commit()
        to, end = pool.log.lsn, content(host, group)
        host.write("v0", 0, "later")  # must not be seen
        copies.take(pool, ["v0"], name="later")
        await host.call(pool.flush())
        there = Secondary(start)
        for item in items(pool, group, after, to, blocks_max):
            there.apply(pool, item)
        assert there.stripped() == end
        for name, image in there.copies.items():
            for id, blocks in image.items():
                blocks = {at: b for at, b in blocks.items() if any(b)}
                assert blocks == taken[name][id], f"copy {name} is not what it was at its instant"
        alive = {n for n in taken if n in pool.state.copies}
        mine = {n for n in alive if any(s in group for s, _ in pool.state.copies[n].members)}
        assert {n for n in there.copies if n in taken} == mine

    in_a_pool(act)


@settings(max_examples=30, deadline=None)
@given(STEPS, st.lists(st.integers(0, 60), max_size=6))
def test_windows_join_without_a_seam(steps, edges: list[int]) -> None:
    """Any chain of cuts, even inside a batch, leads to the same end as one window."""

    async def act(host: Host) -> None:
        pool = host.pool
        group = [pool.state.names[name] for name in NAMES[:2]]
        after, start = pool.log.lsn, content(host, group)
        for n, step in enumerate(steps):
            take(host, step, n)
        pool.commit()
        await host.call(pool.flush())
        there = Secondary(start)
        cuts = sorted({after, pool.log.lsn, *(min(pool.log.lsn, after + e) for e in edges)})
        for low, high in itertools.pairwise(cuts):
            there.seen.clear()
            for item in items(pool, group, low, high):
                there.apply(pool, item)
        assert there.stripped() == content(host, group)

    in_a_pool(act)


@settings(max_examples=40, deadline=None)
@given(STEPS, STEPS)
def test_an_interval_with_too_many_holes_ends_early(before, between) -> None:
    """What is in order stays so, however often it ends."""

    async def act(host: Host) -> None:
        pool = host.pool
        group = [pool.state.names[name] for name in NAMES[:2]]
        for n, step in enumerate(before):
            take(host, step, n)
        pool.commit()
        after, start = pool.log.lsn, content(host, group)
        for n, step in enumerate(between, 1000):
            take(host, step, n)
        pool.commit()
        await host.call(pool.flush())
        there = Secondary(start, often=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sidefile, "HOLES_HELD_MAX", 1)
            patch.setattr(sidefile, "SMALL_RECORDS", 1)
            for item in items(pool, group, after, pool.log.lsn):
                there.apply(pool, item)
        assert there.stripped() == content(host, group)

    in_a_pool(act)


def test_many_scattered_holes_do_not_hold_the_loop() -> None:
    """To find a place among ever more of them took ever longer: 20 ms for 256 of them."""

    async def act(host: Host) -> None:
        pool = host.pool
        group = [pool.state.names["v0"]]
        after = pool.log.lsn
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sidefile, "HOLES_HELD_MAX", 10)
            patch.setattr(sidefile, "SMALL_RECORDS", 5)
            for n in range(0, 200, 2):
                host.discard("v0", n, 1)
            await host.call(pool.flush())
            found = list(items(pool, group, after, pool.log.lsn))
        assert all(isinstance(item, HoleRanges) for item in found)
        assert sum(len(item.ranges) for item in found) == 100
        assert max(len(item.ranges) for item in found) < 10 + 5

    in_a_pool(act)


def test_only_the_last_version_is_sent() -> None:
    async def act(host: Host) -> None:
        pool = host.pool
        group = [pool.state.names["v0"]]
        after = pool.log.lsn
        for n in range(100):
            host.write("v0", 7, f"version {n}")
            host.write("w", 7, "not mirrored")
        await host.call(pool.flush())
        (item,) = items(pool, group, after, pool.log.lsn)
        assert list(item.blocks) == [7]
        assert b"version 99" in read_blocks(pool.log, item)

    in_a_pool(act)


def test_what_was_written_and_discarded_is_only_a_hole() -> None:
    async def act(host: Host) -> None:
        pool = host.pool
        group = [pool.state.names["v0"]]
        after = pool.log.lsn
        host.write("v0", 3, "x", count=5)
        host.discard("v0", 2, 4)
        host.write("v0", 4, "y")
        await host.call(pool.flush())
        holes, blocks = items(pool, group, after, pool.log.lsn)
        assert holes == HoleRanges(((group[0], 2, 4),))
        assert list(blocks.blocks) == [4, 6, 7]

    in_a_pool(act)


def test_nothing_that_is_not_durable() -> None:
    async def act(host: Host) -> None:
        pool = host.pool
        await host.call(pool.flush())
        after = pool.log.lsn
        host.write("v0", 3, "x")
        try:
            list(items(pool, [1], after, pool.log.lsn))
        except AssertionError:
            return
        raise RuntimeError("a power cut could still have taken what was sent")

    in_a_pool(act)


def test_an_empty_window_reads_nothing() -> None:
    async def act(host: Host) -> None:
        pool = host.pool
        await host.call(pool.flush())
        calls = host.site.platter.calls
        assert list(window(pool.log, [1], pool.log.lsn, pool.log.lsn, blocks_max=1)) == []
        assert host.site.platter.calls == calls

    in_a_pool(act)


def test_many_holes_are_split_into_messages() -> None:
    async def act(host: Host) -> None:
        pool = host.pool
        group = [pool.state.names["v0"]]
        volumes.resize(pool, "v0", 64 * MIB)
        after = pool.log.lsn
        for n in range(HOLES_MAX + 10):
            host.device("v0").discard(2 * n * BLOCK, BLOCK)
        pool.commit()
        await host.call(pool.flush())
        found = list(window(pool.log, group, after, pool.log.lsn, blocks_max=256))
        sizes = [len(item.ranges) for item in found if isinstance(item, HoleRanges)]
        assert sizes == [HOLES_MAX, 10]
        assert found.index(None) == 0, "so many discards are looked at in more than one go"

    in_a_pool(act)


def test_what_was_discarded_twice_is_one_hole() -> None:
    async def act(host: Host) -> None:
        pool = host.pool
        group = [pool.state.names["v0"]]
        after = pool.log.lsn
        for _ in range(100):
            host.device("v0").discard(3 * BLOCK, 2 * BLOCK)
        pool.commit()
        await host.call(pool.flush())
        assert list(items(pool, group, after, pool.log.lsn)) == [HoleRanges(((group[0], 3, 2),))]

    in_a_pool(act)


def test_it_lets_others_run_meanwhile() -> None:
    """Also where nothing of it is sent, yet it must be read."""

    async def act(host: Host) -> None:
        pool = host.pool
        after = pool.log.lsn
        for n in range(2 * BATCHES_MAX):
            host.write("w", n, "x")
        await host.call(pool.flush())
        found = list(window(pool.log, [1], after, pool.log.lsn, blocks_max=1))
        assert len(found) >= 2 and not any(found)

    in_a_pool(act)


def test_one_window_after_the_other_reads_the_log_once() -> None:
    async def act(host: Host) -> None:
        pool = host.pool
        group, cursor = [pool.state.names["v0"]], Cursor(pool.log)
        for n in range(100):
            host.write("w", n % 100, "x")
        last = 0
        for n in range(10):
            host.write("v0", n, "y")
            await host.call(pool.flush())
            calls = host.site.platter.calls
            found = window(pool.log, group, last, pool.log.lsn, blocks_max=9, cursor=cursor)
            sent = [list(item.blocks) for item in found if isinstance(item, Blocks)]
            if last:
                assert sent == [[n]]
                assert host.site.platter.calls - calls <= 4
            last = pool.log.lsn

    in_a_pool(act)


def test_a_block_that_cannot_be_read_is_damage() -> None:
    async def act(host: Host) -> None:
        pool = host.pool
        group = [pool.state.names["v0"]]
        after = pool.log.lsn
        host.write("v0", 3, "x", count=5)
        await host.call(pool.flush())
        (item,) = items(pool, group, after, pool.log.lsn)
        wrong = dataclasses.replace(item, sums=array("Q", [*item.sums[:4], 1]))
        with pytest.raises(Damaged, match="not what was written"):
            read_blocks(pool.log, wrong)

    in_a_pool(act)
