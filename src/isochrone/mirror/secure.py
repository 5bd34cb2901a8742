"""Links with a lock: TLS between sites that have enrolled each other, around any other net.

A site that has a certificate speaks nothing but TLS at its ports, and believes only the very
certificates that it has pinned; who shows none may only ask to be enrolled. Socket files stay
plain: whoever may open one is the controller's own user. A site without a certificate speaks plain
everywhere, and `serve` keeps its ports on this machine.

TLS runs over the channel of the inner net, in memory, so the same code runs over the pretended one.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, cast

import structlog

from isochrone.errors import Conflict, InvalidInput, IsochroneError, PeerFault, Unavailable
from isochrone.mirror.identity import to_pem
from isochrone.mirror.peers import ALL_OTHERS, Peer, Peers, Warrant
from isochrone.mirror.seats import host_of
from isochrone.mirror.valve import Valve
from isochrone.types import Buffer
from isochrone.world.clock import Clock
from isochrone.world.net import (
    READ_BYTES,
    Channel,
    Handler,
    Listener,
    Net,
    is_loopback,
    split_address,
)

HANDSHAKE_SECONDS_MAX: Final = 10.0  # for TLS, and then for the first message
STRANGERS_MAX: Final = 64  # connections at once whose other end has not proved who it is
STRANGERS_OF_ONE_MAX: Final = 16  # of them of one host: it comes with all groups after an outage
RENEWAL: Final = "isochrone-renewal"  # as TLS names it (ALPN): a peer tells its next certificate
NO_CHECK_TIME: Final = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, which `ssl` has no name for

log = structlog.get_logger()


class LinkChannel:
    """A channel as the mirror gets it: with what is known of the other side, and its budget."""

    def __init__(self, inner: Channel, valve: Valve, warrant: Warrant | None = None) -> None:
        self._inner = inner
        self.valve = valve
        self.warrant = warrant

    @property
    def peer(self) -> str:
        where = self._inner.peer
        return f"{self.warrant.peer.name} ({where})" if self.warrant else where

    async def read(self) -> bytes:
        return await self._inner.read()

    async def read_into(self, room: memoryview) -> int:
        return await self._inner.read_into(room)

    def write(self, pieces: Sequence[Buffer]) -> None:
        self._inner.write(pieces)

    async def drain(self) -> None:
        await self._inner.drain()

    def close(self) -> None:
        self._inner.close()


class TlsChannel(LinkChannel):
    """TLS over a channel. Call `handshake` first."""

    def __init__(
        self, inner: Channel, valve: Valve, context: ssl.SSLContext, *, server: bool
    ) -> None:
        super().__init__(inner, valve)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._raw = memoryview(bytearray(READ_BYTES))  # received, and not yet given to TLS
        self._tls = context.wrap_bio(self._in, self._out, server_side=server)
        self._closed = False
        self.proved = b""  # the certificate that the other side was admitted with

    async def handshake(self) -> None:
        """Raises `PeerFault` if the other side does not speak TLS, or is not believed."""
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS_MAX):
                while not self._shaken():
                    await self._inner.drain()
                    data = await self._inner.read()
                    if not data:
                        raise Unavailable(f"{self.peer} closed the connection in the handshake")
                    self._in.write(data)
        except TimeoutError:
            raise Unavailable(f"{self.peer} did not finish the TLS handshake in time") from None

    def _shaken(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as e:
            raise self._fault(e) from e
        finally:
            self._flush()
        return True

    @property
    def certificate(self) -> bytes:
        """DER, of the other side; empty if it showed none. Its key took part in the handshake."""
        return self._tls.getpeercert(binary_form=True) or b""

    @property
    def renews(self) -> bool:
        """Whether both ends want to talk of certificates and of nothing else."""
        return self._tls.selected_alpn_protocol() == RENEWAL

    @property
    def binding(self) -> bytes:
        """A value that both ends of this connection have, and no other connection has."""
        return self._tls.get_channel_binding("tls-unique") or b""

    async def read(self) -> bytes:
        room = memoryview(bytearray(READ_BYTES))
        return bytes(room[: await self.read_into(room)])

    async def read_into(self, room: memoryview) -> int:
        while True:
            got = 0
            try:
                while got < len(room):
                    # With a buffer it returns a number, which the stubs do not know.
                    count = cast("int", self._tls.read(len(room) - got, room[got:]))
                    if not count:  # the other side has said good-bye
                        break
                    got += count
            except (ssl.SSLWantReadError, ssl.SSLZeroReturnError, ssl.SSLEOFError):
                pass
            except ssl.SSLError as e:
                if not got and not self._closed:
                    raise self._fault(e) from e
            self._flush()  # an answer to a change of keys
            if got:
                return got
            count = await self._inner.read_into(self._raw)
            if not count or self._closed:
                return 0
            self._in.write(self._raw[:count])

    def write(self, pieces: Sequence[Buffer]) -> None:
        if self._closed:
            return
        try:
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    view = view[self._tls.write(view) :]
        except ssl.SSLError:
            self.close()  # whoever drains is told
        self._flush()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            with suppress(ssl.SSLError, ValueError):  # it does not wait for the other's good-bye
                self._tls.unwrap()
            self._flush()
        self._inner.close()

    def _flush(self) -> None:
        if self._out.pending:
            self._inner.write([self._out.read()])

    def _fault(self, error: ssl.SSLError) -> PeerFault:
        reason = (error.reason or str(error)).lower().replace("_", " ")
        if "alert" in reason or "certificate verify failed" in reason:
            return PeerFault(
                f"TLS with {self.peer} failed: {reason}",
                hint="one site does not trust the other any more: compare `isochrone site list`"
                " at both, then invite and join again",
            )
        return PeerFault(
            f"{self.peer} does not speak TLS: {reason}",
            hint="a site with a certificate speaks nothing else at its ports: enrol there first",
        )


class SecuredNet:
    """A net for the mirror. An address may also be the name of an enrolled site."""

    def __init__(self, inner: Net, peers: Peers, clock: Clock, *, insecure: bool = False) -> None:
        self._inner = inner
        self._peers = peers
        self._clock = clock
        self._insecure = insecure
        self._strangers: Counter[str] = Counter()  # by host
        self._live: set[TlsChannel] = set()
        self._server: ssl.SSLContext | None = None
        self._valves: dict[str, Valve] = {}
        self.enrol: Callable[[TlsChannel], Awaitable[None]] | None = (
            None  # serves who wants to be enrolled
        )
        self.renew: Callable[[TlsChannel], Awaitable[None]] | None = (
            None  # serves who has a new key
        )
        self.addresses: list[str] = []  # of ports that we listen at
        peers.on_change.append(self._changed)

    # -- calling

    async def connect(self, address: str) -> Channel:
        peer = self._peer_at(address)
        if peer is None:
            self._check_plain(address)
            return LinkChannel(await self._inner.connect(address), self.valve(ALL_OTHERS))
        return await self._call_peer(peer, self._client_context())

    async def connect_to_renew(self, peer: Peer) -> TlsChannel:
        """To talk of certificates. Raises `Unavailable` or `PeerFault`."""
        context = self._client_context()
        context.set_alpn_protocols([RENEWAL])
        channel = await self._call_peer(peer, context)
        if channel.renews:
            return channel
        channel.close()
        raise PeerFault(
            f"site {peer.name} does not know how certificates are renewed: its version is older",
            hint="run the same version of isochrone at both sites",
        )

    async def _call_peer(self, peer: Peer, context: ssl.SSLContext) -> TlsChannel:
        if not peer.address:
            raise Unavailable(
                f"site {peer.name} has no address: it only ever calls us",
                hint="let it join again with --address HOST:PORT",
            )
        channel = await self.call(peer.address, context, self.valve(peer.name))
        known = self._peers.named(peer.name)
        if known is None or known.id != peer.id:
            channel.close()
            raise Unavailable(f"site {peer.name} was revoked while it was called")
        if channel.certificate not in known.certificates:
            channel.close()
            raise PeerFault(
                f"{peer.address} is not site {peer.name}: it has another certificate",
                hint="somebody is in between, or the site was made anew: then revoke and join",
            )
        now = self._peers.shown(channel.certificate)
        assert now is not None
        self._admit(channel, now)
        return channel

    async def call(self, address: str, context: ssl.SSLContext, valve: Valve) -> TlsChannel:
        """TLS with whoever answers there; who that is the caller has to check."""
        inner = await self._inner.connect(address)
        channel = TlsChannel(inner, valve, context, server=False)
        try:
            await channel.handshake()
        except BaseException:
            channel.close()
            raise
        return channel

    def _peer_at(self, address: str) -> Peer | None:
        named = self._peers.named(address)
        if named is not None or "/" in address:
            return named
        if ":" not in address:
            raise InvalidInput(
                f"{address!r} is neither an address nor an enrolled site",
                hint="write HOST:PORT or a path; or enrol it: isochrone site join TOKEN",
            )
        where = split_address(address)
        found = [p for p in self._peers.all if p.address and split_address(p.address) == where]
        return found[0] if found else None

    def _check_plain(self, address: str) -> None:
        where = split_address(address)
        if where is None or is_loopback(where[0]) or self._insecure or not self._peers.enrolled:
            return
        raise Conflict(
            f"{address} belongs to no enrolled site, and nothing is sent there in the clear",
            hint="enrol with it: isochrone site invite there, isochrone site join TOKEN here",
        )

    # -- being called

    async def listen(self, address: str, handler: Handler) -> Listener:
        plain = split_address(address) is None

        async def accepted(inner: Channel) -> None:
            if plain or not self._peers.enrolled:
                await handler(LinkChannel(inner, self.valve(ALL_OTHERS)))
            else:
                await self._answer(inner, handler)

        listener = await self._inner.listen(address, accepted)
        if not plain:
            self.addresses.append(listener.address)
        return listener

    async def _answer(self, inner: Channel, handler: Handler) -> None:
        host = host_of(inner.peer)
        of_one = self._strangers[host] >= STRANGERS_OF_ONE_MAX
        if of_one or self._strangers.total() >= STRANGERS_MAX:
            log.info("a connection was turned away: too many strangers", peer=inner.peer)
            return
        try:
            channel = TlsChannel(inner, self.valve(ALL_OTHERS), self._server_context(), server=True)
        except (OSError, IsochroneError) as e:  # its own files; of TLS, too
            log.error("no link can be answered", peer=inner.peer, reason=str(e))
            return
        self._strangers[host] += 1
        known = False
        try:
            await channel.handshake()
            if channel.certificate:
                peer = self._peers.shown(channel.certificate)
                if peer is None:  # revoked while it shook hands
                    raise PeerFault("the certificate is not trusted any more")
                channel.valve = self.valve(peer.name)
                self._admit(channel, peer)
                known = True
                self._left(host)
                await self._hand_on(channel, handler)
            elif self.enrol is not None:
                await self.enrol(channel)
        except IsochroneError as e:
            log.info("a link was refused", peer=inner.peer, reason=e.message)
        finally:
            if not known:
                self._left(host)
            self._live.discard(channel)
            channel.close()

    def _left(self, host: str) -> None:
        """A stranger has gone, or is none any more."""
        self._strangers[host] -= 1
        if not self._strangers[host]:
            del self._strangers[host]

    async def _hand_on(self, channel: TlsChannel, handler: Handler) -> None:
        if not channel.renews:
            await handler(channel)
        elif self.renew is not None:
            await self.renew(channel)

    def _admit(self, channel: TlsChannel, peer: Peer) -> None:
        channel.warrant = Warrant(here=self._peers.name, peer=peer)
        channel.proved = channel.certificate
        self._live = {other for other in self._live if not other._closed}
        self._live.add(channel)

    # -- who is believed

    def _client_context(self) -> ssl.SSLContext:
        context = anyone(ssl.PROTOCOL_TLS_CLIENT)
        if self._peers.enrolled:
            context.load_cert_chain(self._peers.identity_path)
        return context

    def _server_context(self) -> ssl.SSLContext:
        """Made anew after each change of who is known."""
        if self._server is None:
            context = anyone(ssl.PROTOCOL_TLS_SERVER)
            context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
            context.num_tickets = 0
            context.load_cert_chain(self._peers.identity_path)
            context.set_alpn_protocols([RENEWAL])
            pinned = "".join(to_pem(x) for peer in self._peers.all for x in peer.certificates)
            if pinned:
                context.load_verify_locations(cadata=pinned)
            context.verify_mode = ssl.CERT_OPTIONAL
            context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN | NO_CHECK_TIME
            self._server = context
        return self._server

    def _changed(self) -> None:
        """Somebody came or went, or has another limit: let go whoever is not known any more."""
        self._server = None
        known = {each: peer for peer in self._peers.all for each in peer.certificates}
        for channel in list(self._live):
            assert channel.warrant is not None
            peer = known.get(channel.proved)
            if peer is None or peer.role is not channel.warrant.peer.role:
                self._live.discard(channel)
                channel.close()
        for name, valve in list(self._valves.items()):
            if name != ALL_OTHERS and self._peers.named(name) is None:
                del self._valves[name]
            else:
                valve.set_rules(self._rules(name))

    def connections(self, name: str) -> int:
        """How many connections a peer has."""
        live = (c.warrant for c in self._live if not c._closed)
        return sum(warrant is not None and warrant.peer.name == name for warrant in live)

    # -- budgets

    def valve(self, name: str) -> Valve:
        found = self._valves.get(name)
        if found is None:
            found = self._valves[name] = Valve(self._clock)
            found.set_rules(self._rules(name))
        return found

    def _rules(self, name: str) -> str:
        limits = self._peers.limits
        return limits.get(name, limits.get(ALL_OTHERS, ""))


def anyone(protocol: int) -> ssl.SSLContext:
    """TLS that believes whatever certificate it sees; who uses it compares that itself."""
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
