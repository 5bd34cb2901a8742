"""A link over a channel: messages out, messages in, and silence noticed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeVar

import msgspec

from isochrone.errors import IsochroneError, NotAllowed, PeerFault, Unavailable
from isochrone.mirror.bandwidth import Urgency
from isochrone.mirror.capabilities import OURS, check_message
from isochrone.mirror.link import Link
from isochrone.mirror.messages import (
    AnyMessage,
    Command,
    Data,
    Digests,
    Fence,
    Fetched,
    Heartbeat,
    Hello,
    Holes,
    Refuse,
    Switch,
    Verified,
    Welcome,
)
from isochrone.mirror.packing import Packing
from isochrone.mirror.peers import Act
from isochrone.mirror.secure import LinkChannel
from isochrone.mirror.wire import number_of, size_of
from isochrone.world.net import Channel

SILENCE_SECONDS_MAX: Final = 10.0  # ten heartbeats missed: the other side is presumed gone
HEARTBEAT_SECONDS: Final = 1.0
FIRST_SECONDS_MAX: Final = 20.0  # to the end of the first message, however slowly it trickles

# What waits for the peer's budget. All else is small, and would make the link seem dead.
BULK: Final = (Data, Holes, Command, Digests, Verified, Fetched)
LEISURELY: Final = (Verified, Fetched)  # whatever else is sent in the same session
# What a site that proved who it is must be allowed, to say these.
NEEDS: Final[dict[type, Act]] = {Hello: Act.FOLLOW, Fence: Act.FENCE, Switch: Act.FENCE}

M = TypeVar("M")


class Conversation:
    """One connection to another controller. Not for two readers at a time."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._linked = channel if isinstance(channel, LinkChannel) else None
        self.link = Link()
        self.peer = channel.peer
        self.urgency = Urgency.CUT  # of what is sent from now on
        self.while_waiting: Callable[[], Awaitable[None]] | None = None  # says that we are alive
        self.capabilities: frozenset[str] = frozenset()  # of the other side, once it said them
        self._heard = False

    @property
    def packing(self) -> Packing:
        """What is known of the data that is sent."""
        return self.link.packing

    @property
    def site(self) -> str:
        """The site at the other end, if it has proved who it is; else empty."""
        warrant = self._linked.warrant if self._linked else None
        return warrant.peer.name if warrant else ""

    def check_may(self, act: Act, followers: tuple[str, ...] = ()) -> None:
        """Raise `NotAllowed` if the other side has proved who it is, and that may not do it.

        `followers`: pools of those that have to do with it, if that matters. A side that did not
        have to prove anything is on this machine, or on a network that the operator trusts.
        """
        warrant = self._linked.warrant if self._linked else None
        if warrant is None:
            return
        warrant.check(act)
        if followers and warrant.peer.pool not in followers:
            raise NotAllowed(f"site {warrant.peer.name} has nothing to do with this group")

    async def send(self, message: AnyMessage) -> None:
        """Raises `Unavailable` when the connection is gone."""
        message = self._introduced(message)
        check_message(number_of(message), self.capabilities, self.peer)
        if self._linked is not None and isinstance(message, BULK):
            urgency = Urgency.BACKGROUND if isinstance(message, LEISURELY) else self.urgency
            await self._linked.valve.enter(urgency, self.while_waiting)
        pieces = self.link.send(message)
        if self._linked is not None:
            self._linked.valve.budget.pay(size_of(pieces))
        self._channel.write(pieces)
        await self._channel.drain()

    def post(self, message: AnyMessage) -> None:
        """Send something small without waiting; the caller bounds how many are under way."""
        check_message(number_of(message), self.capabilities, self.peer)
        self._channel.write(self.link.send(message))

    def _introduced(self, message: AnyMessage) -> AnyMessage:
        """HELLO and WELCOME say who we are and what we understand, whoever sends them."""
        if isinstance(message, Hello):
            warrant = self._linked.warrant if self._linked else None
            here = warrant.here if warrant else message.site
            message = msgspec.structs.replace(message, site=here)
        if isinstance(message, Hello | Welcome):
            ours = tuple(sorted({*OURS, *message.capabilities}))
            return msgspec.structs.replace(message, capabilities=ours)
        return message

    async def receive(self) -> AnyMessage:
        """The next message. Raises `Unavailable` at the end or after too much silence."""
        if self._heard:
            message = await self._next()
        else:
            try:
                async with asyncio.timeout(FIRST_SECONDS_MAX):
                    message = await self._next()
            except TimeoutError:
                raise Unavailable(
                    f"{self.peer} said nothing complete for {FIRST_SECONDS_MAX:g} s"
                ) from None
            self._heard = True
        try:
            self._check(message)
        except NotAllowed as e:
            await self.last_word(Refuse(code=e.code, message=e.message, hint=e.hint))
            raise
        if self.site and isinstance(message, Fence | Switch) and message.source:
            # Its name leads to it, and to nobody else, whatever address it would have us follow.
            return msgspec.structs.replace(message, source=self.site)
        return message

    async def _next(self) -> AnyMessage:
        while (message := self.link.next()) is None:
            try:
                async with asyncio.timeout(SILENCE_SECONDS_MAX):
                    count = await self._channel.read_into(self.link.room())
            except TimeoutError:
                raise Unavailable(
                    f"{self.peer} has been silent for {SILENCE_SECONDS_MAX:g} s"
                ) from None
            if not count:
                raise Unavailable(f"{self.peer} closed the connection")
            self.link.filled(count)
        return message

    def _check(self, message: AnyMessage) -> None:
        """Who says it must be allowed to, and be who it says."""
        if isinstance(message, Hello | Welcome):
            self.capabilities = frozenset(message.capabilities)
        act = NEEDS.get(type(message))
        if act is not None:
            self.check_may(act)
        warrant = self._linked.warrant if self._linked else None
        if warrant is not None and isinstance(message, Hello | Switch):
            peer = warrant.peer
            site = message.site if isinstance(message, Hello) else peer.name
            if (site, message.pool) != (peer.name, peer.pool):
                raise NotAllowed(
                    f"the certificate is that of site {peer.name}, and the message is of another",
                    hint=f"if its pool was made anew: isochrone site revoke {peer.name}, and join",
                )

    async def expect(self, kind: type[M]) -> M:
        """The next message, which must be of a kind. A REFUSE is raised as `PeerFault`."""
        return self._wanted(await self.receive(), kind)

    async def answer(self, kind: type[M]) -> M:
        """As `expect`, behind the heartbeats of a side that takes its time."""
        while isinstance(message := await self.receive(), Heartbeat):
            pass
        return self._wanted(message, kind)

    def _wanted(self, message: AnyMessage, kind: type[M]) -> M:
        if isinstance(message, Refuse):
            raise refusal(message)
        if not isinstance(message, kind):
            raise PeerFault(f"{self.peer} sent {type(message).__name__}, not {kind.__name__}")
        return message

    async def last_word(self, message: AnyMessage) -> None:
        """Say something and let the other side hang up.

        Closing with bytes unread resets the connection, and the last word might never arrive.
        """
        with suppress(IsochroneError, TimeoutError):
            async with asyncio.timeout(SILENCE_SECONDS_MAX):
                await self.send(message)
                while True:
                    await self._next()  # unheeded: a refusal of it would be another last word

    def close(self) -> None:
        self._channel.close()


def refusal(message: Refuse) -> PeerFault:
    """What a REFUSE says, as an error here."""
    return PeerFault(f"the other side refuses: {message.message}", hint=message.hint)
