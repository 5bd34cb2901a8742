"""One client: a session on a transport, with its timers and its bounds.

What a client can make us hold is bounded: what it sent (`inbox`), what it is to get (a turn of
reads above WRITE_BUFFER_BYTES_MAX), and how many requests wait (REQUESTS_MAX). Above a bound we
stop reading from it, and go on when it is below. What all clients hold together is bounded too
(`limits`). Requests that a filter makes wait stay here until they are due. Whatever goes wrong here
ends this connection and no other.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from math import inf
from typing import Any, Final, Protocol, cast

import structlog

from isochrone.errors import IsochroneError
from isochrone.nbd.connection import Ask, Phase, Request
from isochrone.nbd.filters import WAITING_BYTES_MAX, Filter, Filters, Waiting
from isochrone.nbd.handshake import Question, Tls
from isochrone.nbd.limits import REQUEST_BYTES_HELD
from isochrone.nbd.tls import TlsPolicy, host_of
from isochrone.nbd.tls_layer import TlsLayer
from isochrone.nbd.turn import Seat
from isochrone.types import KIB, MIB, Caller, Device, ExportInfo, Proof

HANDSHAKE_S_MAX: Final = 10.0  # qemu's; a client that does not negotiate must not hold a place
LINGER_S_MAX: Final = 10.0  # for a client that does not take its last replies
WRITE_BUFFER_BYTES_MAX: Final = 1 * MIB  # more than a socket buffer takes: the client is behind
WRITE_BUFFER_BYTES_LOW: Final = 256 * KIB  # below, the next turn of reads arrives in time
REQUESTS_MAX: Final = 4096  # of one connection, waiting; Linux has 128 in flight, nbdcopy 64
JOIN_BYTES_MAX: Final = 32 * KIB  # a piece below costs less to copy than to hand over by itself

NOBODY: Final = Caller(Proof.ADDRESS, "", "")  # before the transport has said who it is

log = structlog.get_logger("isochrone.nbd")


class Door(Protocol):
    """What a client needs of the front door."""

    @property
    def backend(self) -> Filters: ...
    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def handshake_s(self) -> float: ...

    def welcome(self, client: Client, transport: asyncio.Transport) -> bool:
        """Take a new client in and say who it is; False if it must go again."""
        ...

    def goodbye(self, client: Client) -> None: ...

    def wake(self, client: Client) -> None:
        """Let a client take part in the next turn."""
        ...

    def take_turn(self) -> None:
        """Serve everything that has arrived, over all connections."""
        ...

    def arrived(self, size: int) -> None:
        """So much waits for the next turn, which may not be later than that."""
        ...

    def weighed(self, client: Client, held: int) -> None:
        """A client holds another amount of memory than before."""
        ...

    def say(self, event: str, client: Client, **facts: Any) -> None:
        """Log what a peer did, or no line at all if peers make us write too many."""
        ...


class Client(Seat, asyncio.BufferedProtocol):
    """One connection and its transport."""

    __slots__ = (
        "_closed",
        "_door",
        "_gate",
        "_gate_timer",
        "_held",
        "_policy",
        "_reading_paused",
        "_said",
        "_timer",
        "_transport",
        "_waiting",
        "_writing_paused",
        "awake",
        "caller",
        "flushed_s",
        "held_up",
        "host",
        "name",
        "paced",
        "syncing",
    )

    def __init__(self, door: Door, policy: TlsPolicy | None = None) -> None:
        super().__init__(policy.mode if policy is not None else Tls.OFF)
        self._door = door
        self._policy = policy
        self._timer: asyncio.TimerHandle | None = None
        self._reading_paused = False
        self._writing_paused = False
        self._closed = False  # its end of the connection, so that it has let go
        self._said = False  # a failure of this connection is logged once
        self._held = 0  # bytes of memory, as the door was told last
        self._gate: Filter | None = None  # set while a filter may make requests wait
        self._gate_timer: asyncio.TimerHandle | None = None
        self._waiting = Waiting()
        self.caller = NOBODY  # who is attached
        self.name = ""  # the same in a word, for the log
        self.host = ""  # what a verified certificate says
        self.awake = False  # in the list of the next turn, or of those that wait for room
        self.held_up = False  # in the latter
        self.paced = False  # its changes have waited, for this turn, until a mirror can follow
        self.syncing = 0  # requests that wait for a flush
        self.flushed_s = -inf  # when it last asked for one

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
        if requests:
            self._door.arrived(nbytes + REQUEST_BYTES_HELD * len(requests))
        else:
            self._weigh()  # nothing to do for a turn, which would weigh
        self._take(requests)

    def eof_received(self) -> bool:
        self._closed = True
        self._linger()
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
            self._weigh()
            self._balance()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.requests:
            self._door.take_turn()  # sent before the goodbye: still to be done
        self._cancel_timer()
        self._cancel_gate()
        self.reads.clear()
        try:
            welcome = self.may_stay()  # else it will not come back for it either
            device, self.device = self.device, None
            if device is not None:
                goodbye = self.connection.phase is Phase.CLOSED and not self.connection.fault
                lost = welcome and not goodbye and not self._closed
                self._door.backend.detach(device, self.caller, lost=lost)
        except Exception as e:  # noqa: BLE001 - logged; the place must become free
            self._log_failure(e)
        finally:
            self._door.goodbye(self)

    # --- the session ---------------------------------------------------------------------------

    def _take(self, requests: list[Request]) -> None:
        if requests and self._gate is not None:
            requests = self._hold(requests, self._gate)
        if requests:
            self.requests += requests
            self._door.wake(self)
            if len(self.requests) > REQUESTS_MAX:
                self._balance()  # uvloop may read often before it lets the turn run
        else:
            self._send()  # what was refused while it was parsed needs no turn
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
        if question.ask is Ask.SECURE:
            return self._begin_tls()
        try:
            if question.ask is Ask.LIST:
                return connection.listing(e for e in backend.exports() if self._may_see(e.name))
            if question.ask is not Ask.OPEN:
                return self._describe(question)
            device = self._attach(question.name)
        except IsochroneError as e:
            return connection.refuse(e)
        self.device = device
        self._gate = _gate(device)
        self._cancel_timer()
        return connection.opened(_export_info(device))

    def _describe(self, question: Question) -> list[Request]:
        """Answer what OPEN would keep. Nobody is attached: a host that was cut off and looks again
        has not come back yet, and must not seem to have said good-bye."""
        self._check(question.name)
        device = self._door.backend.look(question.name)
        self._check(device.name)  # what the empty name stands for
        if question.ask is Ask.INFO:
            return self.connection.describe(_export_info(device))
        return self.connection.offer(device.name, device.copies())

    def _attach(self, name: str) -> Device:
        """Open an export if the rules of this port let us."""
        self._check(name)
        device = self._door.backend.attach(name, self.caller)
        try:
            self._check(device.name)  # what the empty name stands for
        except IsochroneError:
            self._door.backend.detach(device, self.caller)
            raise
        return device

    def _check(self, export: str) -> None:
        if export and self._policy is not None:
            self._policy.check(export, secure=self.connection.secure, host=self.host)

    def _may_see(self, export: str) -> bool:
        policy = self._policy
        return policy is None or policy.allows(
            export, secure=self.connection.secure, host=self.host
        )

    def meet(self, caller: Caller) -> None:
        """From now on it is known who this is. Nothing is attached yet."""
        self.caller, self.name = caller, str(caller)

    def may_stay(self) -> bool:
        """Whether the rules, as they are now, let it keep what it has open."""
        return self.device is None or self._may_see(self.device.name)

    # --- TLS -----------------------------------------------------------------------------------

    def _begin_tls(self) -> list[Request]:
        requests = self.connection.secured()
        if self._policy is not None and self.connection.secure:
            layer = TlsLayer(self._policy.context, self._transport, self, self._door.loop)
            self._transport = cast("asyncio.Transport", layer)  # as much of one as we use
        return requests

    def secured(self, tls: ssl.SSLObject) -> None:
        try:
            self.host = host_of(tls.getpeercert())
        except Exception as e:  # noqa: BLE001 - ends this connection only, and is logged
            self.not_secured(e)
            self.abort()
            return
        log.debug("nbd client uses tls", client=self.name, host=self.host, version=tls.version())
        if self.host:
            self.meet(Caller(Proof.CERTIFICATE, self.host, self.caller.address))

    def not_secured(self, error: Exception) -> None:
        if not self._said:
            self._said = True
            self._door.say("nbd client failed at tls", self, reason=str(error))

    # --- replies -------------------------------------------------------------------------------

    def refit(self, name: str) -> None:
        """The filters of this export have changed."""
        if self.device is None or self.device.name != name:
            return
        self.device = self._door.backend.dress(self.device)
        self._gate = _gate(self.device)
        self._cancel_gate()
        self._take(self._waiting.all())
        self._balance()

    def settle(self) -> None:
        """After a turn: send the replies, and see what the connection needs next."""
        try:
            if self.broken is not None:
                raise self.broken
            self._send()
            self._weigh()
            if self.requests or (self.reads and not (self._writing_paused or self.squeezed)):
                self._door.wake(self)
            self._balance()
            if self.connection.phase is Phase.CLOSED:
                self._finish()
        except Exception as e:  # noqa: BLE001 - ends this connection only, and is logged
            self._fail(e)

    def wait_for_room(self) -> None:
        """Its changes are not made yet; it may not send more of them meanwhile."""
        self.held_up = True
        self._balance()

    def synced(self, cookies: list[bytes], failure: BaseException | None) -> None:
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
            self._linger()
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def expel(self) -> None:
        """Hang up, and forget the requests that wait, for a turn or for a filter."""
        for waiting in (self.requests, self.unfinished, self.reads):
            waiting.clear()
        self._waiting.all()  # a filter's timer may come before the end of the connection
        self._cancel_gate()
        self._transport.abort()

    def squeeze(self, squeezed: bool) -> None:
        """All clients together hold too much, and this one more than its part; or no more."""
        if squeezed is not self.squeezed:
            self.squeezed = squeezed
            if self.reads and not squeezed and not self._writing_paused:
                self._door.wake(self)
            self._balance()

    def weigh_again(self) -> None:
        self.connection.give_back()
        self._weigh()

    def evict(self, held: int) -> None:
        self._said = True
        self._door.say("nbd client held memory that others need", self, bytes=held)
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

    def _weigh(self) -> None:
        """Tell the door what this client makes us hold, if that has changed."""
        held = (
            self.connection.memory
            + self._transport.get_write_buffer_size()
            + self._waiting.cost
            + (REQUEST_BYTES_HELD * len(self.reads) if self.reads else 0)
        )
        if held != self._held:
            self._held = held
            self._door.weighed(self, held)

    def _hold(self, requests: list[Request], gate: Filter) -> list[Request]:
        """Keep the requests that are not due yet; returns those that are."""
        going = self._waiting.sort(requests, gate, self._door.loop.time())
        if not going and not self.requests:
            self.connection.release()  # what waits has its own copy
        self._arm_gate()
        self._weigh()
        self._balance()
        return going

    def _arm_gate(self) -> None:
        self._cancel_gate()
        due = self._waiting.next_due()
        if due != inf:
            self._gate_timer = self._door.loop.call_at(due, self._open_gate)

    def _open_gate(self) -> None:
        self.requests += self._waiting.ready(self._door.loop.time())
        self._arm_gate()
        if self.requests:
            self._door.wake(self)

    def _cancel_gate(self) -> None:
        if self._gate_timer is not None:
            self._gate_timer.cancel()
            self._gate_timer = None

    def _balance(self) -> None:
        """Read from the client if, and only if, it is within its bounds."""
        pause = (
            self._writing_paused
            or bool(self.reads)
            or self.squeezed
            or self.held_up
            or len(self.requests) + self.syncing > REQUESTS_MAX
            or self._waiting.cost > WAITING_BYTES_MAX
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
            self._door.say("nbd client left the protocol", self, fault=self.connection.fault)
        self._balance()
        if not (self.requests or self.reads or self.syncing or self._waiting.cost):
            self.leave()

    def _too_slow(self) -> None:
        self._said = True
        self._door.say("nbd client did not negotiate", self, seconds=self._door.handshake_s)
        self.abort()

    def _fail(self, error: Exception) -> None:
        self._log_failure(error)
        self.requests = []
        self.reads.clear()
        self.abort()

    def _log_failure(self, error: Exception) -> None:
        if not self._said:
            self._said = True
            self._door.say("nbd connection failed", self, exc_info=error)

    def _linger(self) -> None:
        """The transport is closing: do not wait for ever for what the client does not take."""
        self._cancel_timer()
        self._timer = self._door.loop.call_later(LINGER_S_MAX, self._transport.abort)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _gate(device: Device) -> Filter | None:
    return device if isinstance(device, Filter) and device.waits else None


def _export_info(device: Device) -> ExportInfo:
    return ExportInfo(device.name, device.size, device.read_only, device.description)
