from __future__ import annotations

from array import array

import pytest

from isochrone.store import records as r
from isochrone.store.state import MARKS_MAX, State
from isochrone.store.tracks import Forest
from isochrone.types import BLOCK, MIB


def array_of(*words: int) -> array[int]:
    return array("Q", words)


def no_store(id: int) -> bytes:
    raise AssertionError(id)


class Story:
    """A state, and records that are applied one after the other."""

    def __init__(self) -> None:
        self.state = State(Forest(no_store))
        self.lsn = 0

    def __call__(self, *records: r.AnyRecord) -> None:
        for record in records:
            self.lsn += 1
            self.state.apply(self.lsn, record)

    def map(self, name: str, block: int, pointer: int) -> None:
        table = self.state.tables[self.state.names[name]]
        self.state.forest.map(table, block, pointer, array_of(pointer))

    def pointer(self, name: str, block: int) -> int:
        table = self.state.tables[self.state.names[name]]
        (run,) = self.state.forest.runs(table, block, 1)
        return run.pointer


@pytest.fixture
def story() -> Story:
    story = Story()
    story(r.VolumeCreated(id=1, name="a", size=8 * MIB), r.VolumeCreated(id=2, name="b", size=MIB))
    return story


def names(story: Story) -> list[str]:
    return sorted(story.state.names)


def test_volumes_come_and_go(story: Story) -> None:
    assert names(story) == ["a", "b"]
    assert list(story.state.new_ids(3)) == [3, 4, 5]
    story(r.VolumeDeleted(id=1), r.VolumeCreated(id=3, name="a", size=MIB))
    assert story.state.names == {"a": 3, "b": 2}
    assert set(story.state.tables) == set(story.state.volumes) == {2, 3}
    assert list(story.state.new_ids(1)) == [4]


def test_what_was_cut_off_does_not_come_back(story: Story) -> None:
    story.map("a", 0, 100)
    story.map("a", MIB // BLOCK, 101)
    story(r.VolumeResized(id=1, size=MIB), r.VolumeResized(id=1, size=16 * MIB))
    assert story.state.volumes[1].size == 16 * MIB
    assert (story.pointer("a", 0), story.pointer("a", MIB // BLOCK)) == (100, 0)
    assert story.state.volumes[1].changed_lsn == story.lsn


def test_a_copy_is_an_instant(story: Story) -> None:
    story.map("a", 0, 100)
    story.map("b", 0, 200)
    story(r.CopyTaken(name="c", writable=False, stamp=5, members=((1, 3), (2, 4))))
    story.map("a", 0, 101)
    assert names(story) == ["a", "a@c", "b", "b@c"]
    assert (story.pointer("a@c", 0), story.pointer("b@c", 0)) == (100, 200)
    assert story.pointer("a", 0) == 101
    copy = story.state.copies["c"]
    assert (copy.members, copy.lsn, copy.stamp) == ([(1, 3), (2, 4)], story.lsn, 5)
    member = story.state.volumes[3]
    assert (member.kind, member.source, member.copy, member.size) == ("snapshot", 1, "c", 8 * MIB)
    assert story.state.read_only(member)
    story(r.CopyTaken(name="d", writable=True, stamp=6, members=((3, 5),)))
    assert not story.state.read_only(story.state.volumes[5])
    assert story.state.describe(story.state.volumes[5]) == "clone of a@c"
    story(r.CopyDeleted(name="c"))
    assert names(story) == ["a", "a@c@d", "b"]
    assert story.state.copies_deleted_lsn == story.lsn
    assert story.state.describe(story.state.volumes[5]) == "clone of a deleted volume"
    assert story.pointer("a@c@d", 0) == 100


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


# -- a secondary


@pytest.fixture
def secondary() -> Story:
    """A group that has been received once: volume `x`, remote id 7, here 11."""
    story = Story()
    story(r.VolumeCreated(id=1, name="own", size=MIB), r.MirrorAdded(group="g", source="there:1"))
    story(begun(0, shadow=12))
    assert names(story) == ["own"]
    assert story.state.reserved("x")
    story.state.forest.map(story.state.tables[12], 0, 500, array_of(500))
    story(r.IncomingCommitted(group="g", cut=1, stamp=100))
    return story


def begun(base: int, shadow: int, size: int = MIB) -> r.IncomingBegun:
    volume = r.IncomingVolume(remote=7, name="x", size=size, local=11, shadow=shadow)
    return r.IncomingBegun(group="g", lineage="cd" * 16, epoch=3, base=base, volumes=(volume,))


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


def test_a_copy_taken_and_deleted_between_two_cuts_never_shows(secondary: Story) -> None:
    secondary(
        begun(1, shadow=13),
        r.CopyTaken(name="c", writable=False, stamp=5, members=((13, 14),), group="g"),
        r.CopyDeleted(name="c", group="g"),
        r.IncomingCommitted(group="g", cut=2, stamp=200),
    )
    assert names(secondary) == ["own", "x"]
    assert set(secondary.state.volumes) == {1, 11}


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


def test_exports_are_sorted_and_described(secondary: Story) -> None:
    exports = list(secondary.state.exports())
    assert [(e.name, e.read_only, e.description) for e in exports] == [
        ("own", False, "volume"),
        ("x", True, "volume of group g (secondary)"),
    ]
