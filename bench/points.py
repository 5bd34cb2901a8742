"""What a point costs: cuts of 1,000 random 4 KiB writes each, at a replica with 1 GiB mapped.

    python bench/points.py [--cuts 60] [DIRECTORY]

The replica is fed with the records that its mirror would log, a checkpoint each 10 cuts, as fast as
it goes. Printed for each point: bytes of the log that it alone keeps, bytes in the metadata store,
memory; and how long a cut, a checkpoint, a round of the cleaner and an opening take.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import tempfile
import time
from pathlib import Path
from random import Random

from isochrone.store import records as r
from isochrone.store import windows
from isochrone.store.cleaner import Cleaner
from isochrone.store.pool import Pool
from isochrone.types import BLOCK, GIB, KIB, MIB
from isochrone.world import system_world
from isochrone.world.disk import FolderDisk

WRITES = 1000
BLOCKS = GIB // BLOCK


def cut(pool: Pool, blocks: list[int], data: bytes, *, kept: bool) -> float:
    """Receive and apply one; seconds."""
    group = pool.state.groups["g"]
    ids = pool.state.new_ids(2)
    local = group.volumes[0] if group.volumes else ids[0]
    volume = r.IncomingVolume(7, "db", GIB, local, ids[1])
    began = time.perf_counter()
    pool.record(
        r.IncomingBegun(group="g", lineage="11" * 16, epoch=1, base=group.cut, volumes=(volume,))
    )
    for block in blocks:
        pool.stage_write(ids[1], block, memoryview(data)[:BLOCK])
    pool.commit()
    at = windows.keep(pool, group) if kept else 0
    number = group.cut + 1
    pool.record(r.IncomingCommitted(group="g", cut=number, stamp=number, kept_at=at))
    return time.perf_counter() - began


def memory() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4 * KIB


async def measure(directory: Path, cuts: int) -> None:
    disk, dice = FolderDisk(directory), Random(1)
    pool = Pool.open(disk, system_world())
    pool.record(r.MirrorAdded(group="g", source="there:1"))
    windows.set_window(pool, pool.state.groups["g"], 86400, 600, bytes_max=1 << 50)
    cut(pool, list(range(BLOCKS)), bytes(range(256)) * 16, kept=True)
    await pool.checkpoint()
    stored, held = pool.metadata_bytes[0], memory()
    spent, saving = 0.0, 0.0
    for n in range(cuts):
        data = dice.randbytes(BLOCK)
        spent += cut(pool, dice.sample(range(BLOCKS), WRITES), data, kept=True)
        if n % 10 == 9:
            began = time.perf_counter()
            await pool.checkpoint()
            saving += time.perf_counter() - began
    stored, held = pool.metadata_bytes[0] - stored, memory() - held
    began = time.perf_counter()
    await Cleaner(pool).round()
    cleaning = time.perf_counter() - began
    window = pool.state.windows["g"]
    began = time.perf_counter()
    windows.open_point(pool, pool.state.groups["g"], window.points[cuts // 2], name="then")
    await pool.flush()
    opening = time.perf_counter() - began
    print(f"{cuts} cuts of {WRITES} random blocks, {len(window.points)} points, 1 GiB mapped")
    print(f"kept by the points alone  {pool.space.history['g'] / cuts / MIB:8.2f} MiB a point")
    print(f"  payload of a cut        {WRITES * BLOCK / MIB:8.2f} MiB")
    print(f"metadata store            {stored / cuts / MIB:8.2f} MiB a point")
    print(f"memory                    {held / cuts / MIB:8.2f} MiB a point, below the node budget")
    print(f"receive and apply a cut   {spent / cuts * 1e3:8.1f} ms")
    print(f"checkpoint of 10 cuts     {saving / max(1, cuts // 10) * 1e3:8.1f} ms")
    print(f"round of the cleaner      {cleaning * 1e3:8.1f} ms")
    print(f"open a point, durable     {opening * 1e3:8.1f} ms")
    windows.set_window(pool, pool.state.groups["g"], 0)
    await pool.close()
    disk.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuts", type=int, default=60)
    parser.add_argument("directory", nargs="?", type=Path)
    given = parser.parse_args()
    directory = given.directory or Path(tempfile.mkdtemp(prefix="points-"))
    try:
        asyncio.run(measure(directory / "pool", given.cuts))
    finally:
        if given.directory is None:
            shutil.rmtree(directory)


if __name__ == "__main__":
    main()
