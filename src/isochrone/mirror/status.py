"""What a person or a program is told about a mirrored group."""

from __future__ import annotations

import msgspec


class PeerStatus(msgspec.Struct, kw_only=True):
    """A secondary that follows a group of this controller."""

    peer: str  # pool identity of the secondary
    connected: bool
    acked_cut: int  # newest cut it has hardened
    bytes_sent: int  # on the link, in this connection


class GroupStatus(msgspec.Struct, kw_only=True):
    """A group at this site. Ages are in seconds, stamps in ns since 1970; 0 means never."""

    group: str
    role: str  # primary, fenced, secondary
    state: str  # of the pair: SIMPLEX PENDING COPYING DUPLEX SUSPENDED
    cause: str  # why it is SUSPENDED or PENDING, else empty
    lineage: str
    epoch: int
    volumes: list[str]
    cut: int  # primary: newest placed; secondary: newest applied
    cut_stamp: int
    recovery_point: int  # secondary: the instant a promote would bring back; 0 elsewhere
    recovery_point_age: float  # seconds; -1 where there is none
    source: str  # secondary: address of the primary's link
    bytes_received: int  # secondary: on the link, since this controller started
    bytes_commands: int  # of them for copies, resizes and deletes that travelled as records
    bytes_incoming: int  # secondary: payload of the group that is not committed yet
    peers: list[PeerStatus]  # primary: who follows
    promoted_stamp: int  # when it was promoted here, 0 if never
    superseded_by: int  # fenced: the epoch that took over
    fence_pending: bool  # promoted: the old primary has not confirmed that it is read-only


class PromoteReport(msgspec.Struct, kw_only=True):
    """What a forced failover brought back and what it is known to have lost."""

    group: str
    cut: int  # the cut the group stands at
    cut_stamp: int  # when the primary placed it, ns
    recovery_point: int  # newest instant known to be contained, ns (an idle primary says so)
    recovery_point_age: float  # seconds before the promote
    lineage: str
    epoch: int  # the new one
    last_heard: int  # when the primary last spoke, ns, 0 if not since this controller started
    lost_bytes: int  # written at the primary after the cut when it last spoke; -1 unknown
    incoming_bytes_dropped: int  # received for the next cut, which was not complete
    volumes: list[str]
    copies: list[str]  # copies that came through the mirror and are here
    seconds: float  # how long the promote took
