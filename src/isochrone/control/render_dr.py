"""Failing over, switching and coming back, drawn for people."""

from __future__ import annotations

from collections.abc import Mapping

from isochrone.control.render import Out, facts
from isochrone.control.sizes import format_size
from isochrone.control.times import format_span
from isochrone.control.views_dr import LossView, RejoinView, SwitchView


def loss(view: LossView, out: Out = None) -> None:
    """What a promotion would bring back and give up."""
    facts(
        [
            ("group", f"{view.group}, to begin epoch {view.epoch}"),
            ("stands at", f"cut {view.cut}, placed {view.cut_time}"),
            (
                "recovery point",
                f"{view.recovery_point_time} ({format_span(view.recovery_point_age)} ago)",
            ),
            ("known lost", _lost(view.lost_bytes)),
            ("dropped", f"{format_size(view.incoming_bytes)} of an incomplete cut"),
            ("last heard", view.last_heard_time or "not since this controller started"),
            ("primary", _primary(view)),
        ],
        out,
    )


def _lost(size: int) -> str:
    if size < 0:
        return "unknown: the primary was not heard"
    return f"{format_size(size)} that the primary had announced; it may have written more"


def _primary(view: LossView) -> str:
    if view.primary_connected:
        return (
            f"{view.old_primary} is alive and connected: `isochrone group switch {view.group}`"
            " loses nothing"
        )
    return f"{view.old_primary} {view.state}" + (f" ({view.cause})" if view.cause else "")


def by_volume(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {format_size(size)}" for name, size in sorted(sizes.items()))


def switched(view: SwitchView, out: Out = None) -> None:
    facts(
        [
            ("switched", f"{view.group} at cut {view.cut} of {view.cut_time}, nothing is lost"),
            ("epoch", str(view.epoch)),
            ("nobody wrote for", format_span(view.held_seconds)),
            ("old primary", f"{view.old_primary} follows this site now"),
            ("hosts cut off", ", ".join(view.hosts)),
        ],
        out,
    )


def rejoined(view: RejoinView, out: Out = None) -> None:
    """What coming back means, or what it has come to."""
    way = (
        "a FIRST COPY of everything: no cut is known that both sites have"
        if view.first_copy
        else f"a delta from cut {view.cut}, which both sites have"
    )
    span = f"{view.since_time or 'unknown'} to {view.until_time or 'unknown'}"
    rest = by_volume(view.diverged) or ("unknown" if view.first_copy else "nothing")
    kept = view.orphans
    if not view.done and (view.diverged or view.first_copy):
        kept = "the volumes as they are would be kept as a pinned copy"
    facts(
        [
            ("group", f"{view.group} " + ("follows" if view.done else "would follow")),
            ("primary", f"{view.source}, epoch {view.epoch}"),
            ("by", way),
            ("differs here", f"{rest}" + (f", changed {span}" if view.diverged else "")),
            ("kept as", kept),
        ],
        out,
    )
