"""Documents of the API about relations."""

from __future__ import annotations

import msgspec


class ExtentView(msgspec.Struct, kw_only=True):
    """Bytes; the last one may reach past the end of its volumes, up to a whole block."""

    source_offset: int
    target_offset: int
    length: int


class RelationView(msgspec.Struct, kw_only=True):
    relation: int  # its number
    source: str
    target: str
    extents: list[ExtentView]
    size: int  # bytes of all of them
    stamp: int  # the instant of which the target is a copy
    time: str
    generation: int  # 1, and one more with each refresh and restoration
    inhibit: bool  # hosts may not write the target
    tracks: int  # of 64 KiB
    tracks_differing: int  # in which the target is not what the source is now
    counted: bool  # whether those are all; else there are at least so many


class RelationList(msgspec.Struct, kw_only=True):
    relations: list[RelationView]


ANSWERS = (RelationView, RelationList)
