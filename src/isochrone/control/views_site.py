"""Documents of the API about this site and those it is enrolled with."""

from __future__ import annotations

import msgspec


class LimitView(msgspec.Struct, kw_only=True):
    """What may be sent to a peer."""

    site: str  # or "*": each that has no limit of its own, and links without TLS
    rules: str  # as typed; empty: unlimited
    rate: int  # bytes a second that hold now; 0: unlimited
    sent: int  # bytes on its links, since this controller started
    waited: float  # seconds that frames waited for their turn


class PeerView(msgspec.Struct, kw_only=True):
    name: str
    id: str
    fingerprint: str  # SHA-256 of its certificate
    role: str
    address: str  # of its link; empty: it only ever calls
    pool: str
    joined: str
    expires: str = ""  # when its key is due to be renewed; empty: never
    renewing: bool = False  # it has told its next certificate, and not shown it yet
    connections: int
    limit: LimitView


class PeerList(msgspec.Struct, kw_only=True):
    sites: list[PeerView]


class InvitationView(msgspec.Struct, kw_only=True):
    id: str
    role: str
    expires: str


class IdentityView(msgspec.Struct, kw_only=True):
    """Who this site is. Without a name it has no certificate, and its ports speak plain."""

    name: str
    id: str
    fingerprint: str
    addresses: list[str]  # of its link, at ports
    expires: str = ""  # when its key is due to be renewed; empty: never
    warning: str = ""  # what is to be done about certificates; empty: nothing
    renewal: list[str] = []  # sites that are yet to be told of the next certificate
    sites: list[PeerView]
    invitations: list[InvitationView]
    limits: list[LimitView]


class WaitingView(msgspec.Struct, kw_only=True):
    site: str
    why: str  # it could not be told


class RenewalView(msgspec.Struct, kw_only=True):
    """How far a new key has come."""

    done: bool  # it is shown from now on
    fingerprint: str  # of its certificate
    expires: str
    waiting: list[WaitingView]  # who does not know it


class TokenView(msgspec.Struct, kw_only=True):
    token: str
    address: str  # where the other site will call
    role: str
    expires: str


ANSWERS = (
    LimitView,
    PeerView,
    PeerList,
    InvitationView,
    IdentityView,
    WaitingView,
    RenewalView,
    TokenView,
)
