"""Relations inside a mirrored group: what their records tell secondaries, what only images can.

Establishing, refreshing, restoring and withdrawing with `keep` mean the same wherever the content
is the same. Withdrawing with `discard` asks what hosts have written since, and that is known only
where the relation was carried out in its place among the writes, and is on record.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Literal

from isochrone.store import records as r
from isochrone.store.catalogue import Catalogue, Group, Relation, Session


def group_of(state: Catalogue, source: int, target: int) -> str:
    """The mirrored group, written here, that both volumes belong to; empty: none."""
    name = state.volumes[source].group
    same = name and state.volumes[target].group == name
    return name if same and state.groups[name].role == "primary" else ""


def renewed(relation: Relation, stamp: int) -> r.MirroredPart:
    """A relation as it is after a refresh or a restoration."""
    return r.MirroredPart(
        relation.id, relation.source, relation.target, tuple(relation.extents), stamp,
        relation.generation + 1, relation.inhibit,
    )  # fmt: skip


def settled(state: Catalogue, relation: Relation) -> bool:
    """Whether every secondary can tell what hosts wrote to the target since the relation's instant.

    Each must have hardened a cut behind it, reached by the log, and must not have said otherwise.
    The log leads on from there: a secondary that gets images instead has `whole_lsn` set at once.
    """
    return not unsettled(state, [relation])


def unsettled(state: Catalogue, relations: Iterable[Relation]) -> set[int]:
    """Targets of those that are not settled; what secondaries said is looked through once."""
    found: set[int] = set()
    sites: dict[str, list[_Site]] = {}
    for relation in relations:
        group = state.groups.get(relation.group)
        if group is None or group.role != "primary" or relation.inexact or not group.sessions:
            found.add(relation.target)
            continue
        if group.name not in sites:
            sites[group.name] = [_Site(group, session) for session in group.sessions.values()]
        if not all(site.settled(relation) for site in sites[group.name]):
            found.add(relation.target)
    return found


class _Site:
    """What a secondary is known to have."""

    def __init__(self, group: Group, session: Session) -> None:
        mark = group.mark(session.cut)
        certain = session.reconciled and session.keeps_log and mark is not None
        self._hardened = mark.lsn if certain and mark is not None else 0
        self._whole = session.whole_lsn
        self._lacks = {*session.unheld, *session.inexact}

    def settled(self, relation: Relation) -> bool:
        return self._whole < relation.lsn <= self._hardened and relation.id not in self._lacks


def content_only(state: Catalogue, relation: Relation) -> list[str]:
    """Secondaries that have what the relation did, but not the relation."""
    group = state.groups.get(relation.group)
    if group is None or group.role != "primary":
        return []
    return [
        session.site or peer
        for peer, session in group.sessions.items()
        if relation.id in session.unheld
    ]


RelationRecord = (
    r.RelationsEstablished | r.RelationsRefreshed | r.RelationsRestored | r.RelationsWithdrawn
)


def commands(record: RelationRecord, volumes: Collection[int]) -> Iterator[r.AnyRecord]:
    """What a record about relations tells the secondaries of a group that has these volumes."""
    match record:
        case r.RelationsEstablished(once=True):
            steps = [x for x in record.relations if x.group and x.target in volumes]
            plain = tuple(r.NewRelation(0, x.source, x.target, x.extents) for x in steps)
            if plain:
                yield r.RelationsEstablished(relations=plain, stamp=0, once=True)
        case r.RelationsEstablished():
            made = [
                r.MirroredPart(x.id, x.source, x.target, x.extents, record.stamp, 1, x.inhibit)
                for x in record.relations
                if x.group
            ]
            yield from _acted("establish", made, volumes)
        case r.RelationsRefreshed():
            yield from _acted("refresh", record.mirrored, volumes)
        case r.RelationsRestored():
            yield from _acted("restore", record.mirrored, volumes)
        case r.RelationsWithdrawn():
            by_image = {id for id, _ in record.images}
            for part in record.mirrored:
                act: Act = "discard" if record.discard and part.target not in by_image else "keep"
                # One by one: they are apart from each other, and no command gets long.
                yield from _acted(act, [part], volumes)


Act = Literal["establish", "refresh", "restore", "keep", "discard"]


def _acted(
    act: Act, parts: Sequence[r.MirroredPart], volumes: Collection[int]
) -> Iterator[r.AnyRecord]:
    mine = tuple(part for part in parts if part.target in volumes)
    if mine:
        yield r.RelationsMirrored(act=act, parts=mine)
