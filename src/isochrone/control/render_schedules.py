"""Schedules, verdicts and differences, drawn for people."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from isochrone.control.render import Out, facts, table
from isochrone.control.sizes import format_size
from isochrone.control.views_schedules import (
    DifferenceView,
    ScheduleRuleView,
    ScheduleView,
    VerdictList,
)


def schedules(views: Sequence[ScheduleView], out: Out = None, title: str = "") -> None:
    rows = [
        [
            v.name,
            _target(v),
            str(len(v.members)),
            str(v.copies),
            v.last_time or "-",
            v.next_due_time,
            v.error or "-",
        ]
        for v in views
    ]
    heads = ["SCHEDULE", "OF", "FINDS", "COPIES", "LAST", "NEXT", "ERROR"]
    table(title, heads, rows, out)


def _target(view: ScheduleView) -> str:
    if view.group:
        return f"group {view.group}"
    if view.labels:
        return ",".join(f"{key}={value}" for key, value in view.labels.items())
    return " ".join(view.volumes[:3]) + (" …" if len(view.volumes) > 3 else "") or "(deleted)"


def schedule(view: ScheduleView, out: Out = None) -> None:
    facts(
        [
            ("name", view.name),
            ("rules", f"{view.rules} (UTC)"),
            ("of", _target(view)),
            ("copies now", ", ".join(view.members) or "no volume"),
            ("next", view.next_due_time),
            ("last", view.last_time and f"{view.last_time}  {view.last_copy}"),
            ("error", view.error),
        ],
        out,
    )
    rows = [[_rule(r), str(r.copies), r.last_time or "-"] for r in view.by_rule]
    table("", ["RULE", "COPIES", "LAST"], rows, out)


def _rule(view: ScheduleRuleView) -> str:
    return view.rule


def verdicts(view: VerdictList, out: Out = None) -> None:
    """What stays and what goes, and why."""
    out = out or sys.stdout
    gone = "would go" if view.dry_run else "deleted"
    rows = [[v.copy, v.schedule or "-", "stays" if v.keep else gone, v.why] for v in view.verdicts]
    if rows:
        table("", ["COPY", "SCHEDULE", "", "WHY"], rows, out)
    count = sum(not v.keep for v in view.verdicts)
    print(f"{count} {'copy' if count == 1 else 'copies'} {gone}", file=out)


def differences(totals: Sequence[tuple[DifferenceView, int, int]], out: Out = None) -> None:
    """A line for each volume: (its last page, ranges in all, bytes in all)."""
    rows = [
        [v.volume, format_size(changed), str(ranges), _sizes(v), v.before, v.after]
        for v, ranges, changed in totals
    ]
    table("", ["VOLUME", "CHANGED", "RANGES", "SIZE", "FROM", "TO"], rows, out)


def _sizes(view: DifferenceView) -> str:
    before, after = format_size(view.before_size), format_size(view.after_size)
    return before if view.before_size == view.after_size else f"{before} to {after}"


def ranges(view: DifferenceView, out: Out = None) -> None:
    """A line for each range: volume, offset, bytes. For programs, as for people."""
    for offset, length in view.ranges:
        print(f"{view.volume} {offset} {length}", file=out or sys.stdout)
