"""A site of the pretended world: one host, its disk, its clock, and one program at a time.

Code of a site runs inside `spawn`; every task, callback and connection that comes of it belongs to
the same life. `crash` ends the life: nothing of it runs any more, not even a `finally`; its files,
channels and listeners are dead. `world` and `disk` are then those of the next life.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import copy_context
from random import Random
from typing import Any, Final, TypeVar, cast

from isochrone.sim.clock import SimClock, SimDice, SimWork
from isochrone.sim.disk import Platter, SimDisk
from isochrone.sim.fabric import SimFabric
from isochrone.sim.loop import LIFE, Crashed, Life, VirtualLoop
from isochrone.sim.net import SimNet
from isochrone.world import World

T = TypeVar("T")

UPTIME_SECONDS_MAX: Final = 1e6  # hosts were started at different times


class Site:
    """Make it inside a running `VirtualLoop`. Everything random in it follows from `seed`."""

    def __init__(
        self, name: str, fabric: SimFabric, seed: int | str, *, capacity: int | None = None
    ) -> None:
        self.name = name
        self.fabric = fabric
        self.lives = 0
        self._loop = cast(VirtualLoop, asyncio.get_running_loop())
        self._seed = f"{seed}/{name}"
        self._outside = copy_context()  # a crash may be called from within the old life
        random = Random(self._seed)
        self.platter = Platter(random, capacity=capacity)
        self.clock = SimClock(self._loop, random.uniform(0, UPTIME_SECONDS_MAX))
        self._begin()

    def _begin(self) -> None:
        self.lives += 1
        random = Random(f"{self._seed}/{self.lives}")
        self.life = Life(f"{self.name}/{self.lives}", self._outside)
        self.world = World(
            clock=self.clock,
            net=SimNet(self.fabric, self.name, self.life),
            dice=SimDice(random),
            work=SimWork(random, self.life),
        )
        self._disk: SimDisk | None = None
        self._outcomes: dict[asyncio.Future[Any], None] = {}

    @property
    def disk(self) -> SimDisk:
        """The disk, held by this life; a new hold if the last one was closed."""
        if self._disk is None or self.platter.holder is not self._disk:
            self._disk = SimDisk(self.platter)
        return self._disk

    def spawn(self, coro: Coroutine[Any, Any, T], name: str | None = None) -> asyncio.Future[T]:
        """Run code as this site's; the future raises `Crashed` if the site crashes before its end.

        Cancelling the future cancels the task.
        """
        outcome: asyncio.Future[T] = self._loop.create_future()
        label = f"{self.life.name}/{name}" if name else None
        task = self._loop.create_task(coro, name=label, context=self.life.context.copy())
        task.add_done_callback(lambda _: self._settle(outcome, task))
        outcome.add_done_callback(lambda _: task.cancel() if outcome.cancelled() else None)
        self._outcomes[outcome] = None
        return outcome

    def _settle(self, outcome: asyncio.Future[T], task: asyncio.Task[T]) -> None:
        self._outcomes.pop(outcome, None)
        if task.cancelled():
            outcome.cancel()
        elif (error := task.exception()) is None:
            if not outcome.done():
                outcome.set_result(task.result())
        elif not outcome.done():
            outcome.set_exception(error)

    def crash(self, *, power: bool) -> str:
        """End this life by `kill -9` or a power cut, and begin the next; what it did to the disk.

        Called from the site's own code it does not return: it raises `Crashed`.
        """
        life, outcomes = self.life, self._outcomes
        life.end()
        if power:
            effect = self.platter.power_cut()
        else:
            self.platter.kill()
            effect = "killed"
        self.fabric.crash(self.name, power=power)
        self._begin()
        for outcome in outcomes:
            if not outcome.done():
                outcome.set_exception(Crashed(f"{life.name} has crashed"))
                outcome.exception()  # it is no fault if nobody waits for it any more
        if LIFE.get() is life:
            raise Crashed(f"{life.name} has crashed")
        return effect

    def pause(self) -> None:
        """SIGSTOP: the program stands still; its disk and its connections stay as they are."""
        self.life.paused, self.life.running = True, False

    def resume(self) -> None:
        """SIGCONT."""
        self._loop.release(self.life)
