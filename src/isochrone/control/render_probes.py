"""Restore probes, drawn for people."""

from __future__ import annotations

from isochrone.control.render import Out, facts, table
from isochrone.control.times import format_span
from isochrone.control.views_probes import ProbeList, ProbeView


def probe(view: ProbeView, out: Out = None) -> None:
    facts(
        [
            ("group", view.group),
            ("opened", f"cut {view.cut} of {view.time}"),
            ("check", view.check),
            ("result", _result(view)),
            ("took", format_span(view.seconds) if view.result else ""),
            ("copy", "" if view.result else view.copy),
            ("said", view.said),
        ],
        out,
    )


def probes(view: ProbeList, out: Out = None) -> None:
    good = f"{format_span(view.age)} ago" if view.age >= 0 else "never"
    facts([("group", view.group), ("ended well", good)], out)
    rows = [
        [p.began, str(p.cut), p.time, _result(p), format_span(p.seconds), p.check, p.said]
        for p in view.probes
    ]
    if rows:
        heads = ["BEGAN", "CUT", "TIME AT THE PRIMARY", "RESULT", "TOOK", "CHECK", "SAID"]
        table("", heads, rows, out)


def _result(view: ProbeView) -> str:
    return view.result or f"running on {view.copy}"
