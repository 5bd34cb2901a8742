"""Points: cuts of a group to which its replica can be opened again, and which of them stay.

Pure: time is an argument. A window reaches back a span, in tiers: every cut of the last minutes,
then one each 10 seconds, each minute, and so on. Of each step of a tier the first point stays; each
step is a multiple of the finer ones, so the first of a long step is the first of a short one too,
and nothing is dropped that would be wanted later.

Instants here are those of the `WindowClock` when a cut was applied, never the primary's stamps:
whoever holds the primary must not be able to shorten a window, by its clock or by many cuts.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from isochrone.errors import InvalidInput
from isochrone.world.clock import Clock

SECOND: Final = 10**9
CUT_STEP_S: Final = 1  # between cuts under load; more of them, as each `mirror wait` asks for, go
STEPS: Final = ((3600, 10), (86400, 60), (7 * 86400, 600))  # (reaches back, one each), seconds
LAST_STEP_S: Final = 3600  # beyond
KEEP_S: Final = 24 * 3600  # default: enough to find out in the morning what happened at night
DENSE_S: Final = 600  # default: a quarter of all points, for the minutes before a disaster
KEEP_S_MAX: Final = 90 * 86400  # 2,160 points an hour apart; who needs more takes copies
DENSE_S_MAX: Final = 1800  # a point each second
POINTS_MAX: Final = 8192  # of a window: 300 KB in its item, which each checkpoint looks at
VERSIONS_MAX: Final = 32768  # frozen tables of a pool's windows: about 50 MB of memory
RESTART_CREDITED_S: Final = 3600  # a clock that was set ahead costs an hour of the window at most


class Point(msgspec.Struct, array_like=True, frozen=True):
    """A cut that can be opened."""

    lsn: int  # of the record that applied it here
    cut: int
    stamp: int  # when the primary placed it, ns, by its clock
    kept_at: int  # when it was applied, ns, by the window clock


class Window(msgspec.Struct, kw_only=True):
    """How far back the replica of a group can be opened, and what there is."""

    group: str
    keep_s: int  # 0: nothing is kept
    dense_s: int  # so far back, every cut
    bytes_max: int = 0  # that it alone keeps; 0: a share of the pool
    points: list[Point] = []  # oldest first; the newest may be what the volumes are now
    since: dict[int, int] = {}  # volume -> record with which it became what it is now

    @property
    def current(self) -> bool:
        """Whether the newest point may be what the volumes are: to drop it would free nothing."""
        return bool(self.since)

    @property
    def lsns(self) -> list[int]:
        return [point.lsn for point in self.points]


class Tier(NamedTuple):
    """So many seconds back, one point each step."""

    span_s: int
    step_s: int


def tiers(keep_s: int, dense_s: int) -> list[Tier]:
    """The tiers of a window, the finest first; none for a window that keeps nothing."""
    if not keep_s:
        return []
    wished = [(dense_s, CUT_STEP_S), *STEPS, (keep_s, LAST_STEP_S)]
    found: list[Tier] = []
    for span, step in wished:
        span = min(span, keep_s)
        if span > (found[-1].span_s if found else 0):
            found.append(Tier(span, step))
    return found


def points_bound(of: Iterable[Tier]) -> int:
    """How many points a window of these tiers has at most, the newest apart."""
    return sum(tier.span_s // tier.step_s + 2 for tier in of)


def fitted(of: Sequence[Tier], most: int) -> list[Tier]:
    """The tiers with at most so many points. They reach as far back as before, in larger steps."""
    found = list(of)
    while len(found) > 1 and points_bound(found) > most:
        del found[0]
    while found and found[0].step_s < found[0].span_s and points_bound(found) > most:
        found[0] = Tier(found[0].span_s, 2 * found[0].step_s)
    return found


def thin(
    points: Sequence[Point], now: int, of: Sequence[Tier], *, newest: bool = True
) -> list[Point]:
    """Which points to drop at an instant of the window clock.

    The `newest` stays however old it is, unless it is not what the volumes are now.
    """
    stay: set[int] = set()
    for tier in of:
        step, oldest = tier.step_s * SECOND, now - tier.span_s * SECOND
        taken: set[int] = set()
        for at, point in enumerate(points):
            number = point.kept_at // step
            if number not in taken and (number + 1) * step > oldest:
                stay.add(at)
            taken.add(number)
    if newest:
        stay.add(len(points) - 1)
    return [point for at, point in enumerate(points) if at not in stay]


def eldest(points: Sequence[Point], share: int, *, newest: bool = True) -> list[Point]:
    """One in `share` of the points, and one at least: the oldest. The `newest` stays, as above."""
    return list(points[: min(len(points) - newest, -(-len(points) // share))])


def at_cut(points: Sequence[Point], cut: int) -> Point | None:
    return next((point for point in reversed(points) if point.cut == cut), None)


def at_time(points: Sequence[Point], stamp: int) -> Point | None:
    """The newest point at or before an instant of the primary's clock."""
    return next((point for point in reversed(points) if point.stamp <= stamp), None)


def covers(lsns: Sequence[int], first: int, last: int) -> bool:
    """Whether a point, of those with these ascending lsns, lies in a span of the log."""
    at = bisect_right(lsns, last)
    return at > 0 and lsns[at - 1] >= first


def check_rules(keep_s: int, dense_s: int, bytes_max: int) -> None:
    """Raises `InvalidInput`."""
    if not 0 <= keep_s <= KEEP_S_MAX:
        raise InvalidInput(f"a window reaches at most {KEEP_S_MAX // 86400} days back")
    if not 0 <= dense_s <= DENSE_S_MAX:
        raise InvalidInput(f"every cut is kept for at most {DENSE_S_MAX // 60} minutes")
    if bytes_max < 0:
        raise InvalidInput("a window cannot have less than no bytes")
    assert points_bound(tiers(keep_s, dense_s)) < POINTS_MAX


class WindowClock:
    """The time that windows go by: never faster than true time, and never back.

    While the controller runs it is the monotonic clock. Over a restart at most `RESTART_CREDITED_S`
    count as passed since the newest point: a wall clock that jumped drops no window, and after a
    long stop the window is that much longer.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._begin, self._from = clock.wall_ns(), clock.monotonic()

    def start(self, seen: int) -> None:
        """Begin at the start of the process, the newest point having come at `seen`; 0: none."""
        wall = self._clock.wall_ns()
        latest = seen + RESTART_CREDITED_S * SECOND
        self._begin = max(seen, min(wall, latest)) if seen else wall
        self._from = self._clock.monotonic()

    def now(self) -> int:
        return self._begin + int((self._clock.monotonic() - self._from) * SECOND)
