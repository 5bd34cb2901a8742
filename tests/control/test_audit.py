"""The audit as a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from isochrone.control.audit import AUDIT_NAME, ENTRIES_MAX, Audit
from isochrone.errors import Unavailable
from isochrone.store.attachments import Attachment
from isochrone.store.overlay import FORCED, Decision
from isochrone.store.pool import Pool
from isochrone.types import Proof

HOST = Attachment("app", Proof.CERTIFICATE, "db1", False, 10**18, {"192.0.2.1:9": 2})


def decision(act: str) -> Decision:
    return Decision(act, "v", True, False, True, (HOST,), FORCED)


async def test_all_of_a_decision_comes_back(pool: Pool, fresh: Path) -> None:
    audit = Audit(fresh, pool)
    audit.decided(decision("reverted"))
    await audit.settle()
    (entry,) = Audit(fresh, pool).last(10)
    assert (entry.act, entry.volume, entry.allowed, entry.why) == (
        "reverted", "v", True, FORCED.why,
    )  # fmt: skip
    assert (entry.mirrored, entry.online_ok, entry.force_overlay) == (True, False, True)
    (who,) = entry.attached
    assert (who.role, who.kind, who.host, who.addresses, who.lost) == (
        "app", "certificate", "db1", ["192.0.2.1:9"], False,
    )  # fmt: skip
    assert who.since.startswith("2001-09-09T01:46:40")


async def test_a_pool_tells_it_what_it_decides(pool: Pool, fresh: Path) -> None:
    audit = Audit(fresh, pool)
    for tell in pool.on_decision:
        tell(decision("deleted"))
    for expired in pool.attached.on_expired:
        expired(77, HOST)
    assert [(e.act, e.volume) for e in audit.last(10)] == [
        ("deleted", "v"), ("detached", "(deleted, number 77)"),
    ]  # fmt: skip


async def test_a_lease_that_ends_unaudited_stops_nothing(pool: Pool, fresh: Path) -> None:
    audit = Audit(fresh, pool)
    (fresh / AUDIT_NAME).mkdir()
    for expired in pool.attached.on_expired:
        expired(77, HOST)
    with pytest.raises(Unavailable, match="so nothing was done"):
        audit.decided(decision("deleted"))
    with pytest.raises(Unavailable, match="cannot be read"):
        audit.last(1)


async def test_a_listing_is_bounded(pool: Pool, fresh: Path) -> None:
    audit = Audit(fresh, pool)
    for n in range(5):
        audit.decided(decision(f"act {n}"))
    assert [entry.act for entry in audit.last(2)] == ["act 3", "act 4"]
    assert len(audit.last(ENTRIES_MAX * 10)) == 5


async def test_torn_lines_are_left_out(pool: Pool, fresh: Path) -> None:
    (fresh / AUDIT_NAME).write_bytes(b'{"time": "x", "act"')
    audit = Audit(fresh, pool)
    audit.detached("v", [])
    assert [entry.volume for entry in audit.last(10)] == ["v"]
