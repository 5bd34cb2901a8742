"""The memory of what sites showed: it compares bytes, and says where they differ."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

import pytest

from isochrone.mirror import groups
from isochrone.sim.checkers import Violation
from isochrone.sim.fabric import SimFabric
from isochrone.sim.loop import VirtualLoop, run
from isochrone.sim.site import Site
from isochrone.sim.witness import (
    FINGERPRINT,
    PIECE_BLOCKS,
    Witness,
    branch,
    content,
    first_difference,
    live,
    shown,
)
from isochrone.store import copies, volumes
from isochrone.store import records as r
from isochrone.store.catalogue import Group
from isochrone.store.pool import Pool
from isochrone.store.volume import VolumeDevice
from isochrone.types import BLOCK

GROUP = "g"


def at_a_primary(check: Callable[[Pool, Group, Witness], None]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        site = Site("a", SimFabric(loop, Random(1)), 1)

        async def work() -> None:
            pool = Pool.open(site.disk, site.world)
            witness = Witness(GROUP, lambda text: None)
            pool.on_change.append(lambda lsn, record: witness.watch("a", pool, lsn, record))
            volumes.create(pool, "v", 256 * BLOCK)
            groups.create(pool, GROUP, ["v"])
            check(pool, pool.state.groups[GROUP], witness)

        await site.spawn(work())

    run(main())


def write(pool: Pool, text: bytes) -> None:
    VolumeDevice(pool, pool.state.names["v"]).write(BLOCK, memoryview(text * (BLOCK // len(text))))
    pool.commit()


def test_a_difference_is_told_by_piece() -> None:
    one = bytes(4 * FINGERPRINT)
    other = bytes(2 * FINGERPRINT) + b"x" + bytes(2 * FINGERPRINT - 1)
    assert first_difference(one, other) == 2 * PIECE_BLOCKS
    assert first_difference(one, one[:-FINGERPRINT]) == 3 * PIECE_BLOCKS


def test_what_is_shown_is_volumes_and_copies() -> None:
    def check(pool: Pool, group: Group, witness: Witness) -> None:
        empty = content(pool, "v")
        assert len(empty) == 256 // PIECE_BLOCKS * FINGERPRINT
        copies.take(pool, ["v"], name="c1")
        copies.take(pool, ["v"], name="mine", writable=True)
        write(pool, b"ab")
        found = shown(pool, group)
        assert set(found) == {"v", "v@c1"}
        assert found["v@c1"] == empty
        assert first_difference(found["v"], empty) == 0
        assert live(found) == {"v": found["v"]}

    at_a_primary(check)


def test_a_cut_is_remembered_by_its_branch() -> None:
    def check(pool: Pool, group: Group, witness: Witness) -> None:
        pool.record(r.CutPlaced(group=GROUP, cut=1, stamp=1, acked={}))
        then = witness.at(group, 1)
        assert then == shown(pool, group)
        assert then is not None
        assert witness.placed(1)
        assert not witness.placed(2)
        write(pool, b"ab")
        assert witness.ever(1, live(then))
        assert not witness.ever(1, live(shown(pool, group)))
        group.epoch = 2
        assert witness.at(group, 1) is None

    at_a_primary(check)


def test_a_cut_that_nobody_placed_is_a_violation() -> None:
    def check(pool: Pool, group: Group, witness: Witness) -> None:
        committed = r.IncomingCommitted(group=GROUP, cut=7, stamp=1)
        with pytest.raises(Violation, match="nobody placed"):
            witness.watch("a", pool, 9, committed)

    at_a_primary(check)


def test_the_cut_at_which_an_epoch_begins_was_placed_in_the_one_before() -> None:
    """A site may have it under the new epoch before whoever takes over has."""

    def check(pool: Pool, group: Group, witness: Witness) -> None:
        pool.record(r.CutPlaced(group=GROUP, cut=1, stamp=1))
        there = witness.at(group, 1)
        assert there is not None
        epoch = group.epoch
        group.takeovers = [*group.takeovers, r.Takeover(epoch + 1, 1, "another pool")]
        group.epoch = epoch + 1
        assert witness.at(group, 1) == there
        group.takeovers[-1] = r.Takeover(epoch + 1, 0, "another pool")
        assert witness.at(group, 1) is None

    at_a_primary(check)


def test_a_copy_that_changed_is_a_violation() -> None:
    def check(pool: Pool, group: Group, witness: Witness) -> None:
        copies.take(pool, ["v"], name="c1")
        assert witness.born["c1"] == branch(group)
        witness.check_copies("a", pool, group)
        write(pool, b"ab")
        witness.check_copies("a", pool, group)
        pool.state.copies["c1"].members = [(group.volumes[0], group.volumes[0])]
        with pytest.raises(Violation, match="not what was copied"):
            witness.check_copies("a", pool, group)

    at_a_primary(check)


def test_what_is_parked_is_what_was_fenced() -> None:
    def check(pool: Pool, group: Group, witness: Witness) -> None:
        witness.watch("a", pool, 8, r.Fenced(group=GROUP, epoch=2, stamp=1))
        write(pool, b"ab")
        with pytest.raises(Violation, match="when it gave way"):
            copies.take(pool, ["v"], name="orphaned-g-1")

    at_a_primary(check)


def test_an_epoch_has_one_primary() -> None:
    def check(pool: Pool, group: Group, witness: Witness) -> None:
        with pytest.raises(Violation, match="two primaries"):
            witness.watch("b", pool, 4, r.GroupCreated(name=GROUP, lineage="x", volumes=()))

    at_a_primary(check)


def test_what_comes_late_is_excused_where_it_was_given_up() -> None:
    def check(pool: Pool, group: Group, witness: Witness) -> None:
        moved = r.RequestMoved(group=GROUP, request="q", peer=pool.identity, state="EXPIRED")
        asked = r.CopyRequested(
            group=GROUP, request="q", name="c9", volumes=tuple(group.volumes),
            sites=(pool.identity,), stamp=1, seconds=1.0,
        )  # fmt: skip
        pool.record(asked)
        pool.record(moved)
        assert witness.excused == {"a": {"c9"}}

    at_a_primary(check)
