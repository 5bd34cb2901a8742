"""Saving and loading the catalogue and the track tables.

A checkpoint freezes the tables at one lsn (a bump of an epoch, no copying), waits until the log is
durable that far, and writes what changed since the last one in one transaction, off the loop.
"""

from __future__ import annotations

import asyncio
import sys
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from isochrone.errors import Damaged, PoolFailed
from isochrone.store.backup import Backup
from isochrone.store.catalogue import Copy, Group, Relation, Schedule, TrustedTime, Volume
from isochrone.store.changes import ChangedTracks
from isochrone.store.mark import reachable
from isochrone.store.metadata import (
    REBUILD,
    Change,
    Item,
    Metadata,
    Position,
    item_bytes,
    item_of,
)
from isochrone.store.points import Window
from isochrone.store.probes import Probes
from isochrone.store.state import State
from isochrone.store.tracks import Table

if TYPE_CHECKING:
    from isochrone.store.pool import Pool

ENCODED_AT_ONCE: Final = 256  # items: a third of a millisecond in which nobody is served
CHECKED_MAX: Final = 64  # volumes and copies of a pool in which what is skipped is looked at, too

Key = tuple[str, str]
Items = dict[Key, bytes]
Encode = Callable[[Iterable[int], Iterable[str]], Mapping[Key, bytes | None]]

log = structlog.get_logger()


def _volume_key(id: int) -> Key:
    return "volume", f"{id:010d}"


def _key(item: Item) -> Key:
    match item:
        case Volume(id=id):
            return _volume_key(id)
        case Copy(name=name):
            return "copy", name
        case Group(name=name):
            return "group", name
        case Relation(id=id):
            return "relation", f"{id:010d}"
        case Schedule(name=name):
            return "schedule", name
        case TrustedTime():
            return "clock", "trusted"
        case ChangedTracks():
            return item.key
        case Window(group=name):
            return "window", name
        case Probes(group=name):
            return "probes", name


def _root(roots: dict[int, bytes], volume: int) -> bytes:
    if volume not in roots:
        raise Damaged(
            f"the table of volume {volume} is missing from the metadata store", hint=REBUILD
        )
    return roots[volume]


def _load_changes(state: State, rows: Iterable[ChangedTracks]) -> None:
    try:
        state.changes.load(state.groups.values(), rows)
    except ValueError as e:
        raise Damaged(f"changed tracks in the metadata store are none: {e}", hint=REBUILD) from e


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Frozen:
    """What a checkpoint holds, for those who read it in a thread."""

    position: Position
    roots: list[bytes]  # of every table and pinned image
    volumes: list[int]  # whose the first of the roots are; pinned images follow
    items: Mapping[Key, bytes]  # the catalogue of that instant; only until the next checkpoint

    def catalogue(self) -> list[Item]:
        return [item_of(kind, body) for (kind, _), body in self.items.items()]


@dataclass(slots=True)
class _Touched:
    """What one checkpoint takes of the items that were touched since the last."""

    volumes: dict[int, None] = field(default_factory=dict)
    copies: dict[str, None] = field(default_factory=dict)
    items: dict[Key, bytes | None] = field(default_factory=dict)  # None: gone

    def take(self, state: State, encode: Encode, at_most: int = sys.maxsize) -> None:
        volumes = list(islice(state.touched_volumes, at_most))
        copies = list(islice(state.touched_copies, at_most))
        for id in volumes:
            del state.touched_volumes[id]
        for name in copies:
            del state.touched_copies[name]
        self.volumes.update(dict.fromkeys(volumes))
        self.copies.update(dict.fromkeys(copies))
        self.items.update(encode(volumes, copies))

    async def encode_most(self, pool: Pool, encode: Encode) -> None:
        """Before the instant, while others run. Who is touched again is encoded again."""
        state = pool.state
        most = max(len(state.touched_volumes), len(state.touched_copies))
        for _ in range(most // ENCODED_AT_ONCE):
            self.take(state, encode, ENCODED_AT_ONCE)
            await pool.world.clock.sleep(0)

    def put_back(self, state: State) -> None:
        """Nothing was saved: it is for the next checkpoint."""
        state.touched_volumes = {**self.volumes, **state.touched_volumes}
        state.touched_copies = {**self.copies, **state.touched_copies}


class Checkpointer:
    """Knows what the last checkpoint holds, so that the next one writes only the difference."""

    def __init__(self, metadata: Metadata, state: State) -> None:
        self._metadata = metadata
        self._state = state
        self.backup = Backup(metadata)
        self._items: Items = {}
        self._few_keys: list[Key] = []  # of items of the kinds that each checkpoint looks at
        self._roots: dict[int, array[int]] = {}  # by volume; none of them changes any more
        self._nodes = -1  # in the store; -1: not counted yet
        self._nodes_kept = 0  # after the last sweep; the next pays when twice as many are there
        self._turn = asyncio.Lock()
        self.bytes_saved = 0  # by checkpoints so far, without what SQLite adds

    @staticmethod
    def load(metadata: Metadata, state: State) -> None:
        """Fill a fresh state from the last checkpoint."""
        roots = metadata.roots()
        changed: list[ChangedTracks] = []
        for item in metadata.items():
            match item:
                case Volume():
                    words = array("Q")
                    words.frombytes(_root(roots, item.id))
                    # Epoch 1: nodes from the store have epoch 0 and are copied before a change.
                    table = Table(words, 1, shared=True)
                    table.changed = False
                    state.note_member(item)
                    state.volumes[item.id] = item
                    state.tables[item.id] = table
                case Copy():
                    state.copies[item.name] = item
                    state.note_copy(item)
                case Group():
                    state.groups[item.name] = item
                case Relation():
                    state.add_relation(item)
                case Schedule():
                    state.schedules[item.name] = item
                case TrustedTime():
                    state.trusted = item
                case Window():
                    state.windows[item.group] = item
                case Probes():
                    state.probes[item.group] = item
                case ChangedTracks():
                    changed.append(item)
        _load_changes(state, changed)
        hidden = {
            member
            for group in state.groups.values()
            if group.incoming is not None
            for copy in group.incoming.copies
            for _, member in copy.members
        }
        for volume in state.volumes.values():
            if volume.kind == "point":
                state.versions.setdefault(volume.source, {})[volume.id] = None
            elif volume.kind not in ("shadow", "image") and volume.id not in hidden:
                state.names[volume.name] = volume.id
        state.next_id = int(metadata.setting("next_id") or 1)

    def loaded(self) -> None:
        """Take the state as it is for what the store holds."""
        state = self._state
        state.touched_volumes, state.touched_copies = {}, {}
        few = self._few()
        self._few_keys = list(few)
        found = self._encoded(state.volumes, state.copies)
        self._items = {**{key: body for key, body in found.items() if body is not None}, **few}
        self._roots = {id: table.root for id, table in state.tables.items()}

    def _few(self) -> Items:
        """Items of the kinds of which there are so few that each checkpoint looks at all."""
        state = self._state
        items: list[Item] = [
            *state.groups.values(), *state.relations.values(), *state.schedules.values(),
            *state.windows.values(), *state.probes.values(),
            *([state.trusted] if state.trusted.stamp else ()),
        ]  # fmt: skip
        return {**{_key(item): item_bytes(item) for item in items}, **state.changes.rows()}

    def _encoded(self, volumes: Iterable[int], copies: Iterable[str]) -> dict[Key, bytes | None]:
        """These as they are now; None for those that are gone."""
        state = self._state
        found: dict[Key, bytes | None] = {}
        for id in volumes:
            volume = state.volumes.get(id)
            found[_volume_key(id)] = item_bytes(volume) if volume is not None else None
        for name in copies:
            copy = state.copies.get(name)
            found["copy", name] = item_bytes(copy) if copy is not None else None
        return found

    async def run(self, pool: Pool, look: Callable[[Frozen], T]) -> tuple[Frozen, T]:
        """Save everything up to now, and look at it in a thread. One at a time; others wait."""
        async with self._turn:
            position, pins = await self._run(pool)

            def looked() -> tuple[Frozen, T]:
                frozen = self._frozen(position, pins)
                return frozen, look(frozen)

            return await pool.world.work.run(looked)

    def _frozen(self, position: Position, pins: Iterable[array[int]]) -> Frozen:
        """In a thread: with ten thousand tables it takes a while."""
        # Most copies share the root with another.
        words: dict[int, bytes] = {}
        roots = []
        for root in [*self._roots.values(), *pins]:
            if id(root) not in words:
                words[id(root)] = root.tobytes()
            roots.append(words[id(root)])
        return Frozen(position, roots, list(self._roots), self._items)

    async def keep(self, pool: Pool, key: str, value: str) -> None:
        """Keep a setting that no checkpoint is needed for. Waits for a running one."""
        async with self._turn:
            await pool.world.work.run(lambda: self._metadata.keep_setting(key, value))

    async def _run(self, pool: Pool) -> tuple[Position, list[array[int]]]:
        """Save everything; up to where, and the roots of the pinned images."""
        state, forwarding = self._state, pool.log.forwarding
        touched = _Touched()
        try:
            await touched.encode_most(pool, self._encoded)
            if pool.failed:
                raise PoolFailed(f"the pool is read-only: {pool.failed}")
            pool.commit_part()
            few = self._few()
            touched.take(state, self._encoded)
            found: dict[Key, bytes | None] = {**touched.items, **few}
            found.update((key, None) for key in self._few_keys if key not in few)
            assert self._nothing_missed(found, touched.volumes), "a change was not noted"
            tables = [(id, state.tables[id]) for id in touched.volumes if id in state.tables]
            changed = [(id, table) for id, table in tables if table.changed]
            for _, table in changed:
                table.shared = True
            roots, pins = {id: table.root for id, table in changed}, [t.root for t in state.pins]
            nodes = state.forest.freeze(table for _, table in changed)
        except BaseException:
            touched.put_back(state)
            raise
        moved, forwarding.changed = forwarding.changed, set()
        change = Change(
            position=Position(pool.log.lsn, *pool.log.position, pool.log.last_sum),
            next_id=state.next_id,
            next_node=state.forest.next_id,
            items={
                key: body
                for key, body in found.items()
                if body is not None and self._items.get(key) != body
            },
            gone_items=[key for key in found if found[key] is None and key in self._items],
            roots=roots,
            gone_roots=[
                id for id in touched.volumes if id in self._roots and id not in state.tables
            ],
            nodes=[(node.id, node.words) for node in nodes.values()],
            forwards={segment: forwarding.saved_form(segment) for segment in moved},
        )
        for _, table in changed:
            table.changed = False
        try:
            await pool.flush()
            sweep = await pool.world.work.run(lambda: self._commit(change, pool.limits.sweep_nodes))
            self.bytes_saved += change.size
        except BaseException:
            for _, table in changed:
                table.changed = True
            touched.put_back(state)
            forwarding.changed |= moved
            state.forest.not_saved()
            raise
        state.forest.saved()
        self._note_saved(change, few)
        if sweep:
            await pool.world.work.run(
                lambda: self._sweep(self._frozen(change.position, pins).roots, change.next_node)
            )
        await self.backup.look(pool, change.position.segment)
        return change.position, pins

    def _note_saved(self, change: Change, few: Items) -> None:
        self._items.update(change.items)
        for key in change.gone_items:
            del self._items[key]
        self._few_keys = list(few)
        self._roots.update(change.roots)
        for id in change.gone_roots:
            del self._roots[id]

    def _nothing_missed(self, found: Mapping[Key, bytes | None], touched: Iterable[int]) -> bool:
        """Whether what was not touched is as it was. Looks at small pools only."""
        state = self._state
        if len(state.volumes) + len(state.copies) > CHECKED_MAX:
            return True
        everything = {**self._encoded(state.volumes, state.copies), **self._few()}
        would_be = {**self._items, **found}
        changed = {id for id, table in state.tables.items() if table.changed}
        return changed <= set(touched) and everything == {
            key: body for key, body in would_be.items() if body is not None
        }

    def _commit(self, change: Change, sweep_nodes: int) -> bool:
        """In a thread; whether so many nodes were there before that a sweep may be worth it."""
        if self._nodes < 0:
            self._nodes = self._metadata.node_count()
        due = self._nodes > 2 * max(self._nodes_kept, sweep_nodes)
        self._metadata.commit(change)
        self._nodes += len(change.nodes)
        return due

    def _sweep(self, roots: Iterable[bytes], below: int) -> None:
        """Delete nodes that neither this checkpoint nor a pinned image reaches; in a thread.

        It goes by what the checkpoint has saved, and all of that is in the store. What the running
        tables have got since then is newer than `below`.
        """
        live = reachable(roots, self._metadata.marked_nodes)
        self._nodes -= self._metadata.keep_nodes(live, below)
        self._nodes_kept = self._nodes
