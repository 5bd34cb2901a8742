"""Bits rot on the medium while the pool is in use, and a scrub must find them, and nothing else.

A volume of its own is filled, copied and partly overwritten; some of its living blocks rot; then a
scrub runs among writes, new and deleted copies, checkpoints and the cleaner. It goes over the whole
pool, with all that the scenario has left in it.

What is wrong is asked of the pool, block by block, before a scrub begins. A crash may undo rot: if
the newest batch rots before anything says that it is durable, it is cut off as a torn one, and what
it had moved lies where it was. A crash must not make more blocks wrong than have rotted.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Final

from isochrone.errors import Damaged
from isochrone.sim.checkers import Violation
from isochrone.sim.disk import Platter
from isochrone.store import copies, volumes
from isochrone.store.cleaner import Cleaner
from isochrone.store.format import SLOT_BITS, SLOT_MASK, segment_name
from isochrone.store.pool import Pool
from isochrone.store.scrub import Scrub
from isochrone.store.volume import VolumeDevice
from isochrone.types import BLOCK

NAME: Final = "rotting"
BLOCKS: Final = 256
ROTTEN_MAX: Final = 6
RATE: Final = 256 << 20  # in virtual time: fast enough to end, slow enough to be met by others
END_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class Rotten:
    """A living block that rots: its birth place, and which of all volumes' blocks it is."""

    birth: int
    block: int


async def prepare(pool: Pool, random: Random) -> None:
    """A volume with a history, copies that share some of it, and blocks that were moved."""
    volumes.create(pool, NAME, BLOCKS * BLOCK)
    for turn in range(5):
        _write(pool, random, 50)
        if turn in (1, 3):
            copies.take(pool, [NAME], name=f"rotting-{turn}")
        await Cleaner(pool).round()
    await pool.flush()


def _write(pool: Pool, random: Random, times: int) -> None:
    device = VolumeDevice(pool, pool.state.names[NAME])
    for _ in range(times):
        block, count = random.randrange(BLOCKS - 4), random.randint(1, 4)
        device.write(block * BLOCK, memoryview(random.randbytes(count * BLOCK)))
        if random.random() < 0.5:
            pool.commit()
    pool.commit()


def _references(pool: Pool) -> Iterator[tuple[str, int, int, int]]:
    """(export, block, birth place, checksum) of every block of the volume and its copies."""
    state = pool.state
    for name in sorted(n for n in state.names if n.partition("@")[0] == NAME):
        table = state.tables[state.names[name]]
        for block in range(BLOCKS):
            birth, checksum = state.forest.at(table, block)
            if birth:
                yield name, block, birth, checksum


def wrong(pool: Pool) -> set[tuple[str, int, int]]:
    """(export, block, birth place) that cannot be read: a scrub that begins now must find them."""
    found = set()
    for export, block, birth, checksum in _references(pool):
        try:
            pool.log.read(birth, array("Q", [checksum]))
        except Damaged:
            found.add((export, block, birth))
    return found


def no_worse(rotten: list[Rotten], bad: set[tuple[str, int, int]]) -> None:
    """After a crash: only what has rotted is wrong. Raises `Violation`."""
    births = {r.birth for r in rotten}
    for export, block, birth in sorted(bad):
        if birth not in births:
            raise Violation(f"block {block} of {export} has not rotted, and is lost in a crash")


def rot(pool: Pool, platter: Platter, random: Random) -> list[Rotten]:
    """Flip a bit in some living blocks, all of which are durable."""
    living = sorted({(birth, block) for _, block, birth, _ in _references(pool)})
    chosen = random.sample(living, random.randint(1, min(ROTTEN_MAX, len(living))))
    for birth, _ in chosen:
        place = pool.log.forwarding.place(birth)
        offset = (place & SLOT_MASK) * BLOCK + random.randrange(BLOCK)
        platter.flip(segment_name(place >> SLOT_BITS), offset, random.randrange(8))
    return [Rotten(birth, block) for birth, block in chosen]


async def scrub_among_writers(pool: Pool, random: Random) -> Scrub:
    """Run a pass, or the rest of one that a crash has interrupted, while others work."""
    worker, cleaner = Scrub(pool), Cleaner(pool)
    worker.resume()
    worker.start(RATE)
    end = pool.world.clock.monotonic() + END_SECONDS
    while worker.progress.state == "running":
        if pool.world.clock.monotonic() > end:
            raise Violation("a scrub does not come to its end")
        await _something(pool, cleaner, random)
        await pool.world.clock.sleep(random.choice((0.0, 0.001, 0.01)))
    return worker


async def _something(pool: Pool, cleaner: Cleaner, random: Random) -> None:
    what = random.random()
    if what < 0.4:
        _write(pool, random, 3)
    elif what < 0.5 and len(pool.state.copies) < 8:
        copies.take(pool, [NAME], name=f"rotting-{random.getrandbits(30):x}")
    elif what < 0.6:
        mine = sorted(c for c in pool.state.copies if c.startswith("rotting-"))
        if mine:
            copies.delete(pool, random.choice(mine))
    elif what < 0.8:
        with suppress(Damaged):  # a rotten block is not moved
            await cleaner.round()
    elif what < 0.85:
        await pool.checkpoint()


def judge(
    pool: Pool,
    rotten: list[Rotten],
    bad: set[tuple[str, int, int]],
    worker: Scrub,
    *,
    store_lost: bool = False,
) -> None:
    """Whether the scrub has found what was `bad` before, and still is. Raises `Violation`.

    It may have found, before a crash, what has rotted and is not wrong any more. Where the metadata
    store was lost with a rotten end of the log, batches of segments that had been emptied may be
    damaged, too: what was moved out of them lay in that end (docs/adr/0007).
    """
    progress = worker.progress
    if progress.state != "done":
        raise Violation(f"a scrub is {progress.state}: {progress.reason}")
    found = {
        (export, finding.offset // BLOCK + n)
        for finding in progress.findings
        for export in finding.exports or ([] if store_lost else ["-"])
        for n in range(max(1, finding.bytes // BLOCK))
    }
    blocks = {r.block for r in rotten} | {block for _, block, _ in bad}
    for export, block in sorted(found):
        if export.partition("@")[0] != NAME or block not in blocks:
            raise Violation(f"a scrub calls block {block} of {export} damaged, and it is not")
    for export, block, birth, _ in _references(pool):
        if (export, block, birth) in bad and (export, block) not in found:
            raise Violation(f"a scrub did not find block {block} of {export}")
