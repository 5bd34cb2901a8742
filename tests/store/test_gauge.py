"""Capacity of a pool: what a plain dict of references says, after anything a pool can do."""

from __future__ import annotations

from random import Random

import pytest

from isochrone.store import copies, volumes
from isochrone.store import records as r
from isochrone.store.capacity import Holder
from isochrone.store.cleaner import Cleaner
from isochrone.store.gauge import Capacity, Gauge
from isochrone.store.mark import mark
from isochrone.store.pool import Pool
from isochrone.types import BLOCK, MIB
from tests.store.pools import Rig, device, pattern, put, settle

Model = dict[str, dict[int, int]]  # export -> block -> number of the write that it holds


def holder_of(export: str) -> Holder:
    _, at, copy = export.partition("@")
    return Holder("copy", copy) if at else Holder("volume", export)


def expected(model: Model) -> tuple[dict[Holder, int], dict[Holder, int], int]:
    """(mapped, own, living), in blocks."""
    owners: dict[int, set[Holder]] = {}
    mapped: dict[Holder, int] = {}
    for export, blocks in model.items():
        holder = holder_of(export)
        mapped[holder] = mapped.get(holder, 0) + len(blocks)
        for write in blocks.values():
            owners.setdefault(write, set()).add(holder)
    own = dict.fromkeys(mapped, 0)
    for them in owners.values():
        if len(them) == 1:
            own[next(iter(them))] += 1
    return mapped, own, len(owners)


def check(model: Model, found: Capacity) -> None:
    mapped, own, living = expected(model)
    shares = {share.holder: share for share in found.shares}
    assert {h: s.mapped for h, s in shares.items()} == {h: n * BLOCK for h, n in mapped.items()}
    assert {h: s.own for h, s in shares.items()} == {h: n * BLOCK for h, n in own.items()}
    assert found.living == living * BLOCK
    assert found.shared == (living - sum(own.values())) * BLOCK
    held = max((pin.bytes for pin in found.pins), default=0)
    assert found.reclaimable + held <= found.garbage


def marked(pool: Pool) -> int:
    """Living blocks, as the cleaner counts them."""
    look = lambda frozen: mark(frozen.roots, pool.marked_nodes, pool.log.segment_slots)  # noqa: E731
    return settle(pool.checkpoint_then(look))[1].total


class Play:
    """Random commands on a pool and on the model."""

    def __init__(self, pool: Pool, random: Random) -> None:
        self.pool = pool
        self.random = random
        self.model: Model = {"a": {}, "b": {}}
        self.writes = 0
        for name in self.model:
            volumes.create(pool, name, 2 * MIB)

    def write(self) -> None:
        export = self.random.choice([e for e in self.model if not e.endswith("-r")])
        block, count = self.random.randrange(60), self.random.randint(1, 8)
        put(self.pool, export, block * BLOCK, pattern(self.writes, count * BLOCK))
        for at in range(count):
            self.writes += 1
            self.model[export][block + at] = self.writes

    def discard(self) -> None:
        export = self.random.choice([e for e in self.model if not e.endswith("-r")])
        block, count = self.random.randrange(60), self.random.randint(1, 30)
        device(self.pool, export).discard(block * BLOCK, count * BLOCK)
        self.pool.commit()
        for at in range(count):
            self.model[export].pop(block + at, None)

    def copy(self) -> None:
        names = self.random.sample(["a", "b"], self.random.randint(1, 2))
        writable = self.random.random() < 0.5
        name = f"c{self.writes}{'' if writable else '-r'}"
        if name in self.pool.state.copies:
            return
        copies.take(self.pool, names, name=name, writable=writable)
        for source in names:
            self.model[f"{source}@{name}"] = dict(self.model[source])

    def delete(self) -> None:
        if self.pool.state.copies:
            name = self.random.choice(sorted(self.pool.state.copies))
            copies.delete(self.pool, name)
            self.model = {e: b for e, b in self.model.items() if not e.endswith(f"@{name}")}

    def clean(self) -> None:
        settle(Cleaner(self.pool).round())


@pytest.mark.parametrize("seed", range(10))
def test_any_history_counts_as_the_model_does(seed: int) -> None:
    rig = Rig(seed)
    play = Play(rig.open(), Random(seed))
    gauge = Gauge(play.pool)
    for step in range(120):
        act = play.random.choices(
            [play.write, play.discard, play.copy, play.delete, play.clean], [60, 15, 12, 6, 4]
        )[0]
        act()
        if step % 20 == 19:
            check(play.model, settle(gauge.read()))
    play.pool = rig.reopen(play.pool)
    found = settle(Gauge(play.pool).read())
    check(play.model, found)
    assert marked(play.pool) * BLOCK == found.living


@pytest.mark.parametrize("seed", range(4))
def test_deleting_a_copy_frees_exactly_its_own(seed: int) -> None:
    play = Play(Rig(seed).open(), Random(seed))
    for step in range(80):
        play.copy() if step % 16 == 8 else play.write()
        if step == 50:
            play.clean()
    while play.pool.state.copies:
        name = play.random.choice(sorted(play.pool.state.copies))
        shares = {s.holder: s for s in settle(Gauge(play.pool).read()).shares}
        before = marked(play.pool)
        copies.delete(play.pool, name)
        assert (before - marked(play.pool)) * BLOCK == shares[Holder("copy", name)].own
        play.clean()


def test_garbage_and_what_holds_it() -> None:
    pool = Rig().open()
    volumes.create(pool, "v", MIB)
    for n in range(12):
        put(pool, "v", 0, pattern(n, 64 * BLOCK))
    found = settle(Gauge(pool).read())
    assert found.living == 64 * BLOCK
    assert found.garbage > 11 * 64 * BLOCK
    assert 0 < found.reclaimable < found.garbage
    assert [pin.kind for pin in found.pins] == ["recovery"]  # the newest segment
    pool.record(r.GroupCreated(name="g", lineage="ab" * 16, volumes=(1,)))
    pool.record(r.SessionOpened(group="g", peer="far"))
    pool.record(r.CutPlaced(group="g", cut=1, stamp=1))
    for n in range(12):
        put(pool, "v", 0, pattern(n, 64 * BLOCK))
    settle(pool.checkpoint())
    found = settle(Gauge(pool).read())
    (mirror,) = [pin for pin in found.pins if pin.kind == "mirror"]
    assert mirror.what == "group g, for far"
    assert mirror.bytes > 8 * 64 * BLOCK
    reclaimable = found.reclaimable
    settle(Cleaner(pool).round())
    found = settle(Gauge(pool).read())
    assert found.reclaimable < reclaimable
    assert next(p for p in found.pins if p.kind == "mirror").bytes >= mirror.bytes


def test_images_that_are_read_hold_their_blocks() -> None:
    pool = Rig().open()
    volumes.create(pool, "v", MIB)
    put(pool, "v", 0, pattern(1, 10 * BLOCK))
    pool.state.pins.append(pool.state.forest.clone(pool.state.tables[1]))
    put(pool, "v", 0, pattern(2, 4 * BLOCK))
    shares = {s.holder.kind: s for s in settle(Gauge(pool).read()).shares}
    assert shares["reader"].own == 4 * BLOCK
    assert shares["volume"].own == 4 * BLOCK


def test_what_was_written_and_what_that_cost() -> None:
    pool = Rig().open()
    volumes.create(pool, "v", MIB)
    put(pool, "v", 0, pattern(1, 10 * BLOCK))
    found = settle(Gauge(pool).read())
    assert found.written == 10 * BLOCK
    assert found.appended == pool.log.bytes_appended > found.written
    assert found.saved >= 4096  # a leaf at least
    assert found.used == found.log + found.spares + found.metadata
    settle(Cleaner(pool).round())
    assert settle(Gauge(pool).read()).written == 10 * BLOCK  # moves are not written by anybody


def test_nothing_changed_nothing_counted() -> None:
    rig = Rig()
    pool = rig.open()
    gauge = Gauge(pool)
    first = settle(gauge.read())
    assert settle(gauge.read()) is first
    volumes.create(pool, "v", MIB)
    assert settle(gauge.read()) is not first


def test_who_asks_at_once_gets_one_count() -> None:
    import asyncio

    pool = Rig().open()
    volumes.create(pool, "v", MIB)
    gauge = Gauge(pool)

    async def main() -> None:
        one, other = await asyncio.gather(gauge.read(), gauge.read())
        assert one is other
        await gauge.close()

    settle(main())
