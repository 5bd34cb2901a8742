"""One client: a session on a transport, with its timers and its bounds.

What a client can make us hold is bounded: what it sent (`inbox`), what it is to get (a turn of
reads above WRITE_BUFFER_BYTES_MAX), and how many requests wait (REQUESTS_MAX). Above a bound we
stop reading from it, and go on when it is below. Whatever goes wrong here ends this connection and
no other.
"""

from __future__ import annotations

import asyncio
import errno
from typing import Final, Protocol, cast

import structlog

from isochrone.errors import IsochroneError
from isochrone.nbd.connection import Ask, Phase, Request
from isochrone.nbd.turn import Seat
from isochrone.types import KIB, MIB, Backend, Device, ExportInfo

HANDSHAKE_S_MAX: Final = 10.0  # qemu's; a client that does not negotiate must not hold a place
LINGER_S_MAX: Final = 10.0  # for a client that does not take its last replies
WRITE_BUFFER_BYTES_MAX: Final = 1 * MIB  # more than a socket buffer takes: the client is behind
WRITE_BUFFER_BYTES_LOW: Final = 256 * KIB  # below, the next turn of reads arrives in time
REQUESTS_MAX: Final = 4096  # of one connection, waiting; Linux has 128 in flight, nbdcopy 64
JOIN_BYTES_MAX: Final = 32 * KIB  # a piece below costs less to copy than to hand over by itself

log = structlog.get_logger("isochrone.nbd")


class Door(Protocol):
    """What a client needs of the front door."""

    @property
    def backend(self) -> Backend: ...
    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def handshake_s(self) -> float: ...

    def welcome(self, client: Client, transport: asyncio.Transport) -> bool:
        """Take a new client in and name it; False if it must go again."""
        ...

    def goodbye(self, client: Client) -> None: ...

    def wake(self, client: Client) -> None:
        """Let a client take part in the next turn."""
        ...

    def take_turn(self) -> None:
        """Serve everything that has arrived, over all connections."""
        ...


class Client(Seat, asyncio.BufferedProtocol):
    """One connection and its transport."""

    __slots__ = (
        "_door",
        "_reading_paused",
        "_said",
        "_timer",
        "_transport",
        "_writing_paused",
        "awake",
        "name",
        "syncing",
    )

    def __init__(self, door: Door) -> None:
        super().__init__()
        self._door = door
        self._timer: asyncio.TimerHandle | None = None
        self._reading_paused = False
        self._writing_paused = False
        self._said = False  # a failure of this connection is logged once
        self.name = ""
        self.awake = False  # in the list of the next turn
        self.syncing = 0  # requests that wait for a flush

    # --- called by the transport ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods but not the base class, so `isinstance` cannot tell.
        transport = cast("asyncio.Transport", transport)
        self._transport = transport
        transport.set_write_buffer_limits(WRITE_BUFFER_BYTES_MAX, WRITE_BUFFER_BYTES_LOW)
        if not self._door.welcome(self, transport):
            transport.abort()
            return
        self._timer = self._door.loop.call_later(self._door.handshake_s, self._too_slow)
        self._send()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.connection.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            requests = self.connection.buffer_updated(nbytes)
            if self.device is None:
                requests = self._negotiate(requests)
        except Exception as e:  # noqa: BLE001 - ends this connection only, and is logged
            self._fail(e)
            return
        self._take(requests)

    def eof_received(self) -> bool:
        return False  # a client that will not send any more is gone: let the transport close

    def pause_writing(self) -> None:
        self._writing_paused = True
        self._balance()

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self.connection.question is not None:
            try:
                self._take(self._negotiate([]))
            except Exception as e:  # noqa: BLE001 - ends this connection only, and is logged
                self._fail(e)
                return
        if self.reads:
            self._door.wake(self)
        else:
            self._balance()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.requests:
            self._door.take_turn()  # sent before the goodbye: still to be done
        self._cancel_timer()
        self.reads.clear()
        device, self.device = self.device, None
        try:
            if device is not None:
                self._door.backend.detach(device, self.name)
        except Exception as e:  # noqa: BLE001 - logged; the place must become free
            self._log_failure(e)
        finally:
            self._door.goodbye(self)

    # --- the session ---------------------------------------------------------------------------

    def _take(self, requests: list[Request]) -> None:
        if requests:
            self.requests += requests
            self._door.wake(self)
            if len(self.requests) > REQUESTS_MAX:
                self._balance()  # uvloop may read often before it lets the turn run
        if self.connection.phase is Phase.CLOSED:
            self._finish()

    def _negotiate(self, requests: list[Request]) -> list[Request]:
        """Answer questions until there are none, or the client does not take the answers."""
        self._send()
        while self.connection.question is not None and not self._writing_paused:
            requests = self._answer()
            self._send()
        return requests

    def _answer(self) -> list[Request]:
        question, connection, backend = (
            self.connection.question,
            self.connection,
            self._door.backend,
        )
        if question is None:
            return []
        try:
            if question.ask is Ask.LIST:
                return connection.listing(backend.exports())
            device = backend.attach(question.name, self.name)
        except IsochroneError as e:
            return connection.refuse(e)
        if question.ask is not Ask.OPEN:
            # Attached for a moment, so that the answer promises what GO will keep.
            try:
                export, copies = _export_info(device), device.copies()
            finally:
                backend.detach(device, self.name)
            if question.ask is Ask.INFO:
                return connection.describe(export)
            return connection.offer(export.name, copies)
        self.device = device
        self._cancel_timer()
        return connection.opened(_export_info(device))

    def settle(self) -> None:
        """After a turn: send the replies, and see what the connection needs next."""
        try:
            if self.broken is not None:
                raise self.broken
            self._send()
            if self.reads and not self._writing_paused:
                self._door.wake(self)
            self._balance()
            if self.connection.phase is Phase.CLOSED:
                self._finish()
        except Exception as e:  # noqa: BLE001 - ends this connection only, and is logged
            self._fail(e)

    def synced(self, cookies: list[bytes], failure: Exception | None) -> None:
        """A flush that these requests waited for has ended."""
        self.syncing -= len(cookies)
        if failure is None:
            self.connection.done(cookies)
        else:
            for cookie in cookies:
                self.connection.failed(cookie, errno.EIO, str(failure))
        self.settle()

    def leave(self) -> None:
        """Send what is left to send, then close."""
        if not self._transport.is_closing():
            self._send()
            self._cancel_timer()
            self._timer = self._door.loop.call_later(LINGER_S_MAX, self._transport.abort)
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    # --- inside --------------------------------------------------------------------------------

    def _send(self) -> None:
        pieces = self.connection.output()
        if not pieces or self._transport.is_closing():
            return
        if max(map(len, pieces)) > JOIN_BYTES_MAX:
            self._transport.writelines(pieces)
        else:
            self._transport.write(b"".join(pieces))

    def _balance(self) -> None:
        """Read from the client if, and only if, it is within its bounds."""
        pause = (
            self._writing_paused
            or bool(self.reads)
            or len(self.requests) + self.syncing > REQUESTS_MAX
            or self.connection.phase is Phase.CLOSED
        )
        if pause is not self._reading_paused and not self._transport.is_closing():
            self._reading_paused = pause
            if pause:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _finish(self) -> None:
        """The session is over: answer what came before its end, then close."""
        if self.connection.fault and not self._said:
            self._said = True
            log.warning(
                "nbd client left the protocol", client=self.name, fault=self.connection.fault
            )
        self._balance()
        if not (self.requests or self.reads or self.syncing):
            self.leave()

    def _too_slow(self) -> None:
        self._said = True
        log.warning(
            "nbd client did not negotiate", client=self.name, seconds=self._door.handshake_s
        )
        self.abort()

    def _fail(self, error: Exception) -> None:
        self._log_failure(error)
        self.requests = []
        self.reads.clear()
        self.abort()

    def _log_failure(self, error: Exception) -> None:
        if not self._said:
            self._said = True
            log.error("nbd connection failed", client=self.name, exc_info=error)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _export_info(device: Device) -> ExportInfo:
    return ExportInfo(device.name, device.size, device.read_only, device.description)
