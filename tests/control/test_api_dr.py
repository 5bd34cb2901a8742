"""The routes of takeovers, without a process around them; what they do is tested in `dr`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest

from isochrone.control.api import make_app
from isochrone.mirror import groups
from isochrone.mirror.service import Mirrors
from isochrone.store import records as r
from isochrone.store import volumes
from isochrone.store.pool import Pool
from isochrone.types import MIB

Call = Any


@pytest.fixture
def call(pool: Pool, tmp_path: Path) -> Call:
    volumes.create(pool, "db", MIB)
    groups.create(pool, "g", ["db"])
    app = make_app(pool, Mirrors(pool, pool.world, interval=1.0), tmp_path)

    async def ask(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = await client.request(method, f"/v1/{path}", json=body)
            return answer.status_code, answer.json()

    return ask


@pytest.mark.parametrize(
    ("method", "path", "body", "words"),
    [
        ("GET", "groups/g/loss", None, "primary here already"),
        ("POST", "groups/g/promote", None, "primary here already"),
        ("POST", "groups/g/promote", {"force": True}, "primary here already"),
        ("POST", "groups/g/switch", {"address": "x:1"}, "no other site was asked"),
        ("POST", "groups/g/switch", {}, "listens nowhere"),
        ("POST", "groups/g/switch/cancel", None, "cannot be kept"),
        ("POST", "groups/g/rejoin", {}, "not known where"),
    ],
)
async def test_a_primary_has_nothing_to_take_over(
    call: Call, method: str, path: str, body: Any, words: str
) -> None:
    status, problem = await call(method, path, body)
    assert status == 409
    assert words in problem["detail"]


async def test_what_is_held_can_be_let_go(call: Call, pool: Pool) -> None:
    pool.record(r.HandoverBegun(group="g", peer="p", stamp=1))
    status, view = await call("GET", "groups/g")
    assert (status, view["handover"]) == (200, True)
    assert "switch g" in view["next_command"]
    status, view = await call("POST", "groups/g/switch/cancel")
    assert (status, view["handover"], view["next_command"]) == (200, False, "")


async def test_bodies_are_checked(call: Call) -> None:
    assert (await call("POST", "groups/g/switch", {"timeout": 0}))[0] == 422
    assert (await call("POST", "groups/g/rejoin", {"from": "x"}))[0] == 422
    assert (await call("GET", "groups/nix/loss"))[0] == 404
