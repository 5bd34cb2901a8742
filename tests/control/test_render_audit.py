from __future__ import annotations

import io

from isochrone.control import render_audit
from isochrone.control.audit import AttachedView, AuditEntry, AuditList


def test_a_line_for_each_decision() -> None:
    def who(host: str, role: str, *, lost: bool = False) -> AttachedView:
        return AttachedView(role=role, kind="address", host=host, addresses=[], since="", lost=lost)

    out = io.StringIO()
    there = [who("db1", "app", lost=True), who("ab12", "mover")]
    entries = [
        AuditEntry(time="T1", act="reverted", volume="v", allowed=False, why="no", attached=there),
        AuditEntry(time="T2", act="deleted", volume="w", allowed=True, why="yes"),
    ]
    render_audit.entries(AuditList(entries=entries), out)
    head, first, second = out.getvalue().splitlines()
    assert head.split() == ["TIME", "VOLUME", "TO", "BE", "RESULT", "BECAUSE", "OPEN", "AT"]
    assert first.split() == [
        "T1", "v", "reverted", "refused", "no", "db1", "(app,", "lost),", "ab12", "(mover)",
    ]  # fmt: skip
    assert second.split() == ["T2", "w", "deleted", "allowed", "yes", "-"]
