"""Bytes of a connection that wait for the rest of their frame, in the place they were received.

What is taken out is a view and not a copy. It stays as it is for as long as somebody has it: more
bytes are received into another buffer meanwhile, and a buffer is used again once nobody looks at
it. Two take turns, as whoever handles a frame lets go of the one before.
"""

from __future__ import annotations

from typing import Final

from isochrone.types import KIB, Buffer

STANDARD_BYTES: Final = 64 * KIB  # of a quiet connection; most messages are far smaller
ROOM_BYTES: Final = 16 * KIB  # less is not worth a system call; so much is moved freely
# What follows a piece this long begins a buffer of its own, so that it need not be moved there.
LONG_BYTES: Final = 32 * KIB
MARGIN_BYTES: Final = 512  # in front of a long piece: its head, and a word or two


class Inbox:
    """Holds two buffers: each is as large as the longest piece that was wanted lately."""

    def __init__(self) -> None:
        self._buffer = bytearray(STANDARD_BYTES)
        self._view = memoryview(self._buffer)
        self._other: bytearray | None = None  # may be used again, if nobody looks at it
        self._start = 0  # from here to the end is what nobody has taken
        self._end = 0
        self._wanted = 1  # bytes that somebody waits for
        self._longest = 1  # of what was wanted since the last change of buffers

    def __len__(self) -> int:
        return self._end - self._start

    @property
    def bytes_held(self) -> int:
        return len(self._buffer) + len(self._other or b"")

    def take(self, length: int) -> memoryview | None:
        """So many bytes; None if they have not all come, and then room is made for them."""
        stop = self._start + length
        if stop > self._end:
            self._wanted, self._longest = length, max(self._longest, length)
            return None
        taken = self._view[self._start : stop]
        self._start, self._wanted = stop, 1
        return taken

    def room(self) -> memoryview:
        """Where the next bytes go; never empty, and not over bytes that a view shows."""
        rest = self._end - self._start
        long = self._wanted >= LONG_BYTES and self._wanted > rest
        free = len(self._buffer) - (self._start + self._wanted if long else self._end)
        if not rest or free < (0 if long else ROOM_BYTES):
            self._move()
        return self._view[self._end : self._start + self._wanted if long else None]

    def filled(self, count: int) -> None:
        """So many bytes have been put into `room()`."""
        self._end += count

    def put(self, data: Buffer) -> None:
        """Take a copy of bytes that were received elsewhere."""
        view = memoryview(data)
        while view:
            room = self.room()
            count = min(len(room), len(view))
            room[:count] = view[:count]
            self.filled(count)
            view = view[count:]

    def _move(self) -> None:
        """What is left goes to the front, of this buffer or of one that nobody looks at."""
        left, rest = self._view[self._start : self._end], len(self)
        # Who puts more than is wanted, and takes nothing, has it copied twice and not again.
        room = ROOM_BYTES if rest < self._wanted else rest + ROOM_BYTES
        size = max(STANDARD_BYTES, self._longest + MARGIN_BYTES, rest + room)
        self._start, self._end, self._longest = 0, rest, self._wanted
        self._view.release()
        if self._other is not None and not size <= len(self._other) <= 2 * size:
            self._other = None
        if not rest and size <= len(self._buffer) <= 2 * size:
            left.release()
            if not _seen(self._buffer):
                self._view = memoryview(self._buffer)
                return
        found = self._other
        if found is None or _seen(found):
            found = bytearray(size)
        self._other, self._buffer = self._buffer, found
        self._view = memoryview(found)
        if rest:
            self._view[:rest] = left


def _seen(buffer: bytearray) -> bool:
    """Whether there are views of it. Python does not let such a buffer change its length."""
    try:
        buffer.append(buffer.pop())
    except BufferError:
        return True
    return False
