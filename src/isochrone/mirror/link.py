"""One end of a link without a socket: bytes in, messages out, and back."""

from __future__ import annotations

from isochrone.errors import PeerFault
from isochrone.mirror.wire import (
    HEAD_BYTES,
    AnyMessage,
    Command,
    FrameHead,
    decode_body,
    decode_head,
    encode,
    size_of,
)
from isochrone.types import Buffer


class Link:
    """Frames, checksums, sequence numbers. Holds at most one frame of the other side's bytes.

    After an exception the link is dead; the connection must be closed.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head: FrameHead | None = None
        self._sent = 0
        self._received = 0
        self.bytes_sent = 0
        self.bytes_received = 0
        self.bytes_commands = 0  # in frames that carry a record instead of data, both ways
        self.duplicates = 0

    def send(self, message: AnyMessage) -> list[Buffer]:
        """The bytes of a message, to be written in this order."""
        self._sent += 1
        pieces = encode(message, self._sent)
        size = size_of(pieces)
        self.bytes_sent += size
        if isinstance(message, Command):
            self.bytes_commands += size
        return pieces

    def receive(self, data: bytes) -> list[AnyMessage]:
        """Messages that are complete with these bytes. Raises `PeerFault`."""
        self.bytes_received += len(data)
        self._buffer += data
        messages: list[AnyMessage] = []
        at = 0
        while True:
            if self._head is None:
                if len(self._buffer) - at < HEAD_BYTES:
                    break
                self._head = decode_head(bytes(self._buffer[at : at + HEAD_BYTES]))
            end = at + HEAD_BYTES + self._head.length
            if len(self._buffer) < end:
                break
            message = self._complete(self._head, bytes(self._buffer[at + HEAD_BYTES : end]))
            if message is not None:
                messages.append(message)
            self._head, at = None, end
        del self._buffer[:at]
        return messages

    def _complete(self, head: FrameHead, body: bytes) -> AnyMessage | None:
        message = decode_body(head, body)
        if head.sequence <= self._received:
            self.duplicates += 1
            return None
        if head.sequence != self._received + 1:
            raise PeerFault(f"frame {self._received + 1} is missing; got {head.sequence}")
        self._received = head.sequence
        if isinstance(message, Command):
            self.bytes_commands += HEAD_BYTES + head.length
        return message
