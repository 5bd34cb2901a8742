"""The secondary's side of a consistency group: collect it in the log, commit it as one step."""

from __future__ import annotations

from isochrone.errors import Conflict, Damaged, InvalidInput, PeerFault
from isochrone.mirror.messages import Begin, Command, Cut, Data, Holes, RemoteVolume
from isochrone.store import holds
from isochrone.store import records as r
from isochrone.store.catalogue import Group
from isochrone.store.log import verifies
from isochrone.store.names import check_name
from isochrone.store.overlaps import overlap
from isochrone.store.pool import Pool
from isochrone.store.relations import check_size
from isochrone.types import BLOCK, VOLUME_BYTES_MAX, Lineage


class Receiver:
    """Takes the messages between BEGIN and CUT. What it is told is checked before it is logged.

    Raises `PeerFault` for what a sane primary would not send; the connection must end then, and
    nothing of the group has become visible.
    """

    def __init__(self, pool: Pool, group: Group, lineage: Lineage) -> None:
        self._pool = pool
        self._group = group
        self._lineage = lineage
        self._shadows: dict[int, int] = {}  # volume id at the primary -> shadow here
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
        self._pool.record(
            r.IncomingBegun(
                group=self._group.name,
                lineage=self._lineage.id,
                epoch=self._lineage.epoch,
                base=message.base,
                volumes=volumes,
            )
        )
        self._shadows = {v.remote: v.shadow for v in volumes}
        self._cut = message.cut
        self._blocks = 0

    def _places(self, message: Begin) -> tuple[r.IncomingVolume, ...]:
        """Where each volume goes: the local one it has, or a new one, and a shadow."""
        known = self._group.remote_ids
        there = {v.id for v in message.volumes}
        if not len(there) == len({v.name for v in message.volumes}) == len(message.volumes) > 0:
            raise PeerFault("the primary's group has no volumes, or one twice")
        if known and there != set(known):
            raise PeerFault("the primary's group has other volumes than before")
        ids = iter(self._pool.state.new_ids(2 * len(message.volumes)))
        places = []
        for v in message.volumes:
            check_volume(self._pool, self._group, v)
            local = known[v.id] if v.id in known else next(ids)
            # On a base, resizes come as commands at their place among the writes.
            size = self._pool.state.volumes[local].size if message.base else v.size
            places.append(r.IncomingVolume(v.id, v.name, size, local, next(ids)))
        return tuple(places)

    def _shadow(self, remote: int) -> int:
        try:
            return self._shadows[remote]
        except KeyError:
            raise PeerFault(f"volume {remote} is not part of the group") from None

    def _check_range(self, shadow: int, block: int, count: int) -> None:
        if block + count > -(-self._pool.state.volumes[shadow].size // BLOCK):
            raise PeerFault(f"{count} blocks at {block} reach past the end of a volume")

    def data(self, message: Data) -> None:
        shadow = self._shadow(message.volume)
        if not verifies(message.payload, message.sums):
            raise Damaged("a block does not have the checksum it had at the primary")
        view = memoryview(message.payload)
        blocks = message.blocks
        start = 0
        for at in range(1, len(blocks) + 1):
            if at == len(blocks) or blocks[at] != blocks[at - 1] + 1:
                self._check_range(shadow, blocks[start], at - start)
                self._pool.stage_write(shadow, blocks[start], view[start * BLOCK : at * BLOCK])
                start = at
        self._pool.commit()
        self._blocks += len(blocks)

    def holes(self, message: Holes) -> None:
        for remote, block, count in message.ranges:
            shadow = self._shadow(remote)
            # A hole is cut at the end of the volume: a shrink may have come after the discard.
            end = -(-self._pool.state.volumes[shadow].size // BLOCK)
            if 0 <= block < end and count > 0:
                self._pool.stage_discard(shadow, block, min(count, end - block))
        self._pool.commit()

    def command(self, message: Command) -> None:
        """A record of the primary, with its volumes replaced by the shadows here."""
        if not self._shadows:
            raise PeerFault("a command came without a group")
        match _record(message):
            case r.CopyTaken() as taken:
                _check_name("copy", taken.name)
                sources = [s for s, _ in taken.members if s in self._shadows]
                if not sources or len(set(sources)) != len(sources):
                    raise PeerFault(f"copy {taken.name!r} has no volume of the group, or one twice")
                ids = self._pool.state.new_ids(len(sources))
                self._pool.record(
                    r.CopyTaken(
                        name=taken.name,
                        writable=taken.writable,
                        stamp=taken.stamp,
                        members=tuple(zip(map(self._shadow, sources), ids, strict=True)),
                        group=self._group.name,
                    )
                )
            case r.CopyDeleted(name=name):
                _check_name("copy", name)
                self._pool.record(r.CopyDeleted(name=name, group=self._group.name))
            case r.CopyClassified(name=name, consistency=consistency):
                _check_name("copy", name)
                self._pool.record(
                    r.CopyClassified(name=name, consistency=consistency, group=self._group.name)
                )
            case r.RelationsEstablished(relations=steps, once=True):
                self._copy(steps)
            case r.VolumeResized(id=id, size=size):
                if not 0 < size <= VOLUME_BYTES_MAX:
                    raise PeerFault(f"a volume was resized to {size} bytes")
                self._pool.record(r.VolumeResized(id=self._shadow(id), size=size))
            case other:
                raise PeerFault(f"a {type(other).__name__} record cannot be mirrored")

    def _copy(self, steps: tuple[r.NewRelation, ...]) -> None:
        """Make parts of shadows what others are, as the primary did at this place."""
        found = []
        targets: dict[int, list[tuple[int, int]]] = {}
        for step in steps:
            source, target = self._shadow(step.source), self._shadow(step.target)
            for first, at, count in step.extents:
                if min(first, at, count - 1) < 0:
                    raise PeerFault("the primary copied a range that does not exist")
                self._check_range(source, first, count)
                self._check_range(target, at, count)
                targets.setdefault(target, []).append((at, count))
            found.append(r.NewRelation(0, source, target, step.extents))
        if not targets or any(overlap(ranges) is not None for ranges in targets.values()):
            raise PeerFault("the primary copied nothing, or twice to one place")
        try:
            check_size(extent for step in found for extent in step.extents)
        except InvalidInput as e:
            raise PeerFault(f"the primary copied too much at once: {e.message}") from e
        self._pool.record(r.RelationsEstablished(relations=tuple(found), stamp=0, once=True))

    def commit(self, message: Cut) -> None:
        """Make the group visible, in one record; flush before saying that it is hardened."""
        if not self._shadows:
            raise PeerFault("a cut came without a group")
        if message.cut != self._cut:
            raise PeerFault(f"cut {message.cut} ends a group that was to lead to {self._cut}")
        if message.blocks != self._blocks:
            raise PeerFault(f"{message.blocks} blocks were sent, {self._blocks} arrived")
        self._pool.record(
            r.IncomingCommitted(
                group=self._group.name,
                cut=message.cut,
                stamp=message.stamp,
                kept=holds.kept_here(self._pool, self._group),
            )
        )
        self._shadows = {}


def check_volume(pool: Pool, group: Group, volume: RemoteVolume) -> None:
    """Whether a volume of the primary can live here. Raises `Conflict` or `PeerFault`."""
    if not 0 < volume.size <= VOLUME_BYTES_MAX:
        raise PeerFault(f"the primary has a volume {volume.name!r} of {volume.size} bytes")
    if volume.id in group.remote_ids:
        return
    _check_name("volume", volume.name)
    mine = group.incoming is not None and any(v.name == volume.name for v in group.incoming.volumes)
    if pool.state.reserved(volume.name) and not mine:
        raise Conflict(
            f"there is a volume {volume.name!r} here already",
            hint=f"delete it here, or mirror {group.name} to another controller",
        )


def _check_name(what: str, name: str) -> None:
    """What could not be named so here may break what is named after it. Raises `PeerFault`."""
    try:
        check_name(what, name)
    except InvalidInput as e:
        raise PeerFault(f"the primary sent a bad name: {e.message}") from e


def _record(message: Command) -> r.AnyRecord:
    """Raises `PeerFault` for a record this version does not know, and for what is none."""
    try:
        return r.decode(message.body)
    except (Damaged, ValueError, RecursionError) as e:
        raise PeerFault(
            f"the primary sent a record that cannot be understood: {e}",
            hint="run the same version of isochrone at both sites",
        ) from e
