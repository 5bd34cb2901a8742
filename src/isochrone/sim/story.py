"""What every run of the simulation has: a seed, a log, a network, and an end that tells all.

A scenario is a `Story` with a `_run` of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import Field, asdict
from random import Random
from typing import Any, ClassVar, Protocol, TypeVar, cast

from isochrone.sim.checkers import Violation
from isochrone.sim.fabric import SimFabric
from isochrone.sim.loop import VirtualLoop, run


class Chosen(Protocol):
    """What a seed decides before anything runs: a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def latency_max(self) -> float: ...

    @property
    def duplicate(self) -> float: ...


class Story:
    """One run. `log` gets a line for each event."""

    def __init__(self, seed: int, log: Callable[[str], None]) -> None:
        self.seed = seed
        self.counts: dict[str, int] = {}
        self._random = Random(seed)
        self._log = log
        self._broken: Violation | None = None  # found inside the program, which may go on
        self._loop: VirtualLoop
        self._fabric: SimFabric

    def _say(self, text: str) -> None:
        self._log(f"{self._loop.time():10.4f}  {text}")

    async def run(self) -> None:
        """Raises what it finds."""
        try:
            await self._run()
        finally:
            if self._broken is not None:
                raise self._broken

    async def _run(self) -> None:
        raise NotImplementedError

    def _set_out(self, options: Chosen) -> None:
        """Say what was drawn, and make the network."""
        self._loop = cast(VirtualLoop, asyncio.get_running_loop())
        self._say(f"seed {self.seed}: {asdict(options)}")
        self._fabric = SimFabric(self._loop, Random(f"{self.seed}/fabric"))
        self._fabric.weather.latency = (0.0, options.latency_max)
        self._fabric.weather.duplicate = options.duplicate

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """What is found in here fails the run, also if the program takes it for its own error."""
        try:
            yield
        except Violation as e:
            self._broken = self._broken or e
            raise


T = TypeVar("T", bound=Story)


def tell(story: T, seconds_max: float) -> T:
    """Run a story in virtual time, to its end."""
    run(story.run(), seconds_max=seconds_max)
    return story
