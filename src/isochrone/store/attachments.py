"""The attachment table: which hosts have which volumes open, and since when.

A host is attached from its first connection to a volume until its last one ends. If that one was
cut off, and not closed from its side, the host may come back in a moment with data that it has not
written yet; so it stays attached, *lost*, until a lease has passed or an operator detaches it. Who
only read has nothing to come back with.

The table lives in memory: after a restart of the controller it is empty, and hosts attach anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from isochrone.types import Caller, Proof
from isochrone.world.clock import Clock

LEASE_S: Final = 30.0  # block clients that reconnect by themselves do so within seconds

Role = Literal["app", "mover"]  # a mover belongs to a mirror session, which says so itself
Key = tuple[Role, Proof, str]


@dataclass(slots=True)
class Attachment:
    """One host on one volume."""

    role: Role
    proof: Proof
    host: str
    read_only: bool
    since: int  # wall clock, ns: a label
    addresses: dict[str, int] = field(default_factory=dict)  # of its connections, with their number
    lease_ends: float | None = None  # monotonic; set while it is lost

    def __str__(self) -> str:
        if self.proof is Proof.CERTIFICATE or not self.addresses:
            return self.host
        return ", ".join(sorted(self.addresses))


class Attachments:
    """All attachments of a pool."""

    def __init__(self, clock: Clock, lease_s: float = LEASE_S) -> None:
        self._clock = clock
        self._lease_s = lease_s
        self._of: dict[int, dict[Key, Attachment]] = {}
        self.on_expired: list[Callable[[int, Attachment], None]] = []  # a lease has ended

    def attach(
        self, volume: int, caller: Caller, *, role: Role = "app", read_only: bool = False
    ) -> None:
        """A connection has opened a volume."""
        key = (role, caller.kind, caller.host)
        hosts = self._of.setdefault(volume, {})
        found = hosts.get(key)
        if found is None:
            found = hosts[key] = Attachment(*key, read_only, self._clock.wall_ns())
        found.read_only &= read_only
        found.lease_ends = None
        found.addresses[caller.address] = found.addresses.get(caller.address, 0) + 1

    def detach(
        self, volume: int, caller: Caller, *, role: Role = "app", lost: bool = False
    ) -> None:
        """A connection has ended; `lost` if it was cut off."""
        hosts = self._of.get(volume, {})
        key = (role, caller.kind, caller.host)
        found = hosts.get(key)
        if found is None or caller.address not in found.addresses:
            return  # an operator has detached it meanwhile
        found.addresses[caller.address] -= 1
        if not found.addresses[caller.address]:
            del found.addresses[caller.address]
        if found.addresses:
            return
        if lost and not found.read_only:
            found.lease_ends = self._clock.monotonic() + self._lease_s
        else:
            self._drop(volume, key)

    def _drop(self, volume: int, key: Key) -> None:
        del self._of[volume][key]
        if not self._of[volume]:
            del self._of[volume]

    def of(self, volume: int) -> list[Attachment]:
        """Who has a volume open, ordered; leases that have ended do not count."""
        hosts = self._of.get(volume)
        if not hosts:
            return []
        now = self._clock.monotonic()
        for key, each in list(hosts.items()):
            if each.lease_ends is not None and each.lease_ends <= now:
                self._drop(volume, key)
                for tell in self.on_expired:
                    tell(volume, each)
        return [hosts[key] for key in sorted(hosts)]

    def volumes(self) -> Iterator[int]:
        """Volumes that somebody may have open."""
        yield from sorted(self._of)

    def lease_left(self, attachment: Attachment) -> float:
        """Seconds until a lost host does not count any more; 0 if it is not lost."""
        if attachment.lease_ends is None:
            return 0.0
        return max(attachment.lease_ends - self._clock.monotonic(), 0.0)

    def evict(self, volume: int, host: str) -> list[Attachment]:
        """Forget a host on a volume, lost or not; what was forgotten.

        Whoever calls this must end its connections before anybody relies on it.
        """
        hosts = self._of.get(volume, {})
        gone = [key for key in sorted(hosts) if key[2] == host]
        found = [hosts[key] for key in gone]
        for key in gone:
            self._drop(volume, key)
        return found


def hosts_of(attachments: Iterable[Attachment], at_most: int = 3) -> str:
    """Names for a message."""
    names = [str(attachment) for attachment in attachments]
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more
