"""A pool as a whole, drawn for people."""

from __future__ import annotations

from isochrone.control.render import Out, facts, percent, scrubbed, table
from isochrone.control.sizes import format_size
from isochrone.control.views_pool import PoolView, ScrubView

SHOWN_MAX = 50  # findings in a table; all of them are in the JSON


def pool(view: PoolView, out: Out = None) -> None:
    size = format_size
    spares = f"{size(view.spares)} in {view.spare_segments} spare segments"
    wrote = f"{size(view.appended)} to the log, {size(view.saved)} by checkpoints"
    facts(
        [
            ("as of", view.time),
            ("provisioned", f"{size(view.provisioned)} to volumes"),
            ("mapped", f"{size(view.mapped)} by volumes and copies, shared blocks in each"),
            ("living", f"{size(view.living)}: {size(view.shared)} shared, {size(view.own)} own"),
            ("used", f"{size(view.used)} on disk"),
            ("  log", f"{size(view.log)}, {size(view.garbage)} of it garbage"),
            ("  spares", spares),
            ("  metadata", size(view.metadata)),
            ("reclaimable", f"{size(view.reclaimable)} of the garbage, when it is worth it"),
            ("free", f"{size(view.free)} on disk, {size(view.reserve)} of it kept in reserve"),
            ("written", f"{size(view.written)} since the start of the controller"),
            ("amplification", f"{view.amplification:.2f}: {wrote}" if view.written else "-"),
            ("  moved", f"{size(view.moved)} by the cleaner" if view.moved else ""),
            ("scrub", scrubbed(view.scrub)),
        ],
        out,
    )
    if view.pins:
        pins = [[pin.kind, size(pin.bytes), pin.what] for pin in view.pins]
        table("\nGarbage that is held", ["BY", "SIZE", "FOR"], pins, out)
    if view.shares:
        order = sorted(view.shares, key=lambda s: (s.kind != "volume", s.kind, s.name))
        rows = [[s.kind, s.name, size(s.provisioned), size(s.mapped), size(s.own)] for s in order]
        table("\nShares", ["WHAT", "NAME", "SIZE", "MAPPED", "OWN"], rows, out)


def scrub(view: ScrubView, out: Out = None) -> None:
    size = format_size
    read = f"{size(view.bytes_read)} in {view.segments} segments, {view.nodes} nodes of tables"
    damage = f"{view.damaged} ranges, {size(view.damaged_bytes)}" if view.damaged else "none"
    facts(
        [
            ("scrub", view.state + (f" ({view.reason})" if view.reason else "")),
            ("started", view.started_time),
            ("ended", view.ended_time),
            ("rate", f"at most {size(view.rate)}/s"),
            ("verified", f"{size(view.verified)} of {size(view.living)} ({percent(view)})"),
            ("read", read),
            ("dismissed", f"{view.dismissed} suspects" if view.dismissed else ""),
            ("damage", damage if view.started_time else ""),
            ("last complete", view.completed_time or "never"),
        ],
        out,
    )
    rows = [
        [export, str(f.offset), str(f.bytes), str(f.segment or "-"), f.cause]
        for f in view.findings[:SHOWN_MAX]
        for export in f.exports or ["-"]
    ]
    if rows:
        table("\nDamaged", ["EXPORT", "OFFSET", "BYTES", "SEGMENT", "CAUSE"], rows, out)
    if len(view.findings) > SHOWN_MAX:
        table("", [f"… and more: {view.damaged} in all; see -o json"], [], out)
