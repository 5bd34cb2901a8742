"""Byte channels between controllers.

An address is `HOST:PORT`, or the path of a Unix socket. The block front door does not use this: it
has its own `Protocol` classes, where every microsecond counts.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol, cast

from isochrone.errors import InvalidInput, Unavailable
from isochrone.types import Buffer

READ_BYTES: Final = 1 << 18  # one `read`; larger ones only hold memory longer
UNSENT_BYTES_MAX: Final = 4 << 20  # `drain` waits above this; two frames of payload
CONNECT_SECONDS_MAX: Final = 10.0
CLOSE_SECONDS_MAX: Final = 10.0  # to take what is unsent; who does not read would hold it for ever


_PORT: Final = re.compile(r"[0-9]{1,5}")


class Channel(Protocol):
    """An ordered, reliable stream of bytes, as a TCP connection is."""

    @property
    def peer(self) -> str: ...

    async def read(self) -> bytes:
        """The next bytes, at most READ_BYTES; empty when the other side has closed."""
        ...

    async def read_into(self, room: memoryview) -> int:
        """The same into a place that is not empty; how many there are, 0 at the end."""
        ...

    def write(self, pieces: Sequence[Buffer]) -> None: ...

    async def drain(self) -> None:
        """Wait until little enough is unsent. Raises `Unavailable` when the channel is gone."""
        ...

    def close(self) -> None: ...


Handler = Callable[[Channel], Awaitable[None]]


class Listener(Protocol):
    @property
    def address(self) -> str: ...

    def close(self) -> None: ...


class Net(Protocol):
    async def connect(self, address: str) -> Channel:
        """Raises `Unavailable` when nobody answers there."""
        ...

    async def listen(self, address: str, handler: Handler) -> Listener: ...


def split_address(address: str) -> tuple[str, int] | None:
    """(host, port), or None for the path of a Unix socket. Raises `InvalidInput`."""
    if "/" in address:
        return None
    host, colon, port = address.rpartition(":")
    if not colon or not _PORT.fullmatch(port) or int(port) > 65535:
        raise InvalidInput(
            f"{address!r} is not an address",
            hint="write HOST:PORT, or a path with a slash for a Unix socket",
        )
    return host.strip("[]") or "127.0.0.1", int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address. Compared as a number, never as text."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_anywhere(address: str) -> bool:
    """Whether one listens there at all addresses of the host: others need a real one to call."""
    where = split_address(address)
    try:
        return where is not None and ipaddress.ip_address(where[0]).is_unspecified
    except ValueError:
        return False


class SocketChannel(asyncio.BufferedProtocol):
    """A channel over a socket. Bytes are received right where their reader wants them.

    So the socket is read while somebody waits for it, and no sooner; what else comes waits in the
    kernel. Only what a loop receives before it is told to wait lies here.
    """

    def __init__(
        self, peer: str = "", accepted: Callable[[SocketChannel], None] | None = None
    ) -> None:
        self._transport: asyncio.Transport
        self._peer = peer
        self._accepted = accepted
        self._room: memoryview | None = None  # of the reader that waits
        self._reader: asyncio.Future[None] | None = None
        self._got = 0
        self._early = memoryview(b"")  # came when nobody waited
        self._early_room: memoryview | None = None
        self._ended = False  # the other side will not send any more
        self._lost = False
        self._reason = "closed"
        self._writing: asyncio.Future[None] | None = None  # while too much is unsent

    @property
    def peer(self) -> str:
        return self._peer

    async def read(self) -> bytes:
        room = memoryview(bytearray(READ_BYTES))
        return bytes(room[: await self.read_into(room)])

    async def read_into(self, room: memoryview) -> int:
        assert self._reader is None, "two readers of one channel"
        if self._early:
            count = min(len(room), len(self._early))
            room[:count] = self._early[:count]
            self._early = self._early[count:]
            return count
        if self._ended or self._lost:
            return 0
        self._room, self._got = room, 0
        self._reader = asyncio.get_running_loop().create_future()
        self._transport.resume_reading()
        try:
            await self._reader
            return self._got
        except asyncio.CancelledError:
            came = room[: self._got]  # in this very turn, and before what is early
            self._early = memoryview(b"".join((came, self._early)))
            raise
        finally:
            self._room = self._reader = None
            self._transport.pause_reading()

    def write(self, pieces: Sequence[Buffer]) -> None:
        if not self._transport.is_closing():
            self._transport.writelines(pieces)

    async def drain(self) -> None:
        while self._writing is not None and not self._lost:
            await asyncio.shield(self._writing)
        if self._lost or self._transport.is_closing():
            raise Unavailable(f"lost the connection to {self._peer}: {self._reason}")

    def close(self) -> None:
        transport = self._transport
        if transport.is_closing():
            return
        transport.close()
        if transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(CLOSE_SECONDS_MAX, transport.abort)

    # -- called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods but not the base class, so `isinstance` cannot tell.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=UNSENT_BYTES_MAX)
        self._transport.pause_reading()
        self._peer = self._peer or str(transport.get_extra_info("peername") or "unix")
        if self._accepted is not None:
            self._accepted(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._room is not None and not self._got:
            self._early_room = None  # asked for before, and then nothing came
            return self._room
        self._early_room = memoryview(bytearray(READ_BYTES))
        return self._early_room

    def buffer_updated(self, nbytes: int) -> None:
        self._transport.pause_reading()
        if self._early_room is not None:
            came, self._early_room = self._early_room[:nbytes], None
            self._early = memoryview(b"".join((self._early, came))) if self._early else came
        else:
            self._got = nbytes
            self._wake()

    def eof_received(self) -> bool:
        self._ended = True
        self._wake()
        return True  # what we have to say may still be read

    def pause_writing(self) -> None:
        self._writing = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None and not writing.done():
            writing.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._reason = str(exc or self._reason)
        self._wake()
        self.resume_writing()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class SystemNet:
    def __init__(self, handed: Mapping[str, socket.socket] | None = None) -> None:
        """`handed`: listening sockets that somebody opened for us, by the address to ask for."""
        self._handed = dict(handed or {})

    async def connect(self, address: str) -> Channel:
        where = split_address(address)
        loop = asyncio.get_running_loop()
        channel = SocketChannel(address)
        try:
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                if where is None:
                    await loop.create_unix_connection(lambda: channel, address)
                else:
                    await loop.create_connection(lambda: channel, *where)
        except (OSError, ValueError) as e:  # ValueError: no host can have that name
            raise Unavailable(f"nobody answers at {address}: {str(e) or 'timed out'}") from e
        return channel

    async def listen(self, address: str, handler: Handler) -> Listener:
        loop = asyncio.get_running_loop()
        tasks: set[asyncio.Task[None]] = set()

        async def serve(channel: SocketChannel) -> None:
            try:
                await handler(channel)
            finally:
                channel.close()

        def accepted(channel: SocketChannel) -> None:
            task = loop.create_task(serve(channel))
            tasks.add(task)
            task.add_done_callback(served)

        def served(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                loop.call_exception_handler(
                    {"message": "a handler of connections broke", "exception": error, "task": task}
                )

        def made() -> SocketChannel:
            return SocketChannel(accepted=accepted)

        where = split_address(address)
        handed = self._handed.get(address)
        try:
            if handed is not None and handed.family == socket.AF_UNIX:
                server = await loop.create_unix_server(made, sock=handed)
            elif handed is not None:
                server = await loop.create_server(made, sock=handed)
            elif where is None:
                server = await loop.create_unix_server(made, address)
            else:
                server = await loop.create_server(made, *where)
        except (OSError, ValueError) as e:
            reason = (isinstance(e, OSError) and e.strerror) or e
            raise Unavailable(
                f"cannot listen at {address}: {reason}", hint="choose another address"
            ) from e
        return _Listening(server)


class _Listening:
    def __init__(self, server: asyncio.Server) -> None:
        self._server = server

    @property
    def address(self) -> str:
        name = self._server.sockets[0].getsockname()
        if isinstance(name, tuple):
            return f"{name[0]}:{name[1]}"
        return str(Path(name).absolute())  # others are told, and have another working directory

    def close(self) -> None:
        self._server.close()
