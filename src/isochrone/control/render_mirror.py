"""Groups and mirrors, drawn for people."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from isochrone.control.render import Out, facts, shorten, table
from isochrone.control.render_dr import by_volume
from isochrone.control.sizes import format_size
from isochrone.control.times import format_span, rfc3339
from isochrone.control.views_mirror import GroupView
from isochrone.mirror.history import Spread
from isochrone.mirror.status import PeerStatus, Suspension

SUSPENSIONS_SHOWN: Final = 5  # the newest; the JSON form has them all


def groups(views: Sequence[GroupView], out: Out = None, title: str = "") -> None:
    rows = [
        [
            g.group,
            g.role,
            f"{g.state} ({g.cause})" if g.cause else g.state,
            str(g.cut) if g.cut else "-",
            g.recovery_point_time or g.cut_time or "-",
            format_span(g.recovery_point_age),
            shorten(g.volumes),
        ]
        for g in views
    ]
    heads = ["GROUP", "ROLE", "STATE", "CUT", "POINT", "AGE", "VOLUMES"]
    table(title, heads, rows, out)


def group(view: GroupView, out: Out = None) -> None:
    here = view.role == "secondary"
    age = format_span(view.recovery_point_age)
    facts(
        [
            ("group", view.group),
            ("role", view.role),
            ("state", f"{view.state} ({view.cause})" if view.cause else view.state),
            ("cut", f"{view.cut} at {view.cut_time}" if view.cut else "none yet"),
            ("recovery point", view.recovery_point_time and f"{view.recovery_point_time} ({age})"),
            ("lineage", view.lineage and f"{view.lineage} epoch {view.epoch}"),
            ("volumes", ", ".join(view.volumes)),
            ("source", view.source),
            ("received", _received(view) if here else ""),
            ("incoming", f"{format_size(view.bytes_incoming)} not committed" if here else ""),
            ("promoted", view.promoted_time),
            ("handed over", "hosts cannot write here meanwhile" if view.handover else ""),
            ("never arrived", by_volume(view.diverged)),
            ("next", view.next_command),
            ("superseded by", f"epoch {view.superseded_by}" if view.superseded_by else ""),
            ("old primary", "not fenced yet: keep its clients away" if view.fence_pending else ""),
        ],
        out,
    )
    rows = [
        [p.peer, "yes" if p.connected else "no", str(p.acked_cut or "-"), format_size(p.bytes_sent)]
        for p in view.peers
    ]
    if rows:
        table("", ["SECONDARY", "CONNECTED", "CUT", "SENT"], rows, out)


def _received(view: GroupView) -> str:
    commands = format_size(view.bytes_commands)
    return f"{format_size(view.bytes_received)} since start, {commands} of it copies as commands"


# -- one group, for whoever was woken


def status(view: GroupView, out: Out = None) -> None:
    """The first line says whether it can be recovered, and how old it would be."""
    out = out or sys.stdout
    print(headline(view), file=out)
    facts(_way(view) if view.role == "secondary" else _served(view), out)
    if view.role == "secondary":
        _history(view, out)
        _suspensions(view.suspensions, out)
    for peer in view.peers:
        print(file=out)
        facts(_peer(peer), out)
        _suspensions(peer.suspensions, out)


def headline(view: GroupView) -> str:
    """One line: the answer to what one asks first."""
    name = view.group
    if view.role == "secondary":
        if not view.recovery_point:
            return f"{name}: NOT RECOVERABLE here: nothing complete has arrived yet ({view.state})"
        age = format_span(view.recovery_point_age)
        trouble = f"; {view.state}: {view.cause}" if view.cause else ""
        return f"{name}: RECOVERABLE here as of {view.recovery_point_time}, {age} ago{trouble}"
    if view.role == "fenced":
        return f"{name}: FENCED: epoch {view.superseded_by} at another site has taken it over"
    if not view.peers:
        return f"{name}: NOT MIRRORED: no secondary follows"
    well = [p for p in view.peers if p.pair == "DUPLEX"]
    if len(well) == len(view.peers):
        oldest = format_span(max(p.backlog_age for p in well))
        return f"{name}: MIRRORED to {_sites(well)}; what is not there yet is {oldest} old"
    if view.state == "SUSPENDED":
        return f"{name}: SUSPENDED: {view.cause}"
    return f"{name}: {view.state}: not every secondary is complete yet"


def _sites(peers: Sequence[PeerStatus]) -> str:
    return shorten([p.site or p.peer[:12] for p in peers])


def _way(view: GroupView) -> list[tuple[str, str]]:
    """What a secondary knows of the way from its primary."""
    lost = "not known: the primary has not been heard"
    if view.behind_bytes >= 0:
        lost = f"{format_size(view.behind_bytes)} that the primary had at {view.last_heard_time}"
    return [
        ("state", f"{view.state} ({view.cause_kind}: {view.cause})" if view.cause else view.state),
        ("cut", f"{view.cut} at {view.cut_time}, hardened and applied" if view.cut else "none yet"),
        ("lost if now", lost),
        ("phase", _phase(view.phase, view.done_bytes, view.todo_bytes)),
        ("incoming", f"{format_size(view.bytes_incoming)} not committed"),
        ("rate", f"{format_size(int(view.rate))}/s, {_eta(view)}"),
        ("received", _shipped(view)),
        ("cuts", f"{view.cuts} committed, {view.cuts_failed} broken off, since start"),
        ("verified", _verified(view)),
        ("probed", _probed(view)),
        ("source", view.source),
    ]


def _probed(view: GroupView) -> str:
    bad = ": THE NEWEST RESTORE PROBE FAILED" if view.probe_failed else ""
    return f"well {format_span(view.probe_age)} ago{bad}" if view.probe_age >= 0 else f"never{bad}"


def _verified(view: GroupView) -> str:
    bad = f": {view.verified_unhealed} RANGES ARE NOT WELL" if view.verified_unhealed else ""
    return f"{format_span(view.verified_age)} ago{bad}" if view.verified_age >= 0 else "never"


def _eta(view: GroupView) -> str:
    if view.eta < 0:
        return "all here when it moves again" if view.behind_bytes else "up to date"
    worst = f" to {format_span(view.eta_max)}" if view.eta_max > view.eta else ""
    return "up to date" if not view.eta else f"all here in {format_span(view.eta)}{worst}"


def _phase(phase: str, done: int, todo: int) -> str:
    if not phase:
        return ""
    share = f", {min(100, done * 100 // todo)} %" if todo else ""
    whole = f" of {format_size(todo)}" if todo else ""
    return f"{phase}: {format_size(done)}{whole}{share}"


def _shipped(view: GroupView | PeerStatus) -> str:
    kinds = view.shipped
    parts = [("data", kinds.data), ("holes", kinds.holes), ("commands", kinds.commands)]
    words = [f"{format_size(size)} {kind}" for kind, size in (*parts, ("other", kinds.other))]
    packed = f"; data packed {view.packing:g} to 1" if view.packing else ""
    return ", ".join(words) + packed


def _served(view: GroupView) -> list[tuple[str, str]]:
    return [
        ("role", view.role),
        ("state", f"{view.state} ({view.cause_kind}: {view.cause})" if view.cause else view.state),
        ("cut", f"{view.cut} at {view.cut_time}, every {view.interval:g} s" if view.cut else ""),
        ("writers wait", f"{view.pace_seconds:g} s a write" if view.pace_seconds else ""),
        ("reserved", f"room for {view.reservations} commands" if view.reservations else ""),
        ("volumes", ", ".join(view.volumes)),
    ]


def _peer(peer: PeerStatus) -> list[tuple[str, str]]:
    limits = [format_size(peer.limit_bytes)] if peer.limit_bytes else []
    limits += [format_span(peer.limit_seconds)] if peer.limit_seconds else []
    volumes = ", ".join(f"{name} {format_size(size)}" for name, size in peer.missing.items())
    state = f"{peer.state}, {'connected' if peer.connected else 'not connected'}"
    return [
        ("secondary", f"{peer.site} ({peer.peer})" if peer.site else peer.peer),
        ("session", f"{state} ({peer.cause}: {peer.why})" if peer.cause else state),
        ("has cut", str(peer.acked_cut) if peer.acked_cut else "none yet"),
        ("side file", f"{format_size(peer.backlog_bytes)}, {format_span(peer.backlog_age)} old"),
        ("limits", f"{' and '.join(limits) or 'none'}; then {peer.policy}; resync {peer.resync}"),
        ("log", "" if peer.keeps_log else "not kept for it: it needs a resend"),
        ("would resend", f"{format_size(peer.changed_bytes)}" if peer.changed_bytes > 0 else ""),
        ("in", volumes),
        ("left out", _left_out(peer.copies_left_out)),
        ("pacing", f"{peer.pace_seconds:g} s a write" if peer.pace_seconds else ""),
        ("phase", _phase(peer.phase, peer.done_bytes, peer.todo_bytes)),
        ("shipped", _shipped(peer)),
        ("coalesced", f"{peer.coalescing:g} writes for each block sent" if peer.coalescing else ""),
    ]


def _left_out(copies: int) -> str:
    return f"{copies} of the oldest copies: too many for the last resend" if copies else ""


def _history(view: GroupView, out: Out) -> None:
    spreads: list[tuple[str, Spread]] = [("hour", view.hour), ("day", view.day)]
    rows = [
        [f"last {name}", format_span(s.p50), format_span(s.p95), format_span(s.max)]
        for name, s in spreads
        if s.samples
    ]
    if rows:
        table("", ["RECOVERY POINT", "HALF THE TIME", "95 %", "WORST"], rows, out)


def _suspensions(suspensions: Sequence[Suspension], out: Out) -> None:
    rows = [
        [rfc3339(s.stamp), rfc3339(s.until) or "goes on", s.cause, s.why]
        for s in suspensions[-SUSPENSIONS_SHOWN:]
    ]
    if rows:
        table("", ["SUSPENDED", "UNTIL", "CAUSE", "WHY"], rows, out)
