"""Relations that arrive: hidden, then there, and the same after a replay in other steps."""

from __future__ import annotations

import pytest

from isochrone.store import records as r
from isochrone.store.apply_mirrored import arriving
from isochrone.types import MIB
from tests.store.stories import Story, array_of

GROUP = "g"
DB, WAL = 11, 12  # volumes here; 7 and 8 at the primary


def begun(base: int, shadows: tuple[int, int], size: int = MIB) -> r.IncomingBegun:
    there = ((7, "db", DB), (8, "wal", WAL))
    volumes = tuple(
        r.IncomingVolume(remote, name, size, local, shadow)
        for (remote, name, local), shadow in zip(there, shadows, strict=True)
    )
    return r.IncomingBegun(group=GROUP, lineage="ab" * 16, epoch=1, base=base, volumes=volumes)


def committed(cut: int) -> r.IncomingCommitted:
    return r.IncomingCommitted(group=GROUP, cut=cut, stamp=cut)


@pytest.fixture
def story() -> Story:
    """A group with db and wal at cut 1, block 0 of db being 100; cut 2 arrives in 21 and 22."""
    story = Story()
    story(r.MirrorAdded(group=GROUP, source="there:1"), begun(0, (13, 14)))
    story.state.forest.map(story.state.tables[13], 0, 100, array_of(100))
    story(committed(1), begun(1, (21, 22)))
    return story


def done(act: str, *parts: r.MirroredPart, dropped: tuple[int, ...] = ()) -> r.RelationsMirrored:
    return r.RelationsMirrored(act=act, parts=parts, group=GROUP, dropped=dropped)  # type: ignore[arg-type]


def part(id: int = 9, at: int = 16, *, local: int = 30, generation: int = 1) -> r.MirroredPart:
    return r.MirroredPart(id, 21, 22, ((0, at, 16),), 5, generation, local=local)


def gone(*ranges: tuple[int, int], id: int = 9, local: int = 30) -> r.MirroredPart:
    return r.MirroredPart(id, 0, 22, withdrawn=ranges, local=local)


def test_the_content_changes_at_once_and_the_relation_waits(story: Story) -> None:
    story(done("establish", part()))
    state = story.state
    assert state.relations == {}
    assert story.pointer("wal", 16) == 0
    assert [x.id for x in arriving(state, state.groups[GROUP])] == [30]
    assert list(state.new_ids(1)) == [31], "the number is taken"
    story(committed(2))
    relation = state.relations[30]
    assert (relation.source, relation.target, relation.origin) == (DB, WAL, 9)
    assert relation.group == GROUP
    assert story.pointer("wal", 16) == 100
    assert state.groups[GROUP].incoming is None


def test_what_was_written_since_is_known_by_the_own_log(story: Story) -> None:
    story(done("establish", part(), part(10, 32, local=31)))
    born = story.state.groups[GROUP].incoming.relations[30].born  # type: ignore[union-attr]
    story.state.forest.map(story.state.tables[22], 17, born, array_of(1))
    story(committed(2), begun(2, (23, 24)))
    both = [r.MirroredPart(9, 0, 24, local=30), r.MirroredPart(10, 0, 24, local=31)]
    story(done("discard", *both), committed(3))
    assert [story.pointer("wal", n) for n in (16, 17, 32)] == [100, born, 0]
    assert story.state.relations == {}


def test_a_drop_takes_back_everything(story: Story) -> None:
    story(done("establish", part()), committed(2), begun(2, (23, 24)))
    before = list(story.state.relations[30].extents)
    keep = r.MirroredPart(9, 0, 24, withdrawn=((16, 16),), local=30)
    new = r.MirroredPart(10, 23, 24, ((0, 48, 16),), 5, local=31)
    story(done("keep", keep), done("establish", new))
    story(r.IncomingDropped(group=GROUP))
    assert list(story.state.relations) == [30]
    assert story.state.relations[30].extents == before
    story(begun(2, (25, 26)), committed(3))
    assert list(story.state.relations) == [30]


def test_arriving_is_what_will_be(story: Story) -> None:
    story(done("establish", part(), part(10, 32, local=31)), committed(2), begun(2, (23, 24)))
    state, group = story.state, story.state.groups[GROUP]
    here = r.MirroredPart(11, 23, 24, ((0, 64, 16),), 5, local=40)
    story(
        done("keep", r.MirroredPart(9, 0, 24, local=30)),
        done("establish", here, dropped=(31,)),
    )
    assert sorted(x.origin for x in arriving(state, group)) == [11]
    story(committed(3))
    assert sorted(x.origin for x in state.relations.values()) == [11]


def test_only_the_content_is_noted(story: Story) -> None:
    story(done("establish", part(local=0)), committed(2))
    assert story.state.relations == {}
    assert story.state.groups[GROUP].unheld == [9]
    assert story.pointer("wal", 16) == 100
    story(begun(2, (23, 24)), done("keep", gone(local=0)), committed(3))
    assert story.state.groups[GROUP].unheld == []


def test_an_inventory_waits_too(story: Story) -> None:
    story(done("establish", part(), part(10, 32, local=31)), committed(2), begun(2, (23, 24)))
    new = r.MirroredPart(12, DB, WAL, ((0, 64, 16),), 6, 2, True, local=50)
    alone = r.MirroredPart(13, DB, WAL, ((0, 96, 16),), 6)
    story(
        r.RelationsListed(
            group=GROUP, parts=(new, alone), renamed=((30, 77),), dropped=(31,), inexact=True
        )
    )
    assert sorted(story.state.relations) == [30, 31]
    assert not story.state.relations[30].inexact
    story(committed(3))
    found = {x.id: (x.origin, x.inexact) for x in story.state.relations.values()}
    assert found == {30: (77, True), 50: (12, True)}
    assert story.state.groups[GROUP].unheld == [13]
    story(begun(3, (25, 26)), r.RelationsListed(group=GROUP, forgotten=(13,)), committed(4))
    assert story.state.groups[GROUP].unheld == []


def test_a_target_that_ends_too_early_goes_with_the_commit(story: Story) -> None:
    story(done("establish", part(), part(10, 128, local=31)), committed(2), begun(2, (23, 24)))
    story(r.VolumeResized(id=24, size=MIB // 2), committed(3))
    assert list(story.state.relations) == [30]


def test_a_takeover_and_the_end_of_a_group(story: Story) -> None:
    story(done("establish", part()), committed(2), begun(2, (23, 24)))
    story(r.Promoted(group=GROUP, epoch=2, stamp=9))
    relation = story.state.relations[30]
    assert (relation.group, relation.origin) == (GROUP, 0)
    story(r.GroupDeleted(name=GROUP))
    assert (relation.group, relation.origin) == ("", 0)


def test_a_group_takes_the_relations_of_its_volumes_in() -> None:
    story = Story()
    for id, name in ((1, "a"), (2, "b"), (3, "c")):
        story(r.VolumeCreated(id=id, name=name, size=MIB))
    new = (r.NewRelation(8, 1, 2, ((0, 0, 16),)), r.NewRelation(9, 1, 3, ((0, 0, 16),)))
    story(r.RelationsEstablished(relations=new, stamp=5))
    story(r.GroupCreated(name=GROUP, lineage="ab" * 16, volumes=(1, 2)))
    assert [x.group for x in story.state.relations.values()] == [GROUP, ""]


def test_what_a_secondary_says_is_kept_with_its_session() -> None:
    story = Story()
    story(r.VolumeCreated(id=1, name="a", size=MIB))
    story(r.GroupCreated(name=GROUP, lineage="ab" * 16, volumes=(1,)))
    story(r.SessionOpened(group=GROUP, peer="p"))
    story(r.SessionHolds(group=GROUP, peer="p", unheld=(4,), inexact=(5,)))
    story(r.SessionHolds(group=GROUP, peer="nobody"))
    session = story.state.groups[GROUP].sessions["p"]
    assert (session.reconciled, session.unheld, session.inexact) == (True, [4], [5])
