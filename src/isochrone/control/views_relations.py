"""Documents of the API about relations."""

from __future__ import annotations

import msgspec

from isochrone.control.views_matched import StepView


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
    group: str = ""  # it is mirrored with this group: its secondaries have it, too
    origin: int = 0  # its number at the primary; 0: it was made here
    content_only: list[str] = []  # sites that have what it does, but not the relation
    tracks: int  # of 64 KiB
    tracks_differing: int  # in which the target is not what the source is now
    counted: bool  # whether those are all; else there are at least so many


class RelationList(msgspec.Struct, kw_only=True, omit_defaults=True):
    relations: list[RelationView]
    way: str = ""  # how a command reaches the secondaries; see `views_matched`
    steps: list[StepView] = []  # what was asked before


ANSWERS = (RelationView, RelationList)
