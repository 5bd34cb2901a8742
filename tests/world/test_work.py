"""Work in real threads."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

from isochrone.world.work import BRIEF_S_MAX, DISTRUST, TRUST_MIN, ThreadWork, Trust


async def started(work: ThreadWork, what, *, brief: bool = False) -> BaseException | None:
    """What `done` is told."""
    told: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
    work.start(what, told.set_result, brief=brief)
    return await told


async def test_work_runs_beside_the_loop() -> None:
    assert await ThreadWork().run(threading.get_ident) != threading.get_ident()


async def test_its_exceptions_come_back() -> None:
    with pytest.raises(ZeroDivisionError):
        await ThreadWork().run(lambda: 1 / 0)


async def test_started_work_runs_beside_the_loop_and_ends_on_it() -> None:
    work, ran, ended = ThreadWork(), [], []
    all_ended = asyncio.Event()

    def done(error: BaseException | None) -> None:
        ended.append((error, threading.get_ident()))
        if len(ended) == 3:
            all_ended.set()

    for n in range(3):
        work.start(lambda n=n: ran.append((n, threading.get_ident())), done)
    await all_ended.wait()
    assert [n for n, _ in ran] == [0, 1, 2]
    assert {thread for _, thread in ran}.isdisjoint({threading.get_ident()})
    assert ended == [(None, threading.get_ident())] * 3


async def test_done_is_told_the_error() -> None:
    work = ThreadWork()
    assert isinstance(await started(work, lambda: 1 / 0), ZeroDivisionError)
    assert await started(work, lambda: None) is None  # and the thread lives on


async def test_brief_work_stays_on_the_loop_once_it_is_known_to_be_brief() -> None:
    work, threads = ThreadWork(), []
    while not work._trust.holds:  # a busy machine may take its time
        await started(work, lambda: threads.append(threading.get_ident()), brief=True)
    assert len(threads) >= TRUST_MIN
    assert threading.get_ident() not in threads
    told: list[BaseException | None] = []
    work.start(lambda: threads.append(threading.get_ident()), told.append, brief=True)
    assert told == [None]
    assert threads[-1] == threading.get_ident()
    await started(work, lambda: threads.append(threading.get_ident()))
    assert threads[-1] != threading.get_ident()  # nobody said that it is brief


async def test_the_error_of_brief_work_is_told_too() -> None:
    work = ThreadWork()
    for _ in range(TRUST_MIN):
        work._trust.took(0.0)
    told: list[BaseException | None] = []
    work.start(lambda: 1 / 0, told.append, brief=True)
    assert [type(error) for error in told] == [ZeroDivisionError]


def test_one_long_work_is_held_against_many() -> None:
    trust = Trust()
    for _ in range(TRUST_MIN):
        assert not trust.holds
        trust.took(BRIEF_S_MAX)
    assert trust.holds
    for _ in range(10_000):
        trust.took(0.0)  # no credit is saved up for a disk that turns slow
    trust.took(2 * BRIEF_S_MAX)
    for _ in range(DISTRUST):
        assert not trust.holds
        trust.took(0.0)
    assert trust.holds


def test_a_slow_disk_is_never_trusted() -> None:
    trust = Trust()
    for _ in range(1000):
        trust.took(0.010)
        trust.took(0.0)
        assert not trust.holds


async def test_the_thread_ends_with_its_owner() -> None:
    work = ThreadWork()
    threads: list[threading.Thread] = []
    await started(work, lambda: threads.append(threading.current_thread()))
    gone = weakref.ref(work)
    del work
    gc.collect()
    assert gone() is None
    await asyncio.to_thread(threads[0].join)
    assert not threads[0].is_alive()


def test_work_may_outlive_its_loop() -> None:
    work, go_on = ThreadWork(), threading.Event()

    async def leave() -> None:
        work.start(go_on.wait, lambda error: None)

    asyncio.run(leave())
    go_on.set()
    assert asyncio.run(started(work, lambda: None)) is None


async def test_works_in_threads_are_counted() -> None:
    work, go_on = ThreadWork(), threading.Event()
    running = [asyncio.ensure_future(work.run(go_on.wait)) for _ in range(3)]
    await asyncio.sleep(0)
    assert work.running == 3
    go_on.set()
    await asyncio.gather(*running)
    assert work.running == 0
    with pytest.raises(ZeroDivisionError):
        await work.run(lambda: 1 / 0)
    assert work.running == 0
