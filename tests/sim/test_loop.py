"""Virtual time: order, determinism, and the ways in which a run ends badly."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from isochrone.sim.loop import Complaint, Deadlock, LimitReached, VirtualLoop, run


def now() -> float:
    return asyncio.get_running_loop().time()


def test_time_jumps() -> None:
    async def main() -> float:
        await asyncio.sleep(86_000)
        return now()

    assert run(main()) == 86_000


def test_timers_of_one_instant_run_in_the_order_they_were_set() -> None:
    seen: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for n in range(100):
            loop.call_later(1.0, seen.append, n)
        cancelled = [loop.call_later(0.5, seen.append, -n) for n in range(1, 400)]
        for timer in cancelled:
            timer.cancel()
        await asyncio.sleep(1.0)
        assert loop.time() == 1.0

    run(main())
    assert seen == list(range(100))


def test_timeouts() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(7):
                await asyncio.Event().wait()
        async with asyncio.timeout(1000):
            await asyncio.sleep(1)
        return now()

    assert run(main()) == 8


def test_a_deadlock_names_who_waits() -> None:
    async def waits_for_ever() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        asyncio.create_task(waits_for_ever(), name="lonely")  # noqa: RUF006
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match=r"lonely in .*wait") as caught:
        run(main())
    assert "2 tasks wait" in str(caught.value)


def test_virtual_time_is_bounded() -> None:
    async def main() -> None:
        while True:
            await asyncio.sleep(1)

    with pytest.raises(LimitReached):
        run(main(), seconds_max=100)


def test_steps_are_bounded() -> None:
    async def main() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(LimitReached):
        run(main(), steps_max=1000)


def test_what_is_left_over_is_cancelled() -> None:
    ended: list[str] = []

    async def tidy() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(1)
            ended.append("tidy")

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(1e6)
            except asyncio.CancelledError:
                ended.append("no")

    async def main() -> int:
        for coro in (tidy(), stubborn()):
            asyncio.create_task(coro)  # noqa: RUF006
        await asyncio.sleep(1)
        return 7

    assert run(main()) == 7
    assert "tidy" in ended


def test_a_failure_that_nobody_looked_at_fails_the_run() -> None:
    async def fails() -> None:
        raise ZeroDivisionError

    async def main() -> None:
        asyncio.create_task(fails())  # noqa: RUF006
        await asyncio.sleep(1)

    with pytest.raises(Complaint, match="ZeroDivisionError"):
        run(main())


def test_a_callback_that_fails_fails_the_run() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_later(1, lambda: 1 / 0)
        await asyncio.sleep(2)

    with pytest.raises(Complaint, match="ZeroDivisionError"):
        run(main())


def test_a_failure_that_was_taken_is_none() -> None:
    async def fails() -> None:
        raise ZeroDivisionError

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await asyncio.create_task(fails())
        with pytest.raises(ExceptionGroup):  # noqa: PT012
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(100))
                group.create_task(fails())
        assert now() == 0

    run(main())


def test_the_result_of_main_may_be_its_failure() -> None:
    async def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(main())


def test_no_threads() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(RuntimeError, match="no threads"):
            loop.run_in_executor(None, print)
        with pytest.raises(RuntimeError, match="no threads"):
            await asyncio.to_thread(print)
        with pytest.raises(RuntimeError, match="no threads"):
            loop.call_soon_threadsafe(print)

    run(main())


def test_no_loop_within_a_loop() -> None:
    async def inner() -> None: ...

    async def main() -> None:
        loop, coro = VirtualLoop(), inner()
        with pytest.raises(RuntimeError, match="another loop"):
            loop.run_until_complete(coro)
        coro.close()
        loop.close()

    run(main())


def test_async_generators() -> None:
    closed: list[str] = []

    async def count():
        try:
            for n in range(10):
                await asyncio.sleep(1)
                yield n
        finally:
            await asyncio.sleep(0)
            closed.append("yes")

    async def main() -> None:
        async for n in count():
            if n == 3:
                break
        await asyncio.sleep(1)

    run(main())
    assert closed == ["yes"]


def history(seed: int) -> tuple[list[tuple[float, int]], int]:
    """A tangle of tasks, groups that abort, queues and timeouts."""
    random = Random(seed)
    seen: list[tuple[float, int]] = []

    async def worker(n: int, queue: asyncio.Queue[int]) -> None:
        try:
            while True:
                async with asyncio.timeout(random.random()):
                    item = await queue.get()
                if item % 17 == 16:
                    raise ZeroDivisionError
                seen.append((now(), n * 1000 + item))
                await asyncio.sleep(random.random() / 10)
        except TimeoutError:
            seen.append((now(), -n))
        except asyncio.CancelledError:
            seen.append((now(), -1000 - n))
            raise

    async def group(n: int) -> None:
        queue: asyncio.Queue[int] = asyncio.Queue()
        try:
            async with asyncio.TaskGroup() as workers:
                for k in range(20):
                    workers.create_task(worker(n * 100 + k, queue))
                for item in range(random.randrange(40)):
                    queue.put_nowait(item)
                    await asyncio.sleep(0.01)
        except ExceptionGroup:
            seen.append((now(), -1))

    async def main() -> int:
        await asyncio.gather(*map(group, range(10)))
        done, _ = await asyncio.wait({asyncio.create_task(group(n)) for n in range(5)})
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        return loop.steps + 0 * len(done)

    return seen, run(main())


def test_the_same_seed_gives_the_same_run() -> None:
    for seed in range(5):
        # Memory in between lies elsewhere, so nothing may follow from addresses.
        first, clutter, second = history(seed), [object() for _ in range(10_007)], history(seed)
        assert first == second
        assert clutter
    assert history(1) != history(2)
