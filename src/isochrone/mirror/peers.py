"""Who this site is, and whom it knows: names, certificates, and what each may do here.

`site.pem` is the site's own key and certificate; `site-next.pem` is the one that is to come, while
the others are told of it (see `renewal`). `site.json` is all else: peers, invitations that are
still open, and limits. Each is replaced as a whole; what is in memory changes after the file.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from typing import Final

import msgspec

from isochrone.errors import Conflict, InvalidInput, NotAllowed, NotFound
from isochrone.mirror.identity import (
    SITE_NAME_CHARS_MAX,
    certificate_of,
    fingerprint,
    make_identity,
    names_in,
)
from isochrone.store.names import check_name
from isochrone.world.documents import Documents

IDENTITY_NAME: Final = "site.pem"
NEXT_NAME: Final = "site-next.pem"
SITE_NAME: Final = "site.json"
PEERS_MAX: Final = 64  # each has places of its own at the listener
INVITATIONS_MAX: Final = 16  # open at once: more are forgotten tokens, each a way in
ALL_OTHERS: Final = "*"  # limits: whoever has none of its own


class Role(StrEnum):
    """What a peer may do here."""

    REPLICATE = "replicate"
    TAKEOVER = "takeover"


class Act(StrEnum):
    """What a peer may want to do here; what no role needs is not listed."""

    FOLLOW = "follow a group"
    FENCE = "take a group over"


MAY: Final[dict[Role, frozenset[Act]]] = {
    Role.REPLICATE: frozenset({Act.FOLLOW}),
    Role.TAKEOVER: frozenset({Act.FOLLOW, Act.FENCE}),
}


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """Another site, as it was enrolled."""

    name: str
    id: str  # of the site; stays the same when its key does not
    pool: str  # identity of its pool
    address: str  # of its link; empty: it only ever calls us
    role: Role
    certificate: bytes  # DER
    joined: int  # ns since 1970
    next: bytes = b""  # DER: it will show this one; then the other is forgotten
    told: str = ""  # fingerprint of our own next certificate: it knows that one

    @property
    def certificates(self) -> tuple[bytes, ...]:
        """All that it may show."""
        return (self.certificate, self.next) if self.next else (self.certificate,)

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.certificate)


class Invitation(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    verifier: bytes  # what the secret is known by; the secret itself is in the token alone
    role: Role
    expires: int  # ns since 1970
    used_by: str = ""  # fingerprint: it may repeat itself, if it did not hear the answer


class SiteDocument(msgspec.Struct, frozen=True, kw_only=True):
    version: int = 1
    peers: tuple[Peer, ...] = ()
    invitations: tuple[Invitation, ...] = ()
    limits: dict[str, str] = {}  # peer or "*" -> rules


class Warrant(msgspec.Struct, frozen=True, kw_only=True):
    """Who is at the other end of a connection, proved by its certificate; and who we are."""

    here: str  # our name
    peer: Peer

    def check(self, act: Act) -> None:
        """Raise `NotAllowed` if the peer's role does not include something."""
        if act not in MAY[self.peer.role]:
            raise NotAllowed(
                f"site {self.peer.name} has the role {self.peer.role}: it may not {act}",
                hint="give it another role with a new invitation: isochrone site invite --role",
            )


class Peers:
    """The two files, in memory."""

    def __init__(self, documents: Documents) -> None:
        """Raises `InvalidInput` for files that make no sense."""
        self._documents = documents
        self._site = _read(documents)
        self.on_change: list[Callable[[], None]] = []  # told after anybody came or went
        self.certificate = b""  # DER; empty: none yet
        self.name = self.id = ""
        pem = documents.read(IDENTITY_NAME)
        if pem is not None:
            self._take(pem)
        if self.next_identity:
            certificate_of(self.next_identity)

    def _take(self, pem: bytes) -> None:
        certificate = certificate_of(pem)
        self.name, self.id = names_in(certificate)
        self.certificate = certificate

    # -- what others see

    @property
    def enrolled(self) -> bool:
        """Whether this site has a certificate, so that its ports speak TLS."""
        return bool(self.certificate)

    @property
    def identity_path(self) -> str:
        return self._documents.path(IDENTITY_NAME)

    @property
    def identity(self) -> bytes:
        """Key and certificate, PEM."""
        return self._documents.read(IDENTITY_NAME) or b""

    @property
    def all(self) -> tuple[Peer, ...]:
        return self._site.peers

    @property
    def limits(self) -> dict[str, str]:
        return self._site.limits

    def find(self, name: str) -> Peer:
        """Raises `NotFound`."""
        for peer in self._site.peers:
            if peer.name == name:
                return peer
        raise NotFound(f"no site {name!r} is enrolled here", hint="see: isochrone site list")

    def by_certificate(self, certificate: bytes) -> Peer | None:
        """Whose it is, now."""
        return next((p for p in self._site.peers if certificate in p.certificates), None)

    def named(self, name: str) -> Peer | None:
        return next((peer for peer in self._site.peers if peer.name == name), None)

    # -- changes

    def init(self, name: str, id: str, made: int = 0) -> None:
        """Make this site's key and certificate. Raises `Conflict` if it has one.

        `made` is the wall clock in ns; without it the certificate is never due.
        """
        check_name("site", name)
        if len(name) > SITE_NAME_CHARS_MAX:
            raise InvalidInput(f"the name of a site has at most {SITE_NAME_CHARS_MAX} letters")
        if self.enrolled:
            raise Conflict(f"this site is called {self.name!r} already, and has its certificate")
        pem = make_identity(name, id, made)
        if self.next_identity:  # of the site that was here before, whose key was removed
            self._documents.write(NEXT_NAME, b"")
        self._documents.write(IDENTITY_NAME, pem)
        self._take(pem)
        self._tell()

    def admit(self, peer: Peer) -> None:
        """Trust a peer from now on; one with the same certificate is replaced.

        Raises `Conflict` if another site has that name or pool, or there are too many.
        """
        self._admit(peer)

    def _admit(self, peer: Peer, invited: Invitation | None = None) -> None:
        known = self.by_certificate(peer.certificate)
        others = tuple(p for p in self._site.peers if p is not known)
        if known is not None and known.certificate == peer.certificate:
            # It may not hear that it was admitted; what it said of its next key still counts.
            peer = msgspec.structs.replace(peer, next=known.next)
        if any(p.name == peer.name for p in others) or peer.name == self.name:
            raise Conflict(
                f"there is a site {peer.name!r} here already",
                hint=f"if it has a new key, first: isochrone site revoke {peer.name}",
            )
        twin = next((p.name for p in others if p.pool == peer.pool), None)
        if twin is not None:  # it could speak for that one
            raise Conflict(
                f"site {peer.name!r} says that its pool is the pool of site {twin!r}",
                hint=f"if that one has a new name and key, first: isochrone site revoke {twin}",
            )
        if len(others) >= PEERS_MAX:
            raise Conflict(f"{PEERS_MAX} sites are enrolled here; revoke one first")
        # Tokens that it used before would give it back the role that it had then.
        used_by = {peer.fingerprint} | ({known.fingerprint} if known is not None else set())
        rest = tuple(
            invited if invited is not None and i.id == invited.id else i
            for i in self._site.invitations
            if i.used_by not in used_by or (invited is not None and i.id == invited.id)
        )
        self._put(peers=(*others, peer), invitations=rest)
        self._tell()

    def revoke(self, name: str) -> Peer:
        """Trust a peer no longer. Raises `NotFound`."""
        gone = self.find(name)
        limits = {of: rules for of, rules in self._site.limits.items() if of != name}
        # Its token would let it in again: it may repeat what it said.
        rest = tuple(i for i in self._site.invitations if i.used_by != gone.fingerprint)
        peers = tuple(peer for peer in self._site.peers if peer is not gone)
        self._put(peers=peers, limits=limits, invitations=rest)
        self._tell()
        return gone

    def limit(self, name: str, rules: str) -> None:
        """Bound what is sent to a peer, or with "*" to each that has no limit of its own.

        Empty rules take the limit away. The rules are checked already.
        """
        if name != ALL_OTHERS:
            self.find(name)
        limits = {of: old for of, old in self._site.limits.items() if of != name}
        self._put(limits={**limits, name: rules} if rules else limits)
        self._tell()

    # -- a new key of ours

    @property
    def next_identity(self) -> bytes:
        """The key and certificate that are to come, PEM; empty: none."""
        pem = self._documents.read(NEXT_NAME) or b""
        return b"" if pem == self.identity else pem  # a crash came before it was cleared

    def prepare(self, made: int) -> bytes:
        """Make the next key, or go on with the one that was made: its certificate, DER."""
        if not self.enrolled:
            raise Conflict(
                "this site has no name and no certificate yet", hint="isochrone site init NAME"
            )
        pem = self.next_identity
        if not pem:
            pem = make_identity(self.name, self.id, made)
            self._documents.write(NEXT_NAME, pem)
        return certificate_of(pem)

    def untold(self) -> list[Peer]:
        """Who does not know the next certificate yet."""
        pem = self.next_identity
        mark = fingerprint(certificate_of(pem)) if pem else ""
        return [peer for peer in self._site.peers if pem and peer.told != mark]

    def note_told(self, name: str, certificate: bytes) -> None:
        """A peer has our next certificate on record."""
        self._change(self.find(name), told=fingerprint(certificate))

    def take_next(self) -> None:
        """Show the next certificate from now on. What happens in between leaves one of them."""
        pem = self.next_identity
        if pem:
            self._documents.write(IDENTITY_NAME, pem)
            self._take(pem)
            self._tell()
            with suppress(OSError):  # it is not needed any more: whoever reads it sees that
                self._documents.write(NEXT_NAME, b"")

    # -- a new key of theirs

    def offered(self, name: str, certificate: bytes) -> None:
        """Trust what a peer is going to show, beside what it shows now. Raises `Conflict`."""
        peer = self.find(name)
        known = self.by_certificate(certificate)
        other = certificate == self.certificate or (known is not None and known.name != name)
        # TLS finds certificates by their subjects: with that of another it would keep that one out.
        if other or names_in(certificate) != (name, peer.id):
            raise Conflict(f"the new certificate of site {name!r} is that of another site")
        if certificate not in peer.certificates:
            self._change(peer, next=certificate)

    def shown(self, certificate: bytes) -> Peer | None:
        """Whose it is. If it is the one that was to come, the one before counts no more.

        Where that cannot be written down now both count, and it is tried again the next time.
        """
        peer = self.by_certificate(certificate)
        if peer is None or certificate != peer.next:
            return peer
        # Its token would let the old key in again: it may repeat what it said.
        rest = tuple(i for i in self._site.invitations if i.used_by != peer.fingerprint)
        with suppress(OSError):
            self._change(peer, certificate=certificate, next=b"", invitations=rest)
        return self.by_certificate(certificate)

    def _change(
        self, peer: Peer, *, invitations: tuple[Invitation, ...] | None = None, **changes: object
    ) -> None:
        changed = msgspec.structs.replace(peer, **changes)
        peers = tuple(changed if each is peer else each for each in self._site.peers)
        kept = self._site.invitations if invitations is None else invitations
        self._put(peers=peers, invitations=kept)
        self._tell()

    # -- invitations

    def invitations(self, now: int) -> tuple[Invitation, ...]:
        """Those that can still be used."""
        return tuple(i for i in self._site.invitations if i.expires > now)

    def invitation(self, id: str) -> Invitation | None:
        """Also one that has run out, for a while."""
        return next((i for i in self._site.invitations if i.id == id), None)

    def invite(self, invitation: Invitation, now: int) -> None:
        """Raises `Conflict` when too many are open."""
        kept = self.invitations(now)
        unused = [i for i in kept if not i.used_by]
        if len(unused) >= INVITATIONS_MAX:
            raise Conflict(
                f"{INVITATIONS_MAX} invitations are open",
                hint="let one be used or run out; `isochrone site show` lists them",
            )
        used = [i for i in kept if i.used_by][-INVITATIONS_MAX:]
        self._put(invitations=(*used, *unused, invitation))

    def admit_invited(self, peer: Peer, invitation: Invitation) -> None:
        """Admit a peer and use its invitation up, in one step."""
        self._admit(peer, msgspec.structs.replace(invitation, used_by=peer.fingerprint))

    # -- inside

    def _put(self, **changes: object) -> None:
        site = msgspec.structs.replace(self._site, **changes)
        self._documents.write(SITE_NAME, _encode(site))
        self._site = site

    def _tell(self) -> None:
        for call in self.on_change:
            call()


def _encode(site: SiteDocument) -> bytes:
    return msgspec.json.format(msgspec.json.encode(site), indent=2) + b"\n"


def _read(documents: Documents) -> SiteDocument:
    content = documents.read(SITE_NAME)
    if content is None:
        return SiteDocument()
    try:
        site = msgspec.json.decode(content, type=SiteDocument)
    except msgspec.MsgspecError as e:
        raise InvalidInput(f"{SITE_NAME} makes no sense: {e}", hint="restore it") from e
    if site.version != 1:
        raise InvalidInput(f"{SITE_NAME} has version {site.version}; this program knows 1")
    return site
