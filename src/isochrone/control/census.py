"""Looks at a pool and says what is there."""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from isochrone import __version__
from isochrone.control.times import rfc3339
from isochrone.control.views import (
    AttachmentView,
    CopyView,
    GuestView,
    MemberView,
    SiteView,
    SpaceView,
    VolumeView,
)
from isochrone.control.views_mirror import GroupView
from isochrone.store.catalogue import Copy, Volume
from isochrone.store.format import segment_name
from isochrone.store.holds import why_held
from isochrone.store.pool import Pool
from isochrone.store.tracks import LEAF_BLOCKS
from isochrone.types import BLOCK

MEMBERS_AT_ONCE: Final = 256  # of copies, told in a millisecond in which no request is served
CHUNKS_AT_ONCE: Final = 2  # 4 GiB of volume: some 3 ms in which no request is served


class Census:
    """Counting is dear and little changes, so what was counted is kept."""

    def __init__(self, pool: Pool, directory: Path) -> None:
        self._pool = pool
        self._directory = directory
        self._mapped: dict[int, tuple[int, int]] = {}  # volume -> (changed_lsn, bytes)
        self._sealed: dict[int, int] = {}  # segment that grows no more -> bytes

    async def volume(self, volume: Volume) -> VolumeView:
        state = self._pool.state
        mapped = await self._mapped_bytes(volume)
        source = state.volumes.get(volume.source)
        return VolumeView(
            name=volume.name,
            size=volume.size,
            mapped=mapped,
            kind=volume.kind,
            read_only=state.read_only(volume),
            description=state.describe(volume),
            group=volume.group,
            copy=volume.copy,
            source=source.name if source is not None else "",
            clients=sorted({str(each) for each in self._pool.attached.of(volume.id)}),
            attachments=self.attachments(volume.id),
            labels=volume.labels,
        )

    def attachments(self, id: int) -> list[AttachmentView]:
        """Who has a volume open, by identity."""
        table = self._pool.attached
        return [
            AttachmentView(
                role=each.role,
                kind=each.proof,
                host=each.host,
                addresses=sorted(each.addresses),
                read_only=each.read_only,
                since=rfc3339(each.since),
                lease_left=round(table.lease_left(each), 1),
            )
            for each in table.of(id)
        ]

    def guests(self) -> list[GuestView]:
        """Who has anything open."""
        volumes = self._pool.state.volumes
        attached = sorted(
            (volumes[id].name, id) for id in self._pool.attached.volumes() if id in volumes
        )
        return [
            GuestView(export=name, **msgspec.structs.asdict(attachment))
            for name, id in attached
            for attachment in self.attachments(id)
        ]

    async def volumes(self) -> list[VolumeView]:
        """Volumes that stand for themselves; members of copies are with their copies."""
        plain = [v for v in self._pool.state.volumes.values() if v.kind == "volume"]
        return [await self.volume(v) for v in sorted(plain, key=lambda v: v.name)]

    def copy(self, copy: Copy) -> CopyView:
        volumes = self._pool.state.volumes
        return CopyView(
            name=copy.name,
            writable=copy.writable,
            stamp=copy.stamp,
            time=rfc3339(copy.stamp),
            group=copy.group,
            consistency=copy.consistency,
            expendable=copy.expendable,
            members=[
                MemberView(
                    source=volumes[source].name if source in volumes else "",
                    export=volumes[member].name,
                    size=volumes[member].size,
                )
                for source, member in copy.members
            ],
            schedule=copy.schedule,
            rules=copy.rules,
            pinned=copy.pinned,
            held_until=copy.held_until,
            held_until_time=rfc3339(copy.held_until),
            hold_reason=copy.hold_reason,
            held=why_held(self._pool, copy),
            kept_from=copy.kept_from,
            origin=copy.origin,
            as_of_cut=copy.as_of_cut,
        )

    async def copies(self) -> list[msgspec.Raw]:
        """A CopyView of each, as JSON. Those that are deleted meanwhile are left out."""
        state, found = self._pool.state, []
        copies = sorted(state.copies.values(), key=attrgetter("stamp", "name"))
        members = 0
        for copy in copies:
            if state.copies.get(copy.name) is copy:
                found.append(msgspec.Raw(msgspec.json.encode(self.copy(copy))))
            members += 1 + len(copy.members)
            if members >= MEMBERS_AT_ONCE:
                members = 0
                await self._pool.world.clock.sleep(0)
        return found

    async def site(self, groups: list[GroupView]) -> SiteView:
        """Without its copies: there may be ten thousand."""
        return SiteView(
            version=__version__,
            pool=self._pool.identity,
            directory=str(self._directory),
            time=rfc3339(self._pool.world.clock.wall_ns()),
            failed=self._pool.failed,
            volumes=await self.volumes(),
            copies=[],
            groups=groups,
            space=self.space(),
        )

    def space(self) -> SpaceView:
        log, disk = self._pool.log, self._pool.disk
        total = 0
        newest = max(log.first_lsns, default=0)
        for number in log.first_lsns:
            size = self._sealed.get(number)
            if size is None:
                file = disk.open(segment_name(number))
                size = file.size()
                file.close()
                if number != newest:
                    self._sealed[number] = size
            total += size
        return SpaceView(
            log_bytes=total, log_segments=len(log.first_lsns), free_bytes=disk.free_bytes()
        )

    async def _mapped_bytes(self, volume: Volume) -> int:
        """Counted in slices, so that a large volume does not stop the others meanwhile.

        A volume that changes under the count gets a figure between old and new, and is counted
        again the next time.
        """
        lsn = volume.changed_lsn
        known = self._mapped.get(volume.id)
        if known is not None and known[0] == lsn:
            return known[1]
        state, blocks, counted = self._pool.state, 0, 0
        at = 0
        while (table := state.tables.get(volume.id)) is not None and at < len(table.root):
            if chunk := table.root[at]:
                for leaf in state.forest.node(chunk).words:
                    if leaf:
                        words = state.forest.node(leaf).words
                        pointers = np.frombuffer(words, np.uint64, LEAF_BLOCKS)
                        blocks += int(np.count_nonzero(pointers))
                counted += 1
                if counted % CHUNKS_AT_ONCE == 0:
                    await self._pool.world.clock.sleep(0)
            at += 1
        self._mapped[volume.id] = lsn, blocks * BLOCK
        if len(self._mapped) > 2 * len(state.volumes) + 64:  # forget the deleted ones
            self._mapped = {id: kept for id, kept in self._mapped.items() if id in state.volumes}
        return blocks * BLOCK
