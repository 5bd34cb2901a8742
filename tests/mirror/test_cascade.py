"""A secondary that is followed: same cuts, same copies, an honest age, no rings."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from isochrone.dr import failback, failover
from isochrone.errors import Conflict, IsochroneError, Unavailable
from isochrone.mirror import cascade
from isochrone.mirror.messages import CASCADE_SITES_MAX, Fence
from isochrone.store import copies, holds, relations
from isochrone.store import records as r
from isochrone.store.check import check_pool
from isochrone.types import BLOCK
from tests.mirror.sites import GROUP, Host, Two, play, until

NAMES = ("db", "wal")


class Three:
    """`a` is the primary, `b` follows it, `c` follows `b`."""

    def __init__(self, two: Two) -> None:
        self.two = two
        self.a, self.b = two.a, two.b
        self.c: Host

    async def begin(self) -> None:
        self.c = await self.two.third(self.b)

    def same(self) -> bool:
        return all(
            self.a.image(n) == self.b.image(n) == self.c.image(n) for n in NAMES
        )  # fmt: skip


def cascaded(scenario: Callable[[Three], Awaitable[None]], **options: int) -> None:
    async def whole(two: Two) -> None:
        three = Three(two)
        await three.begin()
        await scenario(three)

    play(whole, **options)  # type: ignore[arg-type]


def test_all_sites_have_the_same_cuts_under_the_same_numbers() -> None:
    images: dict[int, bytes] = {}

    async def scenario(three: Three) -> None:
        def committed(lsn: int, record: object) -> None:
            if isinstance(record, r.IncomingCommitted):
                found = three.b.image("db") + three.b.image("wal")
                assert images.setdefault(record.cut, found) == found

        def followed(lsn: int, record: object) -> None:
            if isinstance(record, r.IncomingCommitted):
                assert three.c.image("db") + three.c.image("wal") == images[record.cut]

        three.b.pool.on_change.append(committed)
        three.c.pool.on_change.append(followed)
        for n in range(20):
            three.a.write("db", n, f"n{n}")
            three.a.write("wal", n, f"n{n}")
            await asyncio.sleep(0.1)
        three.a.discard("db", 3, 5)
        await three.c.wait()
        assert three.same()
        assert three.c.group().cut == three.b.group().cut
        assert three.c.group().lineage == three.a.group().lineage
        assert (three.c.group().epoch, three.c.status().state) == (1, "DUPLEX")
        assert three.c.group().way == [three.a.pool.identity, three.b.pool.identity]
        assert len(images) > 3

    cascaded(scenario)


def test_only_what_changed_goes_on() -> None:
    async def scenario(three: Three) -> None:
        three.a.write("db", 0, "x", count=900)
        await three.c.wait()
        before = three.c.status().bytes_received
        three.a.write("db", 100, "y", count=16)
        await three.c.wait()
        assert three.same()
        assert three.c.status().bytes_received - before < 34 * BLOCK

    cascaded(scenario)


def test_copies_go_on() -> None:
    async def scenario(three: Three) -> None:
        three.a.write("db", 3, "then")
        copies.take(three.a.pool, ["db", "wal"], name="c1")
        three.a.write("db", 3, "now")
        await three.c.wait(copy="c1")
        copies.take(three.b.pool, ["db"], name="own")
        three.a.write("db", 4, "more")
        await three.c.wait()
        assert three.c.says("db@c1", 3) == "then"
        assert three.c.says("db", 3) == "now"
        assert "own" not in three.c.pool.state.copies
        copies.delete(three.a.pool, "c1")
        await three.c.wait()
        await until(lambda: "c1" not in three.c.pool.state.copies)
        check_pool(three.c.pool)

    cascaded(scenario)


def test_a_copy_that_is_held_on_the_way_is_gone_at_the_end() -> None:
    async def scenario(three: Three) -> None:
        copies.take(three.a.pool, list(NAMES), name="t1")
        await three.c.wait()
        holds.pin(three.b.pool, copies.find_copy(three.b.pool, "t1"))
        copies.delete(three.a.pool, "t1")
        three.a.write("db", 3, "x")
        await three.c.wait()
        assert three.b.pool.state.copies["t1"].kept_from == GROUP
        assert "t1" not in three.c.pool.state.copies

    cascaded(scenario)


def test_its_age_is_that_of_what_it_has() -> None:
    """An idle primary moves it on; a link that is down anywhere on the way lets it grow."""

    async def scenario(three: Three) -> None:
        await asyncio.sleep(30)
        assert three.c.status().recovery_point_age < 3
        three.two.fabric.cut("a", "b")
        await asyncio.sleep(60)
        assert 55 < three.b.status().recovery_point_age < 65
        assert 55 < three.c.status().recovery_point_age < 65
        three.two.fabric.heal_all()
        await asyncio.sleep(20)
        assert three.c.status().recovery_point_age < 3
        three.two.fabric.cut("b", "c")
        await asyncio.sleep(60)
        assert three.b.status().recovery_point_age < 3
        assert 55 < three.c.status().recovery_point_age < 65

    cascaded(scenario)


@pytest.mark.parametrize("seed", range(5))
def test_crashes_anywhere(seed: int) -> None:
    async def scenario(three: Three) -> None:
        random = Random(seed)
        for n in range(12):
            three.a.write("db", random.randrange(1000), f"n{n}", count=20)
            await asyncio.sleep(random.uniform(0, 0.5))
            host = random.choice([three.b, three.c, three.c, None])
            if host is not None:
                await host.restart()
        await three.c.wait()
        assert three.same()
        for host in (three.a, three.b, three.c):
            check_pool(host.pool)

    cascaded(scenario, seed=seed)


def test_who_was_away_long_goes_on_by_delta() -> None:
    """More cuts have passed than are remembered for nobody in particular."""

    async def scenario(three: Three) -> None:
        three.a.write("db", 0, "x", count=900)
        await three.c.wait()
        three.two.fabric.cut("b", "c")
        for n in range(100):
            three.a.write("db", 500, f"n{n}")
            await three.b.wait()
        before = three.c.status().bytes_received
        three.two.fabric.heal_all()
        await three.c.wait()
        assert three.same()
        assert three.c.status().bytes_received - before < 64 * BLOCK

    cascaded(scenario)


def test_who_was_elsewhere_is_asked_again_what_it_has_of_relations() -> None:
    """What it got as images does not tell what hosts wrote: to discard it is sent as images."""

    async def scenario(three: Three) -> None:
        a, c = three.a, three.c

        async def follow(source: Host) -> None:
            three.a.write("db", 40, f"before {source.site.name}")
            await c.call(failback.rejoin(c.pool, c.mirrors, GROUP, source=source.address))
            await c.wait()

        await follow(a)
        (made,) = relations.establish(a.pool, [relations.Wish("db", "wal")])
        a.write("wal", 3, "by a host")
        await c.wait()
        await follow(three.b)
        assert all(found.inexact for found in c.pool.state.relations.values())
        await follow(a)
        await until(lambda: a.group().sessions[c.pool.identity].inexact == [made.id])
        a.write("wal", 20, "by a host, later")
        await c.wait()
        relations.withdraw(a.pool, [made], discard=True)
        await c.wait()
        await three.b.wait()
        assert three.same()
        assert not c.pool.state.relations

    cascaded(scenario)


def test_rings_are_refused() -> None:
    async def scenario(three: Three) -> None:
        with pytest.raises(Conflict, match="from this controller"):
            await three.b.call(
                failback.rejoin(three.b.pool, three.b.mirrors, GROUP, source=three.c.address)
            )
        three.b.group().source = three.c.address  # somebody does it all the same
        three.two.fabric.cut("a", "b")
        await until(lambda: "ring" in three.b.status().cause)

    cascaded(scenario)


def test_the_primary_hears_of_a_takeover_at_the_end() -> None:
    """The new primary followed a secondary: that one passes the news on before it says yes."""

    async def scenario(three: Three) -> None:
        three.two.fabric.cut("a", "b")
        await three.c.call(failover.promote(three.c.pool, three.c.mirrors, GROUP, force=True))
        await asyncio.sleep(30)
        assert three.c.group().fence_pending, "nobody has told the primary"
        three.two.fabric.heal_all()
        await until(lambda: three.a.group().role == "fenced")
        await until(lambda: not three.c.group().fence_pending)
        report = await three.b.call(
            failback.rejoin(three.b.pool, three.b.mirrors, GROUP, source=three.c.address)
        )
        assert not report.first_copy
        three.c.write("db", 3, "from c")
        await three.b.wait()
        assert three.b.image("db") == three.c.image("db")

    cascaded(scenario)


def test_a_secondary_without_a_cut_is_not_followed() -> None:
    async def scenario(two: Two) -> None:
        two.a.write("db", 0, "x", count=900)
        two.fabric.weather.bytes_per_s = 1e5
        await two.mirror(wait=False)
        c = await two.another()
        with pytest.raises(IsochroneError, match="holds no cut"):
            await c.call(c.mirrors.add(GROUP, two.b.address))

    play(scenario, mirrored=False)


def test_it_ends_when_what_was_offered_changes() -> None:
    async def scenario(three: Three) -> None:
        await three.b.call(failover.promote(three.b.pool, three.b.mirrors, GROUP, force=True))
        three.b.write("db", 3, "a new epoch")
        await until(lambda: "repoint" in _hint(three) or "failover" in three.c.status().cause)
        assert three.c.says("db", 3) != "a new epoch"
        await three.c.call(
            failback.rejoin(three.c.pool, three.c.mirrors, GROUP, source=three.b.address)
        )
        await three.c.wait()
        assert three.c.says("db", 3) == "a new epoch"

    cascaded(scenario)


def _hint(three: Three) -> str:
    return three.c.status().cause


def test_the_way_is_bounded() -> None:
    async def scenario(two: Two) -> None:
        group = two.b.group()
        assert cascade.way(two.b.pool, group) == (two.a.pool.identity, two.b.pool.identity)
        group.way = [str(n) for n in range(CASCADE_SITES_MAX)]
        with pytest.raises(Conflict, match="at most 8 can follow"):
            cascade.way(two.b.pool, group)
        assert cascade.way(two.a.pool, two.a.group()) == (two.a.pool.identity,)

    play(scenario)


def test_what_cannot_be_passed_on_is_not_confirmed() -> None:
    async def scenario(two: Two) -> None:
        two.fabric.stall("a", "b")
        fence = Fence(group=GROUP, lineage=two.a.group().lineage, epoch=2)
        upstream = two.b.mirrors.mover(GROUP)
        with pytest.raises(Unavailable, match="cannot be told"):
            await two.b.call(cascade.pass_on(two.b.pool, two.b.group(), fence, upstream))
        assert not upstream.telling
        with pytest.raises(Unavailable, match="not known"):
            await two.b.call(cascade.pass_on(two.b.pool, two.b.group(), fence, None))
        await two.a.call(cascade.pass_on(two.a.pool, two.a.group(), fence, None))
        assert two.a.group().role == "primary"

    play(scenario)
