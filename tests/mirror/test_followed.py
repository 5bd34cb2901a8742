from __future__ import annotations

import asyncio

from isochrone.mirror.followed import Followed
from tests.mirror.sites import GROUP, Two, play


def test_what_is_left_and_how_long_it_takes() -> None:
    async def scenario(two: Two) -> None:
        await asyncio.sleep(2)
        mover = two.b.mirrors.mover(GROUP)
        followed = Followed(mover)
        assert followed.eta() == (0.0, 0.0)
        mover.behind_bytes = -1
        assert (followed.left, followed.eta()) == (-1, (-1.0, -1.0))
        mover.behind_bytes = 4096 * 1000
        assert followed.eta() == (-1.0, -1.0), "an estimate without a rate"
        for second in range(100):
            followed.sample(second)
            mover.shipped.blocks += 100
        best, worst = followed.eta()
        assert 9 < best < 12
        assert best <= worst < 40
        mover.phase, mover.todo_bytes, mover.done_bytes = "resend", 100, 40
        assert followed.left == 60

    play(scenario)


def test_cuts_that_break_off_are_counted() -> None:
    async def scenario(two: Two) -> None:
        before = two.b.status()
        assert before.cuts >= 1
        two.a.write("db", 8, "long", count=512)
        two.fabric.weather.bytes_per_s = 200e3
        await asyncio.sleep(2)
        assert two.b.status().cuts_failed == 0, "what still comes has not failed"
        two.fabric.cut("a", "b")
        await asyncio.sleep(15)
        two.fabric.weather.bytes_per_s = 1e9
        two.fabric.heal_all()
        await two.b.wait()
        after = two.b.status()
        assert after.cuts > before.cuts
        assert after.cuts_failed == 1

    play(scenario)
