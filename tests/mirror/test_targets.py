"""Several secondaries of one group: each has its own cursor, and none waits for another."""

from __future__ import annotations

import asyncio

from isochrone.store import copies
from isochrone.store.check import check_pool
from tests.mirror.sites import GROUP, Two, play


def test_one_that_is_silent_does_not_hold_the_other_back() -> None:
    """The link to `c` takes everything and gives nothing: `b` stays as new as ever."""

    async def scenario(two: Two) -> None:
        c = await two.third()
        two.fabric.stall("a", "c")
        oldest = 0.0
        for n in range(200):
            two.a.write("db", n, f"n{n}")
            await asyncio.sleep(0.1)
            oldest = max(oldest, two.b.status().recovery_point_age)
        assert oldest < 1.5
        assert c.status().recovery_point_age > 15
        two.fabric.heal_all()
        await c.wait()
        await two.b.wait()
        assert two.a.image("db") == two.b.image("db") == c.image("db")

    play(scenario)


def test_one_is_resent_to_while_the_other_follows_the_log() -> None:
    async def scenario(two: Two) -> None:
        c = await two.third()
        two.a.write("db", 0, "base", count=900)
        await c.wait()
        await two.b.wait()
        two.fabric.cut("a", "c")
        await asyncio.sleep(1)
        two.a.mirrors.suspend(GROUP, c.pool.identity)
        for n in range(20):
            two.a.write("db", 100 + n, f"n{n}", count=3)
            await asyncio.sleep(0.2)
        copies.take(two.a.pool, ["db", "wal"], name="c1")
        two.a.write("db", 500, "after the copy")
        two.fabric.heal_all()
        two.a.mirrors.resume(GROUP, c.pool.identity)
        received = c.status().bytes_received
        for n in range(10):
            two.a.write("wal", n, f"n{n}")
            await asyncio.sleep(0.1)
            assert two.b.status().recovery_point_age < 1.5
        await c.wait()
        await two.b.wait()
        assert two.a.image("db") == two.b.image("db") == c.image("db")
        assert two.b.image("db@c1") == c.image("db@c1")
        assert c.status().bytes_received - received < 900 * 4096 // 2, "everything came again"
        for host in (two.a, two.b, c):
            check_pool(host.pool)

    play(scenario)


def test_one_that_leaves_takes_nothing_from_the_other() -> None:
    async def scenario(two: Two) -> None:
        c = await two.third()
        await c.call(c.mirrors.remove(GROUP))
        two.a.write("db", 3, "x")
        await two.b.wait()
        assert two.b.says("db", 3) == "x"
        assert list(two.a.group().sessions) == [two.b.pool.identity]

    play(scenario)
