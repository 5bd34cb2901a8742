"""Commands on schedules, and what they mean for the volumes and copies of a pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from isochrone.errors import Conflict, InvalidInput, NotFound
from isochrone.store import copies, holds
from isochrone.store import records as r
from isochrone.store.catalogue import Copy, Schedule, Volume
from isochrone.store.labels import check_labels, matches
from isochrone.store.names import NAME_CHARS_MAX, check_name
from isochrone.store.pool import Pool
from isochrone.store.retention import Taken, Verdict, decide
from isochrone.store.schedule import parse_rules, write_rules
from isochrone.store.volumes import plain

SCHEDULES_MAX: Final = 1000  # of a pool: each is looked at every second
SCHEDULE_NAME_CHARS_MAX: Final = NAME_CHARS_MAX - 28  # its copies are named after it and the time


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be copied, by names: exactly one of these is given."""

    volumes: Sequence[str] = ()
    group: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


def find_schedule(pool: Pool, name: str) -> Schedule:
    try:
        return pool.state.schedules[name]
    except KeyError:
        raise NotFound(f"there is no schedule {name!r}", hint="see: isochrone schedule list") from (
            None
        )


def draft(pool: Pool, name: str, rules: str, wanted: Wanted) -> Schedule:
    """A schedule as `put` would make it. Raises `InvalidInput`, `NotFound` or `Conflict`."""
    if len(check_name("schedule", name)) > SCHEDULE_NAME_CHARS_MAX:
        raise InvalidInput(
            f"the name of a schedule has at most {SCHEDULE_NAME_CHARS_MAX} characters,"
            " because its copies are named after it"
        )
    if bool(wanted.volumes) + bool(wanted.group) + bool(wanted.labels) != 1:
        raise InvalidInput(
            "a schedule is for volumes, or for a group, or for labels",
            hint="give --volume, --group or --label",
        )
    if len(wanted.volumes) > copies.MEMBERS_MAX:
        raise InvalidInput(f"a copy has at most {copies.MEMBERS_MAX} volumes")
    if wanted.group and wanted.group not in pool.state.groups:
        raise NotFound(f"there is no group {wanted.group!r}", hint="see: isochrone group list")
    ids = [plain(pool, volume, "scheduled").id for volume in wanted.volumes]
    if len(set(ids)) != len(ids):
        raise InvalidInput("a volume is named twice")
    before = pool.state.schedules.get(name)
    if before is None and len(pool.state.schedules) >= SCHEDULES_MAX:
        raise Conflict(f"a pool has at most {SCHEDULES_MAX} schedules")
    return Schedule(
        name=name,
        rules=write_rules(parse_rules(rules)),
        volumes=ids,
        group=wanted.group,
        labels=check_labels(wanted.labels),
        last=before.last if before is not None else {},
    )


def put(pool: Pool, drafted: Schedule) -> Schedule:
    """Make a schedule, or change one; it keeps the copies it has taken, as its rules say."""
    pool.record(
        r.ScheduleSet(
            name=drafted.name,
            rules=drafted.rules,
            volumes=tuple(drafted.volumes),
            group=drafted.group,
            labels=drafted.labels,
        )
    )
    return pool.state.schedules[drafted.name]


def delete(pool: Pool, name: str) -> None:
    """Take nothing more. Its copies stay, and nobody prunes them."""
    find_schedule(pool, name)
    pool.record(r.ScheduleDeleted(name=name))


def members(pool: Pool, schedule: Schedule) -> list[Volume]:
    """The volumes it copies now, by name. Those that are gone are left out."""
    state = pool.state
    if schedule.group:
        group = state.groups.get(schedule.group)
        ids = group.volumes if group is not None else []
        found = [state.volumes[id] for id in ids]
    elif schedule.labels:
        found = [
            volume
            for volume in state.volumes.values()
            if volume.kind == "volume" and matches(schedule.labels, volume.labels)
        ]
    else:
        found = [state.volumes[id] for id in schedule.volumes if id in state.volumes]
    return sorted(found, key=lambda volume: volume.name)


def copies_of(pool: Pool, name: str) -> list[Copy]:
    """What a schedule has taken here and is still there."""
    return [copy for copy in pool.state.copies.values() if copy.schedule == name]


def plan(pool: Pool, schedule: Schedule) -> list[Verdict]:
    """What pruning would do now: a verdict on each of its copies, the newest first."""
    taken = [
        Taken(copy.name, copy.lsn, tuple(copy.rules), holds.why_held(pool, copy))
        for copy in copies_of(pool, schedule.name)
    ]
    return decide(parse_rules(schedule.rules), taken)


def take(pool: Pool, schedule: Schedule, rules: Sequence[str]) -> Copy:
    """One copy of all its volumes, marked with the rules it is for. Raises `NotFound` for none."""
    volumes = members(pool, schedule)
    if not volumes:
        raise NotFound(
            f"the schedule {schedule.name!r} finds no volume: nothing was copied",
            hint=f"see: isochrone schedule show {schedule.name}",
        )
    names = [volume.name for volume in volumes]
    return copies.take(pool, names, schedule=schedule.name, rules=rules)


def prune(pool: Pool, schedule: Schedule, at_most: int) -> tuple[list[str], dict[str, str]]:
    """Delete doomed copies, the oldest first: (names, why others could not be)."""
    doomed = [verdict.copy for verdict in reversed(plan(pool, schedule)) if not verdict.keep]
    gone: list[str] = []
    refused: dict[str, str] = {}
    for name in doomed:
        if len(gone) >= at_most:
            break
        try:
            copies.delete(pool, name)
        except Conflict as e:  # in use
            refused[name] = e.message
        else:
            gone.append(name)
    return gone, refused
