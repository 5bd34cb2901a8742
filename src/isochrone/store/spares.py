"""Segment files written in advance, and those of emptied segments kept for their next use.

A file that was written before needs neither new blocks nor new pages when it is written again, and
a sync of it no journal of the file system: that is most of the cost of an append.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from isochrone.store.format import spare_name
from isochrone.types import MIB
from isochrone.world import World
from isochrone.world.disk import Disk, File

MADE_MIN: Final = 1  # in advance, when writers are quiet: else every segment is written twice
KEPT_MAX: Final = 32  # of emptied segments, 2 GiB: what a second or two of writing uses
IDLE_KEPT_MAX: Final = 2  # when nobody writes; more would look like space that never comes back
SYNCED_BYTES: Final = 8 * MIB  # of one in the making at once: a flush must not wait for 64 MiB
QUIET_SECONDS: Final = 0.5  # after a segment has begun; a writer that fills the next is not quiet
RETRY_SECONDS: Final = 10.0  # after the disk refused one
_ZEROS: Final = bytes(MIB)

log = structlog.get_logger()


class Spares:
    """The spare files of a pool. Those of an earlier life are deleted at the start.

    Any of them may have been the newest segment, whose name a power cut took back. Its number comes
    again now, and under that number what it holds would verify.
    """

    def __init__(self, disk: Disk, segment_bytes: int) -> None:
        self._disk = disk
        self._size = segment_bytes
        self._names: list[str] = []
        self._newest = 0
        for name in disk.names():
            if name.startswith("spare-"):
                disk.remove(name)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def bytes_on_disk(self) -> int:
        return len(self._names) * self._size

    def _new_name(self) -> str:
        self._newest += 1
        return spare_name(self._newest)

    def make(self) -> str:
        """Write a spare file and return its name for `add`. Blocks; may run in a thread."""
        name = self._new_name()
        file = self._disk.create(name)
        try:
            file.reserve(self._size)
            for at in range(0, self._size, MIB):
                file.write_at([memoryview(_ZEROS)[: self._size - at]], at)
                if not (at + MIB) % SYNCED_BYTES:
                    file.sync()
            file.sync()
        except OSError:
            self._disk.remove(name)
            raise
        finally:
            file.close()
        return name

    def add(self, name: str) -> None:
        self._names.append(name)

    def use(self, new_name: str) -> File | None:
        """A spare file under a new name, or None if there is no spare."""
        if not self._names:
            return None
        self._disk.rename(self._names[-1], new_name)
        self._names.pop()
        return self._disk.open(new_name)

    def keep(self, name: str) -> bool:
        """Keep the file of an emptied segment, if more spares are wanted; whether it was taken."""
        if len(self._names) >= KEPT_MAX:
            return False
        spare = self._new_name()
        self._disk.rename(name, spare)
        self._names.append(spare)
        return True

    def trim(self) -> None:
        """Nobody writes: delete all but a few."""
        while len(self._names) > IDLE_KEPT_MAX:
            self._disk.remove(self._names[-1])
            self._names.pop()


async def make_in_advance(
    world: World, spares: Spares, wanted: Callable[[], bool], rolled: asyncio.Event
) -> None:
    """Keep enough spares at hand, until cancelled. `rolled` is set when one may have been used."""
    while True:
        await world.clock.sleep(QUIET_SECONDS)
        if rolled.is_set():
            rolled.clear()
            continue
        while len(spares) < MADE_MIN:
            try:
                if not wanted():
                    break
                spares.add(await world.work.run(spares.make))
            except OSError as e:
                log.warning("no spare segment could be made", reason=str(e))
                await world.clock.sleep(RETRY_SECONDS)
        await rolled.wait()
        rolled.clear()
