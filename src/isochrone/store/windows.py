"""Windows of a pool: what is kept for points, opening one, and giving points up for space.

`points` decides which points stay, `apply_points` changes the catalogue; here is what is asked for,
checked and appended. What comes through a mirror gets here only with a cut that was applied: no
message drops a point, or changes a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog

from isochrone.errors import Conflict, InvalidInput
from isochrone.store import points
from isochrone.store import records as r
from isochrone.store.catalogue import Copy, Group
from isochrone.store.names import check_name, free_name
from isochrone.store.points import Point, Window
from isochrone.store.pool import Pool

POOL_SHARE: Final = 5  # a fifth of the pool's room is what a window may take by default
SHED_SHARE: Final = 8  # of the points go at a time while a window has too much; then it is counted
TIGHT_SHARE: Final = 2  # of them while space is tight: there may be no time for many rounds
DROPPED_AT_ONCE: Final = 1024  # in a record: 10 KB

log = structlog.get_logger("isochrone.points")


def set_window(
    pool: Pool, group: Group, keep_s: int, dense_s: int | None = None, bytes_max: int = 0
) -> Window:
    """Say how far back a group can be opened from now on; 0 drops all points."""
    if group.name not in pool.state.windows and group.role != "secondary":
        raise Conflict(
            f"group {group.name!r} is not mirrored to this controller: it has no points here",
            hint="a window belongs to a secondary; here, take copies: isochrone schedule create",
        )
    dense_s = min(keep_s, points.DENSE_S) if dense_s is None else dense_s
    points.check_rules(keep_s, dense_s, bytes_max)
    if dense_s > keep_s:
        raise InvalidInput("every cut cannot be kept for longer than any")
    pool.record(r.WindowSet(group=group.name, keep_s=keep_s, dense_s=dense_s, bytes_max=bytes_max))
    return pool.state.windows[group.name]


def keep(pool: Pool, group: Group) -> int:
    """When the cut that is about to be applied is applied, if it is to be a point; else 0."""
    window = pool.state.windows.get(group.name)
    if window is None:
        window = set_window(pool, group, points.KEEP_S)
    if not window.keep_s or pool.space.tight:
        return 0
    versions = sum(map(len, pool.state.versions.values()))
    if len(window.points) >= points.POINTS_MAX or versions >= points.VERSIONS_MAX:
        return 0  # a primary that places cuts without end: some of these points go within seconds
    return max(pool.window_clock.now(), 1)


def drop(pool: Pool, window: Window, gone: Sequence[Point]) -> None:
    for at in range(0, len(gone), DROPPED_AT_ONCE):
        lsns = tuple(point.lsn for point in gone[at : at + DROPPED_AT_ONCE])
        pool.record(r.PointsDropped(group=window.group, lsns=lsns))


def thin_all(pool: Pool) -> int:
    """Drop what the windows do not want any more; how many points went."""
    state = pool.state
    now = pool.window_clock.now()
    volumes = sum(len(state.groups[name].volumes) for name in state.windows)
    most = points.VERSIONS_MAX // max(1, volumes)
    done = 0
    for window in state.windows.values():
        tiers = points.fitted(points.tiers(window.keep_s, window.dense_s), most)
        gone = points.thin(window.points, now, tiers, newest=window.current)
        drop(pool, window, gone)
        done += len(gone)
    return done


def members_at(pool: Pool, group: Group, point: Point) -> list[tuple[int, int]]:
    """(volume, what it was then) of the volumes that the group had at a point.

    Those that have left it are among them, also if they have been deleted here since.
    """
    state, found = pool.state, []
    since = state.windows[group.name].since
    kept = state.versions.items()
    left = [id for id, versions in kept if state.volumes[next(iter(versions))].group == group.name]
    for id in dict.fromkeys([*group.volumes, *left]):
        versions = (state.volumes[version] for version in state.versions.get(id, ()))
        then = next((v.id for v in versions if v.changed_lsn <= point.lsn <= v.until_lsn), 0)
        if not then and since.get(id, point.lsn + 1) <= point.lsn:
            then = id
        if then:
            found.append((id, then))
    return found


def open_point(
    pool: Pool,
    group: Group,
    point: Point,
    *,
    name: str = "",
    writable: bool = False,
    expendable: bool = False,
) -> Copy:
    """Copy all volumes of a group as they were at a point; flush before saying that it is done.

    The copy is this site's own: nothing that comes through the mirror deletes it.
    """
    state = pool.state
    default = f"{group.name}-as-of-{point.cut}"
    name = check_name("copy", name) if name else free_name(default, state.copies)
    members = members_at(pool, group, point)
    taken = [f"{state.volumes[then].name}@{name}" for _, then in members]
    if name in state.copies or any(export in state.names for export in taken):
        raise Conflict(f"there is a copy {name!r} already")
    if not members:
        raise Conflict(f"none of the volumes of {group.name!r} was there at cut {point.cut}")
    ids = state.new_ids(len(members))
    pool.record(
        r.PointOpened(
            name=name,
            writable=writable,
            stamp=point.stamp,
            cut=point.cut,
            members=tuple((*pair, id) for pair, id in zip(members, ids, strict=True)),
            expendable=expendable,
        )
    )
    return state.copies[name]


class Shedding:
    """Gives points up, the oldest first: when a window keeps too much, and when space is tight.

    What points keep is known when the cleaner has marked. So after each time it has to mark before
    the next.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._acted = -1  # markings there had been when points were last given up
        self._went = 0
        self._seen = -1  # markings there had been at the last look
        self._written_then = 0

    def _limit(self, window: Window) -> int:
        """Bytes that a window may keep. Raises `OSError` if the disk does not say how much is free.

        By default a share of what the log can have.
        """
        log = self._pool.log
        return window.bytes_max or (log.bytes_on_disk + log.free_bytes) // POOL_SHARE

    @property
    def unsure(self) -> bool:
        """Whether a window may keep too much by now, so that it should be counted."""
        pool = self._pool
        written = pool.bytes_written - self._written_then
        return any(
            kept <= limit < kept + written
            for kept, limit in (
                (pool.space.history.get(window.group, 0), self._limit(window))
                for window in pool.state.windows.values()
                if len(window.points) > window.current
            )
        )

    def look(self) -> int:
        """Give points up if it is time; how many went since space was last counted."""
        pool = self._pool
        if pool.space.markings != self._seen:
            self._seen, self._written_then = pool.space.markings, pool.bytes_written
        if pool.failed or pool.space.markings == self._acted:
            return self._went
        done = 0
        for window in pool.state.windows.values():
            if len(window.points) <= window.current:
                continue
            if pool.space.tight:
                done += self._shed(window, TIGHT_SHARE, "the pool is nearly full")
            elif pool.space.history.get(window.group, 0) > self._limit(window):
                done += self._shed(window, SHED_SHARE, "they kept more than the window may")
        if done:
            self._acted = pool.space.markings
        self._went = done
        return done

    def _shed(self, window: Window, share: int, why: str) -> int:
        gone = points.eldest(window.points, share, newest=window.current)
        drop(self._pool, window, gone)
        log.warning("points were given up", group=window.group, points=len(gone), why=why)
        return len(gone)
