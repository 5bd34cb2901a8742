"""What failing over, switching and coming back mean or did, for whoever shows it.

Apart from those that do it: a command that only prints one of these is to start at once, without
the store and the mirror.
"""

from __future__ import annotations

import msgspec


class LossStatement(msgspec.Struct, kw_only=True):
    """What a promotion would bring back now, and what it would give up. Stamps in ns, 0: never."""

    group: str
    cut: int  # the newest complete one here
    cut_stamp: int  # when the primary placed it
    recovery_point: int  # newest instant known to be contained, by the primary's clock
    recovery_point_age: float  # seconds
    lost_bytes: int  # written at the primary after the cut when it last spoke; -1 unknown
    incoming_bytes: int  # received for the next cut, which is not complete: given up
    last_heard: int  # when the primary last spoke; 0 if not since this controller started
    primary_connected: bool  # it is alive and sends: a planned switch would lose nothing
    state: str  # of the pair
    cause: str  # why it is suspended, else empty
    epoch: int  # the one that would begin
    old_primary: str  # address of its link


class SwitchReport(msgspec.Struct, kw_only=True):
    """What a planned switch did."""

    group: str
    cut: int  # the last of the old primary, where the new one went on
    cut_stamp: int
    epoch: int  # the new one
    old_primary: str  # address of its link; it follows this site from now on
    steps: list[str]  # those that were done; fewer when an earlier try was gone on with
    hosts: list[str]  # that had volumes open for writing at the old primary, all the same
    held_seconds: float  # how long nobody could write, as seen from here


class RejoinReport(msgspec.Struct, kw_only=True):
    """What coming back means, before or after it is done. Stamps in ns since 1970, 0: unknown."""

    group: str
    source: str
    epoch: int  # of the new primary
    cut: int  # newest that both have; 0: none is known, so everything is copied
    first_copy: bool
    diverged: dict[str, int]  # bytes by volume that differ from that cut here, at most
    since: int  # stamp of the cut since which they are counted
    until: int  # when this site stopped being the primary
    orphans: str  # name of the copy that keeps the volumes as they are; empty: nothing to keep
    done: bool
