"""Steps of the workload that change volumes without writing to them: relations and reverts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from isochrone.errors import Refused
from isochrone.sim.bonds import TRACK_BLOCKS, Bond, Extent
from isochrone.sim.history import History
from isochrone.store import relations, revert
from isochrone.store.catalogue import Relation
from isochrone.store.overwrite import Permission
from isochrone.store.pool import Pool
from isochrone.store.relations import Span, Wish
from isochrone.types import BLOCK, TRACK

RELATIONS_KEPT: Final = 5  # at a time; more only block one another
AGREED: Final = Permission(mirror="none")


class Relating:
    """Each step carries out one command, and tells the history what it must have done."""

    def __init__(
        self, pool: Pool, history: History, random: Random, names: Sequence[str], copies_max: int
    ) -> None:
        self._pool = pool
        self._history = history
        self._random = random
        self._names = list(names)
        self._copies_max = copies_max

    def _try(self, command: Callable[[], None]) -> bool:
        """Whether it was carried out; two targets on one track, for one, is refused."""
        lsn = self._pool.log.lsn
        try:
            command()
        except Refused:
            assert self._pool.log.lsn == lsn, "a refused command left a record"
            return False
        return True

    def _now(self) -> int:
        return self._pool.world.clock.wall_ns()

    def establish(self) -> None:
        state, random = self._pool.state, self._random
        if len(state.relations) >= RELATIONS_KEPT:
            return
        wishes: dict[tuple[str, str], list[Span]] = {}
        for _ in range(random.choice((1, 1, 2))):
            source = random.choice(sorted(state.names))
            target = random.choice(self._targets())
            wishes.setdefault((source, target), []).append(self._span(source, target))
        once = random.random() < 0.2
        made: list[Relation] = []
        wanted = [Wish(*names, tuple(spans)) for names, spans in wishes.items()]
        if self._try(
            lambda: made.extend(
                relations.establish(self._pool, wanted, once=once, permission=AGREED)
            )
        ):
            steps = [(*names, [_extent(span) for span in spans]) for names, spans in wishes.items()]
            self._history.establish(steps, [relation.id for relation in made], self._now())

    def _targets(self) -> list[str]:
        clones = [v.name for v in self._pool.state.volumes.values() if v.kind == "clone"]
        return [name for name in [*self._names, *clones] if name in self._pool.state.names]

    def _span(self, source: str, target: str) -> Span:
        random, state = self._random, self._pool.state
        here, there = (state.volumes[state.names[name]].size // TRACK for name in (source, target))
        count = min(random.choice((1, 2, 5, 16)), here, there)
        first = random.randint(0, min(here - count, 3))
        at = first if random.random() < 0.5 else random.randint(0, there - count)
        return Span(first * TRACK, min(at, there - count) * TRACK, count * TRACK)

    def _some(self) -> list[Relation]:
        there = [self._pool.state.relations[id] for id in sorted(self._pool.state.relations)]
        return self._random.sample(there, min(len(there), self._random.choice((1, 1, 2))))

    def refresh(self) -> None:
        some = self._some()
        if some and self._try(lambda: relations.refresh(self._pool, some, AGREED)):
            self._history.renew([x.id for x in some], self._now(), reverse=False)

    def restore(self) -> None:
        some = self._some()
        if some and self._try(lambda: relations.restore(self._pool, some, AGREED)):
            self._history.renew([x.id for x in some], self._now(), reverse=True)

    def withdraw(self) -> None:
        some = self._some()[:1]
        if not some:
            return
        number, discard = some[0].id, self._random.random() < 0.6
        _, at, count = self._random.choice(some[0].extents)
        low, high = (
            at + self._random.randrange(-(-count // TRACK_BLOCKS)) * TRACK_BLOCKS,
            at + count,
        )
        part, told = self._random.random() < 0.4, bool(some[0].group)
        ranges = ((low * BLOCK, (high - low) * BLOCK),) if part else ()
        if self._try(
            lambda: relations.withdraw(
                self._pool, some, discard=discard, ranges=ranges, permission=AGREED
            )
        ):
            if not part:
                low, high = 0, 1 << 40
            self._history.withdraw(number, low, high, self._now(), discard=discard, told=told)

    def revert(self) -> None:
        state, random = self._pool.state, self._random
        if not state.copies or len(state.copies) >= self._copies_max:
            return
        copy = state.copies[random.choice(sorted(state.copies))]
        undo = f"u{random.randrange(12)}"
        sources = [state.volumes[id].name for id, _ in copy.members if id in state.volumes]
        if sources and self._try(
            lambda: _ignore(
                revert.revert(self._pool, copy.name, sources, undo_name=undo, permission=AGREED)
            )
        ):
            self._history.revert(copy.name, sources, undo, self._now())


def adopt(pool: Pool, fork: History, old: History, op: int) -> None:
    """Give a history what its site has of another's relations, as of an op of that one.

    What was written meanwhile must be what the other history says. A site that got images knows
    less than that: such relations are withdrawn here, and nothing else changes.
    """
    state, now = pool.state, pool.world.clock.wall_ns()
    bonds = list(old.bonds.at(op).values())
    start = fork.op
    for relation in list(state.relations.values()):
        source, target = (state.volumes[id].name for id in (relation.source, relation.target))
        extents = tuple(relation.extents)
        what = source, target, extents
        bond = next(x for x in bonds if (x.source, x.target, x.extents) == what)
        hosts = fork.tracks[target][-1].hosts
        for _, at, count in extents:
            for block in range(at, at + count):
                if not old.hosted(target, block, bond.since, op):
                    hosts.pop(block, None)
        fork.bonds.put(relation.id, Bond(start, source, target, extents, 0))
        if relation.inexact:
            relations.withdraw(pool, [relation], discard=False)
            fork.withdraw(relation.id, 0, 1 << 40, now, discard=False)


def _ignore(_result: object) -> None:
    pass


def _extent(span: Span) -> Extent:
    return span.source_offset // BLOCK, span.target_offset // BLOCK, -(-span.length // BLOCK)
