"""What records about groups that travel as images of volumes change.

`incoming_progress` is called by `State.apply`, the others by steps of `apply_groups`.
"""

from __future__ import annotations

from isochrone.store import records as r
from isochrone.store.catalogue import Catalogue, Group, Place
from isochrone.store.tracks import Table, blocks_of


def incoming_progress(state: Catalogue, place: Place, record: r.IncomingProgress) -> None:
    incoming = state.incoming(record.group)
    incoming.position, incoming.position_lsn = record.position, place.lsn


def cut_sent(group: Group, place: Place, record: r.CutPlaced) -> None:
    """A secondary gets this cut by images: from here on the log is kept for it again.

    It would never come to an end otherwise: what is written meanwhile follows by the log.
    """
    for peer, cut in record.acked.items():
        session = group.sessions.get(peer)
        if session is not None and cut >= max(session.begun, default=0):
            session.begun = []
    session = group.sessions.get(record.whole)
    if session is not None:
        session.keeps_log, session.whole_lsn = True, place.lsn
        session.begun = list(record.begun)


def first_table(state: Catalogue, base: int, volume: r.IncomingVolume) -> Table:
    """What a shadow starts with: the volume at the base, a seed, or nothing if it is new."""
    forest = state.forest
    if base and volume.local in state.tables:
        return forest.clone(state.tables[volume.local], passing=True)
    seed = state.tables.get(volume.seed)
    if seed is None:
        return forest.table()
    table = forest.clone(seed, passing=True)
    last = state.volumes[volume.seed].size
    if volume.size < last:
        forest.unmap(table, blocks_of(volume.size), blocks_of(last))
    return table
