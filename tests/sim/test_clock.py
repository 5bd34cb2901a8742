"""The pretended clock, dice and threads."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from isochrone.sim.clock import WALL_START_NS, SimClock, SimDice, SimWork
from isochrone.sim.loop import run


def test_the_wall_clock_jumps_and_the_other_does_not() -> None:
    async def main() -> None:
        clock = SimClock(asyncio.get_running_loop(), uptime=1000.0)
        assert clock.wall_ns() == WALL_START_NS
        assert clock.monotonic() == 1000.0
        await clock.sleep(2.5)
        assert clock.wall_ns() == WALL_START_NS + 2_500_000_000
        assert clock.monotonic() == 1002.5
        clock.offset_ns = -10 * 10**9
        assert clock.wall_ns() < WALL_START_NS
        await clock.sleep(-1)
        assert clock.monotonic() == 1002.5

    run(main())


def test_the_same_seed_gives_the_same_dice() -> None:
    one, two = SimDice(Random(1)), SimDice(Random(1))
    assert [one.identity() for _ in range(3)] == [two.identity() for _ in range(3)]
    assert one.identity() != one.identity()
    assert len(bytes.fromhex(one.identity())) == 16
    assert 2 <= one.between(2, 3) <= 3


def test_work_takes_time_and_happens_at_one_instant() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        work = SimWork(Random(1))
        ran: list[float] = []
        await work.run(lambda: ran.append(loop.time()))
        assert 0 < ran[0] < loop.time()
        with pytest.raises(ZeroDivisionError):
            await work.run(lambda: 1 / 0)

    run(main())


def test_works_end_in_any_order() -> None:
    async def main() -> list[int]:
        work, ended = SimWork(Random(1)), []
        await asyncio.gather(*(work.run(lambda n=n: ended.append(n)) for n in range(10)))
        return ended

    assert sorted(run(main())) == list(range(10)) != run(main())


def test_cancelling_the_waiter_may_be_too_late() -> None:
    async def main(seed: int) -> int:
        work, ran = SimWork(Random(seed)), []
        task = asyncio.create_task(work.run(lambda: ran.append(1)))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(1)
        return len(ran)

    assert {run(main(seed)) for seed in range(20)} == {0, 1}
