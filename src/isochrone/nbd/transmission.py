"""The second half of a session: requests in, replies out. No sockets, no loop.

A request that cannot be right is answered here, at once; what comes out of `parse` is in range and
allowed, and needs only a device. Numbers of a peer are added as they are: Python's integers do not
wrap, so a sum past 2^64 is simply out of range.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final, NoReturn

from isochrone.errors import PeerFault
from isochrone.nbd import wire
from isochrone.nbd.contexts import Context
from isochrone.nbd.inbox import Inbox
from isochrone.nbd.wire import (
    BLOCK_STATUS,
    CACHE,
    CMD_DF,
    CMD_FAST_ZERO,
    CMD_FUA,
    CMD_NO_HOLE,
    CMD_REQ_ONE,
    DISC,
    FLUSH,
    READ,
    REQUEST,
    REQUEST_BYTES,
    REQUEST_MAGIC,
    TRIM,
    WRITE,
    WRITE_ZEROES,
)
from isochrone.types import KIB, MIB, Buffer

PAYLOAD_BYTES_MAX: Final = 64 * MIB  # suites send 50 MB; nbdkit's limit too
BLOCK_BYTES_MIN: Final = 1
BLOCK_BYTES_PREFERRED: Final = 4 * KIB
BLOCK_BYTES_MAX: Final = 32 * MIB  # announced: what every client may count on anyway

# (command, cookie, offset, length, flags, payload). A tuple and not a class, because this is the
# hottest path of the program: making an object with five fields costs more than parsing them.
Request = tuple[int, bytes, int, int, int, memoryview]

NO_PAYLOAD: Final = memoryview(b"")

FLAGS_ALLOWED: Final = {
    READ: CMD_FUA,  # FUA is allowed on every command, and means something only on changes
    WRITE: CMD_FUA,
    FLUSH: CMD_FUA,
    TRIM: CMD_FUA,
    CACHE: CMD_FUA,
    # A hole is always faster than zeros, so FAST_ZERO alone changes nothing. With NO_HOLE zeros are
    # written, and that is never faster than a WRITE.
    WRITE_ZEROES: CMD_FUA | CMD_NO_HOLE | CMD_FAST_ZERO,
}
CHANGES: Final = frozenset({WRITE, TRIM, WRITE_ZEROES})


class Transmission:
    """Requests and replies of one attached export."""

    __slots__ = ("_flags_allowed", "_out", "_read_only", "_size", "_structured", "contexts")

    def __init__(
        self,
        size: int,
        *,
        read_only: bool,
        structured: bool,
        out: list[Buffer],
        contexts: Sequence[Context] = (),
    ) -> None:
        self.contexts = contexts
        self._size = size
        self._read_only = read_only
        self._structured = structured
        self._out = out
        self._flags_allowed = dict(FLAGS_ALLOWED)
        if structured:
            # "Do not fragment" is kept by answering every READ in one chunk.
            self._flags_allowed[READ] |= CMD_DF
            self._flags_allowed[BLOCK_STATUS] = CMD_FUA | CMD_REQ_ONE

    def parse(self, inbox: Inbox, requests: list[Request]) -> bool:
        """Append every complete request to `requests`; False once the client has said goodbye.

        Raises `PeerFault` where the stream cannot be followed any further. Requests found before
        that are valid.
        """
        view, position, end = inbox.view, inbox.start, inbox.end
        size, read_only = self._size, self._read_only
        unpack = REQUEST.unpack_from
        frame = 0
        try:
            while end - position >= REQUEST_BYTES:
                magic, flags, command, cookie, offset, length = unpack(view, position)
                if magic != REQUEST_MAGIC:
                    raise PeerFault(f"a request begins with {magic:#010x}")
                if command == WRITE:
                    payload_at = position + REQUEST_BYTES
                    following = payload_at + length
                    if following > end:
                        if length > PAYLOAD_BYTES_MAX:
                            self._hang_up(cookie, length)
                        frame = following - position
                        break
                    position = following
                    if read_only or flags & ~CMD_FUA or not length or offset + length > size:
                        self._refuse(command, flags, cookie, offset, length)
                        continue
                    inbox.pinned = True
                    payload = view[payload_at:following]
                    requests.append((command, cookie, offset, length, flags, payload))
                    continue
                position += REQUEST_BYTES
                if command == READ and not flags and 0 < length <= PAYLOAD_BYTES_MAX:
                    if offset + length <= size:
                        requests.append((command, cookie, offset, length, flags, NO_PAYLOAD))
                        continue
                elif command == DISC:
                    return False
                if not self._refuse(command, flags, cookie, offset, length):
                    requests.append((command, cookie, offset, length, flags, NO_PAYLOAD))
        finally:
            inbox.start = position
            inbox.frame = frame
        return True

    def _hang_up(self, cookie: bytes, length: int) -> NoReturn:
        """A payload beyond the limit would have to be read to be skipped: rather end here."""
        words = f"a write of {length} bytes; the limit is {PAYLOAD_BYTES_MAX}"
        self.failed(cookie, errno.EINVAL, words)
        raise PeerFault(words)

    def _refuse(self, command: int, flags: int, cookie: bytes, offset: int, length: int) -> bool:
        """Answer a request that cannot be right; False if nothing is wrong with it."""
        allowed = self._flags_allowed.get(command)
        if allowed is None:
            self.failed(cookie, errno.EINVAL, f"command {command} is not known here")
        elif flags & ~allowed:
            self.failed(cookie, errno.EINVAL, f"flags {flags:#x} do not go with this command")
        elif command in CHANGES and self._read_only:
            self.failed(cookie, errno.EPERM, "the export is read-only")
        elif command == FLUSH:
            if not offset and not length:
                return False
            self.failed(cookie, errno.EINVAL, "a flush has neither offset nor length")
        elif not length:
            self.failed(cookie, errno.EINVAL, "the length is zero")
        elif offset + length > self._size:
            full = command in (WRITE, WRITE_ZEROES)
            number = errno.ENOSPC if full else errno.EINVAL
            words = f"bytes {offset} to {offset + length} of {self._size}: past the end"
            self.failed(cookie, number, words)
        elif command == READ and length > PAYLOAD_BYTES_MAX:
            words = f"a read of {length} bytes; the limit is {PAYLOAD_BYTES_MAX}"
            self.failed(cookie, errno.EINVAL, words)
        elif flags & CMD_NO_HOLE and flags & CMD_FAST_ZERO:
            self.failed(cookie, errno.EOPNOTSUPP, "zeros without a hole are not fast")
        elif command == BLOCK_STATUS and not self.contexts:
            self.failed(cookie, errno.EINVAL, "no metadata context was agreed on")
        else:
            return False
        return True

    def done(self, cookies: list[bytes]) -> None:
        """Answer requests that worked and have no data to return."""
        if cookies:
            self._out.append(wire.SIMPLE_DONE + wire.SIMPLE_DONE.join(cookies))

    def data(self, cookie: bytes, offset: int, length: int, pieces: Sequence[Buffer]) -> None:
        """Answer a READ; `pieces` are `length` bytes together and stay as they are until sent."""
        if self._structured:
            self._out.append(wire.data_chunk(cookie, offset, length))
        else:
            self._out.append(wire.SIMPLE_DONE + cookie)
        self._out += pieces

    def status(self, cookie: bytes, found: Sequence[tuple[int, Sequence[tuple[int, int]]]]) -> None:
        """Answer a BLOCK_STATUS: for each context its id, and its extents as (length, flags)."""
        left = len(found)
        for context, extents in found:
            left -= 1
            self._out.append(wire.status_chunk(cookie, context, extents, last=not left))

    def failed(self, cookie: bytes, number: int, words: str) -> None:
        """Answer a request that did not work; the words reach clients that agreed to get them."""
        if self._structured:
            self._out.append(wire.error_chunk(cookie, number, words))
        else:
            self._out.append(wire.simple_error(cookie, number))


def export_flags(*, read_only: bool, structured: bool, status_payload: bool = False) -> int:
    """What clients are told an export can do."""
    flags = (
        wire.SEND_HAS_FLAGS
        | wire.SEND_FLUSH
        | wire.SEND_FUA
        | wire.SEND_CACHE
        # One commit serves all connections and a flush covers all committed before it, so what
        # one connection has written and flushed, all others see.
        | wire.SEND_CAN_MULTI_CONN
    )
    if read_only:
        flags |= wire.SEND_READ_ONLY
    else:
        flags |= wire.SEND_TRIM | wire.SEND_WRITE_ZEROES | wire.SEND_FAST_ZERO
    if structured:
        flags |= wire.SEND_DF
    if status_payload:
        flags |= wire.SEND_BLOCK_STATUS_PAYLOAD
    return flags
