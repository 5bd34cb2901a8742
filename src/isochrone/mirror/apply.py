"""The secondary's side of a consistency group: collect it in the log, commit it as one step."""

from __future__ import annotations

from array import array
from typing import Final

import numpy as np

from isochrone.errors import Conflict, Damaged, PeerFault
from isochrone.mirror import digests
from isochrone.mirror.commands import Shadows, carry_out, check_peer_name
from isochrone.mirror.hardening import Hardening
from isochrone.mirror.images import TRACK_BLOCKS
from isochrone.mirror.inventory import Reconciling
from isochrone.mirror.messages import (
    GROUP_VOLUMES_MAX,
    Begin,
    Command,
    Compare,
    Cut,
    Data,
    Digests,
    Holes,
    Inventory,
    Reached,
    RemoteVolume,
)
from isochrone.mirror.partial import part_of
from isochrone.store import holds, windows
from isochrone.store import records as r
from isochrone.store.catalogue import Group
from isochrone.store.log import verifies
from isochrone.store.pool import Pool
from isochrone.types import BLOCK, VOLUME_BYTES_MAX, Lineage

VOLUMES_MAX: Final = 16 * GROUP_VOLUMES_MAX  # here, if a mirror brings new ones; 10 MB of memory


class Receiver:
    """Takes the messages between BEGIN and CUT. What it is told is checked before it is logged.

    Raises `PeerFault` for what a sane primary would not send; the connection must end then, and
    nothing of the group has become visible.
    """

    def __init__(self, pool: Pool, group: Group, lineage: Lineage, source: str = "") -> None:
        self._pool = pool
        self._group = group
        self._lineage = lineage
        self._source = source  # identity of the primary
        self._offered = part_of(pool, group)
        self._images = False  # what is received now is sent from images, not from the log
        self._shadows = Shadows(pool)
        self._listing: Reconciling | None = None  # what the group ends with
        self._hardening = Hardening(pool)
        self._cut = 0  # that the group will lead to
        self._blocks = 0

    @property
    def bytes_collected(self) -> int:
        return self._blocks * BLOCK

    def begin(self, message: Begin) -> None:
        here = self._group.cut
        if message.base not in (0, here):
            raise PeerFault(f"a group on cut {message.base} was sent; cut {here} is here")
        if message.cut <= here:
            raise PeerFault(f"cut {message.cut} was sent again")
        volumes = self._places(message)
        if message.resumed:
            volumes = self._resumed(message)
        else:
            self._pool.record(
                r.IncomingBegun(
                    group=self._group.name,
                    lineage=self._lineage.id,
                    epoch=self._lineage.epoch,
                    base=message.base,
                    volumes=volumes,
                    pool=self._source if message.images else "",
                )
            )
        self._offered = None
        self._shadows = Shadows(self._pool, {v.remote: v.shadow for v in volumes})
        self._listing = None
        self._hardening = Hardening(self._pool)
        self._cut = message.cut
        self._images = message.images
        self._blocks = 0

    def _resumed(self, message: Begin) -> tuple[r.IncomingVolume, ...]:
        """The shadows of the part that was offered to the primary."""
        incoming, offered = self._group.incoming, self._offered
        if incoming is None or offered is None or not message.images:
            raise PeerFault("the primary goes on with a group of which no part is here")
        if (offered.base, offered.lineage, offered.epoch, offered.pool) != (
            message.base, self._lineage.id, self._lineage.epoch, self._source,
        ):  # fmt: skip
            raise PeerFault("the primary goes on with another group than the one that is here")
        if {v.remote for v in incoming.volumes} != {v.id for v in message.volumes}:
            raise PeerFault("the primary goes on with other volumes than before")
        return tuple(incoming.volumes)

    def _places(self, message: Begin) -> tuple[r.IncomingVolume, ...]:
        """Where each volume goes: the local one it has, or a new one, and a shadow.

        What is here and not there has left the group, and does with the commit.
        """
        known = self._group.remote_ids
        there = {v.id for v in message.volumes}
        if not len(there) == len({v.name for v in message.volumes}) == len(message.volumes) > 0:
            raise PeerFault("the primary's group has no volumes, or one twice")
        if known and message.base and not message.images and there != set(known):
            raise PeerFault("the log of the primary has other volumes than there are here")
        self._check_room(len(there - set(known)))
        ids = iter(self._pool.state.new_ids(2 * len(message.volumes)))
        places = []
        for v in message.volumes:
            check_volume(self._pool, self._group, v)
            local = known[v.id] if v.id in known else next(ids)
            here = self._pool.state.volumes.get(local)
            # On a base, resizes come as commands at their place among the writes.
            size = here.size if message.base and here is not None else v.size
            seed = 0 if message.base or known else self._group.seeds.get(v.name, 0)
            places.append(r.IncomingVolume(v.id, v.name, size, local, next(ids), seed))
        return tuple(places)

    def _check_room(self, new: int) -> None:
        """Raises `Conflict`. What leaves a group stays here, so a primary could fill a pool."""
        here = sum(volume.kind == "volume" for volume in self._pool.state.volumes.values())
        if new and here + new > VOLUMES_MAX:
            raise Conflict(
                f"group {self._group.name} would bring the volumes here to {here + new};"
                f" {VOLUMES_MAX} is the limit",
                hint="delete those that left a group: isochrone volume list",
            )

    def data(self, message: Data) -> None:
        shadow = self._shadows.of(message.volume)
        if not verifies(message.payload, message.sums):
            raise Damaged("a block does not have the checksum it had at the primary")
        runs = _runs(message.blocks)
        for block, count in runs:
            self._shadows.check_range(shadow, block, count)
        try:
            self._pool.stage_runs(shadow, runs, memoryview(message.payload), message.sums)
        finally:  # a part of what was refused must not wait for somebody else's commit
            self._pool.commit()
        self._blocks += len(message.blocks)

    def holes(self, message: Holes) -> None:
        try:
            for remote, block, count in message.ranges:
                shadow = self._shadows.of(remote)
                # A hole is cut at the end of the volume: a shrink may have come after the discard.
                end = -(-self._pool.state.volumes[shadow].size // BLOCK)
                if 0 <= block < end and count > 0:
                    self._pool.stage_discard(shadow, block, min(count, end - block))
        finally:
            self._pool.commit()

    def reached(self, message: Reached) -> None:
        """Remember how far it has come: everything before is in the log in front of this."""
        if not self._shadows or not self._images:
            raise PeerFault("the primary says how far it has come with nothing")
        if message.volume:
            self._shadows.of(message.volume)
        position = r.Position(
            message.floor, message.begun, message.step, message.volume, message.block
        )
        self._pool.record(r.IncomingProgress(group=self._group.name, position=position))
        self._hardening.step()

    def compare(self, message: Compare) -> Digests:
        """What is here by now in the place of some tracks."""
        shadow = self._shadows.of(message.volume)
        self._shadows.check_range(shadow, message.track * TRACK_BLOCKS, 1)
        table = self._pool.state.tables[shadow]
        found = digests.of_range(self._pool.state.forest, table, message.track, message.count)
        return Digests(volume=message.volume, track=message.track, digests=found)

    def command(self, message: Command) -> None:
        """A record of the primary, carried out on the shadows here."""
        carry_out(self._pool, self._group, self._shadows, message)

    def inventory(self, message: Inventory) -> None:
        """What relations and copies the primary has; after all else of a group."""
        if not self._shadows:
            raise PeerFault("an inventory came without a group")
        if self._listing is None:
            self._listing = Reconciling(self._pool, self._group, self._shadows)
        self._listing.take(message)

    def commit(self, message: Cut) -> None:
        """Make the group visible, in one record; flush before saying that it is hardened."""
        if not self._shadows:
            raise PeerFault("a cut came without a group")
        if message.cut != self._cut:
            raise PeerFault(f"cut {message.cut} ends a group that was to lead to {self._cut}")
        if message.blocks != self._blocks:
            raise PeerFault(f"{message.blocks} blocks were sent, {self._blocks} arrived")
        if self._listing is not None and not self._listing.ended:
            raise PeerFault("a cut came before the end of the inventory")
        self._pool.record(
            r.IncomingCommitted(
                group=self._group.name,
                cut=message.cut,
                stamp=message.stamp,
                kept=holds.kept_here(self._pool, self._group),
                kept_at=windows.keep(self._pool, self._group),
            )
        )
        self._shadows = Shadows(self._pool)


def _runs(blocks: array[int]) -> list[tuple[int, int]]:
    """(block, count) of those that follow each other."""
    first, count = blocks[0], len(blocks)
    if blocks[-1] == first + count - 1 and blocks == array("Q", range(first, first + count)):
        return [(first, count)]  # the common case of a copy
    row = np.frombuffer(blocks, np.uint64)
    edges = np.flatnonzero(np.diff(row) != 1) + 1
    starts = np.append(0, edges)
    counts = np.diff(np.append(starts, len(row)))
    return list(zip(row[starts].tolist(), counts.tolist(), strict=True))


def check_volume(pool: Pool, group: Group, volume: RemoteVolume) -> None:
    """Whether a volume of the primary can live here. Raises `Conflict` or `PeerFault`."""
    if not 0 < volume.size <= VOLUME_BYTES_MAX:
        raise PeerFault(f"the primary has a volume {volume.name!r} of {volume.size} bytes")
    if volume.id in group.remote_ids:
        return
    check_peer_name("volume", volume.name)
    mine = group.incoming is not None and any(v.name == volume.name for v in group.incoming.volumes)
    if pool.state.reserved(volume.name) and not mine:
        raise Conflict(
            f"there is a volume {volume.name!r} here already, and group {group.name} has another",
            hint=f"delete it here, or mirror {group.name} to another controller; if it was just"
            f" added there, it can go again: isochrone group remove {group.name} {volume.name}",
        )
