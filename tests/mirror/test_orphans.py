"""What was never sent anywhere is found, kept once, and told within bounds."""

from __future__ import annotations

import pytest
from pyroaring import BitMap

from isochrone.errors import PeerFault
from isochrone.mirror import orphans
from isochrone.mirror.messages import Diverged
from isochrone.store import volumes
from isochrone.types import MIB, TRACK
from tests.mirror.sites import GROUP, Two, play


def test_tracks_since_the_newest_cut_that_is_not_newer() -> None:
    async def scenario(two: Two) -> None:
        state, group = two.a.pool.state, two.a.group()
        cut = group.cut
        two.a.write("db", 16, "x")
        two.a.write("wal", 40, "x", count=10)
        db, wal = (state.names[name] for name in ("db", "wal"))
        for asked in (cut, cut + 3):
            mark = orphans.last_common(state, group, asked)
            assert mark is not None
            assert mark.cut == cut
            assert orphans.diverged(state, group, asked) == {db: BitMap([1]), wal: BitMap([2, 3])}
        assert orphans.last_common(state, group, 0) is None
        assert orphans.diverged(state, group, 0) is None
        found = orphans.diverged(state, group, cut) or {}
        assert orphans.bytes_by_volume(state, found) == {"db": TRACK, "wal": 2 * TRACK}

    play(scenario)


def test_it_is_kept_once_and_again_when_more_was_written() -> None:
    async def scenario(two: Two) -> None:
        pool, group = two.a.pool, two.a.group()
        first = orphans.park(pool, group)
        assert (first.name, first.pinned, first.hold_reason) == (
            "orphaned-g-1", True, orphans.REASON,
        )  # fmt: skip
        assert orphans.park(pool, group) is first
        two.a.write("db", 3, "more")
        second = orphans.park(pool, group)
        assert second.name == "orphaned-g-1-2"
        assert two.a.says("db@orphaned-g-1-2", 3) == "more"

    play(scenario)


def test_a_name_that_somebody_has_taken_is_not_taken_for_it() -> None:
    async def scenario(two: Two) -> None:
        from isochrone.store import copies

        copies.take(two.a.pool, ["db"], name="orphaned-g-1")
        assert orphans.park(two.a.pool, two.a.group()).name == "orphaned-g-1-2"

    play(scenario)


def test_what_is_told_is_what_is_understood() -> None:
    async def scenario(two: Two) -> None:
        state, group = two.b.pool.state, two.b.group()
        assert list(orphans.tell(state, group)) == []
        group.diverged = group.cut
        state.changes.note(state.names["db"], 32, 20)
        known: dict[int, BitMap] = {}
        for message in orphans.tell(state, group):
            orphans.take(two.a.pool, two.a.group(), known, message)
        ids = two.a.pool.state.names
        assert known == {ids["db"]: BitMap([2, 3]), ids["wal"]: BitMap()}

    play(scenario)


@pytest.mark.parametrize(
    "message",
    [
        Diverged(volume=77, tracks=BitMap([1]).serialize()),
        Diverged(volume=1, tracks=b""),
        Diverged(volume=1, tracks=b"junk" * 9),
        Diverged(volume=1, tracks=BitMap([1, 2, 9]).serialize()[:-3]),
    ],
)
def test_what_a_peer_makes_up_is_refused(message: Diverged) -> None:
    async def scenario(two: Two) -> None:
        with pytest.raises(PeerFault):
            orphans.take(two.a.pool, two.a.group(), {}, message)

    play(scenario)


def test_tracks_behind_the_end_do_not_grow_anything() -> None:
    async def scenario(two: Two) -> None:
        id = two.a.pool.state.names["db"]
        volumes.resize(two.a.pool, "db", 8 * MIB)
        known: dict[int, BitMap] = {}
        told = BitMap([1, 127, 128, (1 << 32) - 1])
        orphans.take(two.a.pool, two.a.group(), known, Diverged(volume=id, tracks=told.serialize()))
        assert known == {id: BitMap([1, 127])}

    play(scenario)


def test_what_a_status_says() -> None:
    async def scenario(two: Two) -> None:
        state, group = two.a.pool.state, two.a.group()
        assert (orphans.not_arrived(state, group), orphans.since(state, group)) == ({}, 0)
        cut = group.cut
        two.a.write("db", 3, "tail")
        group.role, group.superseded_cut = "fenced", cut
        assert orphans.not_arrived(state, group) == {"db": TRACK}
        assert orphans.since(state, group) == group.cut_stamp
        status = two.a.status(GROUP)
        assert (status.diverged, status.diverged_since) == ({"db": TRACK}, group.cut_stamp)
        assert status.next_command.startswith("isochrone group rejoin g")

    play(scenario)
