"""Some hundred seeds at every run, and the promise that a seed is all it takes to see one again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from isochrone.sim.checkers import Violation
from isochrone.sim.scenario import Options, run_seed
from tests.sim.seeds import digest, totals

SEEDS, CHUNK = 100, 10
TWICE = range(1, 6)

DIGESTS = """
import logging, structlog
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
from tests.sim.seeds import digest
from tests.sim.test_scenario import TWICE
print(" ".join(digest("", seed) for seed in TWICE))
"""


@pytest.mark.parametrize("first", range(1, SEEDS + 1, CHUNK))
def test_seeds(first: int) -> None:
    did = totals("", range(first, first + CHUNK))
    # A run in which nothing happens proves nothing.
    assert did["crashes"] > CHUNK
    assert did["commits"] > 2 * CHUNK
    assert did["ops"] > 50 * CHUNK


def test_a_seed_replays_everything() -> None:
    """The same events at the same times, also in a process that hashes its strings otherwise."""
    first = [digest("", seed) for seed in TWICE]
    assert len(set(first)) == len(first)
    assert [digest("", seed) for seed in TWICE] == first
    found = subprocess.run(
        [sys.executable, "-c", DIGESTS],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == first


def test_the_first_line_tells_all_options() -> None:
    lines: list[str] = []
    scenario = run_seed(3, lines.append)
    assert lines[0].split(maxsplit=1)[1].startswith("seed 3: ")
    for name in Options.__dataclass_fields__:
        assert f"'{name}':" in lines[0]
    assert scenario.options.mix.write > 0


def test_options_differ() -> None:
    from random import Random

    options = [Options.of(Random(seed)) for seed in range(200)]
    for name in ("mirrored", "rounds", "interval", "duplicate", "segment_bytes", "partition_only"):
        assert len({getattr(o, name) for o in options}) > 1, name


def test_a_violation_comes_out(monkeypatch) -> None:
    from isochrone.sim import checkers

    def planted(*args: object) -> None:
        raise Violation("planted")

    monkeypatch.setattr(checkers, "recovery_point", planted)
    with pytest.raises(Violation, match="planted"):
        run_seed(1, lambda line: None)
