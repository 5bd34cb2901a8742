"""Attack both ends of a mirror session with generated hostile frames, and measure memory.

python bench/hostile_link.py --frames 1000000 --seed 1 --jobs 2
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import structlog

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.mirror.hostile import attack  # noqa: E402

PART = 50_000  # frames of one seed


def part(work: tuple[int, int]) -> tuple[Counter[str], int]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    frames, seed = work
    ends = attack(frames, seed)
    return ends, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def both_ends(frames: int, seed: int, jobs: int) -> None:
    began, ends, most = time.monotonic(), Counter[str](), 0
    work = [(min(PART, frames - at), seed * 10_000 + at // PART) for at in range(0, frames, PART)]
    with ProcessPoolExecutor(jobs) as pool:
        for part_ends, rss in pool.map(part, work):
            ends += part_ends
            most = max(most, rss)
    seconds = time.monotonic() - began
    print(
        f"link: {frames:,} frames in {sum(ends.values()):,} sessions, nothing got out;"
        f" {seconds:.0f} s, peak RSS {most / 1024:.0f} MiB"
    )
    for end, count in ends.most_common():
        print(f"  {count:>9,}  {end}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    both_ends(options.frames, options.seed, options.jobs)


if __name__ == "__main__":
    main()
