"""Measure the mirror, and write MIRROR.md. `make bench` runs it last.

Two controllers share this machine with the client; no wire is between them. Each part can be run
alone: `--only peers`.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import mirror_ours
import mirror_peers
import mirror_steps
from pool import BUSY, LOAD_QUIET
from report import READING, kept_reading
from servers import BenchError, versions
from yard import Section, shown_size

PAGE: Final = Path(__file__).resolve().parent / "MIRROR.md"
PARTS: Final[dict[str, Callable[[Path], Section | None]]] = {
    "foreground": mirror_ours.foreground,
    "negotiations": mirror_ours.negotiations,
    "shipped": mirror_ours.shipped,
    "steps": mirror_steps.measure,
    "ages": mirror_ours.ages,
    "commands": mirror_ours.commands,
    "coalescing": mirror_ours.coalescing,
    "peers": mirror_peers.measure,
}


def page(load: float, took: float, sections: list[Section]) -> str:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    facts = [
        f"- date: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"- machine: {os.cpu_count()} cores, {shown_size(pages)} of memory, {platform.machine()},"
        f" {platform.system()} {platform.release()}, Python {platform.python_version()};"
        f" load before the start {load:.2f}" + (BUSY if load > LOAD_QUIET else ""),
        f"- versions: {', '.join(f'{name} {version}' for name, version in versions().items())}",
        f"- command: `{' '.join(['bench/mirror.py', *sys.argv[1:]])}`, {took:.0f} s",
    ]
    parts = [
        "# Results of the mirror",
        "Written by `make bench`; how it is measured is said in the scripts beside this file.",
        "\n".join(facts),
        *(section.text() for section in sections),
        READING,
        kept_reading(PAGE.read_text() if PAGE.exists() else ""),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--directory", type=Path, default=Path("build"), help="default: build")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), help="print, and write no page")
    chosen = parser.parse_args()
    load, began = os.getloadavg()[0], time.monotonic()
    sections = []
    for name, part in PARTS.items():
        if name in (chosen.only or PARTS):
            section = part(chosen.directory)
            if section is not None:
                print(section.text(), end="\n\n", flush=True)
                sections.append(section)
    if not chosen.only:
        PAGE.write_text(page(load, time.monotonic() - began, sections))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        main()
    except BenchError as e:
        sys.exit(f"mirror: {e}")
