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
    sites: list[PeerView]
    invitations: list[InvitationView]
    limits: list[LimitView]


class TokenView(msgspec.Struct, kw_only=True):
    token: str
    address: str  # where the other site will call
    role: str
    expires: str


ANSWERS = (LimitView, PeerView, PeerList, InvitationView, IdentityView, TokenView)
