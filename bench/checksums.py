"""Measure what checksums cost, by taking them out of this process.

The product has no switch for that. Here the function is replaced where it is used, in a child.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Final

from yard import RANDOM, Section, arguments, in_child, leave, median, open_pool, scratch, shown_size

from isochrone.store import blocks, log, volumes
from isochrone.store.format import WRITE, describe
from isochrone.store.stage import Stage
from isochrone.store.volume import VolumeDevice
from isochrone.types import BLOCK, MIB

ROUNDS: Final = 4  # alternating


def without() -> None:
    """No checksum is computed for a block any more; those of headers stay."""

    def write(self: Stage, volume: int, block: int, data: memoryview) -> None:
        count = len(data) // BLOCK
        self.sums.frombytes(bytes(8 * count))
        self.descriptors.append(describe(WRITE, volume, block, count, 0))
        self.payload.append(data)
        self.updates.append((WRITE, volume, block, count))
        self.blocks += count

    Stage.write = write  # type: ignore[method-assign]
    blocks.verifies = log.verifies = lambda data, sums: True


def pass_through(size: int, path: Path, *, checked: bool) -> dict[str, float]:
    """CPU seconds of writing and reading so much in order, 1 MiB at a time."""

    def work() -> str:
        if not checked:
            without()
        pool = open_pool(path)
        volumes.create(pool, "v", size)
        device = VolumeDevice(pool, pool.state.names["v"])
        data = memoryview(RANDOM)
        found = {}
        began = time.process_time()
        for at in range(0, size, MIB):
            device.write(at, data[at // MIB % 4 * MIB :][:MIB])
            pool.commit()
        found["write"] = time.process_time() - began
        began = time.process_time()
        for at in range(0, size, MIB):
            device.read(at, MIB)
        found["read"] = time.process_time() - began
        leave(pool)
        return json.dumps(found)

    answer: dict[str, float] = json.loads(in_child(work))
    return answer


def measure(directory: Path, size: int) -> Section:
    section = Section(
        "Checksums", ["1 MiB in order", "CPU for a MiB", "without them", "their share"]
    )
    found: dict[tuple[str, bool], list[float]] = {}
    for n in range(2 * ROUNDS):
        checked = n % 2 == 0
        with scratch(directory, size) as path:
            for way, cpu in pass_through(size, path, checked=checked).items():
                found.setdefault((way, checked), []).append(cpu)
    for way in ("write", "read"):
        with_, without_ = (median(found[way, checked]) / (size / MIB) for checked in (True, False))
        section.rows.append(
            [
                way,
                f"{with_ * 1e6:,.0f} µs",
                f"{without_ * 1e6:,.0f} µs",
                f"{1 - without_ / with_:.0%}",
            ]
        )
    section.notes.append(
        f"{shown_size(size)}, {ROUNDS} rounds of each, alternating, in process and in the page"
        " cache; user and system time. The front door and its sockets come on top."
    )
    return section


if __name__ == "__main__":
    chosen = arguments(__doc__, size="512m")
    print(measure(chosen.directory, chosen.size).text())
