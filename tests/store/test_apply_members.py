from __future__ import annotations

import pytest

from isochrone.store import changes
from isochrone.store import records as r
from isochrone.store.changes import since
from isochrone.types import TRACK
from tests.store.stories import Story, two_volumes


@pytest.fixture
def story() -> Story:
    made = two_volumes()
    made(
        r.VolumeCreated(id=3, name="late", size=1 << 20),
        r.GroupCreated(name="g", lineage="ab" * 16, volumes=(1, 2)),
        r.SessionOpened(group="g", peer="p"),
        r.CutPlaced(group="g", cut=1, stamp=10),
        r.CutPlaced(group="g", cut=2, stamp=20, acked={"p": 1}),
    )
    return made


def test_a_new_volume_is_new_since_every_cut_before(story: Story) -> None:
    group = story.state.groups["g"]
    story(r.GroupChanged(group="g", joined=(3,)))
    assert group.volumes == [1, 2, 3]
    assert story.state.volumes[3].group == "g"
    for cut in (1, 2):
        found = since(story.state, group, cut)
        assert found is not None
        assert set(found[3]) == set(range((1 << 20) // TRACK))
    session, mark = group.sessions["p"], group.mark(2)
    assert mark is not None
    assert not changes.log_serves(group, session, mark)
    story(r.CutPlaced(group="g", cut=3, stamp=30, acked={"p": 2}, whole="p", begun=(2, 3)))
    assert since(story.state, group, 3) == {}
    mark = group.mark(3)
    assert mark is not None
    assert changes.log_serves(group, session, mark)
    story.state.changes.note(3, 0, 1)
    found = since(story.state, group, 3)
    assert found is not None
    assert set(found) == {3}


def test_what_leaves_is_forgotten_and_may_come_again(story: Story) -> None:
    state, group = story.state, story.state.groups["g"]
    state.changes.note(2, 0, 1)
    state.volumes[2].blocks_changed = 7
    before = state.blocks_changed(group) - group.marks[-1].blocks_changed
    rows = state.changes.rows()
    story(r.GroupChanged(group="g", left=(2,)))
    assert (group.volumes, state.volumes[2].group) == ([1], "")
    assert 2 in state.touched_volumes
    assert group.left_lsn == group.members_lsn == group.resend_before_lsn > 0
    assert state.blocks_changed(group) - group.marks[-1].blocks_changed == before
    assert len(state.changes.rows()) == len(rows) - 1
    state.changes.note(2, 0, 1)
    assert since(state, group, 1) == {}
    story(r.GroupChanged(group="g", joined=(2,)))
    found = since(state, group, 1)
    assert found is not None
    assert set(found) == {2}
    assert group.left_lsn < group.members_lsn
    # As many tracks as before, and other ones: the store must not keep the old bitmap.
    story(r.GroupChanged(group="g", left=(2,)), r.GroupChanged(group="g", joined=(2,)))
    state.changes.leave("g", 2)
    state.changes.join("g", 2)
    state.changes.note(2, 16, 1)
    old = [body for key, body in rows.items() if key[1].endswith("2")]
    new = [body for key, body in state.changes.rows().items() if key[1].endswith("2")]
    assert len(old) == len(new) == 1
    assert old != new


def test_one_record_takes_out_and_deletes(story: Story) -> None:
    story(
        r.CopyTaken(name="c", writable=False, stamp=5, members=((2, 8),)),
        r.GroupChanged(group="g", joined=(3,), left=(2,), deleted=(2,)),
    )
    assert story.state.groups["g"].volumes == [1, 3]
    assert 2 not in story.state.volumes
    assert story.state.describe(story.state.volumes[8]) == "snapshot of a deleted volume"
    assert since(story.state, story.state.groups["g"], 1) is not None
