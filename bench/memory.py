"""Measure what a mapped GiB costs, in memory and in the metadata store, and what a miss costs."""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from yard import (
    Section,
    arguments,
    fill_tables,
    in_child,
    leave,
    median,
    open_pool,
    percentile,
    resident_bytes,
    scratch,
    shown_size,
    write_randomly,
)

from isochrone.store.pool import LIMITS, Pool
from isochrone.types import BLOCK, GIB

TURNS: Final = 600
LOOKUPS: Final = 20_000


def per_gib(directory: Path, size: int) -> list[str]:
    """A volume whose every block is mapped, each leaf its own."""
    with scratch(directory, size // 64) as path:

        def work() -> str:
            limits = replace(LIMITS, node_bytes=size // 32)
            pool = open_pool(path, limits)
            before = resident_bytes()
            fill_tables(pool, "v", size, distinct=True)
            grown = resident_bytes() - before
            asyncio.run(pool.close())
            pool.disk.close()
            store = sum(file.stat().st_size for file in path.glob("metadata.sqlite"))
            return json.dumps([grown, store])

        grown, store = json.loads(in_child(work))
    gib = size / GIB
    return [shown_size(size), shown_size(grown / gib), shown_size(store / gib)]


def lookups(pool: Pool, id: int, blocks: int) -> list[float]:
    """Seconds that each of many random lookups takes: what a read does before it reads."""
    dice, table, forest = random.Random(3), pool.state.tables[id], pool.state.forest
    took = []
    for _ in range(LOOKUPS):
        block = dice.randrange(blocks)
        began = time.perf_counter()
        list(forest.runs(table, block, 1))
        took.append(time.perf_counter() - began)
    return took


def misses(directory: Path, size: int) -> Section:
    section = Section(
        "A working set that does not fit",
        ["tables ÷ node budget", "lookup", "p99", "turn of 32 writes", "p99", "held at the end"],
    )  # fmt: skip
    tables = size // 256
    for times in (0.5, 10.0):
        with scratch(directory, 4 * GIB) as path:

            def work(budget: int = int(tables / times), path: Path = path) -> str:
                pool = open_pool(path, replace(LIMITS, node_bytes=budget))
                id = fill_tables(pool, "v", size, distinct=True)
                asyncio.run(pool.close())
                pool.disk.close()
                pool = open_pool(path, replace(LIMITS, node_bytes=budget))
                lookups(pool, id, size // BLOCK)
                read = lookups(pool, id, size // BLOCK)
                dice, written = random.Random(4), []
                for _ in range(TURNS // 20):
                    written += write_randomly(pool, id, dice, size // BLOCK, 20)
                    if pool.checkpoint_due:
                        asyncio.run(pool.checkpoint())
                held = pool.state.forest.held_bytes
                leave(pool)
                return json.dumps([read, written, held])

            read, written, held = json.loads(in_child(work))
        section.rows.append(
            [
                f"{times:g}",
                f"{median(read) * 1e6:.1f} µs",
                f"{percentile(read, 0.99) * 1e6:.1f} µs",
                f"{median(written) * 1e6:,.0f} µs",
                f"{percentile(written, 0.99) * 1e6:,.0f} µs",
                shown_size(held),
            ]
        )
    section.notes.append(
        f"{shown_size(size)} mapped: {shown_size(tables)} of tables. Random blocks; in process, the"
        " page cache warm. A lookup is what a read does before it reads the block."
    )
    return section


def measure(directory: Path, size: int) -> list[Section]:
    section = Section("Memory", ["mapped", "memory for a GiB", "metadata store for a GiB"])
    section.rows.append(per_gib(directory, size))
    section.notes.append(
        "Tables held in memory, up to `NODE_BYTES_BUDGET`; what is not held is read when needed."
    )
    return [section, misses(directory, size)]


if __name__ == "__main__":
    chosen = arguments(__doc__, size="64g")
    for found in measure(chosen.directory, chosen.size):
        print(found.text(), end="\n\n", flush=True)
