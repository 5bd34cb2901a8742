"""Saving and loading the catalogue and the track tables.

A checkpoint freezes the tables at one lsn (a bump of an epoch, no copying), waits until the log is
durable that far, and writes what changed since the last one in one transaction, off the loop.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from isochrone.store.metadata import Change, Item, Metadata, Position, item_bytes
from isochrone.store.state import Copy, Group, State, Volume
from isochrone.store.tracks import Table

if TYPE_CHECKING:
    from isochrone.store.pool import Pool


def _key(item: Item) -> tuple[str, str]:
    match item:
        case Volume(id=id):
            return "volume", f"{id:010d}"
        case Copy(name=name):
            return "copy", name
        case Group(name=name):
            return "group", name


class Checkpointer:
    """Knows what the last checkpoint holds, so that the next one writes only the difference."""

    def __init__(self, metadata: Metadata, state: State) -> None:
        self._metadata = metadata
        self._state = state
        self._items: dict[tuple[str, str], bytes] = {}
        self._roots: set[int] = set()
        self._nodes_after_sweep = 1024  # rows; a sweep pays when twice as many are there
        self._busy = False

    @staticmethod
    def load(metadata: Metadata, state: State) -> None:
        """Fill a fresh state from the last checkpoint."""
        roots = metadata.roots()
        for item in metadata.items():
            match item:
                case Volume():
                    words = array("Q")
                    words.frombytes(roots[item.id])
                    # Epoch 1: nodes from the store have epoch 0 and are copied before a change.
                    table = Table(words, 1)
                    table.changed = False
                    state.volumes[item.id] = item
                    state.tables[item.id] = table
                case Copy():
                    state.copies[item.name] = item
                case Group():
                    state.groups[item.name] = item
        hidden = {
            member
            for group in state.groups.values()
            if group.incoming is not None
            for copy in group.incoming.copies
            for _, member in copy.members
        }
        for volume in state.volumes.values():
            if volume.kind != "shadow" and volume.id not in hidden:
                state.names[volume.name] = volume.id
        state.next_id = int(metadata.setting("next_id") or 1)

    def loaded(self) -> None:
        """Take the state as it is for what the store holds."""
        self._items = self._catalogue()
        self._roots = set(self._state.tables)

    def _catalogue(self) -> dict[tuple[str, str], bytes]:
        state = self._state
        items: list[Item] = [
            *state.volumes.values(), *state.copies.values(), *state.groups.values()
        ]  # fmt: skip
        return {_key(item): item_bytes(item) for item in items}

    async def run(self, pool: Pool) -> None:
        if self._busy:
            return
        self._busy = True
        try:
            await self._run(pool)
        finally:
            self._busy = False

    async def _run(self, pool: Pool) -> None:
        state = self._state
        pool.commit_part()
        segment, slot = pool.log.position
        items = self._catalogue()
        changed = [(id, table) for id, table in state.tables.items() if table.changed]
        roots = {id: table.root.tobytes() for id, table in changed}
        for _, table in changed:
            table.changed = False
        tables = set(state.tables)
        nodes = state.forest.freeze(state.all_tables())
        next_node = state.forest.next_id
        change = Change(
            position=Position(pool.log.lsn, segment, slot),
            next_id=state.next_id,
            next_node=next_node,
            items={key: body for key, body in items.items() if self._items.get(key) != body},
            gone_items=[key for key in self._items if key not in items],
            roots=roots,
            gone_roots=sorted(self._roots - tables),
            nodes=[(node.id, node.words) for node in nodes.values()],
        )
        await pool.flush()
        await pool.world.work.run(lambda: self._metadata.commit(change))
        state.forest.saved()
        self._items, self._roots = items, tables
        if self._metadata.node_count() > 2 * self._nodes_after_sweep:
            live = state.forest.reachable(state.all_tables())
            await pool.world.work.run(lambda: self._metadata.keep_nodes(live, next_node))
            self._nodes_after_sweep = max(1024, self._metadata.node_count())
