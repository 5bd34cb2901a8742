"""Pretended time, dice and threads of one host."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Final, TypeVar

from isochrone.sim.loop import Crashed, Life

T = TypeVar("T")

WALL_START_NS: Final = 1_800_000_000 * 10**9  # every run begins on the same day in 2027
WORK_SECONDS: Final = (0.0, 0.002)  # wait for a thread, and again for the loop to hear of it
WORK_BRIEF: Final = 0.5  # chance that work that may run on the loop does
WORK_CANCELLED: Final = 0.5  # chance that work nobody waits for any more had not begun yet


class SimClock:
    """The clock of one host. Set `offset_ns` to make its wall clock jump.

    The monotonic clock begins at `uptime`, another one on every host: nobody may compare two.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, uptime: float = 0.0) -> None:
        self.offset_ns = 0
        self._loop = loop
        self._uptime = uptime

    def wall_ns(self) -> int:
        return WALL_START_NS + int(self._loop.time() * 1e9) + self.offset_ns

    def monotonic(self) -> float:
        return self._loop.time() + self._uptime

    async def sleep(self, seconds: float) -> None:
        awake: asyncio.Future[None] = self._loop.create_future()
        timer = self._loop.call_later(max(0.0, seconds), _succeed, awake, None)
        try:
            await awake
        finally:
            timer.cancel()


class SimDice:
    def __init__(self, random: Random) -> None:
        self._random = random

    def identity(self) -> str:
        return f"{self._random.getrandbits(128):032x}"

    def between(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)


class SimWork:
    """Pretended threads: work runs at one instant, some time later; its result comes later still.

    Works that were begun together end in any order, as they do in a pool of threads. As with
    threads, cancelling the one who waits does not stop work that has begun.
    """

    def __init__(self, random: Random, life: Life | None = None) -> None:
        self.seconds = WORK_SECONDS
        self.running = 0  # nobody in here asks
        self._random = random
        self._life = life

    async def run(self, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        loop.call_later(self._random.uniform(*self.seconds), self._begin, work, done)
        return await done

    def start(
        self,
        work: Callable[[], None],
        done: Callable[[BaseException | None], None],
        *,
        brief: bool = False,
    ) -> None:
        if brief and self._random.random() < WORK_BRIEF:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - whoever waits is told
                done(error)
            else:
                done(None)
            return
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        ended.add_done_callback(lambda future: done(future.exception()))
        loop.call_later(self._random.uniform(*self.seconds), self._begin, work, ended)

    def _begin(self, work: Callable[[], T], done: asyncio.Future[T]) -> None:
        if self._life is not None and not self._life.alive:
            # The life's own callbacks never get here; this one was asked for from outside.
            _fail(done, Crashed(f"{self._life.name} has crashed"))
            return
        if done.cancelled() and self._random.random() < WORK_CANCELLED:
            return
        later = asyncio.get_running_loop().call_later
        seconds = self._random.uniform(*self.seconds)
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - it is raised where the work is awaited
            later(seconds, _fail, done, error)
        else:
            later(seconds, _succeed, done, result)


def _succeed(done: asyncio.Future[T], result: T) -> None:
    if not done.done():
        done.set_result(result)


def _fail(done: asyncio.Future[T], error: BaseException) -> None:
    if not done.done():
        done.set_exception(error)
