"""A small real pool, its files damaged in one place, and what may be seen of it then.

Right, for every single bit: the pool is refused, or what it shows is as it was, but for blocks that
are refused when they are read. Never a wrong block, never one that is missing in silence.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Final

import apsw

from isochrone.errors import Damaged
from isochrone.store import copies, volumes
from isochrone.store.check import findings
from isochrone.store.cleaner import Cleaner
from isochrone.store.format import SLOT_BITS, SLOT_MASK
from isochrone.store.pool import Pool
from isochrone.types import BLOCK, KIB, MIB
from isochrone.world.disk import METADATA_NAME, FolderDisk
from tests.store.pools import SMALL, device, get, open_on, pattern, settle

LIMITS: Final = replace(SMALL, segment_bytes=128 * KIB, garbage_bytes=64 * KIB)
_ZERO: Final = bytes(BLOCK)

Blocks = dict[tuple[str, int], bytes]  # (export, block) -> what is there; no zeros


@dataclass(frozen=True)
class Template:
    """A pool as it lies in its files, and all that it shows, block by block."""

    path: Path
    files: dict[str, bytes]
    blocks: Blocks
    unsafe: Blocks  # with the one batch that nobody vouches for
    places: dict[tuple[str, int], tuple[int, int]]  # the same blocks: segment and slot
    checkpoint: tuple[int, int]  # where the tail begins

    def restore(self) -> None:
        for name in os.listdir(self.path):
            if name != "lock" and name not in self.files:
                (self.path / name).unlink()
        for name, data in self.files.items():
            (self.path / name).write_bytes(data)

    def opened(self) -> Pool:
        disk = FolderDisk(self.path)
        try:
            return open_on(disk, LIMITS)
        except BaseException:
            disk.close()
            raise


def close(pool: Pool) -> None:
    pool.abandon()
    pool.disk.close()


def exports(pool: Pool) -> list[tuple[str, int]]:
    return [(export.name, export.size // BLOCK) for export in pool.state.exports()]


def visible(pool: Pool) -> tuple[Blocks, set[tuple[str, int]]]:
    """Blocks that are not zero, and those that are refused."""
    shown: Blocks = {}
    refused = set()
    for name, blocks in exports(pool):
        for block in range(blocks):
            try:
                data = get(pool, name, block * BLOCK, BLOCK)
            except Damaged:
                refused.add((name, block))
                continue
            if data != _ZERO:
                shown[name, block] = data
    return shown, refused


def make(path: Path) -> Template:
    """Volumes, copies, moved blocks, a checkpoint and a tail; only a last batch is not durable."""
    disk = FolderDisk(path)
    pool = open_on(disk, LIMITS)
    cleaner = Cleaner(pool)
    random = Random("rot")
    volumes.create(pool, "a", MIB)
    volumes.create(pool, "b", MIB)
    for n in range(250):
        block = random.randrange(24)
        data = pattern(n, BLOCK * random.choice((1, 2, 5)))
        device(pool, random.choice("ab")).write(block * BLOCK, memoryview(data))
        pool.commit()
        if n in (125, 230):
            copies.take(pool, ["a", "b"], name=f"c{n}", writable=n == 230)
        if n % 15 == 14:
            settle(cleaner.round())
    assert pool.log.forwarding and min(pool.log.first_lsns) > 1
    settle(pool.checkpoint())
    checkpoint = pool.log.position
    for n in range(250, 275):
        device(pool, "a").write(random.randrange(24) * BLOCK, memoryview(pattern(n)))
        pool.commit()
    settle(pool.flush())
    settle(pool.note_durable(at_once=True))
    blocks, _ = visible(pool)
    device(pool, "b").write(30 * BLOCK, memoryview(pattern(275)))
    pool.commit()
    unsafe, _ = visible(pool)
    places = placed(pool)
    close(pool)
    db = apsw.Connection(str(path / METADATA_NAME))
    db.pragma("wal_checkpoint(truncate)")
    db.close()
    files = {f.name: f.read_bytes() for f in path.iterdir() if f.name != "lock"}
    files = {n: d for n, d in files.items() if n == METADATA_NAME or n.startswith("segment-")}
    return Template(path, files, blocks, unsafe, places, checkpoint)


def placed(pool: Pool) -> dict[tuple[str, int], tuple[int, int]]:
    found = {}
    for name, blocks in exports(pool):
        for run in pool.state.forest.runs(pool.state.tables[pool.state.names[name]], 0, blocks):
            for n in range(run.blocks if run.pointer else 0):
                place = pool.log.forwarding.place(run.pointer + n)
                found[name, run.block + n] = (place >> SLOT_BITS, place & SLOT_MASK)
    return found


Damage = Callable[[dict[str, bytearray]], None]


def judge(template: Template, damage: Damage) -> tuple[str, set[tuple[str, int]]]:
    """What came of a damage: a word for it, and the blocks that are refused.

    The words are "refused", "read errors", "nothing" and "unflushed lost". Anything else raises
    AssertionError.
    """
    template.restore()
    files = {name: bytearray(data) for name, data in template.files.items()}
    damage(files)
    for name in template.files:
        if name not in files:
            (template.path / name).unlink()
        elif files[name] != template.files[name]:
            (template.path / name).write_bytes(files[name])
    try:
        pool = template.opened()
    except Damaged as e:
        return ("refused" if e.hint else "refused without a hint"), set()
    try:
        shown, refused = visible(pool)
        told = told_by_check(pool)
    finally:
        close(pool)
    for expected in (template.unsafe, template.blocks):
        if shown == {at: data for at, data in expected.items() if at not in refused}:
            assert refused <= told, "the check does not tell of a block that cannot be read"
            if refused:
                return "read errors", refused
            return ("nothing" if expected is template.unsafe else "unflushed lost"), refused
    raise AssertionError("SILENT: wrong or missing data")


def told_by_check(pool: Pool) -> set[tuple[str, int]]:
    """Blocks that `isochrone check` names."""
    return {
        (export, block)
        for found in findings(pool)
        for export in found.exports
        for block in range(found.offset // BLOCK, (found.offset + found.bytes) // BLOCK)
    }


def flip(name: str, bit: int) -> Damage:
    def damage(files: dict[str, bytearray]) -> None:
        files[name][bit // 8] ^= 1 << bit % 8

    return damage


def flips(template: Template, count: int, seed: object) -> Counter[str]:
    """So many single flips anywhere, each alone. Raises AssertionError with the one that failed."""
    random = Random(f"flips {seed}")
    names = sorted(template.files)
    weights = [len(template.files[name]) for name in names]
    found: Counter[str] = Counter()
    for n in range(count):
        # Half of them where most of the structure is.
        name = random.choices(names, weights)[0] if n % 2 else METADATA_NAME
        bit = random.randrange(8 * len(template.files[name]))
        try:
            found[judge(template, flip(name, bit))[0]] += 1
        except BaseException as e:
            raise AssertionError(f"bit {bit} of {name}: {e!r}") from e
    return found
