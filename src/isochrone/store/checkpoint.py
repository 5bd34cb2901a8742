"""Saving and loading the catalogue and the track tables.

A checkpoint freezes the tables at one lsn (a bump of an epoch, no copying), waits until the log is
durable that far, and writes what changed since the last one in one transaction, off the loop.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from isochrone.errors import Damaged
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


def _root(roots: dict[int, bytes], volume: int) -> bytes:
    if volume not in roots:
        raise Damaged(f"the table of volume {volume} is missing from the metadata store")
    return roots[volume]


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Frozen:
    """What a checkpoint holds, for those who read it in a thread."""

    position: Position
    roots: list[bytes]  # of every table and pinned image


class Checkpointer:
    """Knows what the last checkpoint holds, so that the next one writes only the difference."""

    def __init__(self, metadata: Metadata, state: State) -> None:
        self._metadata = metadata
        self._state = state
        self._items: dict[tuple[str, str], bytes] = {}
        self._roots: set[int] = set()
        self._nodes_kept = 0  # after the last sweep; the next pays when twice as many are there
        self._turn = asyncio.Lock()

    @staticmethod
    def load(metadata: Metadata, state: State) -> None:
        """Fill a fresh state from the last checkpoint."""
        roots = metadata.roots()
        for item in metadata.items():
            match item:
                case Volume():
                    words = array("Q")
                    words.frombytes(_root(roots, item.id))
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

    async def run(self, pool: Pool, look: Callable[[Frozen], T]) -> tuple[Frozen, T]:
        """Save everything up to now, and look at it in a thread. One at a time; others wait."""
        async with self._turn:
            frozen = await self._run(pool)
            return frozen, await pool.world.work.run(lambda: look(frozen))

    async def _run(self, pool: Pool) -> Frozen:
        state, forwarding = self._state, pool.log.forwarding
        pool.commit_part()
        items, tables = self._catalogue(), set(state.tables)
        changed = [(id, table) for id, table in state.tables.items() if table.changed]
        nodes = state.forest.freeze(state.all_tables())
        # Taken now: after the next await a node that this checkpoint needs may be out of reach.
        live = state.forest.reachable(state.all_tables()) if self._sweep_due(pool) else None
        moved, forwarding.changed = forwarding.changed, set()
        change = Change(
            position=Position(pool.log.lsn, *pool.log.position),
            next_id=state.next_id,
            next_node=state.forest.next_id,
            items={key: body for key, body in items.items() if self._items.get(key) != body},
            gone_items=[key for key in self._items if key not in items],
            roots={id: table.root.tobytes() for id, table in changed},
            gone_roots=sorted(self._roots - tables),
            nodes=[(node.id, node.words) for node in nodes.values()],
            forwards={segment: forwarding.saved_form(segment) for segment in moved},
        )
        frozen = Frozen(change.position, [table.root.tobytes() for table in state.all_tables()])
        for _, table in changed:
            table.changed = False
        try:
            await pool.flush()
            await pool.world.work.run(lambda: self._metadata.commit(change))
        except BaseException:
            for _, table in changed:
                table.changed = True
            forwarding.changed |= moved
            state.forest.not_saved()
            raise
        state.forest.saved()
        self._items, self._roots = items, tables
        if live is not None:
            await self._sweep(pool, live, change.next_node)
        return frozen

    def _sweep_due(self, pool: Pool) -> bool:
        kept = max(self._nodes_kept, pool.limits.sweep_nodes)
        return self._metadata.node_count() > 2 * kept

    async def _sweep(self, pool: Pool, live: set[int], below: int) -> None:
        """Delete nodes that neither this checkpoint nor a pinned image reaches."""
        await pool.world.work.run(lambda: self._metadata.keep_nodes(live, below))
        self._nodes_kept = self._metadata.node_count()
