"""One NBD session without a socket: bytes in; questions, requests and bytes out.

    buffer = connection.get_buffer()                # put bytes there
    requests = connection.buffer_updated(count)     # then say how many
    while connection.question: ...                  # answer; every answer may yield requests
    connection.done(...), .data(...), .failed(...)  # reply to requests, in any order
    connection.release()                            # payloads of all requests so far are used up
    pieces = connection.output()                    # send them, in this order

Until `release`, the payload of a WRITE stays valid and unchanged. The session is over when `phase`
is CLOSED; `fault` then says what the peer did wrong, and is empty after an orderly goodbye. Nothing
a peer sends raises.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum, auto
from typing import Final

from isochrone.errors import IsochroneError, PeerFault
from isochrone.nbd import wire
from isochrone.nbd.contexts import Context
from isochrone.nbd.extended import ExtendedTransmission
from isochrone.nbd.handshake import Ask, Handshake, Question, Tls
from isochrone.nbd.inbox import Inbox
from isochrone.nbd.transmission import Request, Transmission
from isochrone.types import Buffer, ExportInfo

__all__ = ["Ask", "Connection", "Phase", "Question", "Request", "Tls"]


class Phase(Enum):
    FLAGS = auto()  # the greeting is out; the client's flags come next
    OPTIONS = auto()
    ASKING = auto()  # an option waits for the answer to `question`
    REQUESTS = auto()  # an export is open
    CLOSED = auto()


class Step(Enum):
    FLAGS_TAKEN = auto()
    ASKED = auto()
    ANSWERED = auto()
    OPENED = auto()
    ENDED = auto()


MOVES: Final[dict[Phase, dict[Step, Phase]]] = {
    Phase.FLAGS: {Step.FLAGS_TAKEN: Phase.OPTIONS, Step.ENDED: Phase.CLOSED},
    Phase.OPTIONS: {Step.ASKED: Phase.ASKING, Step.ENDED: Phase.CLOSED},
    Phase.ASKING: {
        Step.ANSWERED: Phase.OPTIONS,
        Step.OPENED: Phase.REQUESTS,
        Step.ENDED: Phase.CLOSED,
    },
    Phase.REQUESTS: {Step.ENDED: Phase.CLOSED},
    Phase.CLOSED: {Step.ENDED: Phase.CLOSED},
}


class Connection:
    """The server's side of one session."""

    __slots__ = (
        "_handshake",
        "_inbox",
        "_out",
        "_transmission",
        "data",
        "done",
        "failed",
        "fault",
        "get_buffer",
        "phase",
        "question",
        "status",
    )

    def __init__(self, tls: Tls = Tls.OFF) -> None:
        self._out: list[Buffer] = []
        self._inbox = Inbox()
        self._handshake = Handshake(self._out, tls)
        self.phase = Phase.FLAGS
        self.question: Question | None = None
        self.fault = ""
        self.get_buffer = self._inbox.room  # no call in between: one of these for every receive
        # Replies, as `Transmission` has them; bound here once the export is open.
        self._use(Transmission(0, read_only=True, structured=False, out=self._out))

    def _use(self, transmission: Transmission) -> None:
        self._transmission = transmission
        self.done = transmission.done
        self.data = transmission.data
        self.status = transmission.status
        self.failed = transmission.failed

    @property
    def secure(self) -> bool:
        """Whether TLS is between us and the client."""
        return self._handshake.secure

    @property
    def contexts(self) -> Sequence[Context]:
        """What a BLOCK_STATUS asks for."""
        return self._transmission.contexts

    def buffer_updated(self, count: int) -> list[Request]:
        """`count` bytes are in the buffer; returns the requests that are complete now."""
        self._inbox.filled(count)
        return self._advance()

    def receive_data(self, data: Buffer) -> list[Request]:
        """The same for bytes that are elsewhere. They are copied."""
        requests: list[Request] = []
        rest = memoryview(data)
        while rest:
            if self.phase is Phase.CLOSED:
                break
            room = self.get_buffer()
            count = min(len(room), len(rest))
            room[:count] = rest[:count]
            rest = rest[count:]
            requests += self.buffer_updated(count)
        return requests

    def output(self) -> list[Buffer]:
        """Take what is to be sent."""
        out = self._out[:]
        self._out.clear()
        return out

    def release(self) -> None:
        """No payload handed out so far is used any more; its memory may be."""
        self._inbox.pinned = False

    @property
    def memory(self) -> int:
        """Bytes that what the peer sent takes."""
        return self._inbox.touched

    def give_back(self) -> None:
        """Memory is short: let go what is not needed just now."""
        self._inbox.give_back()

    # --- answers to the question ---------------------------------------------------------------

    def listing(self, exports: Iterable[ExportInfo]) -> list[Request]:
        """Answer Ask.LIST."""
        self._handshake.listing(exports)
        return self._answered(Step.ANSWERED)

    def describe(self, export: ExportInfo) -> list[Request]:
        """Answer Ask.INFO."""
        self._handshake.describe(export)
        return self._answered(Step.ANSWERED)

    def offer(self, export: str, copies: Mapping[str, int]) -> list[Request]:
        """Answer Ask.CONTEXTS: the export's own name, and the copies it can be compared with."""
        self._handshake.offer(export, copies)
        return self._answered(Step.ANSWERED)

    def secured(self) -> list[Request]:
        """Answer Ask.SECURE: what is received from now on has come through TLS.

        The client waits for our answer before it begins. Bytes that are here already came in the
        clear, perhaps from somebody else, and must not be taken for what came through TLS.
        """
        if self._inbox.end > self._inbox.start:
            self._end("bytes in the clear behind STARTTLS")
            return []
        self._handshake.secured()
        return self._answered(Step.ANSWERED)

    def opened(self, export: ExportInfo) -> list[Request]:
        """Answer Ask.OPEN: the export is attached, requests may come."""
        self._handshake.describe(export)
        agreed = self._handshake.agreed
        kind = ExtendedTransmission if agreed.extended else Transmission
        self._use(
            kind(
                export.size,
                read_only=export.read_only,
                structured=agreed.structured,
                out=self._out,
                contexts=agreed.contexts_of(export.name),
            )
        )
        self._inbox.expect_payloads()
        return self._answered(Step.OPENED)

    def refuse(self, error: IsochroneError) -> list[Request]:
        """Answer any question with no."""
        try:
            self._handshake.refuse(error)
        except PeerFault as e:
            self._end(e.message)
            return []
        return self._answered(Step.ANSWERED)

    # --- inside --------------------------------------------------------------------------------

    def _move(self, step: Step) -> None:
        self.phase = MOVES[self.phase][step]

    def _end(self, fault: str) -> None:
        if self.phase is not Phase.CLOSED:
            self.fault = fault
        self.question = None
        self._move(Step.ENDED)

    def _answered(self, step: Step) -> list[Request]:
        self.question = None
        self._move(step)
        return self._advance()

    def _advance(self) -> list[Request]:
        """Parse all there is, until a question, an incomplete frame or the end."""
        requests: list[Request] = []
        try:
            while self.phase is not Phase.REQUESTS:
                if not self._negotiate():
                    return requests
            if not self._transmission.parse(self._inbox, requests):
                self._end("")
        except PeerFault as e:
            self._end(e.message)
        return requests

    def _negotiate(self) -> bool:
        """One step of the handshake; False if there is nothing to go on with."""
        if self.phase is Phase.FLAGS:
            if not self._handshake.parse_flags(self._inbox):
                return False
            self._move(Step.FLAGS_TAKEN)
            return True
        if self.phase is not Phase.OPTIONS:
            return False
        found = self._handshake.parse_option(self._inbox)
        if found is None:
            return False
        self.question = self._handshake.take(*found)
        if self.question is not None:
            self._move(Step.ASKED)
            return False
        if found[0] == wire.OPT_ABORT:
            self._end("")
            return False
        return True
