"""What each record about the terms of a session changes. Called by `State.apply` alone."""

from __future__ import annotations

from isochrone.store import records as r
from isochrone.store.apply_groups import drop_spent_images
from isochrone.store.catalogue import Catalogue, Place


def session_set(state: Catalogue, place: Place, record: r.SessionSet) -> None:
    session = state.groups[record.group].sessions[record.peer]
    session.policy, session.resync = record.policy, record.resync
    session.limit_bytes, session.limit_seconds = record.limit_bytes, record.limit_seconds


def session_fell_behind(state: Catalogue, place: Place, record: r.SessionFellBehind) -> None:
    group = state.groups[record.group]
    group.sessions[record.peer].keeps_log = False
    drop_spent_images(state, place, group)


def group_tuned(state: Catalogue, place: Place, record: r.GroupTuned) -> None:
    state.groups[record.name].interval = record.interval
