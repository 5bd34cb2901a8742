from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.errors import Conflict
from isochrone.store import overlaps
from isochrone.store.catalogue import Relation, Volume
from isochrone.types import MIB
from tests.store.stories import Story, two_volumes

RANGES = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 10)), max_size=6)


def blocks(ranges: list[tuple[int, int]]) -> list[int]:
    return [block for first, count in ranges for block in range(first, first + count)]


@given(RANGES)
def test_an_overlap_is_found_if_there_is_one(ranges: list[tuple[int, int]]) -> None:
    named = blocks(ranges)
    found = overlaps.overlap(ranges)
    if found is None:
        assert len(named) == len(set(named))
    else:
        assert all(named.count(block) > 1 for block in blocks([found]))


@given(RANGES)
def test_joined_ranges_are_the_same_blocks_once(ranges: list[tuple[int, int]]) -> None:
    found = overlaps.joined(ranges)
    assert blocks(found) == sorted(set(blocks(ranges)))
    assert all(a + n < b for (a, n), (b, _) in pairwise(found))


@pytest.fixture
def story() -> Story:
    """a (8 MiB) to b (1 MiB): blocks 16 to 31 of a are blocks 32 to 47 of b."""
    story = two_volumes()
    story.state.add_relation(relation([(16, 32, 16)]))
    return story


def relation(extents: list[tuple[int, int, int]], id: int = 7, **fields: int) -> Relation:
    named = {"source": 1, "target": 2, "lsn": 1, "stamp": 1, "born": 1, "first_node": 1}
    return Relation(id=id, extents=extents, **(named | fields))


def volume(story: Story, name: str) -> Volume:
    return story.state.volumes[story.state.names[name]]


@pytest.mark.parametrize(("block", "count", "free"), [(0, 32, True), (48, 9, True), (47, 1, False)])
def test_a_track_is_in_one_target_only(story: Story, block: int, count: int, free: bool) -> None:
    if free:
        overlaps.check_no_target(story.state, volume(story, "b"), [(block, count)], "restored")
        return
    with pytest.raises(Conflict, match=r"relation 7 \(a to b\)") as refused:
        overlaps.check_no_target(story.state, volume(story, "b"), [(block, count)], "restored")
    assert "relation withdraw 7 --keep" in refused.value.hint


def test_sources_may_be_written(story: Story) -> None:
    overlaps.check_no_target(story.state, volume(story, "a"), [(0, 100)], "restored")


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_related_volume_is_not_deleted(story: Story, name: str) -> None:
    with pytest.raises(Conflict, match="cannot be deleted"):
        overlaps.check_unrelated(story.state, volume(story, name), "deleted")


@pytest.mark.parametrize(("name", "least"), [("a", 32), ("b", 48)])
def test_a_volume_ends_behind_its_extents(story: Story, name: str, least: int) -> None:
    overlaps.check_fits(story.state, volume(story, name), least * 4096)
    with pytest.raises(Conflict, match="cannot be made smaller"):
        overlaps.check_fits(story.state, volume(story, name), least * 4096 - 512)


def test_growing_is_never_refused(story: Story) -> None:
    story.state.relations[7].extents = [(0, 0, 257)]  # as at a volume that ends inside a block
    story.state.volumes[2].size = MIB + 512
    overlaps.check_fits(story.state, volume(story, "b"), MIB + 512)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (relation([(0, 0, 16)], target=9), "does not exist"),
        (relation([(0, 250, 16)]), "behind the end of b"),
        (relation([(0, 40, 16)]), "same track of b"),
    ],
)
def test_what_no_command_leads_to_is_found(story: Story, wrong: Relation, words: str) -> None:
    assert overlaps.contradiction(story.state) == ""
    wrong.id = 8
    story.state.add_relation(wrong)
    assert words in overlaps.contradiction(story.state)


def test_a_source_may_have_been_cut_off_elsewhere(story: Story) -> None:
    story.state.add_relation(relation([(2040, 64, 16)], id=8))
    assert overlaps.contradiction(story.state) == ""


@given(RANGES, st.lists(st.tuples(st.integers(0, 40), st.integers(1, 10)), max_size=6))
def test_no_target_is_what_overlaps_say(wanted: list[Any], theirs: list[Any]) -> None:
    story = two_volumes()
    apart = overlaps.joined(theirs)
    if not wanted or not apart:
        return
    story.state.add_relation(relation([(0, at, n) for at, n in apart]))
    volume = story.state.volumes[2]
    if set(blocks(wanted)).isdisjoint(blocks(apart)):
        overlaps.check_no_target(story.state, volume, wanted, "copied onto")
        return
    with pytest.raises(Conflict, match="bytes at") as caught:
        overlaps.check_no_target(story.state, volume, wanted, "copied onto")
    size, at = (int(x) // 4096 for x in re.findall(r"(\d+) bytes at (\d+)", str(caught.value))[0])
    shared = set(range(at, at + size))
    assert shared
    assert shared <= set(blocks(wanted)) & set(blocks(apart))
