"""python -m isochrone.sim SEED: replay one seed and print every event.

python -m isochrone.sim --seeds N [--first K] [--jobs J]: run many, print the failures.

With --keeping: schedules, retention and holds, with clocks that jump, instead of a disaster.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial

import structlog

from isochrone.sim.keeping import keep_seed
from isochrone.sim.scenario import Scenario, run_seed

FAILURES_SHOWN = 10


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m isochrone.sim", description=__doc__)
    parser.add_argument("seed", nargs="?", type=int, help="replay this seed and print its events")
    parser.add_argument("--seeds", type=int, default=0, help="run so many seeds")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--jobs", type=int, default=1, help="processes to use")
    parser.add_argument("--keeping", action="store_true", help="schedules and holds instead")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    if arguments.seed is not None:
        return _one(arguments.seed, arguments.keeping)
    if arguments.seeds < 1:
        parser.error("name a seed, or say how many with --seeds")
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    return _many(seeds, arguments.jobs, arguments.keeping)


def _run(seed: int, keeping: bool, log: Callable[[str], None]) -> Scenario:
    return keep_seed(seed, log) if keeping else run_seed(seed, log)


def _one(seed: int, keeping: bool) -> int:
    try:
        scenario = _run(seed, keeping, print)
    except BaseException:
        traceback.print_exc()
        print(f"seed {seed} FAILED", file=sys.stderr)
        return 1
    print(f"seed {seed} passed: {scenario.counts}")
    return 0


def attempt(seed: int, keeping: bool = False) -> tuple[int, str, dict[str, int]]:
    """One seed in a worker: its number, what went wrong or nothing, and what it did."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        scenario = _run(seed, keeping, lambda line: None)
    except Exception as e:
        return seed, f"{type(e).__name__}: {e}", {}
    return seed, "", scenario.counts


def _many(seeds: range, jobs: int, keeping: bool) -> int:
    began = time.monotonic()
    failures: list[tuple[int, str]] = []
    totals: Counter[str] = Counter()
    with multiprocessing.Pool(jobs) as pool:
        for seed, failure, counts in pool.imap_unordered(
            partial(attempt, keeping=keeping), seeds, chunksize=4
        ):
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
        print(f"replay: python -m isochrone.sim {'--keeping ' if keeping else ''}{seed}")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
