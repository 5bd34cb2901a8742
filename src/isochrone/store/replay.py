"""What recovery read of the log, applied to the tables in bulk.

The result is that of `Forest.map` and `State.apply` record by record. Writes are collected over
many batches, only the last to each block counts, and each leaf is touched once. Whatever else
changes a table waits for them; a move changes none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isochrone.store.format import MOVE, WRITE, Batch
from isochrone.store.sections import Section, Words, blocks_of
from isochrone.store.state import State
from isochrone.store.tracks import LEAF_SHIFT

COLLECTED_MAX: Final = 1 << 20  # blocks: 24 MiB
LEAVES_AT_ONCE: Final = 16384  # 64 MiB of them may be made before somebody looks

Columns = tuple[Words, Words, Words]  # blocks, pointers, checksums


class Replay:
    """Applies sections in log order.

    `single` applies one batch record by record; `relieve` may save nodes that were made, to be
    called when many may have been.
    """

    def __init__(
        self, state: State, single: Callable[[Batch], None], relieve: Callable[[], None]
    ) -> None:
        self._state = state
        self._single = single
        self._relieve = relieve
        self._collected: dict[int, list[Columns]] = {}
        self._blocks = 0

    def apply(self, section: Section) -> None:
        kinds = section.descriptors["kind"]
        if (kinds == WRITE).all():
            self._collect(section)
            return
        records = section.headers["records"].astype(np.int64)
        edges = np.cumsum(records) - records
        writes = np.logical_and.reduceat(kinds == WRITE, edges)
        moves = np.logical_and.reduceat(kinds == MOVE, edges)
        until = 0
        for n, batch in enumerate(section.batches()):
            if n < until:
                continue
            if writes[n]:
                others = np.flatnonzero(~writes[n:])
                until = n + int(others[0]) if len(others) else len(records)
                self._collect(section.part(n, until))
                continue
            if not moves[n]:
                self.finish()
            self._single(batch)

    def _collect(self, section: Section) -> None:
        described = section.descriptors
        counts = blocks_of(described)
        pointers = section.pointers()
        volume_of = np.repeat(described["volume"], counts)
        offsets = np.arange(len(pointers)) - np.repeat(np.cumsum(counts) - counts, counts)
        blocks = np.repeat(described["block"], counts) + offsets.astype(np.uint64)
        for volume in np.unique(described["volume"]).tolist():
            mine = volume_of == volume
            columns = blocks[mine], pointers[mine], section.sums[mine]
            self._collected.setdefault(volume, []).append(columns)
            self._state.changes.note_blocks(volume, columns[0])
            found = self._state.changing(volume)
            last = int(np.flatnonzero(described["volume"] == volume)[-1])
            found.changed_lsn = int(section.headers["first_lsn"][0]) + last
            found.blocks_changed += len(columns[0])
        self._blocks += len(pointers)
        if self._blocks >= COLLECTED_MAX:
            self.finish()

    def finish(self) -> None:
        """Bring what was collected into the tables."""
        for volume, parts in self._collected.items():
            blocks, pointers, sums = newest([np.concatenate(c) for c in zip(*parts, strict=True)])
            parts.clear()
            edges = np.flatnonzero(np.diff(blocks >> np.uint64(LEAF_SHIFT))) + 1
            for piece in _pieces(edges[LEAVES_AT_ONCE - 1 :: LEAVES_AT_ONCE], len(blocks)):
                table = self._state.tables[volume]
                self._state.forest.map_many(table, blocks[piece], pointers[piece], sums[piece])
                self._relieve()
        self._collected, self._blocks = {}, 0


def newest(columns: Sequence[Words]) -> Columns:
    """Sorted by block; of two pointers for one block the later one stays."""
    order = np.argsort(columns[0], kind="stable")
    ordered = columns[0][order]
    order = order[np.append(ordered[1:] != ordered[:-1], True)]
    blocks, pointers, sums = (column[order] for column in columns)
    return blocks, pointers, sums


def _pieces(edges: NDArray[np.int64], end: int) -> list[slice]:
    cuts = [0, *edges.tolist(), end]
    return [slice(start, stop) for start, stop in pairwise(cuts)]
