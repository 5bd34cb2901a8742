"""What each record about mirrored relations changes at a secondary. Called by `State.apply` alone.

Content changes in the shadows at once. The relations themselves wait in `Incoming`, as copies do:
`reveal` puts them on record with the commit, and whoever drops the group drops them.
"""

from __future__ import annotations

from collections.abc import Iterator

from isochrone.store import ranges
from isochrone.store import records as r
from isochrone.store.apply_relations import Step, become, note_change, split
from isochrone.store.catalogue import Catalogue, Group, Incoming, Place, Relation
from isochrone.store.overlaps import related
from isochrone.store.tracks import blocks_of


def arriving(state: Catalogue, group: Group) -> Iterator[Relation]:
    """The group's relations, as they will be once the incoming group is committed."""
    incoming = group.incoming
    if incoming is not None:
        yield from incoming.relations.values()
    for volume in group.volumes:
        for relation in related(state, volume):
            if (relation.group, relation.target) != (group.name, volume):
                continue
            if incoming is None or (
                relation.id not in incoming.relations and relation.id not in incoming.withdrawn
            ):
                yield relation


def relations_mirrored(state: Catalogue, place: Place, record: r.RelationsMirrored) -> None:
    incoming = state.incoming(record.group)
    for id in record.dropped:
        _take_off(state, incoming, id)
    match record.act:
        case "establish" | "refresh":
            steps: list[Step] = [(x.source, x.target, x.extents) for x in record.parts]
        case "restore":
            steps = [
                (x.target, x.source, [(at, first, n) for first, at, n in x.extents])
                for x in record.parts
            ]
        case _:
            _withdraw(state, place, record)
            return
    become(state, place, steps)
    for part in record.parts:
        incoming.unheld[part.id] = not part.local
        if part.local:
            relation = _relation(state, place, part, record.group)
            relation.source = state.volumes[part.source].source
            relation.target = state.volumes[part.target].source
            incoming.relations[part.local] = relation


def _relation(state: Catalogue, place: Place, part: r.MirroredPart, group: str) -> Relation:
    state.next_id = max(state.next_id, part.local + 1)
    return Relation(
        id=part.local,
        source=part.source,
        target=part.target,
        extents=list(part.extents),
        lsn=place.lsn,
        stamp=part.stamp,
        generation=part.generation,
        inhibit=part.inhibit,
        born=place.pointer,
        first_node=state.forest.next_id,
        group=group,
        origin=part.id,
    )


def _take_off(state: Catalogue, incoming: Incoming, id: int) -> None:
    """A relation is none any more, whether it is on record already or came with this group."""
    incoming.relations.pop(id, None)
    if id in state.relations:
        incoming.withdrawn.add(id)


def _withdraw(state: Catalogue, place: Place, record: r.RelationsMirrored) -> None:
    group = state.groups[record.group]
    incoming = state.incoming(record.group)
    for part in record.parts:
        if not part.local:
            incoming.unheld[part.id] = bool(part.withdrawn)  # else nothing is left of it
            continue
        relation = _own(state, group, part.local)
        gone, left = split(relation.extents, part.withdrawn)
        if record.act == "discard":
            table = state.tables[part.target]
            for _, at, count in gone:
                ranges.empty_old_tracks(
                    state.forest, table, at, count,
                    born=relation.born, first_node=relation.first_node,
                )  # fmt: skip
            note_change(state, place, part.target, gone)
        relation.extents = left
        if not left:
            _take_off(state, incoming, relation.id)


def _own(state: Catalogue, group: Group, id: int) -> Relation:
    """A relation that may be changed, because nobody sees it yet."""
    assert group.incoming is not None
    waiting = group.incoming.relations
    if id not in waiting:
        seen = state.relations[id]
        waiting[id] = Relation(**{name: getattr(seen, name) for name in seen.__struct_fields__})
        waiting[id].extents = list(seen.extents)
    return waiting[id]


def relations_listed(state: Catalogue, place: Place, record: r.RelationsListed) -> None:
    group = state.groups[record.group]
    incoming = state.incoming(record.group)
    incoming.inexact |= record.inexact
    for id in record.dropped:
        _take_off(state, incoming, id)
    for id, origin in record.renamed:
        _own(state, group, id).origin = origin
        incoming.unheld[origin] = False
    for origin in record.forgotten:
        incoming.unheld[origin] = False
    for part in record.parts:
        incoming.unheld[part.id] = not part.local
        if part.local:
            relation = _relation(state, place, part, record.group)
            relation.inexact = True
            incoming.relations[part.local] = relation


def cut_off(state: Catalogue, incoming: Incoming) -> set[int]:
    """Volumes that become smaller with the commit."""
    return {
        v.local
        for v in incoming.volumes
        if v.local in state.volumes and state.volumes[v.shadow].size < state.volumes[v.local].size
    }


def reveal(state: Catalogue, group: Group, incoming: Incoming, smaller: set[int]) -> None:
    """Put on record what came, once the shadows have become the volumes.

    A sane primary has no target that ends behind its volume. What it forgot to withdraw goes.
    """
    if incoming.inexact:
        for id in {x for v in incoming.volumes for x in state.related.get(v.local, ())}:
            state.relations[id].inexact |= state.relations[id].group == group.name
    for id in [*sorted(incoming.withdrawn), *incoming.relations]:
        if id in state.relations:
            state.drop_relation(id)
    for relation in incoming.relations.values():
        relation.inexact |= incoming.inexact
        state.add_relation(relation)
    for volume in smaller:
        end = blocks_of(state.volumes[volume].size)
        for relation in list(related(state, volume)):
            if relation.target == volume and any(at + n > end for _, at, n in relation.extents):
                state.drop_relation(relation.id)
    if incoming.unheld:
        left = {origin for origin in group.unheld if origin not in incoming.unheld}
        left |= {origin for origin, alone in incoming.unheld.items() if alone}
        group.unheld = sorted(left)


def session_holds(state: Catalogue, place: Place, record: r.SessionHolds) -> None:
    session = state.groups[record.group].sessions.get(record.peer)
    if session is not None:
        session.reconciled = True
        session.unheld, session.inexact = list(record.unheld), list(record.inexact)


def _of(state: Catalogue, group: Group) -> list[Relation]:
    """Relations from volumes of a group to volumes of the same group."""
    ids = {x: None for volume in group.volumes for x in state.related.get(volume, ())}
    found = (state.relations[id] for id in ids)
    return [x for x in found if x.source in group.volumes and x.target in group.volumes]


def joined(state: Catalogue, group: Group) -> None:
    """A group is made around relations: whoever follows it will have them too."""
    for relation in _of(state, group):
        relation.group = group.name


def left(state: Catalogue, group: Group, gone: frozenset[int]) -> None:
    """Volumes are about to leave a group: relations that they are part of are this site's own."""
    for relation in _of(state, group):
        if relation.group and not gone.isdisjoint((relation.source, relation.target)):
            relation.group, relation.origin = "", 0


def taken_over(state: Catalogue, group: Group) -> None:
    """The relations are this site's own now, with numbers that others follow."""
    group.unheld = []
    for relation in _of(state, group):
        relation.origin = 0


def released(state: Catalogue, group: Group) -> None:
    """The group is no more; its relations are of this site alone."""
    for relation in _of(state, group):
        relation.group, relation.origin = "", 0
