"""What each record about relations changes, and reverting in place. Called by `State.apply` alone.

What comes of a record depends on nothing but the log: which nodes are shared, or were loaded, or
saved, decides what it costs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence

from isochrone.store import ranges
from isochrone.store import records as r
from isochrone.store.apply_volumes import copy_taken
from isochrone.store.catalogue import Catalogue, Image, Place, Relation
from isochrone.store.tracks import blocks_of

Extent = tuple[int, int, int]
Step = tuple[int, int, Sequence[Extent]]  # volume, volume that becomes it, where


def relations_established(state: Catalogue, place: Place, record: r.RelationsEstablished) -> None:
    steps = [(new.source, new.target, new.extents) for new in record.relations]
    become(state, place, steps)
    for new in record.relations:
        if not record.once:
            state.add_relation(
                Relation(
                    id=new.id,
                    source=new.source,
                    target=new.target,
                    extents=list(new.extents),
                    lsn=place.lsn,
                    stamp=record.stamp,
                    inhibit=new.inhibit,
                    born=place.pointer,
                    first_node=state.forest.next_id,
                    group=new.group,
                )
            )
    mirrored = {(new.source, new.target) for new in record.relations if new.group}
    _keep_images(state, place, record.images, steps, mirrored)


def relations_refreshed(state: Catalogue, place: Place, record: r.RelationsRefreshed) -> None:
    found = [state.relations[id] for id in record.ids]
    steps = [(x.source, x.target, x.extents) for x in found]
    become(state, place, steps)
    _renew(state, place, record.stamp, found, record.mirrored)
    mirrored = {(part.source, part.target) for part in record.mirrored}
    _keep_images(state, place, record.images, steps, mirrored)


def relations_restored(state: Catalogue, place: Place, record: r.RelationsRestored) -> None:
    found = [state.relations[id] for id in record.ids]
    steps = [(x.target, x.source, [(at, first, n) for first, at, n in x.extents]) for x in found]
    become(state, place, steps)
    _renew(state, place, record.stamp, found, record.mirrored)
    mirrored = {(part.target, part.source) for part in record.mirrored}
    _keep_images(state, place, record.images, steps, mirrored)


def relations_withdrawn(state: Catalogue, place: Place, record: r.RelationsWithdrawn) -> None:
    steps: list[Step] = []
    for part in record.parts:
        relation = state.relations[part.id]
        gone, left = split(relation.extents, part.ranges)
        if record.discard:
            table = state.tables[relation.target]
            for _, at, count in gone:
                ranges.empty_old_tracks(
                    state.forest, table, at, count,
                    born=relation.born, first_node=relation.first_node,
                )  # fmt: skip
            steps.append((0, relation.target, gone))
            note_change(state, place, relation.target, gone)
        elif relation.group:
            state.changing(relation.target).changed_lsn = place.lsn  # secondaries must hear of it
        relation.extents = left
        if not left:
            state.drop_relation(relation.id)
    by_image = dict(record.images)
    mirrored = {(0, x.target) for x in record.mirrored if x.target not in by_image}
    for _, target in mirrored:
        if record.discard:
            state.groups[state.volumes[target].group].discarded_lsn = place.lsn
    _keep_images(state, place, record.images, steps, mirrored)


def volumes_reverted(state: Catalogue, place: Place, record: r.VolumesReverted) -> None:
    copy_taken(
        state,
        place,
        r.CopyTaken(
            name=record.undo, writable=False, stamp=record.stamp, members=record.undo_members
        ),
    )
    steps: list[Step] = []
    for id, member in record.members:
        volume = state.volumes[id]
        size = state.volumes[member].size
        changed = (0, 0, blocks_of(max(size, volume.size)))
        state.tables[id] = state.forest.clone(state.tables[member])
        volume.size = size
        note_change(state, place, id, [changed])
        steps.append((0, id, [(0, 0, blocks_of(size))]))
    _keep_images(state, place, record.images, steps)


def split(
    extents: Iterable[Extent], withdrawn: Sequence[tuple[int, int]]
) -> tuple[list[Extent], list[Extent]]:
    """Extents inside ranges of the target, and those outside. No range means everything."""
    if not withdrawn:
        return list(extents), []
    inside: list[Extent] = []
    outside: list[Extent] = []
    gone = sorted(withdrawn)  # they do not overlap, so their ends are sorted too
    for first, at, count in extents:
        here, end = at, at + count
        for block, blocks in gone[bisect_right(gone, here, key=sum) :]:
            if block >= end:
                break
            low, high = max(here, block), min(end, block + blocks)
            if here < low:
                outside.append((first + here - at, here, low - here))
            inside.append((first + low - at, low, high - low))
            here = high
        if here < end:
            outside.append((first + here - at, here, end - here))
    return inside, outside


def become(state: Catalogue, place: Place, steps: Sequence[Step]) -> None:
    """All targets become their sources, each read as it was before the first of them changed."""
    forest, tables = state.forest, state.tables
    before = {source: forest.clone(tables[source]) for source, _, _ in steps}
    targets = [tables[target] for _, target, _ in steps]
    for table in targets:
        table.lent = place.pointer
    forest.seal(targets)
    for source, target, extents in steps:
        for first, at, count in extents:
            ranges.copy_range(forest, before[source], first, tables[target], at, count)
        note_change(state, place, target, extents)
    # Leaves that were made just now must not change in place: `Relation.first_node`.
    forest.seal(targets)


def note_change(state: Catalogue, place: Place, id: int, extents: Sequence[Extent]) -> None:
    """A volume has become something else where the extents say."""
    volume = state.changing(id)
    volume.changed_lsn = place.lsn
    for _, at, count in extents:
        state.changes.note(id, at, count)
        volume.blocks_changed += count
    state.deletions += 1


def _renew(
    state: Catalogue,
    place: Place,
    stamp: int,
    relations: Iterable[Relation],
    mirrored: Iterable[r.MirroredPart],
) -> None:
    for part in mirrored:
        state.relations[part.id].group = state.volumes[part.target].group
    for relation in relations:
        relation.inexact = False
        relation.lsn, relation.stamp = place.lsn, stamp
        relation.generation += 1
        relation.born, relation.first_node = place.pointer, state.forest.next_id


def _keep_images(
    state: Catalogue,
    place: Place,
    images: Iterable[tuple[int, int]],
    steps: Iterable[Step],
    mirrored: Collection[tuple[int, int]] = (),
) -> None:
    """Keep what became of mirrored volumes, for secondaries whose window crosses this record.

    The steps that the record itself tells them to do need nothing. In logs of older versions, where
    source and target are of one group, the extents are enough: a secondary has both.
    """
    kept = dict(images)
    ranges: dict[int, list[tuple[int, int]]] = {}
    for source, target, extents in steps:
        volume = state.volumes[target]
        if not volume.group or (source, target) in mirrored:
            continue
        group = state.groups[volume.group]
        if target not in kept:
            # Nobody follows it. The log does not say what became of it; the changes do.
            group.resend_before_lsn = place.lsn
        elif source in group.volumes:
            same = Image(place.lsn, target, 0, volume.size, [], source, list(extents))
            group.images.append(same)
        else:
            ranges.setdefault(target, []).extend((at, n) for _, at, n in extents)
    for target, changed in ranges.items():
        state.add_image(place, target, kept[target], changed)
