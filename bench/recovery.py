"""Measure how long a pool takes to open: after a kill, with much log to replay, and when clean."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from array import array
from pathlib import Path
from typing import Final, NamedTuple

from yard import (
    RANDOM,
    Section,
    arguments,
    fill_tables,
    in_child,
    leave,
    open_pool,
    peak_bytes,
    scratch,
    shown_size,
)

from isochrone.store import copies, volumes
from isochrone.store.format import WRITE, checksum, describe
from isochrone.store.pool import Pool
from isochrone.types import BLOCK, GIB, MIB, TIB

SYNC_BYTES: Final = 256 * MIB  # of log between syncs, as a busy pool has them
VOLUMES: Final = 1000  # and as many copies, in the clean pool


class Shape(NamedTuple):
    """What the log to be replayed is made of."""

    title: str
    records: int  # a batch
    blocks: int  # a record
    volume: int  # its size: random writes over more of it touch more tables


SHAPES: Final = {
    "batched": Shape("4 KiB random, 32 a batch", 32, 1, 64 * GIB),
    "large": Shape("1 MiB random, one a batch", 1, 256, 64 * GIB),
    "small": Shape("4 KiB random, one a batch", 1, 1, 64 * GIB),
    "sparse": Shape("4 KiB random over 1 TiB, one a batch", 1, 1, TIB),
}


def make_log(pool: Pool, shape: Shape, size: int) -> int:
    """Append so much log; how many batches. The tables do not follow: only the log will be read."""
    volume = pool.state.names["data"]
    dice = random.Random(1)
    span = shape.volume // BLOCK // shape.blocks
    blocks = [RANDOM[at : at + BLOCK] for at in range(0, len(RANDOM), BLOCK)]
    made = shape.records * shape.blocks
    starts = list(range(0, len(blocks) - made + 1, made))[:64]
    payloads = [blocks[at : at + made] for at in starts]
    sums = [array("Q", map(checksum, payload)) for payload in payloads]
    log = pool.log
    end, unsynced, batches = log.bytes_appended + size, log.bytes_appended, 0
    while log.bytes_appended < end:
        which = batches % len(payloads)
        descriptors = [
            describe(WRITE, volume, dice.randrange(span) * shape.blocks, shape.blocks, 0)
            for _ in range(shape.records)
        ]
        log.append(descriptors, sums[which], b"", payloads[which])
        batches += 1
        if log.bytes_appended - unsynced >= SYNC_BYTES:
            asyncio.run(pool.flush())
            unsynced = log.bytes_appended
    return batches


def opening(path: Path) -> dict[str, float]:
    """Open the pool in a process of its own."""

    def work() -> str:
        before = peak_bytes()
        wall, cpu = time.perf_counter(), os.times()
        pool = open_pool(path)
        wall, after = time.perf_counter() - wall, os.times()
        lsn = pool.log.lsn
        leave(pool)
        return json.dumps(
            {
                "wall": wall,
                "cpu": after.user + after.system - cpu.user - cpu.system,
                "peak": peak_bytes() - before,
                "lsn": lsn,
            }
        )

    found: dict[str, float] = json.loads(in_child(work))
    return found


def after_kill(directory: Path, shape: Shape, size: int) -> list[str]:
    with scratch(directory, size * 2) as path:

        def make() -> str:
            pool = open_pool(path)
            volumes.create(pool, "data", shape.volume)
            asyncio.run(pool.checkpoint())
            batches = make_log(pool, shape, size)
            lsn = pool.log.lsn
            leave(pool)
            return f"{batches} {lsn}"

        batches, lsn = map(int, in_child(make).split())
        found = opening(path)
        assert found["lsn"] == lsn, "records were lost"
        return [
            shape.title,
            shown_size(size),
            f"{batches:,}",
            f"{found['wall']:.2f} s",
            f"{found['cpu']:.2f} s",
            shown_size(found["peak"]),
        ]


def clean(directory: Path) -> list[str]:
    """Many volumes of 1 TiB, each with a copy, after an orderly stop."""
    with scratch(directory, GIB) as path:

        def make() -> str:
            pool = open_pool(path)
            fill_tables(pool, "v0", TIB)
            for n in range(1, VOLUMES):
                id = volumes.create(pool, f"v{n}", TIB).id
                pool.state.tables[id].root.extend(pool.state.tables[1].root)
            for n in range(VOLUMES):
                copies.take(pool, [f"v{n}"], name=f"c{n}")
            asyncio.run(pool.close())
            pool.disk.close()
            return ""

        in_child(make)
        found = opening(path)
        return [
            f"clean, {VOLUMES:,} volumes of 1 TiB and as many copies", "0", "0",
            f"{found['wall']:.2f} s", f"{found['cpu']:.2f} s", shown_size(found["peak"]),
        ]  # fmt: skip


def measure(directory: Path, size: int, others: int, small: int = GIB) -> Section:
    """`size` of log of the shape that most logs have, and `others` of the others."""
    section = Section(
        "Opening a pool",
        ["log since the last checkpoint", "bytes", "batches", "time", "CPU", "memory"],
    )
    for name, shape in SHAPES.items():
        more = {"batched": size, "sparse": small}.get(name, others)
        for amount in sorted({small, more}):
            section.rows.append(after_kill(directory, shape, amount))
            print(section.rows[-1], flush=True)
    section.rows.append(clean(directory))
    section.notes.append(
        f"Killed, the page cache warm; synced every {shown_size(SYNC_BYTES)} of log. Memory is the"
        " growth of the process's peak. Goals: 10 GiB in less than 5 s, the clean pool in less than"
        " 1 s, memory that does not follow the log."
    )
    return section


if __name__ == "__main__":
    chosen = arguments(__doc__, size="10g", others="2g", small="1g")
    print(measure(chosen.directory, chosen.size, chosen.others, chosen.small).text())
