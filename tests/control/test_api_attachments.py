"""Letting hosts go, and the audit, through the API."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2
import pytest

from isochrone.control.audit import AUDIT_NAME
from isochrone.store.attachments import LEASE_S, Attachments
from isochrone.store.pool import Pool
from isochrone.types import MIB, Caller, Proof
from isochrone.world.journal import Journal
from tests.store.pools import client
from tests.store.test_attachments import StoppedClock

HOST = Caller(Proof.CERTIFICATE, "db1", "192.0.2.1:9")


@pytest.fixture
def clock(pool: Pool) -> StoppedClock:
    """Leases that end when we say so."""
    clock = StoppedClock()
    pool.attached = Attachments(clock)
    return clock


@pytest.fixture
async def http(clock: StoppedClock, http: httpx2.AsyncClient) -> httpx2.AsyncClient:
    for name in ("a", "b"):
        body = {"name": name, "size": MIB}
        assert (await http.post("/v1/volumes", json=body)).status_code == 201
    return http


async def establish(http: httpx2.AsyncClient, **agreed: bool) -> httpx2.Response:
    body = {"pairs": [{"source": "a", "target": "b"}], "once": True, **agreed}
    return await http.post("/v1/relations", json=body)


async def entries(http: httpx2.AsyncClient, last: int = 100) -> list[dict[str, object]]:
    found: list[dict[str, object]] = (await http.get(f"/v1/audit?last={last}")).json()["entries"]
    return found


async def test_decisions_are_on_record_with_all_who_were_there(
    http: httpx2.AsyncClient, pool: Pool, fresh: Path
) -> None:
    assert (await establish(http)).status_code == 201
    pool.attached.attach(pool.state.names["b"], HOST)
    refused = await establish(http)
    assert (refused.status_code, refused.json()["type"]) == (409, "Conflict")
    assert "db1" in refused.json()["detail"]
    assert (await establish(http, force_overlay=True)).status_code == 201
    first, second, third = await entries(http)
    assert (first["allowed"], second["allowed"], third["allowed"]) == (True, False, True)
    assert third["why"] == "forced, although a host has it open"
    assert third["force_overlay"] is True
    (who,) = second["attached"]  # type: ignore[misc]
    assert (who["host"], who["kind"], who["addresses"], who["lost"]) == (
        "db1", "certificate", ["192.0.2.1:9"], False,
    )  # fmt: skip
    assert await entries(http, last=1) == [third]
    lines = (fresh / AUDIT_NAME).read_bytes().splitlines()
    assert [json.loads(line)["act"] for line in lines] == ["copied onto"] * 3


async def test_a_lost_host_is_let_go_by_an_operator_or_by_time(
    http: httpx2.AsyncClient, pool: Pool, clock: StoppedClock
) -> None:
    id = pool.state.names["b"]
    for ending in ("operator", "time"):
        pool.attached.attach(id, HOST)
        pool.attached.detach(id, HOST, lost=True)
        (seen,) = (await http.get("/v1/volumes/b")).json()["attachments"]
        assert seen["lease_left"] == LEASE_S
        assert "another 30 s" in (await establish(http)).json()["detail"]
        if ending == "operator":
            done = await http.delete("/v1/volumes/b/attachments/db1")
            assert (done.status_code, done.json()["attachments"]) == (200, [])
        else:
            clock.now += LEASE_S
        assert (await establish(http)).status_code == 201
    told = [(e["act"], e["why"]) for e in await entries(http) if e["act"] == "detached"]
    assert told == [
        ("detached", "an operator said that they are gone"),
        ("detached", "it was cut off, and its lease has ended"),
    ]


async def test_who_is_not_there_cannot_be_let_go(http: httpx2.AsyncClient, pool: Pool) -> None:
    pool.attached.attach(pool.state.names["b"], client("peer"), role="mover")
    for host in ("db1", "peer"):
        answer = await http.delete(f"/v1/volumes/b/attachments/{host}")
        assert (answer.status_code, answer.json()["type"]) == (404, "NotFound")
    assert (await http.delete("/v1/volumes/none/attachments/x")).status_code == 404
    assert await entries(http) == []


async def test_what_cannot_be_noted_is_not_done(
    http: httpx2.AsyncClient, pool: Pool, fresh: Path
) -> None:
    (fresh / AUDIT_NAME).mkdir()
    lsn = pool.log.lsn
    answer = await establish(http)
    assert (answer.status_code, answer.json()["type"]) == (503, "Unavailable")
    assert "nothing was done" in answer.json()["detail"]
    assert pool.log.lsn == lsn
    assert (await http.delete("/v1/volumes/b?force_overlay=true")).status_code == 503
    assert "b" in pool.state.names


async def test_nobody_hears_done_before_the_audit_is_durable(
    http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def sync(self: Journal) -> None:
        synced.append("sync")
        if len(synced) > 1:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(Journal, "sync", sync)
    assert (await establish(http)).status_code == 201
    assert (await http.get("/v1/volumes")).status_code == 200
    assert synced == ["sync"], "once for each that noted something"
    answer = await establish(http)
    assert (answer.status_code, len(synced)) == (503, 2)
    assert "cannot be made durable" in answer.json()["detail"]


async def test_forcing_a_volume_away(http: httpx2.AsyncClient, pool: Pool) -> None:
    pool.attached.attach(pool.state.names["b"], HOST)
    await http.patch("/v1/volumes/b", json={"size": 2 * MIB})
    smaller = {"size": MIB, "shrink": True}
    assert (await http.patch("/v1/volumes/b", json=smaller)).status_code == 409
    forced = await http.patch("/v1/volumes/b", json={**smaller, "force_overlay": True})
    assert forced.json()["size"] == MIB
    assert (await http.delete("/v1/volumes/b")).status_code == 409
    assert (await http.delete("/v1/volumes/b?force_overlay=true")).status_code == 204
    acts = [(e["act"], e["allowed"]) for e in await entries(http)]
    assert acts == [
        ("made smaller", False), ("made smaller", True), ("deleted", False), ("deleted", True),
    ]  # fmt: skip
