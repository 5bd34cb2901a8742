from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from isochrone.errors import Damaged, NoSpace
from isochrone.store import changes, volumes
from isochrone.store import records as r
from isochrone.store.backup import Backup
from isochrone.store.catalogue import MARKS_MAX, Group, Mark, Session
from isochrone.store.changes import PIECE_BYTES_MIN, TRACK_BLOCKS, ChangedTracks, Changes
from isochrone.store.pool import Pool
from isochrone.store.rebuild import rebuild
from isochrone.types import MIB, TRACK
from isochrone.world.disk import METADATA_NAME, FolderDisk
from tests.store.pools import Rig, open_on, pattern, put, settle
from tests.store.stories import Story, begun, following

LINEAGE = "ab" * 16


def tracks(found: dict[int, BitMap] | None) -> dict[int, set[int]] | None:
    return None if found is None else {id: set(bits) for id, bits in found.items() if bits}


# -- generations


def recording(*cuts: int) -> Changes:
    """Of a group of volumes 1 and 2; after each cut a track of volume 1 with its number."""
    found = Changes()
    for cut in cuts:
        found.begin("g", cut, [1, 2])
        found.note(1, cut * TRACK_BLOCKS, 1)
    return found


def content(found: Changes) -> dict[int, dict[int, set[int]]]:
    return {x.cut: {v: set(bits) for v, bits in x.tracks.items()} for x in found.of("g")}


def test_blocks_are_noted_in_tracks() -> None:
    found = Changes()
    found.note(1, 0, 1)  # nobody asked
    found.begin("g", 5, [1, 2])
    found.note(1, 15, 2)
    found.note(2, 16, 16)
    found.note(2, 1 << 20, 0)
    found.note(3, 0, 1)
    found.note_blocks(2, np.array([700, 3, 700, 5], np.uint64))
    found.note_blocks(2, np.array([], np.uint64))
    found.note_blocks(9, np.array([1], np.uint64))
    assert content(found) == {5: {1: {0, 1}, 2: {0, 1, 43}}}


def test_what_a_forgotten_cut_had_belongs_to_the_one_before() -> None:
    found = recording(1, 2, 3, 4)
    found.keep("g", {2, 4})
    assert content(found) == {2: {1: {2, 3}}, 4: {1: {4}}}
    found.keep("g", {2})  # the newest goes: it is still recorded
    found.note(1, 9 * TRACK_BLOCKS, 1)
    found.note(2, 0, 1)
    assert content(found) == {2: {1: {2, 3, 4, 9}, 2: {0}}}
    found.forget("g")
    found.note(1, 0, 1)
    assert content(found) == {}
    assert found.rows() == {}


def test_a_volume_that_is_new_or_gone() -> None:
    found = recording(1)
    found.join("g", 3)
    found.join("other", 4)
    found.note(3, 0, 1)
    found.note(4, 0, 1)
    found.drop_volume(3)
    found.note(3, 90, 1)
    assert content(found) == {1: {1: {1}, 3: {0}}}


def test_what_arrives_is_recorded_by_itself() -> None:
    found = recording(1)
    found.begin_incoming("g", [7])
    found.note(7, 0, 20)
    assert tracks(found.end_incoming("g")) == {7: {0, 1}}
    found.note(7, 100, 1)
    assert found.end_incoming("g") == {}
    found.add(1, BitMap([5]))
    found.add(2, BitMap([6]))
    found.add(9, BitMap([6]))
    assert content(found) == {1: {1: {1, 5}, 2: {6}}}


def test_only_what_has_changed_is_encoded_again() -> None:
    found = recording(1, 2)
    found.begin_incoming("g", [7])
    found.note(7, 0, 1)
    before = found.rows()
    assert len(before) == 3
    found.note(1, 2 * TRACK_BLOCKS, 1)  # known already
    found.note(2, 0, 1)
    after = found.rows()
    assert all(after[key] is body for key, body in before.items())
    assert len(after) == 4


def test_a_checkpoint_is_loaded_as_it_was() -> None:
    found = recording(1, 2)
    found.begin_incoming("g", [7])
    found.note(7, 0, 1)
    rows = [msgspec.msgpack.decode(body, type=ChangedTracks) for body in found.rows().values()]
    assert [row.key for row in rows] == list(found.rows())
    group = Group(name="g", role="secondary", volumes=[1, 2])
    group.marks = [Mark(0, 1, 0, 0), Mark(1, 2, 0, 0, True), Mark(2, 3, 0, 0, True)]
    group.incoming = _incoming()
    again = Changes()
    again.load([group], rows)
    assert content(again) == content(found)
    again.note(2, 0, 1)
    again.note(7, 16, 1)
    assert content(again)[2] == {1: {2}, 2: {0}}
    assert tracks(again.end_incoming("g")) == {7: {0, 1}}


def _incoming() -> Any:
    story = following()
    story(begun(1, shadow=7))
    return story.state.groups["g"].incoming


def test_marks_of_a_build_that_recorded_nothing_are_not_known() -> None:
    story = following()
    group = story.state.groups["g"]
    group.marks = [Mark(1, 1, 0, 0)]
    story.state.changes.forget("g")
    assert changes.since(story.state, group, 1) is None
    assert changes.count_since(story.state, group, 1) is None
    old = begun(1, shadow=13)
    story(old)
    assert group.incoming is not None
    group.incoming.recorded = False  # begun before the update
    story(r.IncomingCommitted(group="g", cut=2, stamp=3))
    assert [mark.cut for mark in group.marks] == [2]
    assert tracks(changes.since(story.state, group, 2)) == {}


# -- bitmaps as bytes


@given(st.sets(st.integers(0, 1 << 22), max_size=50), st.lists(st.integers(0, 1 << 21), max_size=3))
@settings(max_examples=60)
def test_a_bitmap_in_pieces_is_the_same_bitmap(single: set[int], starts: list[int]) -> None:
    bits = BitMap(single)
    for start in starts:
        bits.add_range(start, start + 100_000)
    pieces = list(changes.encode(bits, PIECE_BYTES_MIN))
    assert all(len(piece) <= PIECE_BYTES_MIN for piece in pieces)
    found = [changes.decode(piece, 1 << 23) for piece in pieces]
    assert BitMap.union(*found) == bits if found else not bits


def test_the_worst_bitmap_keeps_its_bound() -> None:
    bits = BitMap(range(0, 1 << 19, 2))
    pieces = list(changes.encode(bits, PIECE_BYTES_MIN))
    assert len(pieces) == 4
    assert max(map(len, pieces)) <= PIECE_BYTES_MIN


def test_what_is_no_bitmap_is_refused() -> None:
    dice = random.Random(5)
    good = bytearray(BitMap([*range(100, 9000), *range(1 << 20, 3 << 20, 7)]).serialize())
    refused = 0
    for body in (b"", b"\0", bytes(1000), bytes(good[:-1])):
        with pytest.raises(ValueError):
            changes.decode(body, 1 << 32)
    for _ in range(3000):
        body = bytearray(good)
        for _ in range(dice.randrange(1, 4)):
            body[dice.randrange(dice.choice((8, 200, len(body))))] = dice.randrange(256)
        try:
            bits = changes.decode(bytes(body), 4 << 20)
        except ValueError:
            refused += 1
            continue
        assert not bits or bits.max() < 4 << 20
        assert len(bits | BitMap([1])) <= 4 << 20
    assert refused > 1000


def test_a_track_beyond_the_volume_is_refused() -> None:
    assert changes.decode(BitMap([5]).serialize(), 6) == BitMap([5])
    with pytest.raises(ValueError, match="track 6"):
        changes.decode(BitMap([6]).serialize(), 6)


def test_a_whole_volume() -> None:
    assert changes.whole(TRACK + 1) == BitMap([0, 1])
    assert changes.size_of({1: changes.whole(MIB), 2: BitMap([3])}) == MIB + TRACK


# -- who needs the log


def followed(**sessions: Session) -> Group:
    marks = [Mark(cut, 10 * cut, 0, 0, True) for cut in range(1, 6)]
    return Group(name="g", role="primary", cut=5, marks=marks, sessions=sessions)


def test_the_log_is_kept_for_those_who_get_it() -> None:
    near, far = Session(cut=4), Session(cut=2)
    group = followed(near=near, far=far)
    assert changes.log_pin(group) == (20, ["far"])
    far.keeps_log = False
    assert changes.log_pin(group) == (40, ["near"])
    assert not changes.log_serves(group, far, group.marks[1])
    near.whole_lsn = 50  # an image of cut 5 is on its way
    assert changes.log_pin(group) == (50, ["near"])
    near.whole_lsn, group.resend_before_lsn = 0, 45
    assert changes.log_pin(group) == (50, ["near"])
    near.keeps_log = False
    assert changes.log_pin(group) is None
    assert changes.log_pin(followed()) is None
    assert changes.log_pin(followed(new=Session())) == (10, ["new"])
    assert changes.log_pin(followed(first=Session(sent_cut=3))) == (30, ["first"])
    group = followed(near=Session(cut=1))
    group.role = "fenced"
    assert changes.log_pin(group) is None


def test_the_log_is_not_kept_from_before_what_a_session_has() -> None:
    """A secondary that was set back to an older image asks for it all the same; the mark is still
    here for another one that is suspended, but the images of that part of the log are gone."""
    back, away = Session(cut=4, sent_cut=5), Session(cut=2, keeps_log=False)
    group = followed(back=back, away=away)
    assert changes.log_pin(group) == (40, ["back"])
    served = [mark.cut for mark in group.marks if changes.log_serves(group, back, mark)]
    assert served == [4, 5]
    first = Session(sent_cut=3)
    assert [m.cut for m in group.marks if changes.log_serves(group, first, m)] == [3, 4, 5]


# -- a group at its secondary


def since(story: Story, cut: int) -> dict[int, set[int]] | None:
    return tracks(changes.since(story.state, story.state.groups["g"], cut))


def test_what_a_group_brings_is_known_since_its_cut() -> None:
    story = following()
    assert since(story, 1) == {}
    story(begun(1, shadow=13))
    story.state.changes.note(13, 0, 17)
    assert since(story, 1) == {}, "it is not committed"
    story(r.IncomingCommitted(group="g", cut=2, stamp=2), begun(2, shadow=14))
    story.state.changes.note(14, 0, 1)
    story(begun(2, shadow=15))  # what was collected is dropped
    story.state.changes.note(15, 160, 1)
    story(r.IncomingCommitted(group="g", cut=3, stamp=3))
    assert since(story, 1) == {11: {0, 1, 10}}
    assert since(story, 2) == {11: {10}}
    assert since(story, 3) == {}
    assert since(story, 4) is None
    story(begun(0, shadow=16), r.IncomingCommitted(group="g", cut=4, stamp=4))
    assert since(story, 3) is None, "after a first copy everything may differ"
    assert since(story, 4) == {}


def test_who_takes_over_knows_from_the_first_write_what_differs() -> None:
    story = following()
    story(begun(1, shadow=13))
    story.state.changes.note(13, 0, 1)
    story(r.IncomingCommitted(group="g", cut=2, stamp=2), begun(2, shadow=14))
    story.state.changes.note(14, 320, 1)
    story(r.Promoted(group="g", epoch=4, stamp=5))
    group = story.state.groups["g"]
    assert (group.kept_cut, group.resend_before_lsn) == (2, story.lsn)
    assert [(m.cut, m.lsn) for m in group.marks][-1] == (2, story.lsn)
    story.state.changes.note(11, 160, 1)
    assert since(story, 2) == {11: {10}}
    assert since(story, 1) == {11: {0, 10}}
    assert not changes.log_serves(group, Session(), group.marks[0])
    assert changes.log_serves(group, Session(), group.marks[-1])
    for cut in range(3, 3 + 2 * MARKS_MAX):
        story(r.CutPlaced(group="g", cut=cut, stamp=cut))
        story.state.changes.note(11, cut * TRACK_BLOCKS, 1)
    assert len(group.marks) == MARKS_MAX
    assert [mark.cut for mark in group.marks][:2] == [1, 2], "the old primary may come back to it"
    everything = {*range(3, 3 + 2 * MARKS_MAX), 10}
    assert since(story, 2) == {11: everything}
    assert changes.count_since(story.state, group, 2) == len(everything)


def test_cuts_of_a_branch_that_was_given_up_are_forgotten() -> None:
    """Their numbers are used again by whoever took over."""
    story = following()
    for cut in (2, 3):
        story(begun(cut - 1, shadow=20 + cut))
        story.state.changes.note(20 + cut, cut * 16, 1)
        story(r.IncomingCommitted(group="g", cut=cut, stamp=cut))
    group = story.state.groups["g"]
    group.cut = 1  # what a return to the history of another site sets it to
    story(begun(1, shadow=30))
    story.state.changes.note(30, 160, 1)
    story(r.IncomingCommitted(group="g", cut=2, stamp=9))
    assert [(mark.cut, mark.stamp) for mark in group.marks] == [(1, 100), (2, 9)]
    assert since(story, 1) == {11: {2, 3, 10}}
    assert since(story, 2) == {}


def test_sessions_keep_their_cuts_when_many_are_placed() -> None:
    story = Story()
    story(
        r.VolumeCreated(id=1, name="a", size=MIB),
        r.GroupCreated(name="g", lineage=LINEAGE, volumes=(1,)),
        r.SessionOpened(group="g", peer="far"),
        r.SessionOpened(group="g", peer="near"),
        r.CutPlaced(group="g", cut=1, stamp=1, acked={"near": 0}),
        r.CutPlaced(group="g", cut=2, stamp=1, acked={"near": 1}),
        r.CutPlaced(group="g", cut=3, stamp=1, acked={"far": 2}),
        r.SessionSuspended(group="g", peer="far", cause="told to", stamp=1),
    )
    group = story.state.groups["g"]
    for cut in range(4, 300):
        story.state.changes.note(1, cut * TRACK_BLOCKS, 1)
        story(r.CutPlaced(group="g", cut=cut, stamp=1, acked={"near": cut - 1}))
    assert len(group.marks) == MARKS_MAX
    assert {2, 3, 298, 299} <= {mark.cut for mark in group.marks}
    assert since(story, 2) == since(story, 3) == {1: set(range(4, 300))}
    pin = changes.log_pin(group)
    assert pin is not None
    assert pin[1] == ["near"]
    story(r.GroupDeleted(name="g"))
    assert story.state.changes.rows() == {}


def test_fencing_keeps_what_was_recorded() -> None:
    """It is how far the two sites are apart."""
    story = Story()
    story(
        r.VolumeCreated(id=1, name="a", size=8 * MIB),
        r.GroupCreated(name="g", lineage=LINEAGE, volumes=(1,)),
        r.CutPlaced(group="g", cut=1, stamp=1),
    )
    story.state.changes.note(1, 0, 1)
    story(r.Fenced(group="g", epoch=2), r.VolumeResized(id=1, size=7 * MIB))
    assert since(story, 1) == {1: {0, *range(112, 128)}}


# -- in a pool


def fill(pool: Pool) -> None:
    volumes.create(pool, "a", MIB)
    id = pool.state.names["a"]
    pool.record(r.GroupCreated(name="g", lineage=LINEAGE, volumes=(id,)))
    put(pool, "a", 0, pattern(1))
    pool.record(r.CutPlaced(group="g", cut=1, stamp=1))
    put(pool, "a", 5 * TRACK, pattern(2))
    settle(pool.flush())


def grouped(rig: Rig) -> Pool:
    pool = rig.open()
    fill(pool)
    return pool


def pool_since(pool: Pool, cut: int) -> dict[int, set[int]] | None:
    return tracks(changes.since(pool.state, pool.state.groups["g"], cut))


@pytest.mark.parametrize("copied", [False, True])
def test_a_loss_of_the_metadata_store_loses_no_change(tmp_path: Path, copied: bool) -> None:
    """From the copy of the store and the log, and from the log alone."""
    path = tmp_path / "pool"
    disk = FolderDisk(path)
    pool = open_on(disk)
    fill(pool)
    if copied:
        settle(pool.checkpoint())
        settle(Backup(pool._metadata).look(pool, 1))
        put(pool, "a", 7 * TRACK, pattern(3))
        settle(pool.flush())
    pool.abandon()
    disk.close()
    for name in (METADATA_NAME, METADATA_NAME + "-wal", METADATA_NAME + "-shm"):
        (path / name).unlink(missing_ok=True)
    disk = FolderDisk(path)
    rebuild(disk)
    disk.close()
    disk = FolderDisk(path)
    pool = open_on(disk)
    assert pool_since(pool, 1) == {1: {5, 7} if copied else {5}}
    pool.abandon()
    disk.close()


def test_changed_tracks_that_are_none_are_damage() -> None:
    rig = Rig()
    pool = rig.reopen(grouped(rig))
    assert pool_since(pool, 1) == {1: {5}}
    row = ChangedTracks(group="g", cut=1, volume=1, tracks=b"junk")
    pool.state.changes.of("g")[0].tracks.clear()
    pool.state.changes.rows = lambda: {row.key: _body(row)}  # type: ignore[method-assign]
    settle(pool.checkpoint())
    with pytest.raises(Damaged, match="changed tracks"):
        rig.kill()


def _body(row: ChangedTracks) -> bytes:
    return msgspec.msgpack.encode(row)


def test_a_failed_checkpoint_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    pool = grouped(rig)
    settle(pool.checkpoint())
    put(pool, "a", 9 * TRACK, pattern(3))

    def full(change: object) -> None:
        raise NoSpace("full")

    with monkeypatch.context() as patch:
        patch.setattr(pool._metadata, "commit", full)
        with pytest.raises(NoSpace):
            settle(pool.checkpoint())
    settle(pool.checkpoint())
    position = pool._metadata.position()
    assert position is not None
    assert position.lsn == pool.log.lsn
    assert pool_since(rig.kill(), 1) == {1: {5, 9}}
