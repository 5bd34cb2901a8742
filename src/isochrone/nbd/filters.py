"""Filters: wrappers of a device, for drills and for tests, put on and taken off while it is open.

A chain is `ReadOnly(Rate(Delay(volume)))`: each is a device and does one thing. What a filter makes
*wait* cannot wait inside a call, because a call is part of a turn that serves everybody. So a
filter says when a request is due (`due`), and the client keeps it until then (`Waiting`); a device
without such a filter never takes that path, and one without filters is not wrapped at all.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import Final

from isochrone import errors
from isochrone.nbd.limits import REQUEST_BYTES_HELD
from isochrone.nbd.transmission import Request
from isochrone.nbd.wire import READ, WRITE
from isochrone.types import MIB, Backend, Buffer, Caller, Device, ExportInfo, Extent
from isochrone.world.dice import Dice

BURST_S: Final = 0.1  # what a rate allows at once after a rest: smooth, and no jitter of timers
WAITING_BYTES_MAX: Final = 8 * MIB  # of one client, that a filter holds up


class Filter:
    """A device that passes everything on."""

    waits = False  # whether `due` may be later than now

    def __init__(self, inner: Device) -> None:
        self.inner = inner
        self.name = inner.name
        if isinstance(inner, Filter):
            self.waits = self.waits or inner.waits

    @property
    def size(self) -> int:
        return self.inner.size

    @property
    def read_only(self) -> bool:
        return self.inner.read_only

    @property
    def description(self) -> str:
        return self.inner.description

    def read(self, offset: int, length: int) -> Sequence[Buffer]:
        return self.inner.read(offset, length)

    def write(self, offset: int, data: memoryview) -> None:
        self.inner.write(offset, data)

    def discard(self, offset: int, length: int) -> None:
        self.inner.discard(offset, length)

    def mapped(self, offset: int, length: int, limit: int) -> Sequence[Extent]:
        return self.inner.mapped(offset, length, limit)

    def copies(self) -> Mapping[str, int]:
        return self.inner.copies()

    def changed(self, copy: int, offset: int, length: int, limit: int) -> Sequence[Extent]:
        return self.inner.changed(copy, offset, length, limit)

    def due(self, now: float, moved: int) -> float:
        """When a request that arrives `now` and moves so many bytes may go on."""
        return self.inner.due(now, moved) if isinstance(self.inner, Filter) else now


class ReadOnly(Filter):
    """Refuses changes, with EPERM. Who opens the export from now on is told beforehand."""

    @property
    def read_only(self) -> bool:
        return True

    def write(self, offset: int, data: memoryview) -> None:
        raise errors.ReadOnly(f"{self.name} is read-only: a filter is set")

    def discard(self, offset: int, length: int) -> None:
        raise errors.ReadOnly(f"{self.name} is read-only: a filter is set")


class Error(Filter):
    """Fails a share of all reads and changes with EIO. A change that fails is not made."""

    def __init__(self, inner: Device, share: float, dice: Dice) -> None:
        super().__init__(inner)
        self._share = share
        self._dice = dice

    def read(self, offset: int, length: int) -> Sequence[Buffer]:
        self._roll()
        return self.inner.read(offset, length)

    def write(self, offset: int, data: memoryview) -> None:
        self._roll()
        self.inner.write(offset, data)

    def discard(self, offset: int, length: int) -> None:
        self._roll()
        self.inner.discard(offset, length)

    def _roll(self) -> None:
        if self._dice.between(0.0, 1.0) < self._share:
            raise OSError(errno.EIO, f"{self.name}: an error made by a filter")


class Bucket:
    """The rate of one export, shared by all who have it open."""

    def __init__(self, bytes_per_s: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._free = -inf  # when what was let through is paid for

    def due(self, now: float, moved: int) -> float:
        start = max(now - BURST_S, self._free)
        self._free = start + moved / self._bytes_per_s
        return max(now, start)


class Rate(Filter):
    """Moves so many bytes a second, reads and writes together."""

    waits = True

    def __init__(self, inner: Device, bucket: Bucket) -> None:
        super().__init__(inner)
        self._bucket = bucket

    def due(self, now: float, moved: int) -> float:
        return super().due(self._bucket.due(now, moved), moved)


class Delay(Filter):
    """Makes every request wait, as a longer wire would; as many as come wait side by side."""

    waits = True

    def __init__(self, inner: Device, seconds: float) -> None:
        super().__init__(inner)
        self._seconds = seconds

    def due(self, now: float, moved: int) -> float:
        return super().due(now + self._seconds, moved)


class Pause(Filter):
    """Answers nothing until the filter is taken off."""

    waits = True

    def due(self, now: float, moved: int) -> float:
        return inf


# --- which exports have which ------------------------------------------------------------------

Maker = Callable[[Device], Filter]


@dataclass(frozen=True, slots=True)
class Chain:
    """The filters of one export, as the operator wrote them; the first one is outermost."""

    words: tuple[str, ...]
    makers: tuple[Maker, ...]

    def dress(self, device: Device) -> Device:
        for maker in reversed(self.makers):
            device = maker(device)
        return device


def bare(device: Device) -> Device:
    """The device inside all filters."""
    while isinstance(device, Filter):
        device = device.inner
    return device


class Filters:
    """A backend whose exports may have filters. They end with the process."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._chains: dict[str, Chain] = {}
        self.changed: Callable[[str], None] = lambda _: None  # told the name of the export
        self.commit = backend.commit
        self.when_durable = backend.when_durable

    def chains(self) -> Mapping[str, Chain]:
        return self._chains

    def set(self, name: str, chain: Chain) -> None:
        """Give an export these filters instead of those it has. Raises `NotFound`."""
        if not any(export.name == name for export in self._backend.exports()):
            raise errors.NotFound(f"there is no export {name!r}")
        self._chains[name] = chain
        self.changed(name)

    def clear(self, name: str) -> None:
        if self._chains.pop(name, None) is None:
            raise errors.NotFound(f"{name!r} has no filters", hint="see: isochrone filter list")
        self.changed(name)

    def dress(self, device: Device) -> Device:
        """Put the present filters of its export on a device that is open, instead of others."""
        device = bare(device)
        if not self._chains:
            return device
        chain = self._chains.get(device.name)
        return device if chain is None else chain.dress(device)

    def exports(self) -> Sequence[ExportInfo]:
        exports = self._backend.exports()
        if not self._chains:
            return exports
        return [
            ExportInfo(e.name, e.size, True, e.description) if self._frozen(e.name) else e
            for e in exports
        ]

    def _frozen(self, name: str) -> bool:
        chain = self._chains.get(name)
        return chain is not None and "read-only" in chain.words

    def look(self, name: str) -> Device:
        return self.dress(self._backend.look(name))

    def attach(self, name: str, client: Caller) -> Device:
        return self.dress(self._backend.attach(name, client))

    def detach(self, device: Device, client: Caller, *, lost: bool = False) -> None:
        self._backend.detach(bare(device), client, lost=lost)


# --- what waits --------------------------------------------------------------------------------


class Waiting:
    """Requests of one client that are not due yet.

    Payloads are copied: they would pin the receive buffer, for as long as somebody likes.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Request]] = []
        self._order = count()  # of requests that are due together
        self.cost = 0  # bytes of memory

    def sort(self, requests: Iterable[Request], gate: Filter, now: float) -> list[Request]:
        """Keep those that have to wait; return those that may go on."""
        going: list[Request] = []
        for request in requests:
            command, cookie, offset, length, flags, payload = request
            due = gate.due(now, length if command in (READ, WRITE) else 0)
            if due <= now:
                going.append(request)
                continue
            kept = memoryview(bytes(payload))
            self.cost += len(kept) + REQUEST_BYTES_HELD
            request = (command, cookie, offset, length, flags, kept)
            heappush(self._heap, (due, next(self._order), request))
        return going

    def next_due(self) -> float:
        return self._heap[0][0] if self._heap else inf

    def ready(self, now: float) -> list[Request]:
        """Give back all that are due."""
        going: list[Request] = []
        while self._heap and self._heap[0][0] <= now:
            request = heappop(self._heap)[2]
            self.cost -= len(request[5]) + REQUEST_BYTES_HELD
            going.append(request)
        return going

    def all(self) -> list[Request]:
        """Give everything back, in order: the filters have changed."""
        self.cost = 0
        heap, self._heap = self._heap, []
        return [request for _, _, request in sorted(heap)]
