"""Documents of the API about points: as of which cuts a group can be opened."""

from __future__ import annotations

import msgspec


class PointView(msgspec.Struct, kw_only=True):
    cut: int
    stamp: int  # when the primary placed it, ns since 1970, by its clock
    time: str
    age: float  # seconds since it was applied here, by a clock that does not jump


class WindowView(msgspec.Struct, kw_only=True):
    """How far back a group can be opened, and its points, oldest first."""

    group: str
    keep: int  # seconds; 0: nothing is kept
    dense: int  # so many seconds back, every cut
    bytes_max: int  # that the window may keep; 0: a fifth of the pool's room
    bytes: int  # that it alone kept when space was last counted
    versions: int  # tables of volumes that are kept for it
    points: list[PointView]


ANSWERS = (WindowView, PointView)
