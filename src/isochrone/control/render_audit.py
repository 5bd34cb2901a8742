"""The audit for people."""

from __future__ import annotations

from isochrone.control.audit import AuditEntry, AuditList
from isochrone.control.render import Out, table


def entries(view: AuditList, out: Out = None) -> None:
    rows = [
        [
            entry.time,
            entry.volume,
            entry.act,
            "allowed" if entry.allowed else "refused",
            entry.why,
            _who(entry),
        ]
        for entry in view.entries
    ]
    table("", ["TIME", "VOLUME", "TO BE", "RESULT", "BECAUSE", "OPEN AT"], rows, out)


def _who(entry: AuditEntry) -> str:
    names = [f"{each.host} ({each.role}{', lost' if each.lost else ''})" for each in entry.attached]
    return ", ".join(names) or "-"
