"""A pretended network: ordered channels between sites, over lines that fail.

Each `write` is one message. Messages of a channel arrive in order, each after a delay, whole or in
pieces as a stream may cut them. What can go wrong:

- cut: nothing passes any more, and the channels over the line are lost; each side notices at once
  or much later, and not both at the same time. What was on its way arrives up to some point, which
  may lie within a message. One direction can be cut alone;
- stall: nothing arrives until it is lifted, nothing is lost;
- a message that arrives twice in a row, or with a flipped bit (chances in `Weather`);
- a slow line, shared by all its channels.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Any, Final

from isochrone.errors import Unavailable
from isochrone.sim.loop import LIFE
from isochrone.types import Buffer
from isochrone.world.net import READ_BYTES, UNSENT_BYTES_MAX, Channel, Handler

PORT_FIRST: Final = 40_000  # given to those who listen at port 0
RESUME_BYTES: Final = UNSENT_BYTES_MAX // 4  # `drain` goes on below it, as asyncio's transports do

END: Final = b""  # the last message of one who closes
RESET: Final = None  # the answer of one who closed and got more

Place = tuple[str, str]  # (site, port or path)


@dataclass(slots=True)
class Weather:
    """What the lines are like. Change it while the simulation runs."""

    latency: tuple[float, float] = (0.0005, 0.010)  # seconds, one way
    bytes_per_s: float = 0.0  # 0: no limit
    silence: tuple[float, float] = (0.0, 30.0)  # seconds until a side notices a lost channel
    at_once: float = 0.3  # chance that it notices without delay
    duplicate: float = 0.0  # chance that a message arrives twice
    flip: float = 0.0  # chance that a bit of a message is flipped
    pieces: float = 0.1  # chance that a read ends within a message, or joins two


class State(Enum):
    UP = "up"
    STALLED = "stalled"
    CUT = "cut"


class Line:
    """One direction between two sites."""

    def __init__(self) -> None:
        self.state = State.UP
        self.free_at = 0.0  # when the last byte sent so far has left
        self.held: list[SimChannel] = []  # each has one arrival due per entry
        self.waiting: list[asyncio.Future[None]] = []


class SimChannel:
    """One side of a channel."""

    def __init__(self, fabric: SimFabric, here: str, there: str, peer: str) -> None:
        self.here, self.there = here, there
        self.other: SimChannel  # set once both exist
        self.closed = False  # by this side
        self.coming: deque[bytes | None] = deque()  # on its way here; see END and RESET
        self.last_arrival = 0.0
        self.deaf = False  # nothing more of what the other side sends will come
        self._fabric = fabric
        self._peer = peer
        self._arrived: deque[bytes] = deque()
        self._ended = False  # the other side has closed
        self._broken = False
        self._unsent = 0
        self._reader: asyncio.Future[None] | None = None
        self._drainers: list[asyncio.Future[None]] = []

    @property
    def peer(self) -> str:
        return self._peer

    async def read_into(self, room: memoryview) -> int:
        data = await self.read(len(room))
        room[: len(data)] = data
        return len(data)

    async def read(self, most: int = READ_BYTES) -> bytes:
        while not self._arrived:
            if self.over or self._ended:
                return b""
            assert self._reader is None, "two readers of one channel"
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        data = self._arrived.popleft()
        if self._fabric.chance(self._fabric.weather.pieces):
            if self._arrived and self._fabric.chance(0.5):
                data += self._arrived.popleft()
            elif len(data) > 1:
                cut = self._fabric.random.randrange(1, len(data))
                self._arrived.appendleft(data[cut:])
                data = data[:cut]
        most = min(most, READ_BYTES)
        if len(data) > most:
            self._arrived.appendleft(data[most:])
            data = data[:most]
        self.other.taken(len(data))
        return data

    def write(self, pieces: Sequence[Buffer]) -> None:
        data = b"".join(pieces)
        if data and not self.over:
            self._unsent += len(data)
            self._fabric.send(self, data)

    async def drain(self) -> None:
        if self._unsent > UNSENT_BYTES_MAX and not self.over:
            ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._drainers.append(ready)
            await ready
        if self.over:
            raise Unavailable(f"lost the connection to {self._peer}")

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        if not self._broken:
            self._fabric.send(self, END)
            if self._arrived:
                self._fabric.send(self, RESET)  # what was sent here will never be read
        self._arrived.clear()
        self._wake()
        self._fabric.tidy(self)

    # -- what the fabric tells it

    @property
    def over(self) -> bool:
        return self.closed or self._broken

    def arrive(self, data: bytes | None) -> None:
        if self._broken:
            return
        if data is RESET:
            self.break_off()
        elif self.closed:
            if data:
                self._fabric.send(self, RESET)  # nobody is here to take it
        elif data:
            self._arrived.append(data)
        else:
            self._ended = True
        self._wake_reader()

    def taken(self, length: int) -> None:
        """The other side has read so much of what this one sent."""
        self._unsent = max(0, self._unsent - length)  # a duplicate counts twice
        if self._unsent <= RESUME_BYTES:
            self._wake_drainers()

    def break_off(self) -> None:
        """This side learns that the channel is lost."""
        if not self.over:
            self._broken = True
            if self._fabric.chance(0.5):
                self._arrived.clear()  # a reset takes what was not read yet
            self._wake()
        self._fabric.tidy(self)

    def vanish(self) -> None:
        """The host of this side is gone without a word."""
        self.closed = self._broken = True
        self._arrived.clear()
        self._wake()
        self._fabric.tidy(self)

    def _wake(self) -> None:
        self._wake_reader()
        self._wake_drainers()

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _wake_drainers(self) -> None:
        _wake_all(self._drainers)


def _wake_all(waiting: list[asyncio.Future[None]]) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)
    waiting.clear()


class SimFabric:
    """All lines between all sites, and what is on its way over them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, random: Random) -> None:
        self.weather = Weather()
        self.random = random
        self.listeners: dict[Place, SimListener] = {}
        self._loop = loop
        self._lines: dict[tuple[str, str], Line] = {}
        self._channels: dict[SimChannel, None] = {}  # in order of their making
        self._ports = PORT_FIRST
        # What is on its way arrives even if its sender has crashed meanwhile.
        self._context = copy_context()
        self._context.run(LIFE.set, None)

    # -- what a scenario does to it

    def cut(self, source: str, target: str, *, one_way: bool = False) -> None:
        """Nothing passes from `source` to `target` any more, nor back; their channels are lost."""
        self.line(source, target).state = State.CUT
        if not one_way:
            self.line(target, source).state = State.CUT
        for channel in list(self._channels):
            if {channel.here, channel.there} == {source, target}:
                if self.line(channel.there, channel.here).state is State.CUT:
                    self._lose_coming(channel)
                self._call(self._silence(), channel.break_off)

    def stall(self, source: str, target: str, *, one_way: bool = False) -> None:
        """Nothing arrives until `heal`; nothing is lost."""
        for line in self._both(source, target, one_way):
            if line.state is State.UP:
                line.state = State.STALLED

    def heal(self, source: str, target: str, *, one_way: bool = False) -> None:
        for line in self._both(source, target, one_way):
            line.state = State.UP
            held, line.held = line.held, []
            for channel in held:
                self._call(self._latency(), self._deliver, channel)
            _wake_all(line.waiting)

    def heal_all(self) -> None:
        for source, target in list(self._lines):
            self.heal(source, target, one_way=True)

    def crash(self, site: str, *, power: bool) -> None:
        """The processes of a site are gone. Without its power, nobody says good-bye for them."""
        self.listeners = {p: at for p, at in self.listeners.items() if p[0] != site}
        for channel in list(self._channels):
            if channel.here != site:
                continue
            if power:
                channel.vanish()
                self._lose_coming(channel.other)
                self._call(self._silence(), channel.other.break_off)
            else:
                channel.close()

    # -- what channels ask of it

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.random.random() < probability

    def send(self, sender: SimChannel, data: bytes | None) -> None:
        target, line = sender.other, self.line(sender.here, sender.there)
        if target.deaf or line.state is State.CUT:
            return
        if data and self.chance(self.weather.flip):
            flipped = bytearray(data)
            flipped[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
            data = bytes(flipped)
        twice = bool(data) and self.chance(self.weather.duplicate)
        for _ in range(1 + twice):
            line.free_at = max(line.free_at, self._loop.time())
            if self.weather.bytes_per_s:
                line.free_at += len(data or b"") / self.weather.bytes_per_s
            when = max(line.free_at + self._latency(), target.last_arrival)
            target.last_arrival = when
            target.coming.append(data)
            self._loop.call_at(when, self._deliver, target, context=self._context)

    def open(self, here: str, place: Place, address: str) -> tuple[SimChannel, SimChannel]:
        near = SimChannel(self, here, place[0], address)
        far = SimChannel(self, place[0], here, f"{here}:{self.port()}")
        near.other, far.other = far, near
        self._channels[near] = self._channels[far] = None
        return near, far

    def tidy(self, channel: SimChannel) -> None:
        if channel.over and channel.other.over:
            self._channels.pop(channel, None)
            self._channels.pop(channel.other, None)

    def port(self) -> int:
        self._ports += 1
        return self._ports

    async def reach(self, source: str, target: str) -> None:
        """One trip there and back; waits while the line is not up."""
        await self._pause(self._latency() + self._latency())
        for line in self._both(source, target, one_way=False):
            while line.state is not State.UP:
                if line.state is State.CUT and self.chance(self.weather.at_once):
                    raise Unavailable("no route")
                passable: asyncio.Future[None] = self._loop.create_future()
                line.waiting.append(passable)
                await passable

    def line(self, source: str, target: str) -> Line:
        line = self._lines.get((source, target))
        if line is None:
            line = self._lines[source, target] = Line()
        return line

    # -- inside

    def _both(self, source: str, target: str, one_way: bool) -> list[Line]:
        there = self.line(source, target)
        return [there] if one_way or source == target else [there, self.line(target, source)]

    def _deliver(self, channel: SimChannel) -> None:
        line = self.line(channel.there, channel.here)
        if line.state is State.STALLED:
            line.held.append(channel)
        elif channel.coming:
            channel.arrive(channel.coming.popleft())

    def _lose_coming(self, channel: SimChannel) -> None:
        """Of what is on its way, only the first messages arrive, and perhaps a part of the next."""
        coming = list(channel.coming)
        kept = self.random.randrange(len(coming) + 1)
        channel.coming = deque(coming[:kept])
        torn = coming[kept] if kept < len(coming) else None
        if torn is not None and len(torn) > 1 and self.chance(0.5):
            channel.coming.append(torn[: self.random.randrange(1, len(torn))])
        channel.deaf = True

    def _latency(self) -> float:
        return self.random.uniform(*self.weather.latency)

    def _silence(self) -> float:
        if self.chance(self.weather.at_once):
            return 0.0
        return self.random.uniform(*self.weather.silence)

    def _call(self, seconds: float, call: Any, *args: Any) -> None:
        self._loop.call_later(seconds, call, *args, context=self._context)

    async def _pause(self, seconds: float) -> None:
        over: asyncio.Future[None] = self._loop.create_future()
        self._call(seconds, _wake_all, [over])
        await over


class SimListener:
    def __init__(self, fabric: SimFabric, place: Place, handler: Handler, context: Context) -> None:
        self._fabric = fabric
        self._place = place
        self._handler = handler
        self._context = context

    @property
    def address(self) -> str:
        site, port = self._place
        return port if "/" in port else f"{site}:{port}"

    def close(self) -> None:
        if self._fabric.listeners.get(self._place) is self:
            del self._fabric.listeners[self._place]

    def accept(self, channel: SimChannel) -> None:
        loop = asyncio.get_running_loop()
        loop.create_task(  # noqa: RUF006 - the loop holds its tasks
            self._serve(channel), context=self._context.copy()
        )

    async def _serve(self, channel: Channel) -> None:
        try:
            await self._handler(channel)
        finally:
            channel.close()
