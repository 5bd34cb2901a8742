"""What two sites promise each other about copies, as items of a group.

A *reservation* is what a secondary keeps free for a command that its primary has asked about. A
*request* is what a primary remembers of a copy that is to exist at several sites.
"""

from __future__ import annotations

import msgspec


class Reservation(msgspec.Struct, array_like=True):
    """Room at a secondary for one command of the primary; it ends by itself."""

    op: str  # the command's identity, given by the primary
    relations: int  # places in the table of relations
    stamp: int  # wall clock here when it was made, ns
    seconds: float  # it holds so long at most


class SiteState(msgspec.Struct, array_like=True):
    """How far a request has come at one secondary."""

    peer: str  # pool identity
    state: str = "NEW"  # see `mirror.matched`
    detail: str = ""  # why it is in this state, for people
    copy: str = ""  # name of the copy there, once it is known
    withdraw: bool = False  # the copy may still come; then it must go again


class CopyRequest(msgspec.Struct, kw_only=True):
    """A copy that is to exist here and at secondaries, all as of one instant."""

    id: str
    name: str = ""  # of the copy here; empty: it is named when it is taken
    volumes: list[int]
    writable: bool = False
    stamp: int  # when it was asked for, wall clock, ns
    seconds: float  # after that it is given up where it is not done
    keep_late: bool = False  # what comes later may stay
    sites: list[SiteState]
    lsn: int = 0  # place of the copy here; 0: not taken yet
    taken: int = 0  # stamp of the copy
    inherited: bool = False  # another site was asked, and this one took the group over
    behind: int = 0  # inherited without its copy: who is behind this place can say if it has it

    def site(self, peer: str) -> SiteState | None:
        return next((site for site in self.sites if site.peer == peer), None)


class Told(msgspec.Struct, frozen=True, array_like=True):
    """A request of the primary that a secondary knows of: it may have to settle it."""

    id: str
    name: str  # of the copy there
    stamp: int  # of the copy
    left: float  # seconds in which it was to be done, when it was told
    keep_late: bool
    sites: list[tuple[str, str, bool]]  # peer, state, whether it must go again
