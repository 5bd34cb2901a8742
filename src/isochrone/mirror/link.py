"""One end of a link without a socket: bytes in, messages out, and back."""

from __future__ import annotations

from isochrone.errors import PeerFault
from isochrone.mirror.inbox import Inbox
from isochrone.mirror.messages import AnyMessage, Command
from isochrone.mirror.packing import Packing
from isochrone.mirror.tally import Shipped
from isochrone.mirror.wire import HEAD_BYTES, FrameHead, decode_body, decode_head, encode, size_of
from isochrone.types import Buffer


class Link:
    """Frames, checksums, sequence numbers.

    Holds the bytes of two frames (see `inbox`), and takes one message out of them at a time: a
    packed one may be many times as large. After an exception the link is dead; the connection must
    be closed.
    """

    def __init__(self) -> None:
        self._inbox = Inbox()
        self._head: FrameHead | None = None
        self._sent = 0
        self.packing = Packing()
        self._received = 0
        self.bytes_sent = 0
        self.bytes_received = 0
        self.bytes_commands = 0  # in frames that carry a record instead of data, both ways
        self.shipped = Shipped()  # both ways, by kind; who wants a sum over connections sets it
        self.duplicates = 0

    def send(self, message: AnyMessage) -> list[Buffer]:
        """The bytes of a message, to be written in this order."""
        self._sent += 1
        pieces = encode(message, self._sent, self.packing)
        size = size_of(pieces)
        self.bytes_sent += size
        self.shipped.count(message, size)
        if isinstance(message, Command):
            self.bytes_commands += size
        return pieces

    def receive(self, data: Buffer) -> None:
        """Take bytes; the messages they complete come from `next`."""
        self.bytes_received += len(data)
        self._inbox.put(data)

    def room(self) -> memoryview:
        """Where the next bytes are best received; then say how many they were."""
        return self._inbox.room()

    def filled(self, count: int) -> None:
        self.bytes_received += count
        self._inbox.filled(count)

    def next(self) -> AnyMessage | None:
        """The next complete message, or None if it needs more bytes. Raises `PeerFault`."""
        while True:
            if self._head is None:
                head = self._inbox.take(HEAD_BYTES)
                if head is None:
                    return None
                self._head = decode_head(head)
            body = self._inbox.take(self._head.length)
            if body is None:
                return None
            message, self._head = self._complete(self._head, body), None
            if message is not None:
                return message

    def _complete(self, head: FrameHead, body: Buffer) -> AnyMessage | None:
        message = decode_body(head, body)
        if head.sequence <= self._received:
            self.duplicates += 1
            return None
        if head.sequence != self._received + 1:
            raise PeerFault(f"frame {self._received + 1} is missing; got {head.sequence}")
        self._received = head.sequence
        self.shipped.count(message, HEAD_BYTES + head.length)
        if isinstance(message, Command):
            self.bytes_commands += HEAD_BYTES + head.length
        return message
