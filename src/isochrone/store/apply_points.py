"""What each record about points changes. Called by `State.apply` and other apply steps alone.

A point has no tables of its own. A *version* is what a volume was from one cut to another: a hidden
volume with the table that a commit replaced, kept if a point lies in that span. So a volume that
rests costs nothing, however many points there are. What a volume is now is its newest version.
"""

from __future__ import annotations

from collections.abc import Iterable

from isochrone.store import records as r
from isochrone.store.apply_volumes import add_member
from isochrone.store.catalogue import Catalogue, Copy, Place, Volume
from isochrone.store.points import Point, Window, covers
from isochrone.store.tracks import Table


def window_set(state: Catalogue, place: Place, record: r.WindowSet) -> None:
    window = state.windows.get(record.group)
    if window is None:
        window = state.windows[record.group] = Window(group=record.group, keep_s=0, dense_s=0)
    window.keep_s, window.dense_s = record.keep_s, record.dense_s
    window.bytes_max = record.bytes_max
    if not record.keep_s:
        _drop(state, window, window.lsns)


def points_dropped(state: Catalogue, place: Place, record: r.PointsDropped) -> None:
    _drop(state, state.windows[record.group], record.lsns)


def _drop(state: Catalogue, window: Window, lsns: tuple[int, ...] | list[int]) -> None:
    """Take points out, with every version that no other point lies in."""
    gone = frozenset(lsns)
    dropped = sorted(gone)
    window.points = [point for point in window.points if point.lsn not in gone]
    left = window.lsns
    # Of each by itself: a volume may have been in another group, with points of its own.
    for version in [state.volumes[id] for ids in state.versions.values() for id in ids]:
        span = version.changed_lsn, version.until_lsn
        mine = version.group == window.group
        if mine and covers(dropped, *span) and not covers(left, *span):
            _drop_version(state, version)


def _drop_version(state: Catalogue, version: Volume) -> None:
    versions = state.versions[version.source]
    del versions[version.id]
    if not versions:
        del state.versions[version.source]
    state.drop(version.id)


def point_opened(state: Catalogue, place: Place, record: r.PointOpened) -> None:
    copy = Copy(
        name=record.name,
        writable=record.writable,
        stamp=record.stamp,
        lsn=place.lsn,
        members=[(volume, member) for volume, _, member in record.members],
        expendable=record.expendable,
        as_of_cut=record.cut,
    )
    for volume, version, id in record.members:
        add_member(state, copy, volume, id, like=version)
    state.copies[record.name] = copy
    state.note_copy(copy)


# -- steps of the records about groups


def replaced(state: Catalogue, place: Place, volume: Volume, size: int, table: Table) -> None:
    """A commit is about to give a volume this size and table: keep what it is, if it is wanted."""
    window = state.windows.get(volume.group)
    if window is None:
        return
    before, since = state.tables[volume.id], window.since.get(volume.id)
    if since is not None and before is not table:
        if volume.size == size and before.root == table.root:
            return  # nothing was sent for it
        _keep(state, window, volume, before)
    window.since[volume.id] = place.lsn


def _keep(state: Catalogue, window: Window, volume: Volume, table: Table) -> None:
    since = window.since[volume.id]
    if not window.points or window.points[-1].lsn < since:
        return
    version = Volume(
        id=state.next_id,
        name=volume.name,
        size=volume.size,
        kind="point",
        source=volume.id,
        group=volume.group,
        changed_lsn=since,
        until_lsn=window.points[-1].lsn,
    )
    table.changed = True  # the store has it under another id, if at all
    state.add(version, table, named=False)
    state.versions.setdefault(volume.id, {})[version.id] = None


def committed(state: Catalogue, place: Place, record: r.IncomingCommitted) -> None:
    """A cut has been applied; it becomes a point if the record says so."""
    window = state.windows.get(record.group)
    if window is not None and record.kept_at:
        window.points.append(Point(place.lsn, record.cut, record.stamp, record.kept_at))


def left(state: Catalogue, group: str, ids: Iterable[int]) -> None:
    """Volumes are about to leave the group: what they are now is kept for the points."""
    window = state.windows.get(group)
    if window is None:
        return
    for id in [id for id in ids if id in window.since]:
        _keep(state, window, state.volumes[id], state.forest.clone(state.tables[id], passing=True))
        del window.since[id]


def released(state: Catalogue, group: str) -> None:
    """From here on hosts may write to the volumes: what they are now is kept for the points."""
    window = state.windows.get(group)
    if window is None:
        return
    for id in [id for id in window.since if id in state.volumes]:
        _keep(state, window, state.volumes[id], state.forest.clone(state.tables[id], passing=True))
    window.since = {}


def forgotten(state: Catalogue, group: str) -> None:
    """The group is gone, and its points with it."""
    window = state.windows.pop(group, None)
    if window is not None:
        _drop(state, window, window.lsns)
