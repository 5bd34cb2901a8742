"""Numbered dependent writes over several volumes, with copies, relations, resizes and flushes.

Each change is issued after the one before it was acknowledged, or together with others in one turn
of the loop; the order of issue is the order of ops in the history.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from isochrone.errors import Conflict
from isochrone.sim.checkers import image
from isochrone.sim.history import History
from isochrone.sim.relating import Relating
from isochrone.store import copies, volumes
from isochrone.store.cleaner import Cleaner
from isochrone.store.pool import Pool
from isochrone.store.volume import VolumeDevice
from isochrone.types import BLOCK


@dataclass(frozen=True, slots=True)
class Mix:
    """How often what happens; weights."""

    write: int = 60
    small: int = 15  # writes that are not whole blocks
    discard: int = 8
    read: int = 8
    copy: int = 4
    clone: int = 2
    delete_copy: int = 3
    resize: int = 1
    flush: int = 12
    checkpoint: int = 2
    clean: int = 2
    pause: int = 30
    relate: int = 0
    refresh: int = 0
    restore: int = 0
    withdraw: int = 0
    revert: int = 0


PAUSES = (0.002, 0.1, 0.1)  # seconds
COPIES_MAX = 6  # kept at a time; more only slows the checkers


class Workload:
    """Runs on one pool, of one life of a site; the history outlives it."""

    def __init__(
        self, pool: Pool, history: History, random: Random, mix: Mix, names: Sequence[str]
    ) -> None:
        self._pool = pool
        self._history = history
        self._random = random
        self._mix = mix
        self._names = list(names)
        self._now = pool.world.clock.wall_ns
        self._relating = Relating(pool, history, random, names, COPIES_MAX)
        self._flushes: list[asyncio.Task[None]] = []  # begun, and not waited for yet

    async def run(self, changes: int) -> None:
        """Make so many steps."""
        kinds = [kind for kind in Mix.__dataclass_fields__ if getattr(self._mix, kind)]
        weights = [getattr(self._mix, kind) for kind in kinds]
        for _ in range(changes):
            (kind,) = self._random.choices(kinds, weights)
            await getattr(self, f"_{kind}")()
        await asyncio.gather(*self._flushes)

    # -- steps

    def _target(self) -> tuple[str, VolumeDevice]:
        state = self._pool.state
        names = [n for n in self._names if n in state.names]
        names += [v.name for v in state.volumes.values() if v.kind == "clone" and not v.group]
        names = [n for n in names if n in state.names and not self._read_only(n)]
        name = self._random.choice(names)
        return name, VolumeDevice(self._pool, state.names[name])

    def _read_only(self, name: str) -> bool:
        state = self._pool.state
        return state.read_only(state.volumes[state.names[name]])

    def _place(self, device: VolumeDevice, most: int) -> tuple[int, int]:
        """A range of blocks; mostly in a hot area, so that overwrites are common."""
        blocks = device.size // BLOCK
        hot = min(blocks, 24) if self._random.random() < 0.8 else blocks
        block = self._random.randrange(hot)
        return block, self._random.randint(1, min(most, blocks - block))

    def _content(self) -> bytes:
        head = f"op {self._history.op + 1} {self._random.getrandbits(64):x} ".encode()
        return (head * (BLOCK // len(head) + 1))[:BLOCK]

    async def _write(self) -> None:
        for _ in range(self._random.choice((1, 1, 2, 5))):  # several in one turn: one batch
            name, device = self._target()
            block, count = self._place(device, 4)
            data = b""
            for at in range(count):
                content = self._content()
                self._history.write(name, block + at, content, self._now())
                data += content
            device.write(block * BLOCK, memoryview(data))
        self._pool.commit()

    async def _small(self) -> None:
        name, device = self._target()
        offset = self._random.randrange(min(device.size, 24 * BLOCK) - 1)
        length = self._random.randint(1, min(9000, device.size - offset))
        data = self._random.randbytes(length)
        first, last = offset // BLOCK, (offset + length - 1) // BLOCK
        old = image(self._pool, name)[first * BLOCK : (last + 1) * BLOCK]
        at = offset - first * BLOCK
        new = old[:at] + data + old[at + length :]
        self._pool.commit()
        device.write(offset, memoryview(data))
        # A head or tail that is patched is one change of the log, as is each whole part; a crash
        # may come between batches only, and all of this is one.
        for n in range(first, last + 1):
            here = (n - first) * BLOCK
            self._history.write(name, n, new[here : here + BLOCK], self._now())
        self._pool.commit()

    async def _discard(self) -> None:
        name, device = self._target()
        block, count = self._place(device, 64)
        self._history.discard(name, block, count, self._now())
        device.discard(block * BLOCK, count * BLOCK)
        self._pool.commit()

    async def _read(self) -> None:
        name, device = self._target()
        block, count = self._place(device, 16)
        data = b"".join(device.read(block * BLOCK, count * BLOCK))
        track = self._history.alive(name, self._history.op)
        assert track is not None
        for at in range(count):
            expected = self._history.content(track, block + at, self._history.op)
            assert data[at * BLOCK : (at + 1) * BLOCK] == expected, f"{name} block {block + at}"

    async def _copy(self) -> None:
        self._take(writable=False)

    async def _clone(self) -> None:
        self._take(writable=True)

    def _take(self, *, writable: bool) -> None:
        state = self._pool.state
        if len(state.copies) >= COPIES_MAX:
            return
        names = [n for n in self._names if n in state.names]
        some = tuple(self._random.sample(names, self._random.randint(1, len(names))))
        name = f"c{self._random.randrange(12)}"
        if name in state.copies:
            return
        self._history.copy(name, some, self._now())
        copies.take(self._pool, some, name=name, writable=writable)

    async def _delete_copy(self) -> None:
        if self._pool.state.copies:
            name = self._random.choice(sorted(self._pool.state.copies))
            if _allowed(lambda: copies.delete(self._pool, name)):
                self._history.delete_copy(name, self._now())

    async def _resize(self) -> None:
        name = self._random.choice([n for n in self._names if n in self._pool.state.names])
        if self._read_only(name):
            return
        blocks = self._random.choice((256, 257, 300, 400))
        if blocks * BLOCK != self._pool.state.volumes[self._pool.state.names[name]].size:
            size = blocks * BLOCK
            if _allowed(lambda: volumes.resize(self._pool, name, size, shrink=True)):
                self._history.resize(name, blocks, self._now())

    async def _relate(self) -> None:
        self._relating.establish()

    async def _refresh(self) -> None:
        self._relating.refresh()

    async def _restore(self) -> None:
        self._relating.restore()

    async def _withdraw(self) -> None:
        self._relating.withdraw()

    async def _revert(self) -> None:
        self._relating.revert()

    async def _flush(self) -> None:
        """As a client of its own: others may write while it waits."""
        flush = asyncio.get_running_loop().create_task(self._flushed(self._history.op))
        self._flushes.append(flush)
        if self._random.random() < 0.5:
            await flush

    async def _flushed(self, op: int) -> None:
        await self._pool.flush(alone=self._random.random() < 0.5)
        self._history.flushed = max(self._history.flushed, op)

    async def _checkpoint(self) -> None:
        await self._pool.checkpoint()

    async def _clean(self) -> None:
        await Cleaner(self._pool).round()
        if self._random.random() < 0.2:
            spares = self._pool.log.spares
            spares.add(await self._pool.world.work.run(spares.make))

    async def _pause(self) -> None:
        """Mostly longer than a sync takes; now and then changes come in the middle of one."""
        await self._pool.world.clock.sleep(self._random.uniform(0, self._random.choice(PAUSES)))


def _allowed(command: Callable[[], object]) -> bool:
    """Whether a command was carried out; a relation may forbid it."""
    try:
        command()
    except Conflict:
        return False
    return True
