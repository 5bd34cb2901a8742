"""Stories of a secondary against a model that keeps every cut whole."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.store import records as r
from isochrone.store.points import Point
from isochrone.types import MIB
from tests.store.stories import array_of, begun, following

BLOCKS = [0, 1, 1023, 1024, 5000]
Content = tuple[int, dict[int, int]]  # size, and pointers of blocks


class Told:
    """A secondary with a window, and what each of its cuts was."""

    def __init__(self) -> None:
        self.story = following()
        self.state = self.story.state
        self.story(r.WindowSet(group="g", keep_s=3600, dense_s=60))
        self.cuts: dict[int, Content] = {}  # by the lsn of the commit
        self.now: Content = (MIB, {0: 500})
        self.next = 1000
        self.cut = 1

    def commit(self, blocks: list[int], *, size: int = 0, kept: bool = True) -> None:
        shadow = self.state.next_id
        self.story(begun(self.cut, shadow=shadow, size=self.now[0]))
        if size:
            self.story(r.VolumeResized(id=shadow, size=size))
            self.now = size, {b: p for b, p in self.now[1].items() if b < size >> 12}
        for block in blocks:
            if block < self.now[0] >> 12:
                self.next += 1
                table = self.state.tables[shadow]
                self.state.forest.map(table, block, self.next, array_of(self.next))
                self.now = self.now[0], {**self.now[1], block: self.next}
        self.cut += 1
        at = self.cut if kept else 0
        self.story(r.IncomingCommitted(group="g", cut=self.cut, stamp=self.cut, kept_at=at))
        if kept:
            self.cuts[self.story.lsn] = self.now

    @property
    def points(self) -> list[Point]:
        return self.state.windows["g"].points

    def drop(self, lsns: list[int]) -> None:
        self.story(r.PointsDropped(group="g", lsns=tuple(lsns)))
        for lsn in lsns:
            del self.cuts[lsn]

    def version(self, lsn: int) -> int:
        """What volume 11 was then, as `windows.members_at` finds it."""
        for id in self.state.versions.get(11, ()):
            if self.state.volumes[id].changed_lsn <= lsn <= self.state.volumes[id].until_lsn:
                return id
        assert self.state.windows["g"].since[11] <= lsn
        return 11

    def content(self, id: int) -> Content:
        forest, table = self.state.forest, self.state.tables[id]
        pointers = ((block, forest.at(table, block)[0]) for block in BLOCKS)
        return self.state.volumes[id].size, {block: p for block, p in pointers if p}

    def check(self) -> None:
        assert [point.lsn for point in self.points] == sorted(self.cuts)
        for lsn, content in self.cuts.items():
            assert self.content(self.version(lsn)) == content
        # Nothing is kept that no point needs, and nothing twice.
        needed = {self.version(lsn) for lsn in self.cuts} - {11}
        assert {id for ids in self.state.versions.values() for id in ids} == needed
        assert {id for id, v in self.state.volumes.items() if v.kind == "point"} == needed


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32))
def test_every_point_is_what_the_cut_was(seed: int) -> None:
    dice, told = Random(seed), Told()
    for _ in range(25):
        match dice.randrange(6):
            case 0 if told.cuts:
                lsns = sorted(told.cuts)
                told.drop(dice.sample(lsns, dice.randint(1, len(lsns))))
            case 1:
                size = dice.choice([MIB, 8 * MIB, 24 * MIB])
                told.commit(dice.sample(BLOCKS, 2), size=size, kept=dice.random() < 0.8)
            case 2:
                told.commit([])
            case _:
                told.commit(dice.sample(BLOCKS, dice.randint(1, 3)), kept=dice.random() < 0.8)
        told.check()
    if dice.random() < 0.5:
        told.story(r.Promoted(group="g", epoch=9, stamp=1))
        told.state.forest.map(told.state.tables[11], 0, 7, array_of(7))  # a host
        for lsn, content in told.cuts.items():
            assert told.content(told.version(lsn)) == content
        told.drop(sorted(told.cuts))
        assert told.state.versions == {}
    told.story(r.GroupDeleted(name="g"))
    assert told.state.windows == {}
    assert set(told.state.volumes) == {1, 11}


def test_a_volume_that_rests_has_one_version_for_all_its_points() -> None:
    told = Told()
    told.commit([0])
    for _ in range(10):
        told.commit([])
    assert told.state.versions == {}
    told.commit([1])
    told.check()
    assert (len(told.points), len(told.state.versions[11])) == (12, 1)


def test_without_a_window_nothing_is_kept() -> None:
    story = following()
    shadow = story.state.next_id
    story(begun(1, shadow=shadow))
    story.state.forest.map(story.state.tables[shadow], 0, 7, array_of(7))
    story(r.IncomingCommitted(group="g", cut=2, stamp=2, kept_at=5))
    assert set(story.state.volumes) == {1, 11}


def test_turned_off_it_keeps_nothing() -> None:
    told = Told()
    told.commit([0])
    told.commit([1])
    told.story(r.WindowSet(group="g", keep_s=0, dense_s=0))
    assert told.points == []
    assert set(told.state.volumes) == {1, 11}
    told.story(r.WindowSet(group="g", keep_s=60, dense_s=60, bytes_max=7))
    told.cuts = {}
    told.commit([0])
    told.commit([1])
    told.check()


@pytest.mark.parametrize("writable", [False, True])
def test_a_point_that_is_opened_is_a_copy_of_this_site(writable: bool) -> None:
    told = Told()
    told.commit([0])
    then = told.points[-1].lsn
    told.commit([0, 1])
    member = told.state.next_id
    told.story(
        r.PointOpened(
            name="then",
            writable=writable,
            stamp=77,
            cut=2,
            members=((11, told.version(then), member),),
            expendable=True,
        )
    )
    copy = told.state.copies["then"]
    assert (copy.stamp, copy.as_of_cut, copy.group, copy.expendable) == (77, 2, "", True)
    assert told.state.names["x@then"] == member
    assert told.state.volumes[member].source == 11
    assert told.state.volumes[member].kind == ("clone" if writable else "snapshot")
    told.drop(sorted(told.cuts))
    assert told.content(member) == (MIB, {0: 1001})
    told.state.forest.map(told.state.tables[member], 0, 9, array_of(9))
    assert told.content(11)[1][0] == 1002
    told.story(r.CopyDeleted(name="then"))
    assert "then" not in told.state.copies


def test_a_first_copy_over_an_old_one_keeps_what_there_was() -> None:
    told = Told()
    told.commit([0])
    shadow = told.state.next_id
    told.story(begun(0, shadow=shadow))
    told.state.forest.map(told.state.tables[shadow], 1023, 9, array_of(9))
    told.story(r.IncomingCommitted(group="g", cut=50, stamp=50, kept_at=50))
    told.cuts[told.story.lsn] = MIB, {1023: 9}
    told.check()


def test_a_volume_that_was_in_two_groups_has_versions_for_the_points_of_each() -> None:
    """It left the one, was made part of another here, and is a secondary's of that one now."""
    told = Told()
    told.commit([0])
    told.commit([1])
    story, state = told.story, told.state
    other = r.IncomingVolume(remote=8, name="y", size=MIB, local=50, shadow=51)
    story(
        r.IncomingBegun(group="g", lineage="cd" * 16, epoch=3, base=told.cut, volumes=(other,)),
        r.IncomingCommitted(group="g", cut=told.cut + 1, stamp=9, kept_at=9),
        r.GroupCreated(name="h", lineage="ab" * 16, volumes=(11,)),
        r.Fenced(group="h", epoch=2),
        r.Rejoined(group="h", source="there:1", epoch=2, cut=0, volumes=((70, 11),)),
        r.WindowSet(group="h", keep_s=3600, dense_s=60),
    )
    for cut in (1, 2, 3):
        shadow = state.next_id
        mine = r.IncomingVolume(remote=70, name="x", size=MIB, local=11, shadow=shadow)
        story(r.IncomingBegun(group="h", lineage="ab" * 16, epoch=2, base=cut - 1, volumes=(mine,)))
        state.forest.map(state.tables[shadow], 0, 9000 + cut, array_of(cut))
        story(r.IncomingCommitted(group="h", cut=cut, stamp=cut, kept_at=cut))
    assert set(state.history().values()) == {"g", "h"}
    of_g = [id for id, group in state.history().items() if group == "g"]
    story(r.GroupDeleted(name="h"))
    assert list(state.history()) == of_g
    story(r.GroupDeleted(name="g"))
    assert not state.history()
