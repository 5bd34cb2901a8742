"""What the measurements of the store share: pools to measure, a stopwatch, tables for the page.

Every script beside this one that uses it measures one thing, prints a section of POOL.md, and can
be run alone. Pools are made through the store's own interfaces; where a terabyte would be needed,
its tables are made and its data is not.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import statistics
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from isochrone.store import volumes
from isochrone.store.format import pointer
from isochrone.store.pool import LIMITS, Limits, Pool
from isochrone.store.tracks import CHUNK_LEAVES, LEAF_BLOCKS, Table
from isochrone.store.volume import VolumeDevice
from isochrone.types import BLOCK, GIB, KIB, MIB, TIB
from isochrone.world import system_world
from isochrone.world.disk import FolderDisk

UNITS: Final = {"k": KIB, "m": MIB, "g": GIB, "t": TIB}
DEPTH: Final = 32  # requests of one turn, as a client with a queue of that depth makes them
SPARE_BYTES: Final = 4 * GIB  # left free on the disk, whatever is measured
NOWHERE: Final = 1 << 32  # number of a segment that no log here reaches
RANDOM: Final = random.Random(1).randbytes(4 * MIB)  # what is written: it does not compress


def parse_size(text: str) -> int:
    """512m, 10g, 1t or bytes."""
    number, unit = (text[:-1], UNITS[text[-1].lower()]) if text[-1:].isalpha() else (text, 1)
    return int(number) * unit


def shown_size(size: float) -> str:
    for unit, name in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit:
            shown = size / unit
            return f"{shown:,.0f} {name}" if shown >= 100 else f"{shown:.3g} {name}"
    return f"{size:.0f} B"


def arguments(about: str, names: Sequence[str] = (), **sizes: str) -> argparse.Namespace:
    """`--directory`, an option for each size with its default, and `--only` if there are names."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--directory", type=Path, default=Path("build"), help="default: build")
    for name, default in sizes.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=parse_size, default=default, metavar="SIZE",
            help=f"default: {default}",
        )  # fmt: skip
    if names:
        parser.add_argument(
            "--only", nargs="+", choices=names, default=names, help="print, and write no page"
        )
    return parser.parse_args()


@dataclass(slots=True)
class Section:
    """One part of POOL.md."""

    title: str
    head: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        lines = [self.head, ["---", *["---:"] * (len(self.head) - 1)], *self.rows]
        table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
        return "\n\n".join([f"## {self.title}", table, *self.notes])


@contextmanager
def scratch(directory: Path, needed: int, spare: int = SPARE_BYTES) -> Iterator[Path]:
    """A directory on the disk to use, gone at the end. Refuses when the disk is too full."""
    directory.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(directory).free
    if free < needed + spare:
        raise SystemExit(
            f"{shown_size(needed + spare)} must be free in {directory}, {shown_size(free)} is"
        )
    path = Path(tempfile.mkdtemp(prefix="yard-", dir=directory.resolve()))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def open_pool(path: Path, limits: Limits = LIMITS) -> Pool:
    return Pool.open(FolderDisk(path), system_world(), limits)


def leave(pool: Pool) -> None:
    """Let go of a pool as a killed process does."""
    pool.abandon()
    pool.disk.close()


def write_randomly(
    pool: Pool, id: int, dice: random.Random, blocks: int, turns: int
) -> list[float]:
    """Turns of 32 writes of 4 KiB over so many blocks of a volume; the seconds each turn took."""
    device = VolumeDevice(pool, id)
    data = memoryview(RANDOM)
    took = []
    for _ in range(turns):
        began = time.perf_counter()
        for n in range(DEPTH):
            at = (dice.getrandbits(10) + n) % 1024 * BLOCK
            device.write(dice.randrange(blocks) * BLOCK, data[at : at + BLOCK])
        pool.commit()
        took.append(time.perf_counter() - began)
    return took


def fill_tables(pool: Pool, name: str, size: int, *, distinct: bool = False) -> int:
    """A volume with every block mapped, to places that do not exist; its id.

    Unless they are to be distinct, all chunks are one and the same: what belongs to a table is its
    root, and the first write to a chunk or a leaf finds it shared and copies it, as after a copy.
    """
    volume = volumes.create(pool, name, size)
    table, forest = pool.state.tables[volume.id], pool.state.forest
    sums = array("Q", range(1, LEAF_BLOCKS + 1))
    leaves = -(-size // (LEAF_BLOCKS * BLOCK))
    made = leaves if distinct else min(leaves, CHUNK_LEAVES)
    for index in range(made):
        forest.map(table, index * LEAF_BLOCKS, pointer(NOWHERE + index % 512, 1), sums)
    if leaves > made:
        table.root.extend(array("Q", [table.root[0]]) * (leaves // CHUNK_LEAVES - 1))
        freeze(pool, table)
    return volume.id


def freeze(pool: Pool, table: Table) -> None:
    """Nodes made so far are shared from here on."""
    pool.state.forest.epoch += 1
    table.epoch = pool.state.forest.epoch


@dataclass(frozen=True, slots=True)
class Cost:
    """What something took, in seconds."""

    wall: float
    cpu: float


def timed(work: Callable[[], object]) -> Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that so large a share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


median = statistics.median


def resident_bytes() -> int:
    """The memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak_bytes() -> int:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB


def in_child(work: Callable[[], str]) -> str:
    """The answer of a process of its own, so that its peak of memory is its own."""
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(readable)
        try:
            os.write(writable, work().encode())
            os._exit(0)
        except BaseException as e:  # noqa: BLE001 - nothing may leave the child but its status
            os.write(2, f"{type(e).__name__}: {e}\n".encode())
            os._exit(1)
    os.close(writable)
    with os.fdopen(readable) as pipe:
        answer = pipe.read()
    if os.waitpid(pid, 0)[1]:
        raise SystemExit("a measurement failed")
    return answer
