"""Answers drawn for people: tables that are coloured at a terminal and plain elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final, TextIO

from isochrone.control.sizes import format_size
from isochrone.control.times import format_span
from isochrone.control.views import (
    AttachmentView,
    CopyView,
    DoorView,
    FilterView,
    PromoteView,
    ReloadView,
    SiteView,
    VolumeView,
)
from isochrone.control.views_pool import ScrubView

Out = TextIO | None  # None: stdout, as it is at the moment of printing

COPIES_SHOWN: Final = 20  # by `status`: the newest
HOLDS_LAG_SHOWN_S: Final = 60.0  # less is no news
RIGHT = frozenset(  # figures line up at their end
    {"SIZE", "MAPPED", "CUT", "AGE", "RECEIVED", "FINDS", "COPIES", "CHANGED", "RANGES"}
    | {"OWN", "OFFSET", "BYTES"}
)


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], out: Out) -> None:
    """A table with a heading; `title` may be empty."""
    out = out or sys.stdout
    if out.isatty() and os.environ.get("TERM") != "dumb":
        _rich(title, heads, rows, out)
        return
    if title:
        print(title, file=out)
    widths = [max(len(line[at]) for line in (heads, *rows)) for at in range(len(heads))]
    for line in (heads, *rows):
        cells = [
            text.rjust(width) if head in RIGHT else text.ljust(width)
            for text, width, head in zip(line, widths, heads, strict=True)
        ]
        print("  ".join(cells).rstrip(), file=out)


def _rich(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], out: TextIO) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for head in heads:
        drawn.add_column(head, justify="right" if head in RIGHT else "left", overflow="fold")
    for row in rows:
        # Text, not str: names must not be read as markup.
        drawn.add_row(*(Text(cell, style=_style(cell)) for cell in row))
    Console(file=out, highlight=False).print(drawn)


def _style(cell: str) -> str:
    word = cell.partition(" ")[0]
    if word in ("SUSPENDED", "fenced", "READ-ONLY"):
        return "red"
    if word in ("PENDING", "COPYING"):
        return "yellow"
    return "green" if word == "DUPLEX" else ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def facts(pairs: Sequence[tuple[str, str]], out: Out) -> None:
    """One thing, a line for each fact; empty ones are left out."""
    out = out or sys.stdout
    shown = [(name, value) for name, value in pairs if value]
    width = max(len(name) for name, _ in shown)
    for name, value in shown:
        print(f"{name.ljust(width)}  {value}", file=out)


# -- volumes


def volumes(views: Sequence[VolumeView], out: Out = None, title: str = "") -> None:
    rows = [
        [v.name, format_size(v.size), format_size(v.mapped), v.group or "-", _use(v)] for v in views
    ]
    table(title, ["VOLUME", "SIZE", "MAPPED", "GROUP", "USE"], rows, out)


def _use(view: VolumeView) -> str:
    words = [_count(len(view.clients), "client")] if view.clients else []
    if view.read_only:
        words.append("read-only")
    return ", ".join(words) or "-"


def volume(view: VolumeView, out: Out = None) -> None:
    facts(
        [
            ("name", view.name),
            ("is", view.description),
            ("size", f"{format_size(view.size)} ({view.size} bytes)"),
            ("mapped", f"{format_size(view.mapped)} ({view.mapped} bytes)"),
            ("access", "read-only" if view.read_only else "writable"),
            ("group", view.group),
            ("copy", view.copy),
            ("source", view.source),
            ("labels", " ".join(f"{key}={value}" for key, value in view.labels.items())),
            ("clients", ", ".join(_clients(view))),
        ],
        out,
    )


def _clients(view: VolumeView) -> list[str]:
    return [_attachment(each) for each in view.attachments] or view.clients  # an old controller's


def _attachment(view: AttachmentView) -> str:
    """A client, in words: `db1.example.org (certificate, 4 connections)`."""
    words = [view.kind]
    if len(view.addresses) > 1:
        words.append(_count(len(view.addresses), "connection"))
    if view.lease_left:
        words.append(f"cut off, counts for another {view.lease_left:.0f} s")
    return f"{view.host} ({', '.join(words)})"


# -- the front door


def door(view: DoorView, out: Out = None) -> None:
    memory = view.memory
    tls = {
        "off": "off: everybody is served in the clear",
        "required": "required",
        "per-export": "per export: what has no rule is served in the clear",
    }
    facts(
        [
            ("tls", tls.get(view.tls, view.tls)),
            ("certificates", view.folder and f"{view.folder}, until {view.certificate_until}"),
            ("clients", "must have a certificate" if view.verify_clients else "are not verified"),
            ("empty name", view.default or "the only volume, if there is one"),
            ("tables", _part(memory.tables, memory.tables_limit)),
            ("held for clients", _part(memory.clients, memory.clients_limit)),
        ],
        out,
    )
    if view.rules:
        rules = [
            [r.export, "required" if r.tls else "optional", _hosts(r.hosts)] for r in view.rules
        ]
        table("", ["RULE FOR", "TLS", "HOSTS"], rules, out)
    if view.clients:
        guests = [[g.export, g.host, g.kind, shorten(g.addresses)] for g in view.clients]
        table("", ["EXPORT", "CLIENT", "KNOWN BY", "CONNECTIONS"], guests, out)


def _part(used: int, limit: int) -> str:
    return f"{format_size(used)} of {format_size(limit)}"


def _hosts(hosts: Sequence[str] | None) -> str:
    if hosts is None:
        return "any"
    return shorten(hosts) or "none"


def reloaded(view: ReloadView, out: Out = None) -> None:
    gone = f"; {_count(view.clients_gone, 'client')} let go" if view.clients_gone else ""
    print(f"certificates and rules reloaded{gone}", file=out or sys.stdout)


# -- copies


def copies(views: Sequence[CopyView], out: Out = None, title: str = "") -> None:
    rows = [
        [
            v.name,
            v.time,
            "clone" if v.writable else "snapshot",
            v.consistency,
            v.group or "-",
            v.held or "-",
            shorten([m.export for m in v.members]),
        ]
        for v in views
    ]
    heads = ["COPY", "TAKEN", "KIND", "CONSISTENT", "MIRROR", "HELD", "EXPORTS"]
    table(title, heads, rows, out)


def shorten(names: Sequence[str], at_most: int = 3) -> str:
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return " ".join(names[:at_most]) + more


_CONSISTENT: Final = {
    "crash": "as after a power cut: all volumes at one instant",
    "filesystem": "file systems were frozen, so that they need no recovery",
    "application": "the application held still and vouches for it",
}


def copy(view: CopyView, out: Out = None) -> None:
    facts(
        [
            ("name", view.name),
            ("kind", "clone (writable)" if view.writable else "snapshot (read-only)"),
            ("as of" if view.as_of_cut else "taken", view.time),
            ("cut", str(view.as_of_cut or "")),
            ("consistent", _CONSISTENT[view.consistency]),
            ("expendable", "goes when space runs short" if view.expendable else ""),
            ("mirror", view.group and f"came with group {view.group}"),
            ("there", view.origin and f"called {view.origin}; that name was taken here"),
            ("mirror", view.kept_from and f"kept; group {view.kept_from} has it no more"),
            ("schedule", view.schedule and f"{view.schedule} ({', '.join(view.rules)})"),
            ("stays", ", ".join(filter(None, (view.held, view.held and view.hold_reason)))),
        ],
        out,
    )
    rows = [[m.export, format_size(m.size), m.source or "(deleted)"] for m in view.members]
    table("", ["EXPORT", "SIZE", "OF"], rows, out)


# -- disaster


def promoted(view: PromoteView, out: Out = None) -> None:
    known = view.lost_bytes >= 0
    lost = f"{format_size(max(view.lost_bytes, 0))} that the primary had announced"
    facts(
        [
            ("promoted", f"{view.group} in {format_span(view.seconds)}, now epoch {view.epoch}"),
            ("stands at", f"cut {view.cut}, placed {view.cut_time}"),
            (
                "recovery point",
                f"{view.recovery_point_time} ({format_span(view.recovery_point_age)} ago)",
            ),
            ("known lost", lost if known else "unknown: the primary was not heard"),
            ("last heard", view.last_heard_time or "not since this controller started"),
            ("dropped", f"{format_size(view.incoming_bytes_dropped)} of an incomplete cut"),
            ("volumes", ", ".join(view.volumes)),
            ("copies", ", ".join(view.copies)),
        ],
        out,
    )


# -- everything


def filters(views: Sequence[FilterView], out: Out = None, title: str = "") -> None:
    rows = [(view.export, " ".join(view.filters)) for view in views]
    table(title, ("EXPORT", "FILTERS"), rows, out)


def scrubbed(view: ScrubView) -> str:
    """One line: the last complete scrub, and the one that is going on."""
    if view.completed:
        damage = view.completed_damaged
        found = f"{damage} damaged ranges" if damage else "no damage"
        words = [f"complete {format_span(view.completed_age)} ago, {found}"]
    else:
        words = ["never complete"]
    if view.state in ("running", "paused"):
        words.append(f"{view.state} at {percent(view)}")
        if view.damaged:
            words.append(f"{view.damaged} damaged ranges so far")
    return "; ".join(words)


def percent(view: ScrubView) -> str:
    """Rounded down: 100 % means all."""
    return f"{view.verified * 1000 // view.living / 10:.1f} %" if view.living else "-"


def site(view: SiteView, out: Out = None) -> None:
    """One screen: what is here, how far behind it is, and how much room is left."""
    out = out or sys.stdout
    print(f"isochrone {view.version}  {view.directory}  {view.time}", file=out)
    if view.failed:
        print(f"READ-ONLY: {view.failed}", file=out)
    if view.certificates:
        print(f"attention: {view.certificates}", file=out)
    space = view.space
    print(
        f"log {format_size(space.log_bytes)} in {_count(space.log_segments, 'segment')},"
        f" {format_size(space.free_bytes)} free on disk",
        file=out,
    )
    if view.scrub is not None and view.scrub.started_time:
        print(f"scrub {scrubbed(view.scrub)}", file=out)
    if not (view.volumes or view.copies or view.groups):
        print("\nnothing here yet; begin with: isochrone volume create NAME SIZE", file=out)
        return
    if view.volumes:
        volumes(view.volumes, out, "\nVolumes")
    if view.copies:
        copies(view.copies[-COPIES_SHOWN:], out, "\nCopies")
        if len(view.copies) > COPIES_SHOWN:
            older = len(view.copies) - COPIES_SHOWN
            print(f"and {older} older: isochrone copy list", file=out)
    if view.schedules:
        from isochrone.control.render_schedules import schedules

        schedules(view.schedules, out, "\nSchedules")
    if view.holds_lag > HOLDS_LAG_SHOWN_S:
        print(
            f"\nthe clock went ahead or the controller was down: holds end"
            f" {format_span(view.holds_lag)} later than their date",
            file=out,
        )
    if view.groups:
        from isochrone.control.render_mirror import groups

        groups(view.groups, out, "\nGroups")
    if view.filters:
        filters(view.filters, out, "\nFilters: a drill goes on")
