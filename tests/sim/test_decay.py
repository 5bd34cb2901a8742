"""The judge of a scrub must be able to condemn it."""

from __future__ import annotations

from random import Random

import pytest

from isochrone.sim import decay
from isochrone.sim.checkers import Violation
from isochrone.store.check import Finding
from isochrone.store.pool import Pool
from isochrone.store.scrub import Scrub
from isochrone.types import BLOCK
from tests.store.pools import Rig, settle


def scrubbed() -> tuple[Pool, list[decay.Rotten], set[tuple[str, int, int]], Scrub]:
    rig = Rig(4)
    pool = rig.open()
    settle(decay.prepare(pool, Random(4)))
    rotten = decay.rot(pool, rig.platter, Random(5))
    bad = decay.wrong(pool)
    assert {birth for _, _, birth in bad} == {r.birth for r in rotten}
    return pool, rotten, bad, settle(decay.scrub_among_writers(pool, Random(6)))


def test_a_good_scrub_passes() -> None:
    pool, rotten, bad, worker = scrubbed()
    assert rotten and worker.progress.damaged
    decay.judge(pool, rotten, bad, worker)


def test_a_missed_block_is_noticed() -> None:
    pool, rotten, bad, worker = scrubbed()
    worker.progress.findings.clear()
    with pytest.raises(Violation, match="did not find"):
        decay.judge(pool, rotten, bad, worker)


@pytest.mark.parametrize(
    "finding",
    [
        Finding("x", ["rotting"], 255 * BLOCK, BLOCK, 1),
        Finding("x", ["v0"], 0, BLOCK, 1),
        Finding("x", [], 0, 0, 1),
    ],
)
def test_a_false_finding_is_noticed(finding: Finding) -> None:
    pool, rotten, bad, worker = scrubbed()
    worker.progress.findings.append(finding)
    with pytest.raises(Violation, match="it is not"):
        decay.judge(pool, rotten, bad, worker)


def test_what_a_lost_store_costs_beside_the_rot_is_no_false_finding() -> None:
    """A batch that nobody needs, and only then; a block that has not rotted is one in any case."""
    pool, rotten, bad, worker = scrubbed()
    worker.progress.findings.append(Finding("x", [], 0, 0, 1))
    decay.judge(pool, rotten, bad, worker, store_lost=True)
    worker.progress.findings.append(Finding("x", ["v0"], 0, BLOCK, 1))
    with pytest.raises(Violation, match="it is not"):
        decay.judge(pool, rotten, bad, worker, store_lost=True)


def test_what_is_lost_in_a_crash_beyond_the_rot_is_noticed() -> None:
    _, rotten, bad, _ = scrubbed()
    decay.no_worse(rotten, bad)
    with pytest.raises(Violation, match="has not rotted"):
        decay.no_worse(rotten[1:], bad)


def test_a_scrub_that_gave_up_is_noticed() -> None:
    pool, rotten, bad, worker = scrubbed()
    worker.progress.state = "paused"
    with pytest.raises(Violation, match="paused"):
        decay.judge(pool, rotten, bad, worker)
