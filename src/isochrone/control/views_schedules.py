"""The API's documents about schedules, pruning and differences."""

from __future__ import annotations

import msgspec


class ScheduleRuleView(msgspec.Struct, kw_only=True):
    rule: str
    keep: int
    copies: int  # that are marked with it now
    last: int  # stamp of its newest copy; 0: none yet
    last_time: str


class ScheduleView(msgspec.Struct, kw_only=True):
    name: str
    rules: str  # as `schedule set` takes them
    volumes: list[str]  # that it was given by name and that still exist
    group: str
    labels: dict[str, str]
    members: list[str]  # what it copies now
    next_due: int  # now or later
    next_due_time: str
    last: int
    last_time: str
    last_copy: str  # may be gone
    copies: int  # that it took and that are still there
    by_rule: list[ScheduleRuleView]
    error: str  # why the last try failed; empty if it did not


class ScheduleList(msgspec.Struct, kw_only=True):
    schedules: list[ScheduleView]


class VerdictView(msgspec.Struct, kw_only=True):
    copy: str
    schedule: str  # that took it; empty: none
    keep: bool
    why: str


class VerdictList(msgspec.Struct, kw_only=True):
    """What was deleted, or with `dry_run` would be: all verdicts that do not say `keep`."""

    dry_run: bool
    verdicts: list[VerdictView]


class PairView(msgspec.Struct, kw_only=True):
    """A volume that both sides have."""

    volume: str
    before: str  # exports
    after: str
    before_size: int
    after_size: int


class PairList(msgspec.Struct, kw_only=True):
    volumes: list[PairView]


class DifferenceView(PairView, kw_only=True):
    """One page of what differs. The next one begins at `end`, unless it is `complete`."""

    unit: int
    offset: int
    end: int
    complete: bool
    changed: int  # bytes in these ranges
    ranges: list[tuple[int, int]]  # (offset, bytes)


ANSWERS = (
    *(ScheduleView, ScheduleList, VerdictView, VerdictList),
    *(PairView, PairList, DifferenceView),
)
