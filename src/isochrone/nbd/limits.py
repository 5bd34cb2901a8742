"""Bounds over all connections together: memory, and lines in the log.

Each connection is bounded by itself (`inbox`, `turn`, `client`), but a thousand times such a bound
is more than a machine has. So all that clients make us hold is weighed: received bytes, replies
they did not take, requests that wait. Above BUDGET_BYTES things are *tight*:

- clients that hold more than OWN_BYTES are not read from, and get no more replies than that;
- everybody below goes on as ever, so a quiet client does not notice the greedy ones;
- who is above and does not come down within STALL_S is let go, the largest first, until things
  are well below the budget. A dead reader cannot hold the memory of the living.

Buffers that merely grew large are given back first, so busy and honest clients rarely get here.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from isochrone.types import KIB, MIB

BUDGET_BYTES: Final = 512 * MIB  # of all clients; eight of the largest frames there are
RELAX_PART: Final = 0.75  # of the budget: below, things are not tight any more
OWN_BYTES: Final = 256 * KIB  # nobody waits below this; a thousand clients of it fit the budget
STALL_S: Final = 10.0  # as long as a client may linger, or negotiate
LOOK_S: Final = 1.0  # between looks at who came down, while things are tight
ARRIVED_BYTES_MAX: Final = 64 * MIB  # payload that waits for one turn; beyond, it is taken at once
REQUEST_BYTES_HELD: Final = 256  # a parsed request in memory: a tuple, a cookie, two integers

LINES_AT_ONCE: Final = 20  # about peers; a person reads that many
LINES_PER_S: Final = 0.5  # afterwards: 43,200 a day, some 6 MB

C = TypeVar("C")


class Budget(Generic[C]):
    """Who holds how much. `C` is whatever stands for a client."""

    def __init__(self, limit: int = BUDGET_BYTES) -> None:
        self.limit = limit
        self.used = 0
        self.tight = False
        self._held: dict[C, int] = {}
        self._watched: dict[C, tuple[int, float]] = {}  # while tight: least held since, and when

    def weigh(self, client: C, held: int) -> bool:
        """Note what a client holds now; True if things became tight, or relaxed."""
        self.used += held - self._held.get(client, 0)
        self._held[client] = held
        return self._turned()

    def forget(self, client: C) -> bool:
        """The same for a client that is gone."""
        self.used -= self._held.pop(client, 0)
        self._watched.pop(client, None)
        return self._turned()

    def is_large(self, client: C) -> bool:
        return self._held.get(client, 0) > OWN_BYTES

    def held(self, client: C) -> int:
        return self._held.get(client, 0)

    def large(self) -> list[C]:
        """Who holds more than its own part, the largest first."""
        held = self._held
        return sorted((c for c, n in held.items() if n > OWN_BYTES), key=lambda c: -held[c])

    def stalled(self, now: float) -> list[C]:
        """Who is to go, so that the others can go on. To be asked every LOOK_S while tight."""
        gone: list[C] = []
        goal = int(self.limit * RELAX_PART)
        left = self.used
        large = self.large()
        self._watched = {c: seen for c, seen in self._watched.items() if self.is_large(c)}
        for client in large:
            held = self._held[client]
            least, since = self._watched.get(client, (held + 1, now))
            if held < least:
                self._watched[client] = (held, now)
            elif now - since >= STALL_S and left > goal:
                gone.append(client)
                left -= held
        return gone

    def _turned(self) -> bool:
        before = self.tight
        if self.used > self.limit:
            self.tight = True
        elif self.used < self.limit * RELAX_PART:
            self.tight = False
            self._watched.clear()
        return self.tight is not before


class Lines:
    """How many lines the log takes about peers, who can make us write as many as they like."""

    def __init__(self, at_once: int = LINES_AT_ONCE, per_s: float = LINES_PER_S) -> None:
        self._at_once = float(at_once)
        self._per_s = per_s
        self._left = self._at_once
        self._when = 0.0
        self._unsaid = 0

    def take(self, now: float) -> int | None:
        """None: keep quiet. Else speak, and mention that so many were not said before."""
        self._left = min(self._at_once, self._left + (now - self._when) * self._per_s)
        self._when = now
        if self._left < 1:
            self._unsaid += 1
            return None
        self._left -= 1
        unsaid, self._unsaid = self._unsaid, 0
        return unsaid
