"""Point-in-time copies onto volumes that exist, whole or by extents, and what is done with them.

Each command checks everything, then appends one record: one instant over all it names, or nothing.
Flush before telling anybody that it is done.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from isochrone.errors import Conflict, InvalidInput, NotFound, ReadOnly
from isochrone.store import records as r
from isochrone.store.apply_relations import Extent, split
from isochrone.store.catalogue import Relation, Volume
from isochrone.store.mirrored import group_of, renewed, unsettled
from isochrone.store.overlaps import EXTENTS_MAX, Range, check_no_target, joined, name_of, overlap
from isochrone.store.overwrite import NOTHING_AGREED, Changes, Permission, images, may_overwrite
from isochrone.store.pool import Pool
from isochrone.store.ranges import COMPARED_MAX, TRACK_BLOCKS, misaligned, tracks_that_differ
from isochrone.store.tracks import blocks_of
from isochrone.store.volumes import find
from isochrone.types import BLOCK, GIB, KIB, TRACK

RELATIONS_MAX: Final = 4096  # of a pool: each checkpoint looks at all, each command at all targets
MISALIGNED_BYTES_MAX: Final = 4 * GIB  # of a command, where the offsets differ by no multiple of
# 1 MiB: each 1 MiB then costs a table leaf, all in one step that holds up the loop for 10-20 ms


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a source and where they go; from their start on."""

    source_offset: int
    target_offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Wish:
    """A source that is to be copied onto a target; without spans, the whole of it."""

    source: str
    target: str
    spans: tuple[Span, ...] = ()


# -- establish


def establish(
    pool: Pool,
    wishes: Sequence[Wish],
    *,
    once: bool = False,
    inhibit: bool = False,
    permission: Permission = NOTHING_AGREED,
) -> list[Relation]:
    """Copy the sources onto the targets, as of one instant; the relations that record it.

    Raises `Conflict`, `InvalidInput`, `NotFound` or `ReadOnly`; then nothing has changed.
    """
    if once and inhibit:
        raise InvalidInput("without a relation there is nothing that could inhibit writes")
    found: dict[tuple[int, int], list[Extent]] = {}
    for wish in wishes:
        source, target = find(pool, wish.source), find(pool, wish.target)
        _check_target(pool, target)
        extents = found.setdefault((source.id, target.id), [])
        extents += _extents(source, target, wish.spans)
    if not found:
        raise InvalidInput("a relation needs a source and a target")
    _check_limits(pool, found.values(), 0 if once else len(found))
    volumes = pool.state.volumes
    targets: dict[int, list[Range]] = {}
    for (source_id, target_id), extents in found.items():
        _check_within(volumes[source_id], volumes[target_id], extents)
        targets.setdefault(target_id, []).extend((at, count) for _, at, count in extents)
    for id, ranges in targets.items():
        if overlap(ranges) is not None:
            raise InvalidInput(f"two extents of this command overlap on {volumes[id].name!r}")
        check_no_target(pool.state, volumes[id], ranges, "copied onto")
    changes = _changes(found)
    may_overwrite(pool, changes, "copied onto", permission)
    ids = pool.state.new_ids(len(found))
    pool.record(
        r.RelationsEstablished(
            relations=tuple(
                r.NewRelation(
                    id,
                    source,
                    target,
                    tuple(extents),
                    inhibit,
                    group_of(pool.state, source, target),
                )
                for id, ((source, target), extents) in zip(ids, found.items(), strict=True)
            ),
            stamp=pool.world.clock.wall_ns(),
            once=once,
            images=_sent(images(pool, changes, ids.stop)),
        )
    )
    return [] if once else [pool.state.relations[id] for id in ids]


def _changes(pairs: Iterable[tuple[int, int]]) -> dict[int, set[int]]:
    """The sources of each target."""
    found: dict[int, set[int]] = {}
    for source, target in pairs:
        found.setdefault(target, set()).add(source)
    return found


def _sent(images: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Those that are sent; the record says what secondaries can do without."""
    return tuple(pair for pair in images if pair[1])


def _check_target(pool: Pool, volume: Volume) -> None:
    if pool.state.fixed(volume):
        raise ReadOnly(
            f"{volume.name!r} cannot be copied onto: it is read-only, a"
            f" {pool.state.describe(volume)}"
        )


def _extents(source: Volume, target: Volume, spans: Sequence[Span]) -> list[Extent]:
    """The spans in blocks. Raises `InvalidInput` for what does not begin and end at tracks."""
    if not spans:
        if target.size < source.size:
            raise InvalidInput(
                f"{target.name!r} has {target.size} bytes; {source.name!r} has {source.size}",
                hint=f"make it larger: isochrone volume resize {target.name} SIZE",
            )
        spans = (Span(0, 0, source.size),)
    found = []
    for span in spans:
        if span.length <= 0 or span.source_offset < 0 or span.target_offset < 0:
            raise InvalidInput("an extent begins at or behind 0 and has a length")
        if span.source_offset % TRACK or span.target_offset % TRACK:
            raise InvalidInput(
                f"extents begin at tracks, multiples of {TRACK // KIB} KiB:"
                f" {span.source_offset} or {span.target_offset} is none"
            )
        for volume, offset in ((source, span.source_offset), (target, span.target_offset)):
            if offset + span.length > volume.size:
                raise InvalidInput(
                    f"{span.length} bytes at {offset} reach past the end of {volume.name!r}"
                    f" ({volume.size} bytes)"
                )
        _check_end(source, target, span)
        first, at = span.source_offset // BLOCK, span.target_offset // BLOCK
        found.append((first, at, blocks_of(span.length)))
    return found


def _check_end(source: Volume, target: Volume, span: Span) -> None:
    """Ends between tracks are those of the source; ends inside a block, of both."""
    ends = span.source_offset + span.length == source.size
    both = ends and span.target_offset + span.length == target.size
    if span.length % TRACK and not ends:
        raise InvalidInput(
            f"an extent of {span.length} bytes is no multiple of {TRACK // KIB} KiB, and does not"
            f" end with {source.name!r}"
        )
    if span.length % BLOCK and not both:
        raise InvalidInput(
            f"{source.name!r} ends inside a block of {BLOCK} bytes, and {target.name!r} does not"
            " end there",
            hint=f"give them the same size, or copy less than the last {TRACK // KIB} KiB",
        )


def _check_within(source: Volume, target: Volume, extents: Sequence[Extent]) -> None:
    read = joined((first, count) for first, _, count in extents)
    written = joined((at, count) for _, at, count in extents)
    if source.id == target.id and overlap([*read, *written]) is not None:
        raise InvalidInput(f"source and target overlap on {source.name!r}")


def _check_limits(pool: Pool, found: Iterable[Sequence[Extent]], more: int) -> None:
    check_size(extent for one in found for extent in one)
    if len(pool.state.relations) + pool.state.reserved_relations() + more > RELATIONS_MAX:
        raise Conflict(
            f"a pool has at most {RELATIONS_MAX} relations",
            hint="withdraw some, or copy with --once",
        )


def check_size(extents: Iterable[Extent]) -> None:
    """Raises `InvalidInput` for a command that would hold up the loop, or whose record is long."""
    listed = list(extents)
    if len(listed) > EXTENTS_MAX:
        raise InvalidInput(
            f"a command has at most {EXTENTS_MAX} extents, not {len(listed)}",
            hint="join neighbours, or divide the command",
        )
    size = sum(count for first, at, count in listed if misaligned(first, at)) * BLOCK
    if size > MISALIGNED_BYTES_MAX:
        raise InvalidInput(
            f"{size} bytes would be copied between places that differ by no multiple of 1 MiB;"
            f" one command may have {MISALIGNED_BYTES_MAX}",
            hint="choose places that agree modulo 1 MiB, or divide the command",
        )


# -- on record


def find_relation(pool: Pool, id: int) -> Relation:
    try:
        return pool.state.relations[id]
    except KeyError:
        raise NotFound(f"there is no relation {id}", hint="see: isochrone relation list") from None


def select(
    pool: Pool, ids: Sequence[int] = (), *, source: str = "", target: str = ""
) -> list[Relation]:
    """Relations by number, or all of a source, of a target, or between both."""
    if ids and (source or target):
        raise InvalidInput("name relations by number, or by source and target, not both")
    if ids:
        return [find_relation(pool, id) for id in sorted(set(ids))]
    if not source and not target:
        raise InvalidInput("which relations?", hint="see: isochrone relation list")
    from_id, to_id = (find(pool, name).id if name else 0 for name in (source, target))
    found = [
        x
        for x in pool.state.relations.values()
        if from_id in (0, x.source) and to_id in (0, x.target)
    ]
    if not found:
        raise NotFound("there is no such relation", hint="see: isochrone relation list")
    return found


def difference(pool: Pool, relation: Relation) -> tuple[int, bool]:
    """Tracks in which the target is not what the source is now; whether all were looked at."""
    state = pool.state
    one, other = state.tables[relation.source], state.tables[relation.target]
    found, budget = 0, COMPARED_MAX
    for first, at, count in relation.extents:
        more, budget = tracks_that_differ(state.forest, one, first, other, at, count, budget)
        found += more
    return found, budget > 0


def tracks(relation: Relation) -> int:
    return sum(-(-count // TRACK_BLOCKS) for _, _, count in relation.extents)


def refresh(
    pool: Pool, relations: Sequence[Relation], permission: Permission = NOTHING_AGREED
) -> None:
    """Copy the same extents again; what was written to the targets meanwhile is gone."""
    volumes, stamp = pool.state.volumes, pool.world.clock.wall_ns()
    _check_again(pool, relations)
    changes = _changes((x.source, x.target) for x in relations)
    for id in changes:
        _check_target(pool, volumes[id])
    may_overwrite(pool, changes, "refreshed", permission)
    pool.record(
        r.RelationsRefreshed(
            ids=tuple(x.id for x in relations),
            stamp=stamp,
            images=_sent(images(pool, changes)),
            mirrored=_mirrored(pool, relations, stamp),
        )
    )


def _mirrored(pool: Pool, relations: Iterable[Relation], stamp: int) -> tuple[r.MirroredPart, ...]:
    state = pool.state
    return tuple(renewed(x, stamp) for x in relations if group_of(state, x.source, x.target))


def restore(
    pool: Pool, relations: Sequence[Relation], permission: Permission = NOTHING_AGREED
) -> None:
    """The other way round: the sources become what the targets are; the relations stay."""
    volumes, stamp = pool.state.volumes, pool.world.clock.wall_ns()
    _check_again(pool, relations)
    sources: dict[int, list[Range]] = {}
    for relation in relations:
        ranges = sources.setdefault(relation.source, [])
        ranges += [(first, count) for first, _, count in relation.extents]
    for id, ranges in sources.items():
        _check_target(pool, volumes[id])
        if overlap(ranges) is not None:
            raise Conflict(
                f"two of these would be restored to the same place of {volumes[id].name!r}",
                hint="restore one of them",
            )
        check_no_target(pool.state, volumes[id], ranges, "restored")
    changes = _changes((x.target, x.source) for x in relations)
    may_overwrite(pool, changes, "restored", permission)
    pool.record(
        r.RelationsRestored(
            ids=tuple(x.id for x in relations),
            stamp=stamp,
            images=_sent(images(pool, changes)),
            mirrored=_mirrored(pool, relations, stamp),
        )
    )


def _check_own(pool: Pool, relations: Sequence[Relation]) -> None:
    """Whether they may be changed here. Raises `InvalidInput` or `ReadOnly`."""
    if not relations:
        raise InvalidInput("which relations?", hint="see: isochrone relation list")
    for relation in relations:
        group = pool.state.groups.get(relation.group)
        if group is not None and not group.writable:
            raise ReadOnly(
                f"{name_of(pool.state, relation)} is mirrored with the group {group.name!r},"
                " and that is read-only here",
                hint="do it where the group is the primary",
            )


def _check_again(pool: Pool, relations: Sequence[Relation]) -> None:
    """Whether they may be changed, and both sides still reach as far as the extents."""
    _check_own(pool, relations)
    check_size(extent for x in relations for extent in x.extents)
    for relation in relations:
        source, target = (pool.state.volumes[id] for id in (relation.source, relation.target))
        for first, at, count in relation.extents:
            left = source.size - first * BLOCK, target.size - at * BLOCK
            if min(left) <= (count - 1) * BLOCK:
                raise Conflict(
                    f"{name_of(pool.state, relation)} ends behind the end of {source.name!r}",
                    hint=f"withdraw it, at least in part: isochrone relation withdraw"
                    f" {relation.id} --keep",
                )
            if min(left) < count * BLOCK and left[0] != left[1]:
                raise Conflict(
                    f"{name_of(pool.state, relation)} ends inside a block, and one of its volumes"
                    " has another size now",
                    hint=f"withdraw it: isochrone relation withdraw {relation.id} --keep",
                )


def withdraw(
    pool: Pool,
    relations: Sequence[Relation],
    *,
    discard: bool,
    ranges: Sequence[tuple[int, int]] = (),
    permission: Permission = NOTHING_AGREED,
) -> None:
    """Take relations, or byte ranges of their targets, off the record.

    What the targets hold stays; with `discard` it stays only where a host has written since.
    """
    _check_own(pool, relations)
    blocks = _withdrawn_blocks(relations, ranges)
    parts = [r.WithdrawnPart(x.id, blocks) for x in relations if split(x.extents, blocks)[0]]
    if not parts:
        raise InvalidInput("no relation has a target there")
    left = sum(len(split(x.extents, blocks)[1]) for x in relations)
    if left > EXTENTS_MAX:
        raise InvalidInput(f"that would leave more than {EXTENTS_MAX} extents")
    if sum(max(1, len(part.ranges)) for part in parts) > RELATIONS_MAX:
        raise InvalidInput(
            f"{len(parts)} relations and {len(blocks)} extents are too much for one command",
            hint="divide it",
        )
    gone = [pool.state.relations[part.id] for part in parts]
    found = {x.target for x in gone} if discard else set()
    changes: Changes = dict.fromkeys(sorted(found), ())
    for id in changes:
        _check_target(pool, pool.state.volumes[id])
    if changes:
        may_overwrite(pool, changes, "discarded", permission)
    unsure = unsettled(pool.state, gone) if discard else set()
    by_image: Changes = {id: () for id in changes if id in unsure}
    pool.record(
        r.RelationsWithdrawn(
            parts=tuple(parts),
            discard=discard,
            images=images(pool, by_image),
            mirrored=tuple(
                r.MirroredPart(
                    x.id,
                    x.source,
                    x.target,
                    withdrawn=part.ranges if split(x.extents, blocks)[1] else (),
                )
                for x, part in zip(gone, parts, strict=True)
                if x.group
            ),
        )
    )


def _withdrawn_blocks(
    relations: Sequence[Relation], ranges: Sequence[tuple[int, int]]
) -> tuple[Range, ...]:
    if len(ranges) > EXTENTS_MAX:
        raise InvalidInput(f"a command has at most {EXTENTS_MAX} extents, not {len(ranges)}")
    if ranges and len({x.target for x in relations}) > 1:
        raise InvalidInput("extents are those of one target; these relations have several")
    found = []
    for offset, length in ranges:
        if offset < 0 or length <= 0 or offset % TRACK:
            raise InvalidInput(f"extents begin at tracks, multiples of {TRACK // KIB} KiB")
        block, count = offset // BLOCK, blocks_of(length)
        ends = {at + n for x in relations for _, at, n in x.extents}
        if length % TRACK and block + count not in ends:
            raise InvalidInput(f"an extent of {length} bytes is no multiple of {TRACK // KIB} KiB")
        found.append((block, count))
    if overlap(found) is not None:
        raise InvalidInput("two of these extents overlap")
    return tuple(found)
