"""A link over a channel: messages out, messages in, and silence noticed."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final, TypeVar

from isochrone.errors import IsochroneError, PeerFault, Unavailable
from isochrone.mirror.link import Link
from isochrone.mirror.messages import AnyMessage, Refuse
from isochrone.world.net import Channel

SILENCE_SECONDS_MAX: Final = 10.0  # ten heartbeats missed: the other side is presumed gone
HEARTBEAT_SECONDS: Final = 1.0

M = TypeVar("M")


class Conversation:
    """One connection to another controller. Not for two readers at a time."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.link = Link()
        self.peer = channel.peer

    async def send(self, message: AnyMessage) -> None:
        """Raises `Unavailable` when the connection is gone."""
        self._channel.write(self.link.send(message))
        await self._channel.drain()

    async def receive(self) -> AnyMessage:
        """The next message. Raises `Unavailable` at the end or after too much silence."""
        while (message := self.link.next()) is None:
            try:
                async with asyncio.timeout(SILENCE_SECONDS_MAX):
                    data = await self._channel.read()
            except TimeoutError:
                raise Unavailable(
                    f"{self.peer} has been silent for {SILENCE_SECONDS_MAX:g} s"
                ) from None
            if not data:
                raise Unavailable(f"{self.peer} closed the connection")
            self.link.receive(data)
        return message

    async def expect(self, kind: type[M]) -> M:
        """The next message, which must be of a kind. A REFUSE is raised as `PeerFault`."""
        message = await self.receive()
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
                    await self.receive()

    def close(self) -> None:
        self._channel.close()


def refusal(message: Refuse) -> PeerFault:
    """What a REFUSE says, as an error here."""
    return PeerFault(f"the other side refuses: {message.message}", hint=message.hint)
