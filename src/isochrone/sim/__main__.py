"""python -m isochrone.sim SEED: replay one seed and print every event.

python -m isochrone.sim --seeds N [--first K] [--jobs J]: run many, print the failures.

With --keeping: schedules, retention and holds, with clocks that jump, instead of a disaster.
With --circling: three sites whose roles change again and again.
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
from typing import Protocol

import structlog

from isochrone.sim.circling import circle_seed
from isochrone.sim.keeping import keep_seed
from isochrone.sim.scenario import run_seed

FAILURES_SHOWN = 10


class Told(Protocol):
    """A run that is over."""

    counts: dict[str, int]


def run_kind(kind: str, seed: int, log: Callable[[str], None]) -> Told:
    """One seed of a scenario; raises what it finds."""
    match kind:
        case "keeping":
            return keep_seed(seed, log)
        case "circling":
            return circle_seed(seed, log)
        case _:
            return run_seed(seed, log)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m isochrone.sim", description=__doc__)
    parser.add_argument("seed", nargs="?", type=int, help="replay this seed and print its events")
    parser.add_argument("--seeds", type=int, default=0, help="run so many seeds")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--jobs", type=int, default=1, help="processes to use")
    parser.add_argument("--keeping", action="store_true", help="schedules and holds instead")
    parser.add_argument("--circling", action="store_true", help="changing roles instead")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    kind = "keeping" if arguments.keeping else "circling" if arguments.circling else ""
    if arguments.seed is not None:
        return _one(arguments.seed, kind)
    if arguments.seeds < 1:
        parser.error("name a seed, or say how many with --seeds")
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    return _many(seeds, arguments.jobs, kind)


def _one(seed: int, kind: str) -> int:
    try:
        scenario = run_kind(kind, seed, print)
    except BaseException:
        traceback.print_exc()
        print(f"seed {seed} FAILED", file=sys.stderr)
        return 1
    print(f"seed {seed} passed: {scenario.counts}")
    return 0


def attempt(seed: int, kind: str = "") -> tuple[int, str, dict[str, int]]:
    """One seed in a worker: its number, what went wrong or nothing, and what it did."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        scenario = run_kind(kind, seed, lambda line: None)
    except Exception as e:
        return seed, f"{type(e).__name__}: {e}", {}
    return seed, "", scenario.counts


def _many(seeds: range, jobs: int, kind: str) -> int:
    began = time.monotonic()
    failures: list[tuple[int, str]] = []
    totals: Counter[str] = Counter()
    with multiprocessing.Pool(jobs) as pool:
        for seed, failure, counts in pool.imap_unordered(
            partial(attempt, kind=kind), seeds, chunksize=4
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
        print(f"replay: python -m isochrone.sim {f'--{kind} ' if kind else ''}{seed}")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
