"""Measure what a point-in-time copy costs: while it is taken, and the writes after it."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from servers import Server
from yard import (
    DEPTH,
    Section,
    arguments,
    fill_tables,
    leave,
    median,
    open_pool,
    scratch,
    shown_size,
    write_randomly,
)

from isochrone.store import copies
from isochrone.store.pool import Pool
from isochrone.types import BLOCK, GIB, TIB

TRIES: Final = 50
TURNS: Final = 1000  # of 32 writes, before and after a copy
FIO_S: Final = 8  # the copy is taken in the middle
SIZES: Final = (GIB, 64 * GIB, TIB)
COUNTS: Final = (1, 10, 100, 1000)


def establish(pool: Pool, name: str, tries: int) -> list[float]:
    """Seconds for which nothing else runs, of each try. Copies are deleted again in between."""
    took = []
    for n in range(tries):
        began = time.perf_counter()
        copies.take(pool, [name], name=f"try-{n}")
        took.append(time.perf_counter() - began)
        copies.delete(pool, f"try-{n}")
    return took


def shown_us(values: list[float]) -> list[str]:
    return [f"{median(values) * 1e6:,.0f} µs", f"{max(values) * 1e6:,.0f} µs"]


def taking(directory: Path) -> Section:
    section = Section(
        "Taking a copy",
        ["volume, every block mapped", "copies before", "writes blocked", "longest"],
    )
    with scratch(directory, GIB) as path:
        pool = open_pool(path)
        for size in SIZES:
            fill_tables(pool, f"v{size}", size)
        for size in SIZES:
            section.rows.append(
                [shown_size(size), "0", *shown_us(establish(pool, f"v{size}", TRIES))]
            )
        made = 0
        for count in COUNTS:
            while made < count:
                copies.take(pool, [f"v{TIB}"], name=f"kept-{made}")
                made += 1
            took = establish(pool, f"v{TIB}", TRIES)
            section.rows.append([shown_size(TIB), f"{count:,}", *shown_us(took)])
        pool.on_change.clear()
        stall = stalls(pool)
        section.notes.append(
            f"Median and longest of {TRIES} tries. Goal: under 1,000 µs, and flat. A checkpoint"
            f" with all these copies keeps the loop for {stall * 1e3:.0f} ms at the most."
        )
        leave(pool)
    return section


def stalls(pool: Pool) -> float:
    """The longest time for which the loop does nothing else during a checkpoint."""

    async def both() -> float:
        worst, done = 0.0, False

        async def tick() -> None:
            nonlocal worst
            while not done:
                began = time.perf_counter()
                await asyncio.sleep(0)
                worst = max(worst, time.perf_counter() - began)

        ticking = asyncio.get_running_loop().create_task(tick())
        await asyncio.sleep(0)
        await pool.checkpoint()
        done = True
        await ticking
        return worst

    return asyncio.run(both())


def writing(directory: Path, size: int) -> Section:
    """Random writes by this process right before a copy, right after it, and a while later."""
    section = Section(
        "Writing after a copy",
        ["64 GiB volume, every block mapped" if size == 64 * GIB else shown_size(size),
         "4 KiB writes", "share of before"],
    )  # fmt: skip
    with scratch(directory, 4 * GIB) as path:
        pool = open_pool(path)
        id = fill_tables(pool, "v", size)
        dice = random.Random(1)
        blocks = size // BLOCK
        write_randomly(pool, id, dice, blocks, 4 * TURNS)  # until nearly every leaf is its own
        rounds: dict[str, list[float]] = {"before": [], "after": [], "later": []}
        for n in range(5):
            rounds["before"] += write_randomly(pool, id, dice, blocks, TURNS // 2)
            copies.take(pool, ["v"], name=f"c{n}")
            rounds["after"] += write_randomly(pool, id, dice, blocks, TURNS // 10)
            write_randomly(pool, id, dice, blocks, 2 * TURNS)
            rounds["later"] += write_randomly(pool, id, dice, blocks, TURNS // 2)
        before = median(rounds["before"])
        for title, took in rounds.items():
            section.rows.append(
                [
                    {"before": "before", "after": f"the first {TURNS // 10 * DEPTH:,} after it",
                     "later": f"{2 * TURNS * DEPTH:,} writes later"}[title],
                    f"{DEPTH / median(took) / 1e3:.1f} k/s",
                    f"{before / median(took):.2f}",
                ]
            )  # fmt: skip
        leave(pool)
    section.notes.append(
        "In process, 32 writes a turn, without sockets: the worst case. Goal: 0.9."
    )
    return section


def served(directory: Path, size: int) -> Section:
    """The same through the front door, by fio, a copy taken through the API while it writes."""
    section = Section(
        "Writing over a copy, by fio", ["two seconds", "4 KiB random writes, depth 32", "share"]
    )
    with scratch(directory, 6 * GIB) as path:
        pool = open_pool(path / "pool")
        fill_tables(pool, "v", size)
        asyncio.run(pool.close())
        pool.disk.close()
        command = [sys.executable, "-m", "isochrone"]
        server = Server(
            "isochrone",
            [*command, "serve", str(path / "pool")],
            path / "pool" / "nbd.sock",
            export="v",
        )
        server.start(path, 0)
        try:
            fio = subprocess.Popen(
                [
                    *("fio", "--name=w", "--ioengine=nbd", f"--uri={server.uri}", "--rw=randwrite"),
                    *("--bs=4k", "--iodepth=32", "--norandommap", "--time_based"),
                    *(f"--runtime={FIO_S}", "--log_avg_msec=100", "--write_bw_log=w"),
                    *("--output-format=json", "--output=fio.json"),
                ],
                cwd=path,
            )
            time.sleep(FIO_S / 2)
            take = [*command, "--site", str(path / "pool"), "copy", "take", "--name", "c", "v"]
            taken = subprocess.run(take, capture_output=True, text=True, check=False)
            if fio.wait():
                raise SystemExit("fio failed; it has said why")
            if taken.returncode:
                raise SystemExit(f"the copy was not taken: {taken.stderr.strip()}")
        finally:
            server.stop()
        log = next(path.glob("w_bw*.log")).read_text().splitlines()
    points = [(int(line.split(",")[0]) / 1000, int(line.split(",")[1])) for line in log]
    middle = FIO_S / 2
    spans = {"before": (middle - 2, middle), "after": (middle, middle + 2),
             "later": (middle + 2, middle + 4)}  # fmt: skip
    rates = {
        name: median([kib for at, kib in points if low < at <= high])
        for name, (low, high) in spans.items()
    }
    worst = min(kib for at, kib in points if 1 < at)
    for name, rate in rates.items():
        section.rows.append([name, f"{rate / 4000:.1f} k/s", f"{rate / rates['before']:.2f}"])
    section.notes.append(
        f"A volume of {shown_size(size)} with every block mapped; medians of tenths of a second,"
        f" the slowest tenth {worst / 4000:.1f} k/s. The command line takes about a quarter of a"
        " second to ask for the copy. Goal: 0.9."
    )
    return section


def measure(directory: Path, size: int) -> list[Section]:
    return [taking(directory), writing(directory, size), served(directory, size)]


if __name__ == "__main__":
    chosen = arguments(__doc__, size="64g")
    for found in measure(chosen.directory, chosen.size):
        print(found.text(), end="\n\n", flush=True)
