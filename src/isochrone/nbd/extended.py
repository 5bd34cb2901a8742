"""Requests and replies with extended headers: lengths of 64 bits, and one shape for every reply.

A reply returns the cookie *and* the offset of its request, side by side as they came. So here a
cookie has 16 bytes, the offset among them, and everybody who only hands cookies on needs not know.

A length is that of a payload if PAYLOAD_LEN is set, and of the range if not. A payload that its
command has no use for is skipped, and the request refused; only one beyond the limit ends the
session.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final

from isochrone.errors import PeerFault
from isochrone.nbd import wire
from isochrone.nbd.inbox import Inbox
from isochrone.nbd.transmission import NO_PAYLOAD, PAYLOAD_BYTES_MAX, Request, Transmission
from isochrone.nbd.wire import (
    BLOCK_STATUS,
    CMD_FUA,
    CMD_PAYLOAD_LEN,
    DISC,
    EXTENDED_REQUEST,
    EXTENDED_REQUEST_BYTES,
    EXTENDED_REQUEST_MAGIC,
    READ,
    WRITE,
)
from isochrone.types import Buffer

OFFSET: Final = slice(8, 16)  # of a cookie


class ExtendedTransmission(Transmission):
    """Requests and replies of one attached export, with extended headers."""

    __slots__ = ()

    def parse(self, inbox: Inbox, requests: list[Request]) -> bool:
        view, position, end = inbox.view, inbox.start, inbox.end
        size, read_only = self._size, self._read_only
        unpack = EXTENDED_REQUEST.unpack_from
        frame = 0
        try:
            while end - position >= EXTENDED_REQUEST_BYTES:
                magic, flags, command, cookie, length = unpack(view, position)
                if magic != EXTENDED_REQUEST_MAGIC:
                    raise PeerFault(f"a request begins with {magic:#010x}")
                offset = int.from_bytes(cookie[OFFSET])
                payload_at = position + EXTENDED_REQUEST_BYTES
                if command == DISC:
                    position = payload_at
                    return False
                # A WRITE without the flag is against the rules, but has a payload all the same:
                # QEMU takes it so too.
                if command == WRITE or flags & CMD_PAYLOAD_LEN:
                    following = payload_at + length
                    if following > end:
                        if length > PAYLOAD_BYTES_MAX:
                            self._hang_up(cookie, length)
                        frame = following - position
                        break
                    position = following
                    payload = view[payload_at:following]
                    if command != WRITE:
                        self._with_payload(command, flags, cookie, offset, payload, requests)
                        continue
                    flags &= ~CMD_PAYLOAD_LEN
                    if read_only or flags & ~CMD_FUA or not length or offset + length > size:
                        self._refuse(command, flags, cookie, offset, length)
                        continue
                    inbox.pinned = True
                    requests.append((command, cookie, offset, length, flags, payload))
                    continue
                position = payload_at
                # A READ that is plainly right is by far the most common: no further questions.
                plain = command == READ and not flags and 0 < length <= PAYLOAD_BYTES_MAX
                right = plain and offset + length <= size
                if right or not self._refuse(command, flags, cookie, offset, length):
                    requests.append((command, cookie, offset, length, flags, NO_PAYLOAD))
        finally:
            inbox.start = position
            inbox.frame = frame
        return True

    def _with_payload(
        self,
        command: int,
        flags: int,
        cookie: bytes,
        offset: int,
        payload: memoryview,
        requests: list[Request],
    ) -> None:
        """A request that is no WRITE, and has a payload. BLOCK_STATUS may: it names contexts."""
        if command != BLOCK_STATUS:
            self.failed(cookie, errno.EINVAL, f"command {command} has no payload")
            return
        parts = wire.split_status_payload(payload)
        ids = parts[1] if parts is not None else ()
        known = {context.id for context in self.contexts}
        if parts is None or not known.issuperset(ids) or len(set(ids)) < len(ids) or not ids:
            self.failed(cookie, errno.EINVAL, "the payload does not name contexts agreed on")
            return
        length, flags = parts[0], flags & ~CMD_PAYLOAD_LEN
        if not self._refuse(command, flags, cookie, offset, length):
            # Status waits for the changes of its turn, longer than a payload stays: so, a copy.
            wanted = memoryview(bytes(payload[wire.STATUS_PAYLOAD.size :]))
            requests.append((command, cookie, offset, length, flags, wanted))

    def done(self, cookies: list[bytes]) -> None:
        if cookies:
            between = wire.EXTENDED_DONE_END + wire.EXTENDED_DONE
            self._out.append(wire.EXTENDED_DONE + between.join(cookies) + wire.EXTENDED_DONE_END)

    def data(self, cookie: bytes, offset: int, length: int, pieces: Sequence[Buffer]) -> None:
        self._out.append(wire.extended_data(cookie, offset, length))
        self._out += pieces

    def status(self, cookie: bytes, found: Sequence[tuple[int, Sequence[tuple[int, int]]]]) -> None:
        left = len(found)
        for context, extents in found:
            left -= 1
            self._out.append(wire.extended_status(cookie, context, extents, last=not left))

    def failed(self, cookie: bytes, number: int, words: str) -> None:
        self._out.append(wire.extended_error(cookie, number, words))
