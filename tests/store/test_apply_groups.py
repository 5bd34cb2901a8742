from __future__ import annotations

import pytest

from isochrone.store import records as r
from isochrone.store.catalogue import MARKS_MAX
from isochrone.types import MIB
from tests.store.stories import Story, array_of, begun, following, names, two_volumes


@pytest.fixture
def story() -> Story:
    return two_volumes()


@pytest.fixture
def secondary() -> Story:
    return following()


def test_a_fenced_group_is_read_only_and_its_clones_are_not(story: Story) -> None:
    story(
        r.GroupCreated(name="g", lineage="ab" * 16, volumes=(1,)),
        r.CopyTaken(name="c", writable=True, stamp=5, members=((1, 3),)),
    )
    assert story.state.groups["g"].identity.epoch == 1
    assert not story.state.read_only(story.state.volumes[1])
    assert story.state.describe(story.state.volumes[1]) == "volume of group g (primary)"
    story(r.Fenced(group="g", epoch=4), r.Fenced(group="g", epoch=3))
    assert story.state.groups["g"].superseded_by == 4
    assert story.state.read_only(story.state.volumes[1])
    assert not story.state.read_only(story.state.volumes[2])
    assert not story.state.read_only(story.state.volumes[3])
    story(r.GroupDeleted(name="g"))
    assert not story.state.read_only(story.state.volumes[1])


def test_a_primary_remembers_the_cuts_that_its_sessions_need(story: Story) -> None:
    story(r.GroupCreated(name="g", lineage="ab" * 16, volumes=(1, 2)))
    story(r.CutPlaced(group="g", cut=1, stamp=10))
    group = story.state.groups["g"]
    assert [mark.cut for mark in group.marks] == [1]
    story(r.SessionOpened(group="g", peer="p"))
    for cut in range(2, 6):
        story(r.CutPlaced(group="g", cut=cut, stamp=10 * cut))
    assert [mark.cut for mark in group.marks] == [1, 2, 3, 4, 5]
    story(r.CutPlaced(group="g", cut=6, stamp=60, acked={"p": 4}))
    assert [mark.cut for mark in group.marks] == [4, 5, 6]
    assert group.mark(5) is not None and group.mark(5).stamp == 50
    assert group.mark(3) is None
    for cut in range(7, 7 + 2 * MARKS_MAX):
        story(r.CutPlaced(group="g", cut=cut, stamp=cut))
    kept = [mark.cut for mark in group.marks]
    assert len(kept) == MARKS_MAX
    assert (kept[0], kept[-1]) == (4, 6 + 2 * MARKS_MAX)  # what the session has, and the newest
    story(r.SessionClosed(group="g", peer="p"), r.CutPlaced(group="g", cut=999, stamp=1))
    assert [mark.cut for mark in group.marks] == [999]


def test_who_comes_back_from_elsewhere_keeps_its_terms_and_is_asked_again(story: Story) -> None:
    story(
        r.GroupCreated(name="g", lineage="ab" * 16, volumes=(1, 2)),
        r.SessionOpened(group="g", peer="p", site="old"),
        r.SessionSet(
            group="g", peer="p", policy="pace", limit_bytes=7, limit_seconds=2.0, resync="manual"
        ),
        r.SessionHolds(group="g", peer="p", unheld=(3,), inexact=(4,)),
        r.CutPlaced(group="g", cut=1, stamp=10, acked={"p": 0}),
    )
    session = story.state.groups["g"].sessions["p"]
    assert session.reconciled
    story(r.SessionOpened(group="g", peer="p", site="new"))
    assert story.state.groups["g"].sessions["p"] is session
    assert (session.reconciled, session.unheld, session.inexact) == (False, [], [])
    assert (session.site, session.policy, session.sent_cut) == ("new", "pace", 1)


def test_a_first_copy_appears_at_its_commit(secondary: Story) -> None:
    state = secondary.state
    assert names(secondary) == ["own", "x"]
    assert secondary.pointer("x", 0) == 500
    assert 12 not in state.volumes
    group = state.groups["g"]
    assert (group.volumes, group.remote_ids) == ([11], {7: 11})
    assert (group.cut, group.cut_stamp, group.epoch) == (1, 100, 3)
    assert state.read_only(state.volumes[11])
    assert state.next_id == 13


def test_a_group_is_seen_whole_or_not_at_all(secondary: Story) -> None:
    secondary(begun(1, shadow=13, size=2 * MIB))
    state = secondary.state
    state.forest.map(state.tables[13], 0, 600, array_of(600))
    secondary(r.CopyTaken(name="c", writable=False, stamp=5, members=((13, 14),), group="g"))
    state.forest.map(state.tables[13], 1, 601, array_of(601))
    assert names(secondary) == ["own", "x"]
    assert (secondary.pointer("x", 0), state.volumes[11].size) == (500, MIB)
    secondary(r.IncomingCommitted(group="g", cut=2, stamp=200))
    assert names(secondary) == ["own", "x", "x@c"]
    assert (secondary.pointer("x", 0), secondary.pointer("x", 1)) == (600, 601)
    assert (secondary.pointer("x@c", 0), secondary.pointer("x@c", 1)) == (600, 0)
    assert state.copies["c"].members == [(11, 14)]
    assert state.volumes[14].source == 11
    assert state.volumes[11].size == 2 * MIB


@pytest.mark.parametrize("how", ["dropped", "begun again", "promoted", "deleted"])
def test_what_was_not_committed_leaves_nothing(secondary: Story, how: str) -> None:
    secondary(
        begun(1, shadow=13),
        r.CopyTaken(name="c", writable=False, stamp=5, members=((13, 14),), group="g"),
        r.CopyDeleted(name="old", group="g"),
    )
    secondary(
        {
            "dropped": r.IncomingDropped(group="g"),
            "begun again": begun(1, shadow=15),
            "promoted": r.Promoted(group="g", epoch=4, stamp=1, lost={"bytes": 3}),
            "deleted": r.GroupDeleted(name="g"),
        }[how]
    )
    state = secondary.state
    assert names(secondary) == ["own", "x"]
    assert secondary.pointer("x", 0) == 500
    assert set(state.volumes) == {1, 11} | ({15} if how == "begun again" else set())
    assert set(state.tables) == set(state.volumes)
    assert state.copies == {}
    if how == "promoted":
        group = state.groups["g"]
        assert (group.writable, group.fence_pending, group.lost) == (True, True, {"bytes": 3})
        assert not state.read_only(state.volumes[11])
        secondary(r.PeerFenced(group="g"))
        assert not group.fence_pending


def test_copies_of_a_group_that_is_gone_belong_to_this_site(secondary: Story) -> None:
    """A later group of the same name has nothing to say of them."""
    secondary(
        begun(1, shadow=13),
        r.CopyTaken(name="c", writable=False, stamp=5, members=((13, 14),), group="g"),
        r.IncomingCommitted(group="g", cut=2, stamp=200),
    )
    copy = secondary.state.copies["c"]
    secondary.state.touched_copies.clear()
    secondary(r.GroupDeleted(name="g"))
    assert (copy.group, copy.origin, copy.kept_from) == ("", "", "")
    assert list(secondary.state.touched_copies) == ["c"], "the next checkpoint saves it"
    other = r.IncomingVolume(remote=9, name="y", size=MIB, local=21, shadow=22)
    secondary(
        r.MirrorAdded(group="g", source="elsewhere:1"),
        r.IncomingBegun(group="g", lineage="ef" * 16, epoch=1, base=0, volumes=(other,)),
        r.CopyDeleted(name="c", group="g"),
        r.IncomingCommitted(group="g", cut=1, stamp=300),
    )
    assert names(secondary) == ["own", "x", "x@c", "y"]


def test_a_copy_taken_and_deleted_between_two_cuts_never_shows(secondary: Story) -> None:
    secondary(
        begun(1, shadow=13),
        r.CopyTaken(name="c", writable=False, stamp=5, members=((13, 14),), group="g"),
        r.CopyDeleted(name="c", group="g"),
        r.IncomingCommitted(group="g", cut=2, stamp=200),
    )
    assert names(secondary) == ["own", "x"]
    assert set(secondary.state.volumes) == {1, 11}


def test_what_is_said_of_a_new_copy_is_not_said_of_an_older_one_of_its_name(
    secondary: Story,
) -> None:
    """The primary deleted the older one; it is held here, and stays what it was."""
    secondary(
        begun(1, shadow=13),
        r.CopyTaken(name="c", writable=False, stamp=5, members=((13, 14),), group="g"),
        r.IncomingCommitted(group="g", cut=2, stamp=200),
        r.CopyHeld(name="c", until=0, pinned=True),
        begun(2, shadow=15),
        r.CopyDeleted(name="c", group="g"),
        r.CopyTaken(name="c", writable=False, stamp=6, members=((15, 16),), group="g"),
        r.CopyClassified(name="c", consistency="application", group="g"),
        r.IncomingCommitted(group="g", cut=3, stamp=300, kept=("c",)),
    )
    kinds = {name: copy.consistency for name, copy in secondary.state.copies.items()}
    assert kinds == {"c": "crash", "c~3": "application"}
    secondary(
        begun(3, shadow=17),
        r.CopyClassified(name="c", consistency="filesystem", group="g"),
        r.IncomingCommitted(group="g", cut=4, stamp=400),
    )
    kinds = {name: copy.consistency for name, copy in secondary.state.copies.items()}
    assert kinds == {"c": "crash", "c~3": "filesystem"}


def test_a_deleted_copy_stays_until_the_commit(secondary: Story) -> None:
    secondary(
        begun(1, shadow=13),
        r.CopyTaken(name="c", writable=False, stamp=5, members=((13, 14),), group="g"),
        r.IncomingCommitted(group="g", cut=2, stamp=200),
        begun(2, shadow=15),
        r.CopyDeleted(name="c", group="g"),
    )
    assert names(secondary) == ["own", "x", "x@c"]
    secondary(r.IncomingCommitted(group="g", cut=3, stamp=300))
    assert names(secondary) == ["own", "x"]


def test_a_copy_taken_here_keeps_its_name(secondary: Story) -> None:
    secondary(
        r.CopyTaken(name="c", writable=True, stamp=1, members=((11, 13),)),
        begun(1, shadow=14),
        r.CopyTaken(name="c", writable=False, stamp=5, members=((14, 15),), group="g"),
        r.IncomingCommitted(group="g", cut=2, stamp=200),
    )
    assert names(secondary) == ["own", "x", "x@c", "x@c~2"]
    assert secondary.state.volumes[secondary.state.names["x@c"]].kind == "clone"
    secondary(
        begun(2, shadow=16),
        r.CopyDeleted(name="c", group="g"),
        r.IncomingCommitted(group="g", cut=3, stamp=300),
    )
    assert "x@c" in names(secondary)  # ours was not meant
