"""Points drawn for people."""

from __future__ import annotations

from isochrone.control.render import Out, facts, table
from isochrone.control.sizes import format_size
from isochrone.control.times import format_span
from isochrone.control.views_points import WindowView

SHOWN_MAX = 40  # points in a table, the newest; all of them are in the JSON


def window(view: WindowView, out: Out = None) -> None:
    limit = format_size(view.bytes_max) if view.bytes_max else "a fifth of the pool"
    reach = (
        f"{format_span(view.keep)} back, every cut for {format_span(view.dense)}"
        if view.keep
        else "off"
    )
    first, last = (view.points[0], view.points[-1]) if view.points else (None, None)
    facts(
        [
            ("group", view.group),
            ("window", reach),
            ("may keep", limit),
            ("keeps", f"{format_size(view.bytes)}, when last counted"),
            ("points", str(len(view.points))),
            ("oldest", f"cut {first.cut} of {first.time}" if first else ""),
            ("newest", f"cut {last.cut} of {last.time}" if last else ""),
        ],
        out,
    )
    rows = [[str(p.cut), p.time, format_span(p.age)] for p in view.points[-SHOWN_MAX:]]
    if len(view.points) > SHOWN_MAX:
        rows.insert(0, ["…", f"and {len(view.points) - SHOWN_MAX} older ones; see -o json", ""])
    if rows:
        table("", ["CUT", "TIME AT THE PRIMARY", "AGE"], rows, out)
