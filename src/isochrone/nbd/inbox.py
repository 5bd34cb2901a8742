"""The receive buffer of one connection: what a peer sent and we have not used yet.

Payloads are not copied out of it: a parsed WRITE carries a view into it. So the buffer keeps three
promises.

- Bytes that a view may show are never overwritten. While `pinned`, room is made in a new buffer,
  and only the unparsed rest is copied there.
- It grows with what a peer has *sent*, not with what it announces: up to `EAGER_BYTES_MAX` for the
  frame in progress at once, beyond that by doubling.
- It never holds more than `FRAME_BYTES_MAX` and one receive call.
"""

from __future__ import annotations

from typing import Final

from isochrone.errors import PeerFault
from isochrone.types import KIB, MIB

HANDSHAKE_BYTES: Final = 4 * KIB  # an option with the longest common name; most clients stay here
STANDARD_BYTES_MIN: Final = 64 * KIB  # of a quiet client: a thousand of them cost 64 MiB
STANDARD_BYTES_MAX: Final = 1 * MIB  # of a busy one: a turn's worth of what a socket buffer holds
RECEIVE_BYTES_MIN: Final = 16 * KIB  # less room is not worth a system call; so much is moved freely
RECEIVE_BYTES_MAX: Final = 1 * MIB  # bounds what one call can add, so also the requests of a turn
EAGER_BYTES_MAX: Final = 4 * MIB  # qemu-img sends 2 MiB; hardly anybody more
FRAME_BYTES_MAX: Final = 64 * MIB + 4 * KIB  # the longest payload we take, and its header


class Inbox:
    """`start` to `end` is unparsed. The owner moves `start` on, and says how long the frame
    that begins there is as soon as it knows."""

    __slots__ = ("_standard", "end", "frame", "pinned", "start", "touched", "view")

    def __init__(self) -> None:
        self.view = memoryview(bytearray(HANDSHAKE_BYTES))
        self.start = 0
        self.end = 0
        self.frame = 0  # bytes of the incomplete frame at `start`; 0 = not known yet
        self.pinned = False  # views of earlier bytes may still be in use
        self._standard = HANDSHAKE_BYTES
        self.touched = 0  # bytes of the buffer that were ever filled: only these take memory

    def expect_payloads(self) -> None:
        """The handshake is over: from now on room for requests is worth having."""
        self._standard = STANDARD_BYTES_MIN

    def room(self) -> memoryview:
        """Where the next bytes go; never empty, and never over bytes that a view may show."""
        start, end, capacity = self.start, self.end, len(self.view)
        if start == end and not self.pinned:
            # Grow with a busy client, and give back what one very large frame needed. What frames
            # of a common size need is kept: the client will go on sending them.
            if capacity < self._standard or capacity > 2 * EAGER_BYTES_MAX:
                self.view = memoryview(bytearray(self._standard))
                capacity = self._standard
                self.touched = 0
            self.start = self.end = start = end = 0
        free = capacity - end
        if (
            not free
            or (start and self.frame > capacity - start)
            or (free < RECEIVE_BYTES_MIN and start and end - start <= RECEIVE_BYTES_MIN)
        ):
            self._make_room()
            end = self.end
        return self.view[end : end + RECEIVE_BYTES_MAX]

    def filled(self, count: int) -> None:
        """`count` bytes have been put into `room()`."""
        self.end += count
        if self.end > self.touched:
            self.touched = self.end
        if self.end == len(self.view) and HANDSHAKE_BYTES < self._standard < STANDARD_BYTES_MAX:
            self._standard *= 2  # there was more to read than room for it

    def give_back(self) -> None:
        """Memory is short: keep no more than a quiet client has, if nothing is in it."""
        if self.start == self.end and not self.pinned and self._standard >= STANDARD_BYTES_MIN:
            self._standard = STANDARD_BYTES_MIN
            self.view = memoryview(bytearray(self._standard))
            self.start = self.end = self.touched = 0

    def _make_room(self) -> None:
        """Move the unparsed rest to the front, of this buffer or of a new one that fits."""
        start, end = self.start, self.end
        rest = end - start
        if rest >= FRAME_BYTES_MAX:
            raise PeerFault("more bytes arrived than a frame can have")
        wanted = max(self.frame, rest + RECEIVE_BYTES_MIN)
        if wanted <= EAGER_BYTES_MAX:
            enough = wanted
            # Twice the frame: then the next ones arrive behind it, and only every second moves.
            best = max(self._standard, 2 * self.frame, wanted)
        else:
            goal = self.frame if self.frame > rest else FRAME_BYTES_MAX + RECEIVE_BYTES_MIN
            best = min(goal, max(2 * EAGER_BYTES_MAX, 2 * rest))
            enough = min(best, rest + RECEIVE_BYTES_MIN)
        view = self.view
        if self.pinned or len(view) < enough:
            fresh = memoryview(bytearray(best))
            fresh[:rest] = view[start:end]
            self.view = fresh
            self.touched = rest
            self.pinned = False  # nobody has seen the new one
        else:
            view[:rest] = view[start:end]
        self.start = 0
        self.end = rest
