"""A backend in memory: the whole contract, nothing on disk.

It is a real one, held to `tests/contract/device.py`, so tests of the front door can trust it. What
a test wants to go wrong is an attribute.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from isochrone.errors import NotFound, OutOfRange, ReadOnly
from isochrone.types import BLOCK, MIB, Buffer, Caller, Device, ExportInfo, Extent, Synced


class MemoryDevice:
    def __init__(
        self,
        backend: MemoryBackend,
        name: str,
        size: int,
        *,
        read_only: bool = False,
        description: str = "",
    ) -> None:
        self.name = name
        self.size = size
        self.read_only = read_only
        self.description = description
        self.content = memoryview(bytearray(size))
        self.read_failure: Exception | None = None
        self.change_failure: Exception | None = None
        self.frozen: list[tuple[str, bytes]] = []  # copies taken; the id is the position
        self._stage = backend.staged.append

    def read(self, offset: int, length: int) -> Sequence[Buffer]:
        if self.read_failure is not None:
            raise self.read_failure
        self._check(offset, length)
        return (bytes(self.content[offset : offset + length]),)

    def write(self, offset: int, data: memoryview) -> None:
        self._check_change(offset, len(data))
        self._stage((self.content, offset, len(data), data))

    def discard(self, offset: int, length: int) -> None:
        self._check_change(offset, length)
        self._stage((self.content, offset, length, None))

    # A block counts as mapped if it is not all zeros.

    def mapped(self, offset: int, length: int, limit: int) -> Sequence[Extent]:
        return self._extents(bytes(self.size), offset, length, limit)

    def copies(self) -> Mapping[str, int]:
        return {name: id for id, (name, _) in enumerate(self.frozen)}

    def changed(self, copy: int, offset: int, length: int, limit: int) -> Sequence[Extent]:
        return self._extents(self.frozen[copy][1], offset, length, limit)

    def _extents(self, base: bytes, offset: int, length: int, limit: int) -> Sequence[Extent]:
        if self.read_failure is not None:
            raise self.read_failure
        self._check(offset, length)
        end = offset + length

        def blocks() -> Iterator[Extent]:
            for start in range(offset - offset % BLOCK, end, BLOCK):
                stop = start + BLOCK
                differs = self.content[start:stop] != base[start:stop]
                yield min(stop, end) - max(start, offset), differs

        runs = groupby(blocks(), lambda extent: extent[1])
        return [(sum(n for n, _ in run), mark) for mark, run in runs][:limit]

    def _check_change(self, offset: int, length: int) -> None:
        if self.change_failure is not None:
            raise self.change_failure
        if self.read_only:
            raise ReadOnly(f"{self.name} is read-only")
        self._check(offset, length)

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise OutOfRange(f"{offset}+{length} is past the end of {self.name}")


class MemoryBackend:
    """Devices by name; the first one is the default."""

    def __init__(self) -> None:
        self.staged: list[tuple[memoryview, int, int, memoryview | None]] = []
        self.devices: dict[str, MemoryDevice] = {}
        self.attached: list[tuple[str, Caller]] = []
        self.attachments = 0  # ever
        self.lost = 0  # let go without a goodbye
        self.commits = 0
        self.flushes = 0
        self.commit_failure: Exception | None = None
        self.flush_failure: Exception | None = None
        self.flush_gate: asyncio.Event | None = None  # a flush waits for it
        self.committed_at_flush: list[int] = []  # commits so far, at the start of each flush
        self.alone_at_flush: list[bool] = []
        self._gates: set[asyncio.Future[bool]] = set()

    def add(
        self, name: str, size: int = MIB, *, read_only: bool = False, description: str = ""
    ) -> MemoryDevice:
        device = MemoryDevice(self, name, size, read_only=read_only, description=description)
        self.devices[name] = device
        return device

    def take_copy(self, name: str, copy: str) -> None:
        """Remember what a device holds now; only to be compared with."""
        device = self.devices[name]
        device.frozen.append((copy, bytes(device.content)))

    def exports(self) -> Sequence[ExportInfo]:
        return [
            ExportInfo(d.name, d.size, d.read_only, d.description) for d in self.devices.values()
        ]

    def look(self, name: str) -> MemoryDevice:
        device = self.devices.get(name or next(iter(self.devices), ""))
        if device is None:
            raise NotFound(f"there is no export {name!r}", hint="see `isochrone volume list`")
        return device

    def attach(self, name: str, client: Caller) -> Device:
        device = self.look(name)
        self.attached.append((device.name, client))
        self.attachments += 1
        return device

    def detach(self, device: Device, client: Caller, *, lost: bool = False) -> None:
        self.attached.remove((device.name, client))
        self.lost += lost

    def commit(self) -> None:
        staged = self.staged[:]
        self.staged.clear()
        if self.commit_failure is not None:
            raise self.commit_failure
        self.commits += 1
        for content, offset, length, data in staged:
            content[offset : offset + length] = bytes(length) if data is None else data

    def when_durable(self, done: Synced, *, alone: bool = False) -> None:
        self.flushes += 1
        self.committed_at_flush.append(self.commits)
        self.alone_at_flush.append(alone)
        if self.flush_gate is None:
            done(self.flush_failure)
            return
        opened = asyncio.ensure_future(self.flush_gate.wait())
        opened.add_done_callback(lambda _: done(self.flush_failure))
        self._gates.add(opened)  # the loop itself holds tasks only weakly
