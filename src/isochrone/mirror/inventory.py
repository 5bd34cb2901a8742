"""The inventory: what a primary has of relations and copies, so that a secondary has the same.

Content that is sent as images says nothing of relations, nor of copies that were deleted. So such a
group ends with a list of all there are, and the secondary makes its own equal in the same commit.
What it makes of relations it tells in return: see `Session.reconciled`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from isochrone.errors import PeerFault
from isochrone.mirror.commands import Shadows, check_extents, check_noted, check_numbers, room
from isochrone.mirror.messages import (
    LISTED_MAX,
    RELATIONS_TOLD_MAX,
    Holdings,
    Inventory,
    ListedRelation,
)
from isochrone.store import records as r
from isochrone.store.catalogue import Catalogue, Group, Relation, Session
from isochrone.store.pool import Pool

CAPABILITY: Final = "relations"  # knows these messages
EXTENTS_AT_ONCE: Final = 8192  # in one message and one record: some 130 KiB
COPIES_MAX: Final = 65536  # names kept while an inventory comes in: 16 MiB at most

Definition = tuple[int, int, tuple[tuple[int, int, int], ...], int, int, bool]


# -- at the primary


def needed(session: Session | None) -> bool:
    """Whether a group that follows the log must end with an inventory, too."""
    return session is None or not session.reconciled


def messages(state: Catalogue, group: Group, *, whole: bool) -> list[Inventory]:
    """The inventory of a group as of now: call it in the same step that places the cut."""
    relations = [
        ListedRelation(x.id, x.source, x.target, tuple(x.extents), x.stamp, x.generation, x.inhibit)
        for x in _of_group(state, group)
    ]
    copies = sorted(_copies(state, group))
    parts = [Inventory(relations=part, whole=whole, last=False) for part in _pieces(relations)]
    parts += [
        Inventory(copies=tuple(copies[at : at + LISTED_MAX]), whole=whole, last=False)
        for at in range(0, len(copies), LISTED_MAX)
    ]
    return [*parts, Inventory(whole=whole)]


def _of_group(state: Catalogue, group: Group) -> list[Relation]:
    ids = {id: None for volume in group.volumes for id in state.related.get(volume, ())}
    found = (state.relations[id] for id in ids)
    return [relation for relation in found if relation.group == group.name]


def _pieces(relations: list[ListedRelation]) -> Iterator[tuple[ListedRelation, ...]]:
    piece: list[ListedRelation] = []
    extents = 0
    for relation in relations:
        extents += len(relation.extents)
        if piece and (extents > EXTENTS_AT_ONCE or len(piece) == LISTED_MAX):
            yield tuple(piece)
            piece, extents = [], len(relation.extents)
        piece.append(relation)
    if piece:
        yield tuple(piece)


def _copies(state: Catalogue, group: Group) -> set[str]:
    """What a copy of the group's volumes may be called at a secondary.

    A secondary that is followed has some of its own, too, such as those that its primary deleted
    and that are held here: they are no part of the history.
    """
    names = set()
    for id in group.volumes:
        for member in state.copied.get(id, ()):
            copy = state.copies.get(state.volumes[member].copy)
            if copy is not None and (group.role == "primary" or copy.group == group.name):
                names |= {copy.name, copy.origin} - {""}
    return names


# -- at the secondary


@dataclass
class _News:
    """What differs, until it is one record."""

    parts: list[r.MirroredPart] = field(default_factory=list)
    renamed: list[tuple[int, int]] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)

    @property
    def ids(self) -> list[int]:
        """Relations here that it changes."""
        return [*self.dropped, *(id for id, _ in self.renamed), *(x.local for x in self.parts)]


class Reconciling:
    """Takes the parts of one inventory, between the last data of a group and its cut."""

    def __init__(self, pool: Pool, group: Group, shadows: Shadows) -> None:
        self._pool = pool
        self._group = group
        self._local = {remote: pool.state.volumes[id].source for remote, id in shadows.items()}
        self._shadows = shadows
        self._there = shadows.arrivals(group)
        self._numbers: set[int] = set()  # of relations that were listed
        self._kept: set[int] = set()  # relations here that were listed
        self._copies: set[str] = set()
        self._ended = False

    def take(self, message: Inventory) -> None:
        """Note what differs. Raises `PeerFault` for what no primary can have."""
        if self._ended:
            raise PeerFault("an inventory went on after its end")
        check_noted(self._group)
        self._copies.update(message.copies)
        if len(self._numbers) + len(message.relations) > RELATIONS_TOLD_MAX:
            raise PeerFault(f"an inventory has more than {RELATIONS_TOLD_MAX} relations")
        if len(self._copies) > COPIES_MAX:
            raise PeerFault(f"an inventory has more than {COPIES_MAX} copies")
        self._take_all(message)
        if message.last:
            self._ended = True
            self._drop_others(message.whole)
            self._delete_copies()

    def _take_all(self, message: Inventory) -> None:
        """One record of what differs, however many relations there are."""
        if sum(len(listed.extents) for listed in message.relations) > EXTENTS_AT_ONCE:
            raise PeerFault(f"a part of an inventory has more than {EXTENTS_AT_ONCE} extents")
        numbers = iter(self._pool.state.new_ids(len(message.relations)))
        left, news = room(self._pool), _News()
        try:
            for listed in message.relations:
                left = self._take(listed, news, numbers, left)
        except PeerFault:
            self._say(news, message.whole)  # the tables of what is here are that far already
            raise
        self._say(news, message.whole)

    def _take(self, listed: ListedRelation, news: _News, numbers: Iterator[int], left: int) -> int:
        """Compare one; how many more there is room for."""
        if listed.id in self._numbers:
            raise PeerFault(f"an inventory has the relation {listed.id} twice")
        self._numbers.add(listed.id)
        part = r.MirroredPart(
            listed.id, listed.source, listed.target, listed.extents, listed.stamp,
            listed.generation, listed.inhibit,
        )  # fmt: skip
        check_numbers(part)
        check_extents(self._shadows, part)
        there = self._there
        source, target = self._local[listed.source], self._local[listed.target]
        ranges = [(at, count) for _, at, count in listed.extents]
        same = self._same(source, target, listed)
        if same is not None:
            self._kept.add(same.id)
            if same.origin != listed.id:
                news.renamed.append((same.id, listed.id))
                there.put(same.id, target, listed.id, ranges)
            return left
        in_the_way = {*there.numbered(target, listed.id), *there.at(target, ranges)}
        if not in_the_way.isdisjoint(self._kept):
            raise PeerFault("an inventory has two relations onto one place")
        for id in in_the_way:
            there.forget(id)
            left += id not in self._pool.state.relations  # it was in no commit yet
        local = next(numbers) if in_the_way or left > 0 else 0
        news.dropped += sorted(in_the_way)
        news.parts.append(
            r.MirroredPart(
                listed.id, source, target, listed.extents, listed.stamp, listed.generation,
                listed.inhibit, local=local,
            )
        )  # fmt: skip
        if local:
            self._kept.add(local)
            there.put(local, target, listed.id, ranges)
        return left - bool(local)

    def _same(self, source: int, target: int, listed: ListedRelation) -> Relation | None:
        """The one here that is this, whatever its number; no other can have its first place."""
        _, at, count = listed.extents[0]
        wanted = _definition(source, target, listed)
        for id in self._there.at(target, [(at, count)]):
            if id not in self._kept:
                here = self._there.relation(id)
                if _definition(here.source, here.target, here) == wanted:
                    return here
        return None

    def _say(self, news: _News, whole: bool) -> None:
        if news.parts or news.renamed or news.dropped:
            self._note(
                parts=tuple(news.parts), renamed=tuple(news.renamed),
                dropped=tuple(news.dropped), whole=whole,
            )  # fmt: skip

    def _note(
        self,
        *,
        whole: bool,
        parts: tuple[r.MirroredPart, ...] = (),
        renamed: r.Pairs = (),
        dropped: tuple[int, ...] = (),
        forgotten: tuple[int, ...] = (),
    ) -> None:
        self._pool.record(
            r.RelationsListed(
                group=self._group.name, parts=parts, renamed=renamed, dropped=dropped,
                forgotten=forgotten, inexact=whole,
            )
        )  # fmt: skip

    def _drop_others(self, whole: bool) -> None:
        there, group = self._there, self._group
        dropped = tuple(x for x in there.onto(self._local.values()) if x not in self._kept)
        for id in dropped:
            there.forget(id)
        assert group.incoming is not None
        alone = {*group.unheld, *(n for n, only in group.incoming.unheld.items() if only)}
        forgotten = tuple(sorted(alone - self._numbers))
        if dropped or forgotten or whole:
            self._note(dropped=dropped, forgotten=forgotten, whole=whole)

    def _delete_copies(self) -> None:
        """What the primary has deleted; the commit keeps what is held here."""
        state, group = self._pool.state, self._group
        assert group.incoming is not None
        volumes = set(self._local.values())
        mine = [  # those of volumes that leave the group stay, whatever the primary has
            copy
            for copy in state.copies.values()
            if copy.group == group.name and not volumes.isdisjoint(s for s, _ in copy.members)
        ]
        there = {copy.origin or copy.name for copy in mine} - set(group.incoming.deleted)
        coming = [copy.name for copy in group.incoming.copies]  # one of a name may be there, too
        for name in [*coming, *sorted(there)]:
            if name not in self._copies:
                self._pool.record(r.CopyDeleted(name=name, group=group.name))

    @property
    def ended(self) -> bool:
        return self._ended


def _definition(source: int, target: int, relation: Relation | ListedRelation) -> Definition:
    """What makes two relations the same, whatever their numbers are."""
    return (
        source, target, tuple(relation.extents), relation.stamp, relation.generation,
        relation.inhibit,
    )  # fmt: skip


def holdings(state: Catalogue, group: Group) -> Holdings:
    """What to tell the primary. What is left out beyond the limit, it has withdrawn meanwhile."""
    inexact = sorted(x.origin for x in _of_group(state, group) if x.inexact and x.origin)
    return Holdings(
        unheld=tuple(group.unheld[:RELATIONS_TOLD_MAX]), inexact=tuple(inexact[:RELATIONS_TOLD_MAX])
    )


class Telling:
    """What was told in one connection. It is told before the first PULL, and when it changes."""

    def __init__(self, pool: Pool, group: Group) -> None:
        self._pool = pool
        self._group = group
        self._told: Holdings | None = None
        self._listed = False

    def listed(self) -> None:
        """An inventory has come: whatever is here now is the answer."""
        self._listed = True

    def due(self) -> Holdings | None:
        """What to say before the next PULL."""
        found = holdings(self._pool.state, self._group)
        if found == self._told and not self._listed:
            return None
        self._told, self._listed = found, False
        return found


# -- at the primary again


def note_holdings(pool: Pool, group: Group, peer: str, message: Holdings, *, listed: bool) -> None:
    """Remember what a secondary says, before the cut that it says it for.

    It counts once it answers an inventory: `listed` says that one was sent in this connection.
    """
    session = group.sessions.get(peer)
    if session is None or not (session.reconciled or listed):
        return
    told = session.reconciled, tuple(session.unheld), tuple(session.inexact)
    if told != (True, message.unheld, message.inexact):
        pool.record(
            r.SessionHolds(
                group=group.name, peer=peer, unheld=message.unheld, inexact=message.inexact
            )
        )
