"""Comparisons and repairs, drawn for people."""

from __future__ import annotations

from typing import Final

from isochrone.control.render import Out, facts, table
from isochrone.control.sizes import format_size
from isochrone.control.times import format_span
from isochrone.control.views_verify import OutcomeView, PassView, RepairView, VerifyView

FINDINGS_SHOWN: Final = 50  # the JSON form has them all


def verify(view: VerifyView, out: Out = None) -> None:
    share = f" ({view.bytes * 100 // view.total} %)" if view.total else ""
    found = f"{view.found}, {view.unhealed} of them not healed" if view.found else "nothing"
    unstable = f"{format_size(view.unstable_bytes)} never stood still, not known to be equal"
    facts(
        [
            ("comparison", view.state + (f" ({view.reason})" if view.reason else "")),
            ("group", view.group),
            ("started", view.started_time),
            ("looks at", "checksums, and reads the data" if view.read else "checksums"),
            ("compared", f"{format_size(view.bytes)} of {format_size(view.total)}{share}"),
            ("unstable", unstable if view.unstable_bytes else ""),
            ("found", found if view.started_time else ""),
            ("every", format_span(view.every) if view.every else ""),
            ("last verified", passed(view.last_verified)),
            ("last read", passed(view.last_read)),
        ],
        out,
    )
    rows = [
        [f.volume, str(f.offset), str(f.bytes), f.kind, "yes" if f.healed else "NO", f.cause]
        for f in view.findings[:FINDINGS_SHOWN]
    ]
    if rows:
        table("\nFound", ["VOLUME", "OFFSET", "BYTES", "WHAT", "HEALED", "CAUSE"], rows, out)
    if view.found > FINDINGS_SHOWN:
        table("", [f"… and more: {view.found} in all; see -o json"], [], out)


def passed(view: PassView | None) -> str:
    """When, and what came of it."""
    if view is None:
        return "never"
    found = f"{view.found - view.healed} unhealed" if view.found > view.healed else "all well"
    return f"{format_span(view.age)} ago, at cut {view.cut}: {found}"


def repair(view: RepairView, out: Out = None) -> None:
    facts(
        [
            ("waiting", f"{view.waiting} blocks"),
            ("healed", f"{view.healed} blocks since the start of the controller"),
            ("cannot be healed", f"{len(view.unhealed)} blocks, for now"),
        ],
        out,
    )
    _outcomes("\nNot healed", view.unhealed, out)
    _outcomes("\nLately", view.outcomes, out)


def _outcomes(title: str, outcomes: list[OutcomeView], out: Out) -> None:
    rows = [
        [o.time, ", ".join(o.owners) or "-", str(o.offset), "healed" if o.healed else o.why]
        for o in outcomes[-FINDINGS_SHOWN:]
    ]
    if rows:
        table(title, ["TIME", "EXPORTS", "OFFSET", "OUTCOME"], rows, out)
