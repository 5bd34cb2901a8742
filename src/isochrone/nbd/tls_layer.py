"""TLS between a transport and a client: a transport to the one, a protocol to the other.

The loop's own `start_tls` would do, but differs from loop to loop in what becomes of bytes that
arrive while it is awaited. Here the change is one call: what the transport delivers after it is
TLS, what it has delivered before was not, and no byte can be taken for the other kind. A client
without TLS does not meet this file at all.

Bounds: what is received and not decrypted is at most one receive call, and while the client is
behind with its replies nothing is received.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, Protocol, cast

from isochrone.types import KIB, Buffer

RECEIVE_BYTES: Final = 64 * KIB  # four full records
WRITE_BYTES_MAX: Final = 256 * KIB  # encrypted in one go; more would be held twice


class Inner(Protocol):
    """The client, as a layer needs it."""

    def get_buffer(self, sizehint: int) -> memoryview: ...
    def buffer_updated(self, nbytes: int) -> None: ...
    def eof_received(self) -> bool: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...

    def secured(self, tls: ssl.SSLObject) -> None:
        """The handshake is done."""
        ...

    def not_secured(self, error: Exception) -> None:
        """TLS failed. The connection is being closed."""
        ...


class TlsLayer(asyncio.BufferedProtocol):
    """The server's side of TLS on one connection."""

    def __init__(
        self,
        context: ssl.SSLContext,
        transport: asyncio.Transport,
        client: Inner,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._transport = transport
        self._client = client
        self._loop = loop
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._room = memoryview(bytearray(RECEIVE_BYTES))
        self._established = False
        self._paused = False
        self._over = False  # nothing is received any more
        transport.set_protocol(self)

    # --- called by the transport ---------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        self._incoming.write(self._room[:nbytes])
        self._advance()

    def eof_received(self) -> bool:
        return self._client.eof_received()

    def pause_writing(self) -> None:
        self._client.pause_writing()

    def resume_writing(self) -> None:
        self._client.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._over = True
        self._client.connection_lost(exc)

    # --- called by the client, as its transport ------------------------------------------------

    def write(self, data: Buffer) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._tls.write(rest[:WRITE_BYTES_MAX]) :]
                self._flush()
        except ssl.SSLError as e:
            self._fail(e)

    def writelines(self, pieces: Sequence[Buffer]) -> None:
        for piece in pieces:
            self.write(piece)

    def pause_reading(self) -> None:
        self._paused = True
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._paused = False
        self._transport.resume_reading()
        self._loop.call_soon(self._advance)  # what is here already; not from within this call

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        """Say goodbye in TLS too, so that the client knows that nothing was cut off."""
        self._over = True
        if self._established:
            with suppress(ssl.SSLError):  # the other goodbye is not waited for
                self._tls.unwrap()
            self._flush()
        self._transport.close()

    def abort(self) -> None:
        self._over = True
        self._transport.abort()

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    # --- inside --------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Go on with what was received: the handshake first, then requests."""
        if not self._established and not self._over:
            self._shake_hands()
        if self._established:
            self._deliver()
        self._flush()  # also answers that the client does not know of, as to a new key

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError as e:
            self._fail(e)
            return
        self._established = True
        self._flush()
        self._client.secured(self._tls)

    def _deliver(self) -> None:
        """Hand on what can be decrypted, in as few calls as possible."""
        complete = True
        while complete and not self._paused and not self._over:
            room = self._client.get_buffer(-1)
            filled, complete = self._decrypt(room)
            if filled:
                self._client.buffer_updated(filled)

    def _decrypt(self, room: memoryview) -> tuple[int, bool]:
        """Fill the room; bytes, and whether there may be more."""
        filled = 0
        while filled < len(room):
            try:
                # With a buffer to fill it returns a count; its stub does not say so.
                count = cast("int", self._tls.read(len(room) - filled, room[filled:]))
            except ssl.SSLWantReadError:
                return filled, False
            except ssl.SSLZeroReturnError:
                count = 0
            except ssl.SSLError as e:
                self._fail(e)
                return filled, False
            if not count:  # the client has said goodbye
                self._loop.call_soon(self._leave)
                return filled, False
            filled += count
        return filled, True

    def _leave(self) -> None:
        self._client.eof_received()
        self.close()

    def _flush(self) -> None:
        if self._outgoing.pending and not self._transport.is_closing():
            self._transport.write(self._outgoing.read())

    def _fail(self, error: Exception) -> None:
        if not self._over:
            self._over = True
            self._flush()  # the alert says why
            self._client.not_secured(error)
            self._transport.close()
