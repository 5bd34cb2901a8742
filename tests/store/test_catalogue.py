from __future__ import annotations

import pytest

from isochrone.store import records as r
from isochrone.types import BLOCK, MIB
from tests.store.stories import Story, following, names, two_volumes


@pytest.fixture
def story() -> Story:
    return two_volumes()


@pytest.fixture
def secondary() -> Story:
    return following()


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


def test_exports_are_sorted_and_described(secondary: Story) -> None:
    exports = list(secondary.state.exports())
    assert [(e.name, e.read_only, e.description) for e in exports] == [
        ("own", False, "volume"),
        ("x", True, "volume of group g (secondary)"),
    ]
