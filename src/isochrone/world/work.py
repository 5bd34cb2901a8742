"""Blocking work beside the loop: sync, checkpoints, hashing. Each releases the interpreter lock."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Final, Protocol, TypeVar

T = TypeVar("T")
Done = Callable[[BaseException | None], None]  # told the error, or None
Order = tuple[asyncio.AbstractEventLoop, Callable[[], None], Done]

BRIEF_S_MAX: Final = 0.001  # a read of a block that is not in memory keeps the loop as long
TRUST_MIN: Final = 16  # brief ones in a row, before the next is believed to be brief
DISTRUST: Final = 256  # brief ones before a long one is forgotten: at most every 256th is met


class Work(Protocol):
    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` off the loop and return its result; its exceptions are raised here."""
        ...

    @property
    def running(self) -> int:
        """How many works of `run` have not ended. They need the interpreter's lock now and then."""
        ...

    def start(self, work: Callable[[], None], done: Done, *, brief: bool = False) -> None:
        """Run `work` off the loop, and then `done` on the loop; nobody has to wait for a task.

        `brief`: it should take no longer than to change threads twice, and nobody needs the loop
        meanwhile. If such works were brief lately it runs right here, and `done` is called before
        this returns.
        """
        ...


class ThreadWork:
    """Real threads: the loop's pool for `run`, and one that lives as long as this for `start`."""

    def __init__(self) -> None:
        self._trust = Trust()
        self.running = 0
        self._orders: SimpleQueue[Order | None] = SimpleQueue()
        # It knows the orders and not this object, which could never be collected otherwise.
        threading.Thread(target=_serve, args=(self._orders,), daemon=True, name="work").start()
        weakref.finalize(self, self._orders.put, None)

    async def run(self, work: Callable[[], T]) -> T:
        self.running += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(None, work)
        finally:
            self.running -= 1

    def start(self, work: Callable[[], None], done: Done, *, brief: bool = False) -> None:
        def timed() -> None:
            began = time.monotonic()
            try:
                work()
            finally:
                self._trust.took(time.monotonic() - began)

        if brief and self._trust.holds:
            done(_error_of(timed))
        else:
            self._orders.put((asyncio.get_running_loop(), timed, done))


class Trust:
    """Whether works were brief lately. A slow disk never is; a hiccup counts against it a while."""

    def __init__(self) -> None:
        self._brief_ones = 0

    @property
    def holds(self) -> bool:
        return self._brief_ones >= TRUST_MIN

    def took(self, seconds: float) -> None:
        if seconds <= BRIEF_S_MAX:
            self._brief_ones += 1
        else:
            self._brief_ones = TRUST_MIN - DISTRUST


def _error_of(work: Callable[[], None]) -> BaseException | None:
    try:
        work()
    except BaseException as error:  # noqa: BLE001 - whoever waits is told
        return error
    return None


def _serve(orders: SimpleQueue[Order | None]) -> None:
    """The thread: one work after the other, until its owner is gone."""
    while (order := orders.get()) is not None:
        loop, work, done = order
        error = _error_of(work)
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(done, error)
        del order, loop, work, done, error  # hold nothing while there is nothing to do
