"""A site gets a new key while its links go on: the others are told before it is shown.

    the site                                its peer
    writes down the next key
    RENEW  certificate, signature ->
                                            writes it down beside the present one
                                         <- RENEW  the same certificate
    writes down that this peer knows it
    once all know it: shows it from then on
                                            sees it: the one before counts no more

The connection is one of both present keys, so who may say it is proved; the signature, over what
binds it to this connection, proves that the new key is there, too. Each step is durable before the
next, and may be repeated. Whatever breaks off, each side believes what the other one shows.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from hashlib import sha256
from typing import Final

import structlog

from isochrone.errors import IsochroneError, PeerFault, Unavailable
from isochrone.mirror.conversation import Conversation
from isochrone.mirror.identity import check_signature, fingerprint, sign
from isochrone.mirror.messages import TEXT_CHARS_MAX, Refuse, Renew
from isochrone.mirror.peers import Peer, Peers
from isochrone.mirror.secure import HANDSHAKE_SECONDS_MAX, SecuredNet, TlsChannel

RENEWALS_OF_ONE_MAX: Final = 2  # at once of one site: one that broke off may still be waited for

log = structlog.get_logger()


def digest(present: bytes, new: bytes, peer: bytes, binding: bytes) -> bytes:
    """What the new key signs; certificates in DER, `binding` is of the connection."""
    prints = b"".join(bytes.fromhex(fingerprint(each)) for each in (present, new, peer))
    return sha256(b"isochrone renewal 1 " + prints + binding).digest()


class Renewal:
    """Of one site."""

    def __init__(self, peers: Peers, net: SecuredNet) -> None:
        self._peers = peers
        self._net = net
        self._served: Counter[str] = Counter()  # connections, by site
        net.renew = self.serve

    async def tell(self, certificate: bytes) -> dict[str, str]:
        """Tell all who do not know it the next certificate: why some could not be, by name."""
        failed = {}
        for peer in self._peers.untold():
            try:
                async with asyncio.timeout(2 * HANDSHAKE_SECONDS_MAX):
                    await self._tell(peer, certificate)
                self._peers.note_told(peer.name, certificate)
            except TimeoutError:
                failed[peer.name] = "it did not answer in time"
            except IsochroneError as e:
                failed[peer.name] = e.message
            else:
                log.info("a site knows our next certificate", site=peer.name)
        return failed

    async def _tell(self, peer: Peer, certificate: bytes) -> None:
        channel = await self._net.connect_to_renew(peer)
        try:
            talk = Conversation(channel)
            about = digest(
                self._peers.certificate, certificate, channel.certificate, channel.binding
            )
            signature = sign(self._peers.next_identity, about)
            await talk.send(Renew(certificate=certificate, signature=signature))
            answer = await talk.expect(Renew)
            if answer.certificate != certificate:
                raise PeerFault(f"site {peer.name} wrote down another certificate than ours")
        finally:
            channel.close()

    async def serve(self, channel: TlsChannel) -> None:
        """A peer tells its next certificate."""
        warrant = channel.warrant
        assert warrant is not None  # it has been admitted
        name = warrant.peer.name
        if self._served[name] >= RENEWALS_OF_ONE_MAX:
            raise Unavailable(f"site {name} has told too little on too many connections")
        self._served[name] += 1
        talk = Conversation(channel)
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS_MAX):
                await self._note(talk, channel, name)
        except TimeoutError:
            raise Unavailable(f"{channel.peer} did not say in time what it wanted") from None
        finally:
            self._served[name] -= 1
            if not self._served[name]:
                del self._served[name]

    async def _note(self, talk: Conversation, channel: TlsChannel, name: str) -> None:
        told = await talk.expect(Renew)
        about = digest(
            channel.certificate, told.certificate, self._peers.certificate, channel.binding
        )
        try:
            check_signature(told.certificate, told.signature, about)
            self._note_down(name, told.certificate)
        except IsochroneError as e:
            message, hint = e.message[:TEXT_CHARS_MAX], e.hint[:TEXT_CHARS_MAX]
            await talk.last_word(Refuse(code=e.code, message=message, hint=hint))
            raise
        log.info("a site has told its next certificate", site=name)
        await talk.last_word(told)

    def _note_down(self, name: str, certificate: bytes) -> None:
        try:
            self._peers.offered(name, certificate)
        except OSError as e:
            raise Unavailable(f"the new certificate cannot be written down: {e}") from e
