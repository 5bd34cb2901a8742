"""What each record about schedules, labels and holds changes. Called by `State.apply` alone."""

from __future__ import annotations

from isochrone.store import records as r
from isochrone.store.catalogue import Catalogue, Place, Schedule


def schedule_set(state: Catalogue, place: Place, record: r.ScheduleSet) -> None:
    schedule = state.schedules.setdefault(
        record.name, Schedule(name=record.name, rules=record.rules)
    )
    schedule.rules = record.rules
    schedule.volumes, schedule.group = list(record.volumes), record.group
    schedule.labels = dict(record.labels)


def schedule_deleted(state: Catalogue, place: Place, record: r.ScheduleDeleted) -> None:
    del state.schedules[record.name]


def note_taken(state: Catalogue, record: r.CopyTaken) -> None:
    """The copy and what its schedule knows of it are one record: neither is without the other."""
    schedule = state.schedules.get(record.schedule)
    if schedule is not None:
        schedule.last.update(dict.fromkeys(record.rules, record.stamp))
        schedule.last_copy = record.name


def volume_labelled(state: Catalogue, place: Place, record: r.VolumeLabelled) -> None:
    state.changing(record.id).labels = dict(record.labels)


def copy_held(state: Catalogue, place: Place, record: r.CopyHeld) -> None:
    copy = state.copies[record.name]
    copy.held_until, copy.pinned = record.until, record.pinned
    copy.hold_reason = record.reason
    state.note_copy(copy)


def clock_seen(state: Catalogue, place: Place, record: r.ClockSeen) -> None:
    state.trusted.stamp = max(state.trusted.stamp, record.stamp)
