"""Records of the primary that a secondary carries out on the shadows of an incoming group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Final

import msgspec
import structlog

from isochrone.errors import Damaged, InvalidInput, PeerFault
from isochrone.mirror.messages import Command
from isochrone.mirror.onto import Arrivals
from isochrone.store import records as r
from isochrone.store import relations as limits
from isochrone.store.apply_relations import Extent, split
from isochrone.store.catalogue import Group
from isochrone.store.names import check_name, unnumbered
from isochrone.store.overlaps import EXTENTS_MAX, overlap
from isochrone.store.pool import Pool
from isochrone.store.ranges import TRACK_BLOCKS
from isochrone.types import BLOCK, VOLUME_BYTES_MAX

log = structlog.get_logger()

NOTED_MAX: Final = 65536  # copies or relations that commands name in a group: some 16 MiB
_LARGEST: Final = 1 << 62  # as in all messages: a sum of two still fits 64 bits


class Shadows:
    """Where the volumes of an incoming group are collected: ids of the primary, and here."""

    def __init__(self, pool: Pool, found: dict[int, int] | None = None) -> None:
        self._pool = pool
        self._found = found or {}  # volume id at the primary -> shadow here
        self._arrivals: Arrivals | None = None  # once somebody asks
        self._copies: set[tuple[str, int]] | None = None  # that are here or coming: name, stamp

    def __bool__(self) -> bool:
        return bool(self._found)

    def __contains__(self, remote: int) -> bool:
        return remote in self._found

    def items(self) -> Iterable[tuple[int, int]]:
        return self._found.items()

    def of(self, remote: int) -> int:
        """The shadow of a volume of the primary. Raises `PeerFault` if the group has none."""
        try:
            return self._found[remote]
        except KeyError:
            raise PeerFault(f"volume {remote} is not part of the group") from None

    def arrivals(self, group: Group) -> Arrivals:
        """The relations onto these volumes. Whatever record changes them is to be noted there."""
        if self._arrivals is None:
            self._arrivals = Arrivals(self._pool.state, group)
        return self._arrivals

    def copy(self, group: Group, name: str, stamp: int) -> str:
        """What a copy of the primary is called here and at others that follow; empty: it is not.

        After takeovers the same name may mean another copy there, and the same copy have a number.
        """
        if self._copies is None:
            coming = group.incoming.copies if group.incoming is not None else []
            self._copies = {
                (copy.origin or copy.name, copy.stamp)
                for copy in chain(coming, self._pool.state.copies.values())
                if copy.group == group.name
            }
        both = (name, unnumbered(name))
        return next((each for each in both if (each, stamp) in self._copies), "")

    def comes(self, name: str, stamp: int) -> None:
        """A copy has just come with this group."""
        if self._copies is not None:
            self._copies.add((name, stamp))

    def check_range(self, shadow: int, block: int, count: int) -> None:
        """Raises `PeerFault` for blocks behind the end of a volume."""
        if block + count > -(-self._pool.state.volumes[shadow].size // BLOCK):
            raise PeerFault(f"{count} blocks at {block} reach past the end of a volume")


def carry_out(pool: Pool, group: Group, shadows: Shadows, message: Command) -> None:
    """Append a record of the primary, with its volumes replaced by the shadows here.

    Raises `PeerFault` for what a sane primary would not send; then nothing was appended.
    """
    if not shadows:
        raise PeerFault("a command came without a group")
    check_noted(group)
    match _record(message):
        case r.CopyTaken() as taken:
            _take_copy(pool, group, shadows, taken)
        case r.CopyDeleted(name=name, stamp=stamp):
            check_peer_name("copy", name)
            meant = shadows.copy(group, name, stamp) if stamp else name
            if meant:
                pool.record(r.CopyDeleted(name=meant, group=group.name, stamp=stamp))
        case r.CopyClassified(name=name, consistency=consistency):
            check_peer_name("copy", name)
            pool.record(r.CopyClassified(name=name, consistency=consistency, group=group.name))
        case r.RelationsEstablished(relations=steps, once=True):
            _copy(pool, shadows, steps)
        case r.RelationsMirrored(act="keep" | "discard") as withdrawn:
            _withdraw(pool, group, shadows, withdrawn)
        case r.RelationsMirrored() as made:
            _relate(pool, group, shadows, made)
        case r.VolumeResized(id=id, size=size):
            if not 0 < size <= VOLUME_BYTES_MAX:
                raise PeerFault(f"a volume was resized to {size} bytes")
            pool.record(r.VolumeResized(id=shadows.of(id), size=size))
        case other:
            raise PeerFault(f"a {type(other).__name__} record cannot be mirrored")


def check_noted(group: Group) -> None:
    """Raises `PeerFault` if a group has so much in it that its item would grow without end."""
    incoming = group.incoming
    if incoming is None:
        return
    touched = len(group.unheld) + len(incoming.unheld)
    if max(len(incoming.copies), len(incoming.deleted), touched) >= NOTED_MAX:
        raise PeerFault(
            f"the primary sent more than {NOTED_MAX} copies, deletions or relations in one group",
            hint=f"begin this mirror anew: isochrone mirror remove {group.name}",
        )


def _take_copy(pool: Pool, group: Group, shadows: Shadows, taken: r.CopyTaken) -> None:
    check_peer_name("copy", taken.name)
    sources = [source for source, _ in taken.members if source in shadows]
    if not sources or len(set(sources)) != len(sources):
        raise PeerFault(f"copy {taken.name!r} has no volume of the group, or one twice")
    ids = pool.state.new_ids(len(sources))
    pool.record(
        r.CopyTaken(
            name=taken.name,
            writable=taken.writable,
            stamp=taken.stamp,
            members=tuple(zip(map(shadows.of, sources), ids, strict=True)),
            group=group.name,
        )
    )
    shadows.comes(taken.name, taken.stamp)


def _copy(pool: Pool, shadows: Shadows, steps: tuple[r.NewRelation, ...]) -> None:
    """Make parts of shadows what others are, as the primary did at this place."""
    found = []
    targets: dict[int, list[tuple[int, int]]] = {}
    for step in steps:
        source, target = shadows.of(step.source), shadows.of(step.target)
        for first, at, count in step.extents:
            if min(first, at, count - 1) < 0:
                raise PeerFault("the primary copied a range that does not exist")
            shadows.check_range(source, first, count)
            shadows.check_range(target, at, count)
            targets.setdefault(target, []).append((at, count))
        found.append(r.NewRelation(0, source, target, step.extents))
    _check_changed(targets, (extent for step in found for extent in step.extents))
    pool.record(r.RelationsEstablished(relations=tuple(found), stamp=0, once=True))


# -- relations


def room(pool: Pool) -> int:
    """How many more relations can be on record here, with those that are coming."""
    state = pool.state
    coming = [group.incoming for group in state.groups.values() if group.incoming is not None]
    new = sum(len(x.relations.keys() - state.relations.keys()) for x in coming)
    return max(0, limits.RELATIONS_MAX - len(state.relations) - new)


def check_numbers(part: r.MirroredPart) -> None:
    """Raises `PeerFault` for numbers that no relation has."""
    if not (0 < part.id <= _LARGEST and 0 < part.generation <= _LARGEST):
        raise PeerFault("the primary sent a relation with an impossible number")
    if not 0 <= part.stamp <= _LARGEST:
        raise PeerFault("the primary sent a relation of an impossible time")


def check_extents(shadows: Shadows, part: r.MirroredPart) -> None:
    """Raises `PeerFault` for extents that no relation has."""
    shadows.of(part.source)
    target = shadows.of(part.target)
    if not 0 < len(part.extents) <= EXTENTS_MAX:
        raise PeerFault(f"the primary sent a relation with {len(part.extents)} extents")
    for first, at, count in part.extents:
        if min(first, at, count - 1) < 0 or first % TRACK_BLOCKS or at % TRACK_BLOCKS:
            raise PeerFault("the primary sent a relation of ranges that do not exist")
        # The source may end earlier: it may have been made smaller since.
        shadows.check_range(target, at, count)
        if first + count > VOLUME_BYTES_MAX // BLOCK:
            raise PeerFault("the primary sent a relation of ranges that do not exist")
    if overlap((at, count) for _, at, count in part.extents) is not None:
        raise PeerFault("the primary sent a relation with two sources for one place")


def _relate(pool: Pool, group: Group, shadows: Shadows, message: r.RelationsMirrored) -> None:
    """Establish, refresh or restore: the content in any case, the relation if there is room."""
    restored = message.act == "restore"
    changed: dict[int, list[tuple[int, int]]] = {}
    for part in message.parts:
        check_numbers(part)
        check_extents(shadows, part)
        source, target = shadows.of(part.source), shadows.of(part.target)
        for first, at, count in part.extents:
            shadows.check_range(source, first, count)
            changed.setdefault(source if restored else target, []).append(
                (first if restored else at, count)
            )
    if len({part.id for part in message.parts}) != len(message.parts):
        raise PeerFault("the primary sent a relation twice in one command")
    _check_changed(changed, (extent for part in message.parts for extent in part.extents))
    dropped: dict[int, None] = {}
    there = shadows.arrivals(group)
    parts: list[r.MirroredPart] = []
    claimed: dict[int, list[tuple[int, int]]] = {}
    numbers = iter(pool.state.new_ids(len(message.parts)))
    left = room(pool)
    for part in message.parts:
        source, target = shadows.of(part.source), shadows.of(part.target)
        ranges = [(at, count) for _, at, count in part.extents]
        mine = claimed.setdefault(target, [])
        mine += ranges
        volume = pool.state.volumes[target].source
        known = there.find(volume, part.id)
        here = known.id if known is not None else 0
        dropped |= {id: None for id in there.at(volume, ranges) if id != here}
        local = here or (next(numbers) if left else 0)
        left -= known is None and left > 0
        if not local:
            log.warning("a relation is not on record here, only its content", group=group.name,
                        relation=part.id, limit=limits.RELATIONS_MAX)  # fmt: skip
        parts.append(msgspec.structs.replace(
            part, source=source, target=target, withdrawn=(), local=local
        ))  # fmt: skip
    if any(overlap(ranges) is not None for ranges in claimed.values()):
        raise PeerFault("the primary sent two relations onto one place")
    pool.record(
        r.RelationsMirrored(
            act=message.act, parts=tuple(parts), group=group.name, dropped=tuple(dropped)
        )
    )
    there.note([*dropped, *(part.local for part in parts)])


def _withdraw(pool: Pool, group: Group, shadows: Shadows, message: r.RelationsMirrored) -> None:
    """Take relations off, or parts of them; what is not on record here stays as it is."""
    assert group.incoming is not None
    parts: list[r.MirroredPart] = []
    dropped: list[int] = []
    there = shadows.arrivals(group)
    if not message.parts or len({part.id for part in message.parts}) != len(message.parts):
        raise PeerFault("the primary withdrew nothing, or a relation twice")
    for part in message.parts:
        check_numbers(part)
        target = shadows.of(part.target)
        if len(part.withdrawn) > EXTENTS_MAX or overlap(part.withdrawn) is not None:
            raise PeerFault("the primary withdrew too many ranges, or one twice")
        if any(block < 0 or block % TRACK_BLOCKS or n <= 0 for block, n in part.withdrawn):
            raise PeerFault("the primary withdrew a range that does not exist")
        relation = there.find(pool.state.volumes[target].source, part.id)
        if message.act == "discard":
            unsure = group.incoming.inexact or (relation is not None and relation.inexact)
            if relation is None or unsure:
                raise PeerFault(
                    f"relation {part.id} is to be discarded, and what hosts wrote since is not"
                    " known here",
                    hint=f"begin this mirror anew: isochrone mirror remove {group.name}",
                )
        local = 0 if relation is None else relation.id
        if relation is not None and len(split(relation.extents, part.withdrawn)[1]) > EXTENTS_MAX:
            if message.act == "discard":
                raise PeerFault(f"the primary left more than {EXTENTS_MAX} extents")
            dropped.append(local)
            local = 0
        parts.append(r.MirroredPart(
            part.id, 0, target, withdrawn=part.withdrawn, local=local
        ))  # fmt: skip
    pool.record(
        r.RelationsMirrored(
            act=message.act, parts=tuple(parts), group=group.name, dropped=tuple(dropped)
        )
    )
    there.note([*dropped, *(part.local for part in parts)])


def _check_changed(changed: Mapping[int, list[tuple[int, int]]], extents: Iterable[Extent]) -> None:
    """Raises `PeerFault` for a command that changes nothing, a place twice, or too much."""
    if not changed or any(overlap(ranges) is not None for ranges in changed.values()):
        raise PeerFault("the primary copied nothing, or twice to one place")
    try:
        limits.check_size(extents)
    except InvalidInput as e:
        raise PeerFault(f"the primary copied too much at once: {e.message}") from e


def check_peer_name(what: str, name: str) -> None:
    """What could not be named so here may break what is named after it. Raises `PeerFault`."""
    try:
        # A site that took over has copies which it had to give a number to.
        check_name(what, unnumbered(name) if what == "copy" else name)
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
