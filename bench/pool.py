"""Run every measurement of the store, one after the other, and write POOL.md.

`make bench` runs it behind the benchmark of the front door. Each part can also be run alone, with
other sizes: see the files that are named here. `--others 10g` replays 10 GiB of every shape of
log.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import checksums
import cleaning
import copies
import copies_scale
import copies_steady
import memory
import recovery
import structlog
from report import READING, kept_reading
from servers import versions
from yard import Section, arguments, shown_size

from isochrone.types import GIB, MIB

PAGE: Final = Path(__file__).resolve().parent / "POOL.md"
LOAD_QUIET: Final = 0.5
BUSY: Final = "; **preliminary**: others were busy on it, so times say little, counts hold"
PARTS: Final[dict[str, Callable[[argparse.Namespace], list[Section]]]] = {
    # First: a child that inherits a heap with holes fills them, and seems to need nothing.
    "memory": lambda x: memory.measure(x.directory, 16 * GIB),
    "recovery": lambda x: [recovery.measure(x.directory, x.size, x.others)],
    "copies": lambda x: copies.measure(x.directory, 64 * GIB),
    "copies-scale": lambda x: copies_scale.measure(x.directory),
    "copies-steady": lambda x: copies_steady.measure(x.directory),
    "cleaning": lambda x: cleaning.measure(x.directory, GIB),
    "checksums": lambda x: [checksums.measure(x.directory, 512 * MIB)],
}


def facts(load: float, seconds: dict[str, float]) -> list[str]:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return [
        f"- date: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"- machine: {os.cpu_count()} cores, {shown_size(pages)} of memory, {platform.machine()},"
        f" {platform.system()} {platform.release()}, Python {platform.python_version()};"
        f" load before the start {load:.2f}" + (BUSY if load > LOAD_QUIET else ""),
        f"- versions: isochrone {versions()['isochrone']}",
        f"- command: `{' '.join(['bench/pool.py', *sys.argv[1:]])}`",
        f"- seconds: {sum(seconds.values()):.0f}, of which "
        + ", ".join(f"{name} {took:.0f}" for name, took in seconds.items()),
    ]


def page(head: list[str], sections: list[Section], reading: str) -> str:
    """The whole of POOL.md."""
    parts = [
        "# Results of the store",
        "Written by `make bench`; how it is measured is said in the scripts beside this file.",
        "\n".join(head),
        *(section.text() for section in sections),
        READING,
        reading,
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    chosen = arguments(__doc__, names=list(PARTS), size="10g", others="2g")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    load, seconds = os.getloadavg()[0], {}
    sections: list[Section] = []
    for name, part in PARTS.items():
        if name in chosen.only:
            began = time.monotonic()
            for section in part(chosen):
                print(section.text(), end="\n\n", flush=True)
                sections.append(section)
            seconds[name] = time.monotonic() - began
    if set(chosen.only) == set(PARTS):
        old = PAGE.read_text() if PAGE.exists() else ""
        PAGE.write_text(page(facts(load, seconds), sections, kept_reading(old)))


if __name__ == "__main__":
    main()
