"""A copy that is held at the secondary outlives its deletion at the primary."""

from __future__ import annotations

import pytest

from isochrone.errors import Held
from isochrone.mirror.messages import Begin, Cut
from isochrone.store import copies, holds
from isochrone.store import records as r
from isochrone.store.check import check_pool
from isochrone.store.schedule import DAY_S, SECOND
from tests.mirror.test_apply import BOTH, Secondary, blocks_of, in_a_pool, record, taken

DELETED = record(r.CopyDeleted(name="c1"))


def hold(there: Secondary, name: str, days: int = 1) -> None:
    until = there.site.clock.wall_ns() + days * DAY_S * SECOND
    holds.hold(there.pool, there.pool.state.copies[name], until)


def test_it_stays_and_belongs_to_nobody_elses_mirror_any_more() -> None:
    def act(there: Secondary) -> None:
        there.cut(2, 1, taken("c1"), taken("c2"))
        image = there.seen()["db@c1"]
        hold(there, "c1")
        there.cut(3, 2, blocks_of(70, [0], "later"), DELETED, record(r.CopyDeleted(name="c2")))
        assert set(there.pool.state.copies) == {"c1"}
        copy = there.pool.state.copies["c1"]
        assert (copy.group, copy.origin, copy.kept_from) == ("", "", "g")
        assert there.seen()["db@c1"] == image
        with pytest.raises(Held):
            copies.delete(there.pool, "c1")
        # The primary may use the name again, and delete that one: ours is not meant.
        there.cut(4, 3, taken("c1"))
        assert set(there.pool.state.copies) == {"c1", "c1~4"}
        there.cut(5, 4, DELETED)
        assert set(there.pool.state.copies) == {"c1"}
        check_pool(there.pool)

    in_a_pool(act)


def test_a_pin_does_the_same_and_ends_by_hand() -> None:
    def act(there: Secondary) -> None:
        there.cut(2, 1, taken("c1"))
        holds.pin(there.pool, there.pool.state.copies["c1"])
        there.cut(3, 2, DELETED)
        holds.unpin(there.pool, there.pool.state.copies["c1"])
        copies.delete(there.pool, "c1")
        assert not there.pool.state.copies

    in_a_pool(act)


def test_a_hold_that_has_ended_protects_nothing() -> None:
    def act(there: Secondary) -> None:
        there.cut(2, 1, taken("c1"))
        hold(there, "c1")
        there.pool.state.copies["c1"].held_until = there.site.clock.wall_ns() - 1
        there.cut(3, 2, DELETED)
        assert not there.pool.state.copies

    in_a_pool(act)


@pytest.mark.parametrize("ends", ["before the replay", "after it"])
def test_replay_decides_as_the_commit_did(ends: str) -> None:
    """Whatever the clock says by then: the decision is in the record."""

    def act(there: Secondary) -> None:
        there.cut(2, 1, taken("c1"))
        hold(there, "c1", days=3)
        there.cut(3, 2, DELETED)
        seen = there.seen()
        there.pool.abandon()
        there.site.crash(power=False)
        if ends == "before the replay":
            there.site.clock.offset_ns = 400 * DAY_S * SECOND
        there.open()
        assert there.seen() == seen
        assert there.pool.state.copies["c1"].kept_from == "g"
        check_pool(there.pool)

    in_a_pool(act)


def test_a_hold_set_while_the_deletion_is_on_its_way() -> None:
    def act(there: Secondary) -> None:
        there.cut(2, 1, taken("c1"))
        there.send(Begin(base=2, cut=3, volumes=BOTH), DELETED)
        hold(there, "c1")
        there.send(Cut(cut=3, stamp=3, blocks=0, token=0))
        assert there.pool.state.copies["c1"].kept_from == "g"

    in_a_pool(act)
