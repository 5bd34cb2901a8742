from __future__ import annotations

import pytest

from isochrone.store import records as r
from isochrone.types import MIB
from tests.store.stories import Story, names, two_volumes


@pytest.fixture
def story() -> Story:
    return two_volumes()


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
