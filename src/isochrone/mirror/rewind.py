"""The replica as of an earlier cut: finding the point that is meant, and thinning meanwhile.

A time is an instant of the primary's clock: cuts carry its stamps. They label; which points stay is
decided by a clock of this site (`store.points`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import structlog

from isochrone.errors import Conflict, IsochroneError, NotFound
from isochrone.mirror.groups import find_group
from isochrone.store import points, windows
from isochrone.store.catalogue import Group
from isochrone.store.points import Point, Window
from isochrone.store.pool import Pool

LOOK_SECONDS: Final = 5.0  # between thinnings: each is a record for all that went

log = structlog.get_logger("isochrone.points")


def find_window(pool: Pool, name: str) -> tuple[Group, Window]:
    """Raises `NotFound`, or `Conflict` for a group that has no points here."""
    group = find_group(pool, name)
    window = pool.state.windows.get(name)
    if window is not None:
        return group, window
    if group.role != "secondary":
        raise Conflict(
            f"group {name!r} is not mirrored to this controller: it has no points here",
            hint="ask its secondary; here, see: isochrone copy list",
        )
    raise Conflict(
        f"no cut of group {name!r} has been applied here yet",
        hint=f"see: isochrone mirror status {name}",
    )


def find_cut(pool: Pool, name: str, cut: int) -> Point:
    """The point of a cut. Raises `NotFound` with the nearest ones."""
    _, window = find_window(pool, name)
    found = points.at_cut(window.points, cut)
    if found is None:
        before = [point for point in window.points if point.cut < cut]
        after = [point for point in window.points if point.cut > cut]
        raise _none(window, f"cut {cut}", before, after)
    return found


def find_time(pool: Pool, name: str, stamp: int) -> Point:
    """The newest point at or before an instant. Raises `NotFound` with the oldest."""
    _, window = find_window(pool, name)
    found = points.at_time(window.points, stamp)
    if found is None:
        raise _none(window, _when(stamp), [], window.points)
    return found


def _none(window: Window, wanted: str, before: list[Point], after: list[Point]) -> NotFound:
    if not window.points:
        return NotFound(
            f"group {window.group!r} has no points",
            hint=f"see: isochrone mirror points {window.group}",
        )
    near = [f"cut {point.cut} of {_when(point.stamp)}" for point in [*before[-1:], *after[:1]]]
    return NotFound(
        f"group {window.group!r} has no point of {wanted}; the nearest: {' and '.join(near)}",
        hint=f"see: isochrone mirror points {window.group}",
    )


def _when(stamp: int) -> str:
    seconds, ns = divmod(stamp, points.SECOND)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ns // 10**6:03d}Z"


class Keeper:
    """Thins the windows of a pool. `run` never returns by itself."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def run(self) -> None:
        while True:
            await self._pool.world.clock.sleep(LOOK_SECONDS)
            if self._pool.failed:
                continue
            try:
                windows.thin_all(self._pool)
            except IsochroneError as e:  # a full disk: what is dropped later is dropped then
                log.error("points could not be thinned", reason=e.message)
