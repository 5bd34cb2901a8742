"""What is sent when the log is not: frozen images, the copies between them, and where it goes on.

A *step* is an instant whose images are sent: each copy that the secondary has not got, in the
order of the log, and at last the cut itself. A step brings every volume it has to what it was at
that instant. The first step sends the tracks that were changed since the cut the secondary has, or
everything; each later one sends what differs from the step before.

The way is made of *passes*, each over volumes in the order of the group and blocks in ascending
order. A `Position` says how far it has come, so that another connection can go on from there, with
a newer image:

    floor   tracks behind the position may be wrong if they were changed after this cut; 0: all may
    begun   tracks before the position may be wrong if they were changed after this cut
            0: those are exactly what the copy `step` holds
    step    lsn of the instant that is being sent; every copy before it is there
    volume, block

A first or second connection ends the pass that was broken off, and then sends again what was
changed since `begun` before the place where it took over. That second pass counts as a way of its
own: its floor is what `begun` was. So each connection gets further, whatever is written meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pyroaring import BitMap

from isochrone.store import records as r
from isochrone.store.records import Position
from isochrone.store.tracks import Table

Changed = Mapping[int, BitMap]  # volume -> tracks
FROM_THE_START = (0, 0)


@dataclass(frozen=True, slots=True)
class Step:
    """An instant: the volumes it has as they were then, and the records that end it."""

    lsn: int
    tables: dict[int, Table]
    sizes: dict[int, int]
    ending: tuple[r.AnyRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """What one pass sends of one volume, blocks `start` to `stop` only.

    Of three kinds: the marked tracks; with `before`, the tracks that differ from that table;
    otherwise everything that is mapped. `holes` are tracks of which also the holes are sent.
    """

    volume: int
    table: Table
    size: int
    start: int = 0
    stop: int = 1 << 62
    marked: BitMap | None = None
    before: Table | None = None
    holes: BitMap | None = None


@dataclass(frozen=True, slots=True)
class Pass:
    floor: int
    begun: int
    step: int
    work: list[Work]
    ending: tuple[r.AnyRecord, ...] = ()
    start: tuple[int, int] = FROM_THE_START  # volume, block: how far it had come before

    def at(self, volume: int, block: int) -> Position:
        return Position(self.floor, self.begun, self.step, volume, block)


@dataclass
class Way:
    """All that leads from what a secondary has to a cut."""

    steps: Sequence[Step]  # copies, and the cut as the last
    cut: int
    changed: Mapping[int, Changed]  # cut -> what was changed since; floor and begun of `start`
    start: Position
    passes: list[Pass] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._order = list(self._live.tables)
        start = self.start
        if start.begun:
            self._take_up(start)
            floor = start.begun
        else:
            self._begin(start)
            floor = start.floor
        self._go_on(floor)

    @property
    def _live(self) -> Step:
        return self.steps[-1]

    def _begun(self, step: Step) -> int:
        return self.cut if step is self._live else 0

    def _marked(self, cut: int, volume: int) -> BitMap | None:
        """None: every track."""
        return self.changed[cut].get(volume, BitMap()) if cut else None

    def _before(self, at: Position, volume: int) -> int:
        """How much of a volume lies before a position, in blocks."""
        if at.volume not in self._order:
            return 0
        place, here = self._order.index(at.volume), self._order.index(volume)
        return at.block if here == place else (1 << 62 if here < place else 0)

    def _begin(self, start: Position) -> None:
        """The first step from its start, or on from a position in just this step."""
        first = self.steps[0]
        if start.step != first.lsn:
            start = Position(start.floor, 0, first.lsn, *FROM_THE_START)
        work = [
            Work(
                id, table, first.sizes[id], self._before(start, id),
                marked=self._marked(start.floor, id),
            )
            for id, table in first.tables.items()
        ]  # fmt: skip
        self.passes.append(
            Pass(
                start.floor, self._begun(first), first.lsn, work, first.ending,
                (start.volume, start.block),
            )
        )  # fmt: skip

    def _take_up(self, start: Position) -> None:
        """End the pass that was broken off, from newer images, then look after what it did."""
        first, live = self.steps[0], self._live
        work = []
        for id in self._order:  # those that the first step does not have as well: one position
            has = first if id in first.tables else live
            work.append(
                Work(
                    id, has.tables[id], has.sizes[id], self._before(start, id),
                    marked=self._marked(start.floor, id),
                    holes=None if start.floor else self._marked(start.begun, id),
                )
            )  # fmt: skip
        self.passes.append(
            Pass(
                start.floor, start.begun, start.step, work, start=(start.volume, start.block)
            )
        )  # fmt: skip
        again = [
            Work(
                id, table, first.sizes[id], 0, self._before(start, id),
                marked=self._marked(start.begun, id),
            )
            for id, table in first.tables.items()
        ]  # fmt: skip
        self.passes.append(Pass(start.begun, self._begun(first), first.lsn, again, first.ending))

    def _go_on(self, floor: int) -> None:
        """The steps behind the first."""
        has = dict(self.steps[0].tables)
        for step in self.steps[1:]:
            work = [
                Work(id, table, step.sizes[id], before=has[id])
                if id in has
                else Work(id, table, step.sizes[id], marked=self._marked(floor, id))
                for id, table in step.tables.items()
            ]
            self.passes.append(Pass(floor, self._begun(step), step.lsn, work, step.ending))
            has.update(step.tables)
