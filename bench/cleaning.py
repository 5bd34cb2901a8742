"""Measure what giving space back costs: blocks written again, and the latency of writers."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import structlog
from yard import (
    DEPTH,
    RANDOM,
    Section,
    arguments,
    leave,
    open_pool,
    percentile,
    scratch,
    shown_size,
)
from yardstick import Draw, formula, hot_and_cold, simulated, uniform

from isochrone.errors import NoSpace
from isochrone.store import cleaner as store_cleaner
from isochrone.store import volumes
from isochrone.store.cleaner import Cleaner
from isochrone.store.pool import Limits, Pool
from isochrone.store.volume import VolumeDevice
from isochrone.types import BLOCK, MIB

FILL: Final = 0.8  # of the capacity are living blocks
SEGMENT: Final = 4 * MIB  # a sixteenth of a real one: as many are then in 1 GiB as in 16 GiB
MOVE_BLOCKS: Final = DEPTH  # at a time: batches like those of the writers fill a segment to its end
MEMORY: Final = Path("/dev/shm")  # the count of blocks does not depend on the disk
WARM: Final = 1.0  # times all living blocks
MEASURED: Final = 1.0
RATE_S: Final = 0.008  # between turns, when latency is measured: 4,000 writes a second
LATENCY_S: Final = 8.0


Kind = Callable[[np.random.Generator, int], Draw]


def limits_of(capacity: int, reserve: int = SEGMENT) -> Limits:
    """Those of a large pool, in proportion; of a real one the reserve is less still."""
    return Limits(
        segment_bytes=SEGMENT,
        checkpoint_bytes=capacity // 8,
        garbage_bytes=capacity // 64,
        reserve_bytes=reserve,
        capacity_bytes=capacity,
    )


class Found(NamedTuple):
    """What overwriting did, in blocks and segments."""

    ratio: float  # blocks appended over blocks written
    payload: float  # blocks over the slots of the segments that were filled
    free: float  # of the capacity, on average: reserve, headroom, and what is being filled
    refused: int  # turns


@asynccontextmanager
async def cleaned(pool: Pool) -> AsyncIterator[Cleaner]:
    """The cleaner and the checkpoints of the service beside what is measured."""
    store_cleaner.MOVE_BLOCKS_MAX = MOVE_BLOCKS  # type: ignore[misc]
    cleaner = Cleaner(pool)

    async def checkpoints() -> None:
        while True:
            await asyncio.sleep(0.2)
            if pool.checkpoint_due:
                await pool.checkpoint()

    chores = [asyncio.ensure_future(cleaner.run()), asyncio.ensure_future(checkpoints())]
    try:
        yield cleaner
    finally:
        for chore in chores:
            chore.cancel()
        await asyncio.gather(*chores, return_exceptions=True)
        await cleaner.stop()


class Writer:
    """A client in the same process, which waits as the front door lets its clients wait."""

    def __init__(self, pool: Pool, blocks: int) -> None:
        self._pool = pool
        self._device = VolumeDevice(pool, volumes.create(pool, "v", blocks * BLOCK).id)
        self._data = memoryview(RANDOM)
        self._dice = random.Random(1)
        self.refused = 0

    async def fill(self, blocks: int) -> None:
        step = MIB // 16
        for at in range(0, blocks * BLOCK, step):
            self._device.write(at, self._data[: min(step, blocks * BLOCK - at)])
            await self._turn()

    async def overwrite(self, blocks: list[int]) -> None:
        for first in range(0, len(blocks), DEPTH):
            for block in blocks[first : first + DEPTH]:
                at = self._dice.randrange(1000) * BLOCK
                self._device.write(block * BLOCK, self._data[at : at + BLOCK])
            await self._turn()

    async def _turn(self) -> None:
        seconds, again = self._pool.space.pace()
        while seconds:
            await asyncio.sleep(seconds)
            seconds, again = self._pool.space.pace() if again else (0.0, False)
        try:
            self._pool.commit()
        except NoSpace:
            self.refused += 1
        await asyncio.sleep(0)


async def amplification(pool: Pool, blocks: int, draw: Draw) -> Found:
    writer, free = Writer(pool, blocks), []
    async with cleaned(pool):
        await writer.fill(blocks)
        await writer.overwrite(draw(int(WARM * blocks)).tolist())
        first, moved = pool.log.position[0], pool.bytes_moved
        count, part = int(MEASURED * blocks), 64 * DEPTH
        for at in range(0, count, part):
            await writer.overwrite(draw(min(part, count - at)).tolist())
            free.append(pool.log.free_bytes)
        appended = count * BLOCK + pool.bytes_moved - moved
        return Found(
            appended / (count * BLOCK),
            appended / ((pool.log.position[0] - first) * SEGMENT),
            sum(free) / len(free) / pool.limits.capacity_bytes,
            writer.refused,
        )


def ideals(capacity: int, kind: Kind, found: Found) -> list[str]:
    """Greedy and cost-benefit with all of the room, and with what was left of it."""
    blocks = int(FILL * capacity / BLOCK)
    segments, slots = capacity // SEGMENT, SEGMENT // BLOCK
    rooms = [(segments, slots), (round(segments * (1 - found.free)), round(slots * found.payload))]
    return [
        "{:.2f}".format(
            simulated(
                *room, blocks, kind(np.random.default_rng(1), blocks), aged=aged,
                warm=int(WARM * blocks), measured=int(MEASURED * blocks),
            )
        )
        for room in rooms
        for aged in (False, True)
    ]  # fmt: skip


def amplifications(directory: Path, capacity: int) -> Section:
    section = Section(
        f"Cleaning at {FILL:.0%} fill",
        ["overwriting", "appended ÷ written", "greedy", "cost-benefit", "formula",
         "room that is left", "greedy there", "cost-benefit there", "formula there", "refused"],
    )  # fmt: skip
    where = MEMORY if MEMORY.is_dir() else directory
    blocks = int(FILL * capacity / BLOCK)
    kinds: dict[str, Kind] = {"uniform": uniform, "90 % to a tenth": hot_and_cold}
    for title, kind in kinds.items():
        with scratch(where, capacity, spare=capacity) as path:
            pool = open_pool(path, limits_of(capacity))
            draw = kind(np.random.default_rng(1), blocks)
            found = asyncio.run(amplification(pool, blocks, draw))
            leave(pool)
        left = found.payload * (1 - found.free)
        formulas = ["–" if kind is not uniform else f"{formula(FILL / x):.2f}" for x in (1, left)]
        ideal = ideals(capacity, kind, found)
        section.rows.append(
            [title, f"{found.ratio:.2f}", *ideal[:2], formulas[0], f"{left:.1%}", *ideal[2:],
             formulas[1], str(found.refused)]
        )  # fmt: skip
        print(section.rows[-1], flush=True)
    section.notes.append(
        f"A pool of {shown_size(capacity)} in segments of {shown_size(SEGMENT)},"
        f" {shown_size(FILL * capacity)} of it mapped, overwritten block by block in turns of"
        f" {DEPTH}. Greedy and cost-benefit are a simulator's, of which nothing is reserved and"
        " nothing is a header; the formula is for uniform writes and endless segments"
        " (bench/yardstick.py). *Room that is left* for blocks is what headers, ends of segments,"
        " the reserve and the headroom leave of the capacity, as measured: *there* are simulator"
        " and formula with no more room than that."
    )
    return section


async def latencies(pool: Pool, blocks: int, seconds: float) -> dict[str, list[float]]:
    """Of turns that come at a steady rate, while nothing is cleaned and while much is."""
    writer = Writer(pool, blocks)
    found: dict[str, list[float]] = {}
    async with cleaned(pool) as cleaner:
        await writer.fill(blocks)
        await cleaner.round()
        dice = random.Random(2)
        for title in ("idle", "cleaning"):
            took = found[title] = []
            if title == "cleaning":
                await writer.overwrite([dice.randrange(blocks) for _ in range(blocks)])
            due = began = time.perf_counter()
            moved = pool.bytes_moved
            while due < began + seconds:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                await writer.overwrite([dice.randrange(blocks) for _ in range(DEPTH)])
                took.append(time.perf_counter() - due)
                due = max(due + RATE_S, time.perf_counter() - 10 * RATE_S)
                if title == "idle" and pool.space.short:
                    break
            found[f"{title} moved"] = [float(pool.bytes_moved - moved)]
    return found


def foreground(directory: Path, capacity: int) -> Section:
    section = Section(
        "Writers while space is given back",
        ["cleaner", "turns", "median", "p99", "p99.9", "moved meanwhile"],
    )
    with scratch(directory, capacity * 2) as path:
        pool = open_pool(path, limits_of(capacity, reserve=4 * SEGMENT))
        found = asyncio.run(latencies(pool, int(FILL * capacity / BLOCK), LATENCY_S))
        leave(pool)
    for title in ("idle", "cleaning"):
        took = found[title]
        section.rows.append(
            [title, f"{len(took):,}"]
            + [f"{percentile(took, share) * 1e3:.2f} ms" for share in (0.5, 0.99, 0.999)]
            + [shown_size(found[f"{title} moved"][0])]
        )
    section.notes.append(
        f"Turns of 32 writes of 4 KiB, one every {RATE_S * 1e3:.0f} ms, from the moment it was due"
        f" to the moment it was done; in process, on the disk; {shown_size(capacity)}, {FILL:.0%}"
        " of it mapped."
    )
    return section


def measure(directory: Path, size: int) -> list[Section]:
    return [amplifications(directory, size), foreground(directory, 2 * size)]


if __name__ == "__main__":
    chosen = arguments(__doc__, size="1g")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    for found in measure(chosen.directory, chosen.size):
        print(found.text(), end="\n\n", flush=True)
