"""Two sites learn each other's certificates, by a token that somebody carries between them.

The token says where the inviting site is, which certificate it has, and a secret of 128 bits. So
the one that joins knows whom it talks to before it says anything, and nothing that it says then can
be used by anybody else: it proves the secret, and that its key is its own, over a digest of both
certificates, a number the other has just made up, and the TLS connection itself.

    joins                          invites
    JOIN      certificate ->
                                <- CHALLENGE  a number
    PROOF     secret, key ->
                                   writes down the peer, and that the invitation is used
                                <- JOINED     proves the secret as well
    writes down the peer

Who did not hear JOINED may say all of it again with the same certificate, until the token runs out.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import ssl
from collections import deque
from hashlib import sha256
from typing import Final

import msgspec
import structlog

from isochrone.errors import (
    Conflict,
    InvalidInput,
    IsochroneError,
    NotAllowed,
    PeerFault,
    Unavailable,
)
from isochrone.mirror.conversation import Conversation
from isochrone.mirror.identity import check_signature, fingerprint, sign
from isochrone.mirror.messages import Challenge, Join, Joined, Proof, Refuse
from isochrone.mirror.peers import ALL_OTHERS, Invitation, Peer, Peers, Role
from isochrone.mirror.secure import HANDSHAKE_SECONDS_MAX, SecuredNet, TlsChannel, anyone
from isochrone.store.names import check_name
from isochrone.world import World
from isochrone.world.net import is_anywhere, split_address

TOKEN_MARK: Final = "isochrone1."
TOKEN_CHARS_MAX: Final = 2000
INVITED_S_MAX: Final = 7 * 86400  # a token is for now; one that lies about is a way in
FAILURES_MAX: Final = 20  # in a minute, from anywhere; then nobody may try until it is over
FAILURES_S: Final = 60.0

log = structlog.get_logger()


class Token(msgspec.Struct, frozen=True, array_like=True):
    """What is carried from one site to the other. Whoever has it may join, once."""

    address: str
    site: str
    fingerprint: str
    invitation: str
    secret: str  # hex
    expires: int  # seconds since 1970, by the clock of the one that invites

    def text(self) -> str:
        packed = base64.urlsafe_b64encode(msgspec.msgpack.encode(self))
        return TOKEN_MARK + packed.decode().rstrip("=")


def parse_token(text: str) -> Token:
    """Raises `InvalidInput`."""
    text = text.strip()
    body = text.removeprefix(TOKEN_MARK)
    try:
        if body == text or len(text) > TOKEN_CHARS_MAX:
            raise ValueError(TOKEN_MARK)
        packed = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
        token = msgspec.msgpack.decode(packed, type=Token)
        if split_address(token.address) is None or not bytes.fromhex(token.secret):
            raise ValueError(token.address)
    except (ValueError, InvalidInput):
        raise InvalidInput(
            "this is not a token", hint="copy all that `isochrone site invite` printed, in one line"
        ) from None
    return token


def verifier(secret: str) -> bytes:
    """What the inviting site keeps of a secret."""
    return sha256(b"isochrone invitation " + bytes.fromhex(secret)).digest()


def digest(inviter: bytes, join: Join, nonce: bytes, binding: bytes) -> bytes:
    """What both prove: all that matters of the conversation, each part with its length."""
    parts = (
        bytes.fromhex(fingerprint(inviter)),
        *(part.encode() for part in (join.invitation, join.site, join.id, join.pool, join.address)),
        bytes.fromhex(fingerprint(join.certificate)),
        nonce,
        binding,
    )
    whole = b"".join(len(part).to_bytes(4, "little") + part for part in parts)
    return sha256(b"isochrone enrolment 1 " + whole).digest()


def proof(key: bytes, side: bytes, about: bytes) -> bytes:
    """That `side` knows what a secret is known by."""
    return hmac.new(key, side + about, "sha256").digest()


class Failures:
    """How often joining failed lately. Time is an argument."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=FAILURES_MAX)

    def too_many(self, now: float) -> bool:
        return len(self._times) == FAILURES_MAX and now - self._times[0] < FAILURES_S

    def note(self, now: float) -> None:
        self._times.append(now)


class Enrolment:
    """Invites other sites, and joins those that invited us."""

    def __init__(self, peers: Peers, net: SecuredNet, world: World, pool: str) -> None:
        self._peers = peers
        self._net = net
        self._world = world
        self._pool = pool
        self._failures = Failures()
        net.enrol = self.serve

    def _own_address(self, address: str) -> str:
        """Where the other site finds our link: as told, or a port that we listen at."""
        if address:
            where = split_address(address)
            if where is None or not where[1]:
                raise InvalidInput(f"{address!r} is not HOST:PORT")
        ours = (found for found in self._net.addresses if not is_anywhere(found))
        return address or next(ours, "")

    # -- inviting

    def invite(self, role: Role, seconds: int, address: str) -> Token:
        """A token for one site. Raises `Conflict` or `InvalidInput`."""
        self._check_enrolled()
        if not 0 < seconds <= INVITED_S_MAX:
            raise InvalidInput(f"an invitation lasts at most {INVITED_S_MAX // 86400} days")
        where = self._own_address(address)
        if not where:
            raise Conflict(
                "nobody could reach this site: it has no link port with an address of its own",
                hint="say it with --address HOST:PORT, or serve with --link HOST:PORT",
            )
        dice, now = self._world.dice, self._world.clock.wall_ns()
        secret, id = dice.identity(), dice.identity()
        expires = now + seconds * 10**9
        self._peers.invite(
            Invitation(id=id, verifier=verifier(secret), role=role, expires=expires), now
        )
        ours = fingerprint(self._peers.certificate)
        return Token(where, self._peers.name, ours, id, secret, expires // 10**9)

    async def serve(self, channel: TlsChannel) -> None:
        """Somebody without a certificate: let it join, or refuse."""
        talk = Conversation(channel)
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS_MAX):
                joined = await self._admit(talk, channel)
        except TimeoutError:
            raise Unavailable(f"{channel.peer} did not prove anything in time") from None
        except IsochroneError as e:
            self._failures.note(self._world.clock.monotonic())
            await talk.last_word(Refuse(code=e.code, message=e.message, hint=e.hint))
            raise
        await talk.last_word(joined)

    async def _admit(self, talk: Conversation, channel: TlsChannel) -> Joined:
        clock = self._world.clock
        join = await talk.expect(Join)
        if self._failures.too_many(clock.monotonic()):
            raise Unavailable("too many attempts to join failed", hint="try again in a minute")
        nonce = self._world.dice.identity().encode()
        await talk.send(Challenge(nonce=nonce))
        said = await talk.expect(Proof)
        about = digest(self._peers.certificate, join, nonce, channel.binding)
        invitation = self._peers.invitation(join.invitation)
        if invitation is None or not hmac.compare_digest(
            said.mac, proof(invitation.verifier, b"join", about)
        ):
            raise NotAllowed(
                "the token is not known here", hint="ask for a new one: isochrone site invite"
            )
        check_signature(join.certificate, said.signature, about)
        if invitation.used_by not in ("", fingerprint(join.certificate)):
            raise NotAllowed("the token was used already", hint="ask for a new one")
        if invitation.expires <= clock.wall_ns():
            raise NotAllowed("the token has run out", hint="ask for a new one")
        peer = _peer(join.site, join.id, join.pool, join.address, invitation.role,
                     join.certificate, clock.wall_ns())  # fmt: skip
        self._peers.admit_invited(peer, invitation)
        log.info("a site has joined", site=peer.name, role=peer.role, peer=channel.peer)
        return Joined(
            site=self._peers.name,
            id=self._peers.id,
            pool=self._pool,
            mac=proof(invitation.verifier, b"joined", about),
        )

    # -- joining

    async def join(self, text: str, role: Role, address: str) -> Peer:
        """Enrol with the site that made a token; `role` is what it may do here.

        Raises `PeerFault` with its reason if it refuses, and `InvalidInput`, `Conflict` or
        `Unavailable`; then nothing is written down here.
        """
        token = parse_token(text)
        self._check_enrolled()
        if token.fingerprint == fingerprint(self._peers.certificate):
            raise Conflict("this token is of this very site; run `site join` at the other one")
        known = self._peers.named(token.site)
        shown = [fingerprint(each) for each in known.certificates] if known is not None else []
        if known is not None and token.fingerprint not in shown:
            raise Conflict(
                f"there is a site {token.site!r} here already, with another certificate",
                hint=f"if it was made anew, first: isochrone site revoke {token.site}",
            )
        valve = self._net.valve(ALL_OTHERS)
        context = anyone(ssl.PROTOCOL_TLS_CLIENT)
        channel = await self._net.call(token.address, context, valve)
        try:
            if fingerprint(channel.certificate) != token.fingerprint:
                raise PeerFault(
                    f"{token.address} is not the site that made the token:"
                    " it has another certificate",
                    hint="somebody may be in between; nothing was told",
                )
            peer = await self._prove(channel, token, role, address)
        finally:
            channel.close()
        self._peers.admit(peer)
        log.info("joined a site", site=peer.name, role=peer.role, address=peer.address)
        return peer

    async def _prove(self, channel: TlsChannel, token: Token, role: Role, address: str) -> Peer:
        talk = Conversation(channel)
        join = Join(
            invitation=token.invitation,
            site=self._peers.name,
            id=self._peers.id,
            pool=self._pool,
            address=self._own_address(address),
            certificate=self._peers.certificate,
        )
        await talk.send(join)
        challenge = await talk.expect(Challenge)
        about = digest(channel.certificate, join, challenge.nonce, channel.binding)
        key = verifier(token.secret)
        signature = sign(self._peers.identity, about)
        await talk.send(Proof(mac=proof(key, b"join", about), signature=signature))
        joined = await talk.expect(Joined)
        if not hmac.compare_digest(joined.mac, proof(key, b"joined", about)):
            raise PeerFault("the other side does not know the secret of its own token")
        now = self._world.clock.wall_ns()
        return _peer(joined.site, joined.id, joined.pool, token.address, role,
                     channel.certificate, now)  # fmt: skip

    def _check_enrolled(self) -> None:
        if not self._peers.enrolled:
            raise Conflict(
                "this site has no name and no certificate yet", hint="isochrone site init NAME"
            )


def _peer(
    name: str, id: str, pool: str, address: str, role: Role, certificate: bytes, now: int
) -> Peer:
    """What the other side said of itself, checked. Raises `PeerFault`."""
    try:
        check_name("site", name)
        if address and split_address(address) is None:
            raise InvalidInput(f"{address!r} is a path")
        if not pool:
            raise InvalidInput("it has no pool")
    except InvalidInput as e:
        raise PeerFault(f"the other side says something odd of itself: {e.message}") from e
    return Peer(
        name=name, id=id, pool=pool, address=address, role=role, certificate=certificate,
        joined=now,
    )  # fmt: skip
