"""Who has how many of the places at a link's listener: nobody can take them all.

A connection *waits* until it has said its first message; then it is *seated*. Few may wait, and not
for long. Of those that are seated, each site has some places that nobody else can take, and of the
places for all it may take as many as it leaves free. So whoever opens connections without end is
stopped at half, and the next at half of the rest.

Who is at the other end is what its certificate says, or, where there is none, its address.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from enum import Enum
from typing import Final

from isochrone.errors import Conflict, Unavailable

OWN_MAX: Final = 2  # of a site, whatever others do: a mirror, and what is to be said beside it
SHARED_MAX: Final = 128  # beyond them, of all sites: one alone can mirror 64 groups from here
SESSIONS_MAX: Final = (
    256  # seated at once, with the own ones of 64 sites; each holds a frame or two
)
WAITING_MAX: Final = 128  # that have said nothing yet; each for `FIRST_SECONDS_MAX` at most
WAITING_OF_ONE_MAX: Final = 16  # of them of one site: it comes with all its groups after an outage
IPV6_PREFIX: Final = 64  # what a host can choose addresses from counts as one

_TUPLE: Final = re.compile(r"\('([^']*)', [0-9]+")  # what sockets call an address
_PORT: Final = re.compile(r"(.+):[0-9]+")


def host_of(peer: str) -> str:
    """The host of a channel's peer, without its port; what is no address is taken as it is."""
    found = _TUPLE.match(peer) or _PORT.fullmatch(peer)
    host = found[1] if found else peer
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, IPV6_PREFIX), strict=False))
    return str(address)


class _At(Enum):
    WAITING = "waiting"
    SEATED = "seated"
    GONE = "gone"


class Seat:
    """The place of one connection. It is left once, however often that is said."""

    def __init__(self, seats: Seats, who: str) -> None:
        self._seats = seats
        self.who = who
        self.at = _At.WAITING

    def sit(self) -> None:
        """It has said something. Raises `Conflict` if there is no place: it waits no longer."""
        if self.at is not _At.WAITING:
            return
        self._seats.check_sits(self.who)
        self._move(_At.SEATED)

    def leave(self) -> None:
        if self.at is not _At.GONE:
            self._move(_At.GONE)

    def _move(self, to: _At) -> None:
        self._seats.moved(self.who, self.at, to)
        self.at = to


class Seats:
    """All places of the listeners of a controller."""

    def __init__(self) -> None:
        self._held: dict[_At, Counter[str]] = {_At.WAITING: Counter(), _At.SEATED: Counter()}

    def enter(self, who: str) -> Seat:
        """A place to wait at. Raises `Unavailable` if there is none: then hang up."""
        waiting = self._held[_At.WAITING]
        if waiting[who] >= WAITING_OF_ONE_MAX or waiting.total() >= WAITING_MAX:
            raise Unavailable(f"too many connections of {who} have said nothing yet")
        self._held[_At.WAITING][who] += 1
        return Seat(self, who)

    def check_sits(self, who: str) -> None:
        """Raises `Conflict` if there is no place for one more."""
        seated = self._held[_At.SEATED]
        mine = seated[who]
        if seated.total() >= SESSIONS_MAX:
            raise Conflict(
                f"{SESSIONS_MAX} connections of other sites are open there; no more are taken",
                hint="see who they are, at that site: isochrone site list",
            )
        shared = sum(max(0, count - OWN_MAX) for count in seated.values())
        if mine >= OWN_MAX and mine - OWN_MAX >= SHARED_MAX - shared:
            raise Conflict(
                f"{who} has {mine} connections open there; others need the places that are left",
                hint="mirror fewer groups between these two, or end what else is connected",
            )

    def moved(self, who: str, was: _At, to: _At) -> None:
        """Called by `Seat` alone."""
        self._held[was][who] -= 1
        if not self._held[was][who]:
            del self._held[was][who]
        if to is not _At.GONE:
            self._held[to][who] += 1

    @property
    def waiting(self) -> int:
        return self._held[_At.WAITING].total()

    @property
    def seated(self) -> int:
        return self._held[_At.SEATED].total()
