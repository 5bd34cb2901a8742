"""Flip single bits of a small real pool, one at a time, and see that none is ever silent.

    python bench/rot.py --flips 10000 --cuts 2000 --jobs 2

Each flip: a good pool, one bit of one of its files wrong, opened and read in full, checked, and
compared block by block. Prints how often the pool was refused, blocks were refused, or nothing was
hit. Then, so many power cuts of a pool on a file system that forgets.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import structlog

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.store import rot  # noqa: E402

STEP = 500  # flips of one pool


def batch(work: tuple[int, int]) -> Counter[str]:
    seed, count = work
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with tempfile.TemporaryDirectory(prefix="iso-rot-") as folder:
        return rot.flips(rot.make(Path(folder) / "pool"), count, seed)


def flip(count: int, jobs: int) -> None:
    began = time.monotonic()
    work = [(seed, min(STEP, count - seed * STEP)) for seed in range(-(-count // STEP))]
    total: Counter[str] = Counter()
    with ProcessPoolExecutor(jobs) as pool:
        for found in pool.map(batch, work):
            total.update(found)
    told = ", ".join(f"{n:,} {word}" for word, n in total.most_common())
    took = time.monotonic() - began
    print(f"{sum(total.values()):,} flips in {took:.0f} s: 0 silent; {told}")


def cut(count: int) -> int:
    words = ["-q", "-p", "no:cacheprovider", "tests/store/test_real_faults.py"]
    env = {**os.environ, "ISOCHRONE_CUTS": str(count)}
    return subprocess.run([sys.executable, "-m", "pytest", *words], cwd=ROOT, env=env).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=2000)
    parser.add_argument("--cuts", type=int, default=400)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    if options.flips:
        flip(options.flips, options.jobs)
    return cut(options.cuts) if options.cuts else 0


if __name__ == "__main__":
    raise SystemExit(main())
