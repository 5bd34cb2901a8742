from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from isochrone.store import changes
from isochrone.store import records as r
from isochrone.store.apply_relations import split
from tests.store.stories import SLOTS, Story, begun, following, two_volumes


@pytest.fixture
def story() -> Story:
    """a holds 100 in block 0 and 116 in block 16; b holds 200 in block 0."""
    story = two_volumes()
    story.map("a", 0, 100)
    story.map("a", 16, 116)
    story.map("b", 0, 200)
    return story


def established(
    extents: list[tuple[int, int, int]], id: int = 9, **fields: object
) -> r.RelationsEstablished:
    new = r.NewRelation(id, 1, 2, tuple(extents), bool(fields.pop("inhibit", False)))
    return r.RelationsEstablished(relations=(new,), stamp=5, **fields)  # type: ignore[arg-type]


def test_a_target_becomes_its_source_and_goes_its_own_way(story: Story) -> None:
    story(established([(0, 0, 32)]))
    assert [story.pointer("b", n) for n in (0, 16)] == [100, 116]
    story.map("a", 0, 300)
    story.map("b", 16, 400)
    assert [story.pointer("a", n) for n in (0, 16)] == [300, 116]
    assert [story.pointer("b", n) for n in (0, 16)] == [100, 400]


def test_a_relation_knows_its_instant(story: Story) -> None:
    story(established([(0, 0, 32)], inhibit=True))
    relation = story.state.relations[9]
    assert (relation.lsn, relation.stamp, relation.born) == (story.lsn, 5, story.lsn * SLOTS)
    assert relation.first_node == story.state.forest.next_id
    assert story.state.read_only(story.state.volumes[2])
    assert not story.state.fixed(story.state.volumes[2])
    assert list(story.state.new_ids(1)) == [10]


def test_once_leaves_nothing_on_record(story: Story) -> None:
    story(established([(16, 0, 16)], once=True))
    assert story.pointer("b", 0) == 116
    assert not story.state.relations


def test_two_volumes_can_change_places(story: Story) -> None:
    """Each source is read as it was before any target changed."""
    both = r.RelationsEstablished(
        relations=(
            r.NewRelation(9, 1, 2, ((0, 0, 16),)),
            r.NewRelation(10, 2, 1, ((0, 0, 16),)),
        ),
        stamp=5,
        once=True,
    )
    story(both)
    assert (story.pointer("a", 0), story.pointer("b", 0)) == (200, 100)


def test_a_cascade_hands_on_what_was(story: Story) -> None:
    story(r.VolumeCreated(id=3, name="c", size=1 << 20))
    new = (r.NewRelation(9, 1, 2, ((0, 0, 16),)), r.NewRelation(10, 2, 3, ((0, 0, 16),)))
    story(r.RelationsEstablished(relations=new, stamp=5))
    assert (story.pointer("b", 0), story.pointer("c", 0)) == (100, 200)
    story(r.RelationsRefreshed(ids=(10,), stamp=6))
    assert story.pointer("c", 0) == 100


def test_refresh_and_restore_are_new_instants(story: Story) -> None:
    story(established([(0, 0, 32)]))
    story.map("a", 0, 300)
    story.map("b", 16, 400)
    story(r.RelationsRefreshed(ids=(9,), stamp=6))
    assert [story.pointer("b", n) for n in (0, 16)] == [300, 116]
    story.map("b", 1, 500)
    story(r.RelationsRestored(ids=(9,), stamp=7))
    assert [story.pointer("a", n) for n in (0, 1)] == [300, 500]
    relation = story.state.relations[9]
    assert (relation.generation, relation.stamp, relation.lsn) == (3, 7, story.lsn)


def test_discard_empties_the_tracks_nobody_wrote(story: Story) -> None:
    story(established([(0, 0, 32)]))
    since = story.state.relations[9].born
    story.map("b", 17, since + 1)
    story(r.RelationsWithdrawn(parts=(r.WithdrawnPart(9),), discard=True))
    assert [story.pointer("b", n) for n in (0, 16, 17)] == [0, 116, since + 1]
    assert not story.state.relations


def test_discard_sees_writes_to_a_leaf_that_the_copy_has_made(story: Story) -> None:
    """Places that disagree modulo the leaf get a leaf of their own, and a host may write that."""
    story(established([(0, 16, 32)]))
    since = story.state.relations[9].born
    story.map("b", 16, since)
    story(r.RelationsWithdrawn(parts=(r.WithdrawnPart(9),), discard=True))
    assert [story.pointer("b", n) for n in (0, 16, 32)] == [200, since, 0]


def test_keep_changes_no_block(story: Story) -> None:
    story(established([(0, 0, 32)]))
    changed = story.state.volumes[2].changed_lsn
    story(r.RelationsWithdrawn(parts=(r.WithdrawnPart(9),)))
    assert [story.pointer("b", n) for n in (0, 16)] == [100, 116]
    assert not story.state.relations
    assert story.state.volumes[2].changed_lsn == changed


def test_a_part_is_withdrawn_and_the_rest_stays(story: Story) -> None:
    story(established([(0, 0, 48)]))
    story(r.RelationsWithdrawn(parts=(r.WithdrawnPart(9, ((16, 16),)),), discard=True))
    assert story.state.relations[9].extents == [(0, 0, 16), (32, 32, 16)]
    assert [story.pointer("b", n) for n in (0, 16)] == [100, 0]


def test_reverting_takes_size_and_content_and_can_be_undone(story: Story) -> None:
    story(r.CopyTaken(name="c", writable=False, stamp=1, members=((2, 3),)))
    story(r.VolumeResized(id=2, size=2 << 20))
    story.map("b", 0, 300)
    story.map("b", 300, 301)
    story(r.VolumesReverted(members=((2, 3),), undo="u", undo_members=((2, 4),), stamp=2))
    assert (story.state.volumes[2].size, story.pointer("b", 0)) == (1 << 20, 200)
    assert (story.state.volumes[4].size, story.pointer("b@u", 300)) == (2 << 20, 301)
    story.map("b", 0, 400)
    assert [story.pointer(f"b@{copy}", 0) for copy in "cu"] == [200, 300]


# -- mirrored volumes


@pytest.fixture
def mirrored(story: Story) -> Story:
    """b is in a group, cut 1 was placed, and a secondary follows."""
    story(r.GroupCreated(name="g", lineage="ab" * 16, volumes=(2,)))
    story(r.SessionOpened(group="g", peer="p"), r.CutPlaced(group="g", cut=1, stamp=1))
    return story


def test_a_followed_volume_leaves_an_image_of_what_it_became(mirrored: Story) -> None:
    mirrored(established([(0, 0, 32)], images=((2, 20),)))
    mirrored.map("b", 0, 900)
    (image,) = mirrored.state.groups["g"].images
    assert (image.lsn, image.volume, image.image, image.ranges) == (mirrored.lsn, 2, 20, [(0, 32)])
    forest, table = mirrored.state.forest, mirrored.state.tables[20]
    assert forest.at(table, 0)[0] == 100
    assert sorted(mirrored.state.names) == ["a", "b"], "nobody sees it"
    assert mirrored.state.volumes[2].changed_lsn == mirrored.lsn


def test_copies_within_a_group_leave_only_their_extents(mirrored: Story) -> None:
    mirrored(r.GroupDeleted(name="g"), r.GroupCreated(name="g", lineage="a", volumes=(1, 2)))
    mirrored(r.SessionOpened(group="g", peer="p"), r.CutPlaced(group="g", cut=1, stamp=1))
    mirrored(established([(0, 0, 32)], images=((2, 0),)))
    (image,) = mirrored.state.groups["g"].images
    assert (image.volume, image.image, image.source) == (2, 0, 1)
    assert image.extents == [(0, 0, 32)]
    assert sorted(mirrored.state.volumes) == [1, 2]
    mirrored(r.CutPlaced(group="g", cut=2, stamp=2, acked={"p": 1}))
    mirrored(r.CutPlaced(group="g", cut=3, stamp=3, acked={"p": 2}))
    assert mirrored.state.groups["g"].images == []


def test_an_image_stays_until_every_secondary_has_a_newer_cut(mirrored: Story) -> None:
    mirrored(established([(0, 0, 32)], images=((2, 20),)))
    mirrored(r.CutPlaced(group="g", cut=2, stamp=2))
    assert 20 in mirrored.state.volumes
    mirrored(r.CutPlaced(group="g", cut=3, stamp=3, acked={"p": 2}))
    assert 20 not in mirrored.state.volumes
    assert mirrored.state.groups["g"].images == []


@pytest.mark.parametrize(
    "how",
    [
        r.SessionClosed(group="g", peer="p"),
        r.SessionFellBehind(group="g", peer="p"),
        r.SessionSuspended(group="g", peer="p", cause="full", stamp=1),
    ],
)
def test_an_image_that_no_secondary_needs_any_more_goes(mirrored: Story, how: r.AnyRecord) -> None:
    """There may be no other cut for a long time, or ever, and it keeps old blocks."""
    mirrored(r.SessionOpened(group="g", peer="q"), established([(0, 0, 32)], images=((2, 20),)))
    mirrored(how)
    assert 20 in mirrored.state.volumes, "another one may need it"
    mirrored(r.SessionClosed(group="g", peer="q"))
    assert 20 not in mirrored.state.volumes
    assert mirrored.state.groups["g"].images == []


@pytest.mark.parametrize("how", [r.GroupDeleted(name="g"), r.Fenced(group="g", epoch=2)])
def test_an_image_ends_with_its_group(mirrored: Story, how: r.AnyRecord) -> None:
    mirrored(established([(0, 0, 32)], images=((2, 20),)), how)
    assert sorted(mirrored.state.volumes) == sorted(mirrored.state.tables) == [1, 2]


def test_without_a_secondary_the_log_leads_on_from_no_earlier_cut(mirrored: Story) -> None:
    """It has no image of what a volume became; what changed is known all the same."""
    state, group = mirrored.state, mirrored.state.groups["g"]
    session = group.sessions["p"]
    mark = group.marks[0]
    assert changes.log_serves(group, session, mark)
    mirrored(r.SessionClosed(group="g", peer="p"), established([(0, 16, 32)]))
    assert group.marks == [mark]
    assert not changes.log_serves(group, session, mark)
    assert changes.since(state, group, mark.cut) == {2: BitMap([1, 2])}
    mirrored(r.CutPlaced(group="g", cut=2, stamp=3))
    assert changes.log_serves(group, session, group.marks[-1])


def test_a_relation_ends_with_a_mirrored_copy() -> None:
    """The primary deletes it, and nobody here can refuse that."""
    story = following()
    story(begun(1, shadow=13))
    story(r.CopyTaken(name="c", writable=False, stamp=1, members=((13, 14),), group="g"))
    story(r.IncomingCommitted(group="g", cut=2, stamp=2))
    new = r.NewRelation(20, 14, 1, ((0, 0, 16),), True)
    story(r.RelationsEstablished(relations=(new,), stamp=5))
    assert story.pointer("own", 0) == 500
    story(begun(2, shadow=21), r.CopyDeleted(name="c", group="g"))
    story(r.IncomingCommitted(group="g", cut=3, stamp=3))
    assert not story.state.relations
    assert not story.state.inhibited
    assert story.pointer("own", 0) == 500


# -- splitting

SPLITS = st.lists(st.integers(0, 60), unique=True, max_size=8).map(sorted)


def ranges_of(edges: list[int]) -> list[tuple[int, int]]:
    return [(a, b - a) for a, b in zip(edges[::2], edges[1::2], strict=False)]


@given(SPLITS, SPLITS)
def test_split_loses_no_block(edges: list[int], cuts: list[int]) -> None:
    extents = [(at + 100, at, n) for at, n in ranges_of(edges)]
    gone = ranges_of(cuts)
    inside, outside = split(extents, gone)
    cut = {block for first, n in gone for block in range(first, first + n)}
    whole = {at + n for _, at, count in extents for n in range(count)}
    for found, expected in ((inside, whole & cut if gone else whole), (outside, whole - cut)):
        if not gone and found is outside:
            expected = set()
        assert sorted(at + n for _, at, count in found for n in range(count)) == sorted(expected)
        assert all(first == at + 100 for first, at, _ in found)
