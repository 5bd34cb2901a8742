"""Relations drawn for people."""

from __future__ import annotations

from collections.abc import Sequence

from isochrone.control.render import Out, facts, table
from isochrone.control.sizes import format_size
from isochrone.control.views_relations import RelationView


def relations(views: Sequence[RelationView], out: Out = None) -> None:
    rows = [
        [str(x.relation), x.source, x.target, format_size(x.size), x.time, *_state(x), _mirror(x)]
        for x in views
    ]
    heads = ["RELATION", "SOURCE", "TARGET", "SIZE", "AS OF", "GENERATION", "DIFFERS", "MIRRORED"]
    table("", heads, rows, out)


def _state(view: RelationView) -> tuple[str, str]:
    least = "" if view.counted else "at least "
    return str(view.generation), f"{least}{view.tracks_differing} of {view.tracks} tracks"


def _mirror(view: RelationView) -> str:
    """With which group, and where something is missing."""
    if not view.group:
        return "-"
    there = f" ({view.origin} there)" if view.origin else ""
    alone = f", content only at {', '.join(view.content_only)}" if view.content_only else ""
    return f"with {view.group}{there}{alone}"


def relation(view: RelationView, out: Out = None) -> None:
    generation, differs = _state(view)
    facts(
        [
            ("relation", str(view.relation)),
            ("source", view.source),
            ("target", view.target + (" (hosts may not write it)" if view.inhibit else "")),
            ("as of", view.time),
            ("generation", generation),
            ("mirrored", _mirror(view)),
            ("size", format_size(view.size)),
            ("differs now", differs),
        ],
        out,
    )
    rows = [
        [str(x.source_offset), str(x.target_offset), format_size(x.length)] for x in view.extents
    ]
    table("", ["FROM", "TO", "SIZE"], rows, out)
