"""What a person or a program is told about a mirrored group."""

from __future__ import annotations

import msgspec

from isochrone.mirror.history import Spread
from isochrone.mirror.tally import Shipped


class Suspension(msgspec.Struct, kw_only=True):
    """A time without mirroring."""

    cause: str  # command, link, limit, error, refused, fenced
    why: str  # a sentence
    stamp: int  # when it began, ns
    until: int = 0  # when it ended; 0: it goes on


class PeerStatus(msgspec.Struct, kw_only=True):
    """A secondary that follows a group of this controller."""

    peer: str  # pool identity of the secondary
    connected: bool
    acked_cut: int  # newest cut it has hardened
    bytes_sent: int  # on the link, in this connection
    site: str = ""  # what it calls itself
    state: str = "INACTIVE"  # of the session: INACTIVE RECOVERY ACTIVE SUSPENDED RECOVERED
    pair: str = "SUSPENDED"  # of its pairs, as this side sees them
    cause: str = ""  # why nothing goes to it: command, link, limit, error, refused, fenced
    why: str = ""  # the same as a sentence
    since: int = 0  # when the state began, ns, in this life of the controller
    backlog_bytes: int = 0  # written after the cut it has
    backlog_age: float = 0.0  # seconds since the oldest of them, at most
    changed_bytes: int = -1  # tracks that a resend would bring; -1: not known
    missing: dict[str, int] = {}  # the same by volume, as far as known
    copies_left_out: int = 0  # by the last resend that had too many, in this life of the controller
    policy: str = "suspend"  # suspend, fall-behind, pace
    limit_bytes: int = 0  # of the side file; 0: none
    limit_seconds: float = 0.0  # 0: none
    resync: str = "auto"  # auto, manual
    keeps_log: bool = True  # False: what it lacks is known by tracks alone
    pace_seconds: float = 0.0  # that each write to the group waits for its sake
    phase: str = ""  # first copy, resend
    todo_bytes: int = 0  # of that phase; 0: not known
    done_bytes: int = 0
    shipped: Shipped = msgspec.field(default_factory=Shipped)
    coalescing: float = 0.0  # blocks changed for each block sent; 0: nothing sent yet
    packing: float = 0.0  # bytes of blocks for each byte of data on the link
    suspensions: list[Suspension] = []  # the last ones, oldest first


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
    handover: bool = False  # primary: nobody may write, its secondary is to take over
    diverged: dict[str, int] = {}  # bytes by volume here that never arrived at the new primary
    diverged_since: int = 0  # stamp of the cut since which
    next_command: str = ""  # what to do about it; empty: nothing
    cause_kind: str = ""  # command, link, limit, error, refused, fenced
    interval: float = 0.0  # primary: seconds between cuts
    pace_seconds: float = 0.0  # primary: that each write waits for the sake of a mirror
    reservations: int = 0  # secondary: commands that its primary has asked about
    # The next are of a secondary. A cut is hardened and applied in one step, so the journal time
    # and the consistency time are the same.
    journal_stamp: int = 0
    consistency_stamp: int = 0
    last_heard: int = 0  # when the primary last spoke, by its clock, ns
    behind_bytes: int = -1  # what it then had and this site has not; -1: not known
    phase: str = ""  # first copy, resend
    todo_bytes: int = 0  # of that phase; 0: not known
    done_bytes: int = 0
    rate: float = 0.0  # bytes of blocks a second that come in, over the last seconds
    eta: float = -1.0  # seconds until all is here at that rate; -1: not known
    eta_max: float = -1.0  # at the lower of that rate and the one of the last minutes
    hour: Spread = msgspec.field(default_factory=Spread)  # age of the recovery point
    day: Spread = msgspec.field(default_factory=Spread)
    cuts: int = 0  # placed at a primary, committed at a secondary, since the start
    verified_age: float = -1.0  # secondary: seconds since it was last compared; -1: never
    verified_unhealed: int = 0  # secondary: what that found, and was not healed by its end
    probe_age: float = -1.0  # seconds since a restore probe ended well; -1: none has
    probe_failed: bool = False  # the newest that has ended did not
    cuts_failed: int = 0  # secondary: begun and never committed
    shipped: Shipped = msgspec.field(default_factory=Shipped)
    packing: float = 0.0  # bytes of blocks for each byte of data on the link
    suspensions: list[Suspension] = []  # the last ones, oldest first


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
