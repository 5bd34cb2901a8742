"""python -m isochrone.sim SEED: replay one seed and print every event.

python -m isochrone.sim --seeds N [--first K] [--jobs J]: run many, print the failures.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
import time
import traceback
from collections import Counter

import structlog

from isochrone.sim.scenario import run_seed

FAILURES_SHOWN = 10


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m isochrone.sim", description=__doc__)
    parser.add_argument("seed", nargs="?", type=int, help="replay this seed and print its events")
    parser.add_argument("--seeds", type=int, default=0, help="run so many seeds")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--jobs", type=int, default=1, help="processes to use")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    if arguments.seed is not None:
        return _one(arguments.seed)
    if arguments.seeds < 1:
        parser.error("name a seed, or say how many with --seeds")
    return _many(range(arguments.first, arguments.first + arguments.seeds), arguments.jobs)


def _one(seed: int) -> int:
    try:
        scenario = run_seed(seed, print)
    except BaseException:
        traceback.print_exc()
        print(f"seed {seed} FAILED", file=sys.stderr)
        return 1
    print(f"seed {seed} passed: {scenario.counts}")
    return 0


def attempt(seed: int) -> tuple[int, str, dict[str, int]]:
    """One seed in a worker: its number, what went wrong or nothing, and what it did."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        scenario = run_seed(seed, lambda line: None)
    except Exception as e:
        return seed, f"{type(e).__name__}: {e}", {}
    return seed, "", scenario.counts


def _many(seeds: range, jobs: int) -> int:
    began = time.monotonic()
    failures: list[tuple[int, str]] = []
    totals: Counter[str] = Counter()
    with multiprocessing.Pool(jobs) as pool:
        for seed, failure, counts in pool.imap_unordered(attempt, seeds, chunksize=4):
            totals.update(counts)
            if failure:
                failures.append((seed, failure))
                print(f"seed {seed} FAILED: {failure}", flush=True)
    took = time.monotonic() - began
    print(
        f"{len(seeds)} seeds from {seeds.start} in {took:.0f} s: {len(failures)} failed; "
        + ", ".join(f"{count} {what}" for what, count in sorted(totals.items()))
    )
    for seed, _ in failures[:FAILURES_SHOWN]:
        print(f"replay: python -m isochrone.sim {seed}")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
