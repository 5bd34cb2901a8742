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
from typing import Final, Protocol

from isochrone.errors import InvalidInput, Unavailable
from isochrone.types import Buffer

READ_BYTES: Final = 1 << 18  # one read; larger ones only hold memory longer
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


class StreamChannel:
    """A channel over asyncio streams."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._peer = peer
        writer.transport.set_write_buffer_limits(high=UNSENT_BYTES_MAX)

    @property
    def peer(self) -> str:
        return self._peer

    async def read(self) -> bytes:
        try:
            return await self._reader.read(READ_BYTES)
        except OSError:
            return b""

    def write(self, pieces: Sequence[Buffer]) -> None:
        self._writer.writelines(pieces)

    async def drain(self) -> None:
        try:
            await self._writer.drain()
        except OSError as e:
            raise Unavailable(f"lost the connection to {self._peer}: {e}") from e

    def close(self) -> None:
        transport = self._writer.transport
        if transport.is_closing():
            return
        self._writer.close()
        if transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(CLOSE_SECONDS_MAX, transport.abort)


class SystemNet:
    def __init__(self, handed: Mapping[str, socket.socket] | None = None) -> None:
        """`handed`: listening sockets that somebody opened for us, by the address to ask for."""
        self._handed = dict(handed or {})

    async def connect(self, address: str) -> Channel:
        where = split_address(address)
        try:
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                if where is None:
                    reader, writer = await asyncio.open_unix_connection(address)
                else:
                    reader, writer = await asyncio.open_connection(*where)
        except (OSError, ValueError) as e:  # ValueError: no host can have that name
            raise Unavailable(f"nobody answers at {address}: {str(e) or 'timed out'}") from e
        return StreamChannel(reader, writer, address)

    async def listen(self, address: str, handler: Handler) -> Listener:
        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peer = writer.get_extra_info("peername")
            channel = StreamChannel(reader, writer, str(peer or "unix"))
            try:
                await handler(channel)
            finally:
                channel.close()

        where = split_address(address)
        handed = self._handed.get(address)
        try:
            if handed is not None:
                unix = handed.family == socket.AF_UNIX
                start = asyncio.start_unix_server if unix else asyncio.start_server
                return _Listening(await start(accepted, sock=handed))
            if where is None:
                return _Listening(await asyncio.start_unix_server(accepted, address))
            return _Listening(await asyncio.start_server(accepted, *where))
        except (OSError, ValueError) as e:
            reason = (isinstance(e, OSError) and e.strerror) or e
            raise Unavailable(
                f"cannot listen at {address}: {reason}", hint="choose another address"
            ) from e


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
