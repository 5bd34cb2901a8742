"""The API over a real pool: what it answers, and how it says no."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from isochrone.control import api, views
from isochrone.control.api import BODY_BYTES_MAX, make_app
from isochrone.errors import PoolFailed
from isochrone.mirror.service import Mirrors
from isochrone.store.pool import Pool
from isochrone.types import MIB, Caller, Proof


async def make(http: httpx2.AsyncClient, name: str, size: int = MIB) -> None:
    response = await http.post("/v1/volumes", json={"name": name, "size": size})
    assert response.status_code == 201, response.text


def check_problem(response: httpx2.Response, type: str, status: int, code: int) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    found = (problem["type"], problem["status"], response.status_code, problem["exit_code"])
    assert found == (type, status, status, code), problem
    assert problem["title"]
    assert problem["detail"]
    return problem


async def test_a_volume_from_create_to_delete(http: httpx2.AsyncClient) -> None:
    created = await http.post("/v1/volumes", json={"name": "v", "size": MIB})
    assert created.status_code == 201
    assert created.json() == {
        "name": "v", "size": MIB, "mapped": 0, "kind": "volume", "read_only": False,
        "description": "volume", "group": "", "copy": "", "source": "", "clients": [],
        "attachments": [], "labels": {},
    }  # fmt: skip
    assert (await http.get("/v1/volumes/v")).json() == created.json()
    grown = await http.patch("/v1/volumes/v", json={"size": 2 * MIB})
    assert grown.json()["size"] == 2 * MIB
    assert len((await http.get("/v1/volumes")).json()["volumes"]) == 1
    assert (await http.delete("/v1/volumes/v")).status_code == 204
    check_problem(await http.get("/v1/volumes/v"), "NotFound", 404, 3)


async def test_a_change_is_durable_before_the_answer(http: httpx2.AsyncClient, pool: Pool) -> None:
    for method, path, body in (
        ("POST", "/v1/volumes", {"name": "v", "size": MIB}),
        ("POST", "/v1/volumes", {"name": "w", "size": MIB}),
        ("PATCH", "/v1/volumes/v", {"size": 2 * MIB}),
        ("POST", "/v1/copies", {"volumes": ["v"], "name": "c"}),
        ("POST", "/v1/groups", {"name": "g", "volumes": ["v"]}),
        ("DELETE", "/v1/copies/c", None),
        ("DELETE", "/v1/volumes/w", None),
    ):
        before = pool.log.lsn
        assert (await http.request(method, path, json=body)).is_success
        assert pool.log.lsn > before
        assert pool.log.durable == pool.log.lsn, f"{method} {path}"


async def test_shrinking_must_be_meant(http: httpx2.AsyncClient) -> None:
    await make(http, "v", 2 * MIB)
    problem = check_problem(
        await http.patch("/v1/volumes/v", json={"size": MIB}), "Conflict", 409, 4
    )
    assert "--shrink" in problem["hint"]
    shrunk = await http.patch("/v1/volumes/v", json={"size": MIB, "shrink": True})
    assert shrunk.json()["size"] == MIB


async def test_copies(http: httpx2.AsyncClient) -> None:
    await make(http, "a")
    await make(http, "b")
    taken = await http.post("/v1/copies", json={"volumes": ["a", "b"], "name": "c"})
    assert taken.status_code == 201
    assert [m["export"] for m in taken.json()["members"]] == ["a@c", "b@c"]
    assert (await http.get("/v1/copies/c")).json() == taken.json()
    assert (await http.get("/v1/copies")).json() == {"copies": [taken.json()]}
    member = (await http.get("/v1/volumes/a@c")).json()
    assert (member["kind"], member["read_only"], member["source"]) == ("snapshot", True, "a")
    assert (await http.delete("/v1/copies/c")).status_code == 204
    check_problem(await http.delete("/v1/copies/c"), "NotFound", 404, 3)


async def test_a_copy_of_something_missing_copies_nothing(
    http: httpx2.AsyncClient, pool: Pool
) -> None:
    await make(http, "a")
    before = pool.log.lsn
    response = await http.post("/v1/copies", json={"volumes": ["a", "nix"], "name": "c"})
    check_problem(response, "NotFound", 404, 3)
    assert (pool.log.lsn, pool.state.copies) == (before, {})


async def test_groups(http: httpx2.AsyncClient) -> None:
    await make(http, "a")
    created = await http.post("/v1/groups", json={"name": "g", "volumes": ["a"]})
    assert created.status_code == 201
    assert (created.json()["role"], created.json()["volumes"]) == ("primary", ["a"])
    assert [g["group"] for g in (await http.get("/v1/groups")).json()["groups"]] == ["g"]
    check_problem(await http.delete("/v1/volumes/a"), "Conflict", 409, 4)
    check_problem(await http.post("/v1/groups/g/promote"), "Conflict", 409, 4)
    check_problem(await http.get("/v1/groups/nix"), "NotFound", 404, 3)


async def test_a_mirror_of_nobody_leaves_nothing(http: httpx2.AsyncClient, fresh: Path) -> None:
    body = {"group": "g", "source": str(fresh / "nobody.sock")}
    check_problem(await http.post("/v1/mirrors", json=body), "Unavailable", 503, 5)
    assert (await http.get("/v1/groups")).json() == {"groups": []}
    check_problem(await http.delete("/v1/mirrors/g"), "NotFound", 404, 3)
    check_problem(await http.post("/v1/mirrors/g/wait", json={"timeout": 1}), "NotFound", 404, 3)


async def test_everything_at_once(http: httpx2.AsyncClient, pool: Pool, fresh: Path) -> None:
    await make(http, "a")
    site = (await http.get("/v1/status")).json()
    assert set(site) == set(views.SiteView.__struct_fields__)
    assert (site["pool"], site["directory"]) == (pool.identity, str(fresh))
    assert site["space"]["log_segments"] == 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "v"},
        {"name": "v", "size": "1MiB"},
        {"name": "v", "size": 1048576.5},
        {"name": "v", "size": MIB, "colour": "green"},
        {"name": "-v", "size": MIB},
        {"name": "v@c", "size": MIB},
        {"name": "v", "size": 1},
        [],
    ],
)
async def test_malformed_requests(http: httpx2.AsyncClient, pool: Pool, body: Any) -> None:
    check_problem(await http.post("/v1/volumes", json=body), "InvalidInput", 422, 2)
    assert pool.log.lsn == 0


async def test_not_json(http: httpx2.AsyncClient) -> None:
    response = await http.post(
        "/v1/volumes", content=b"{", headers={"content-type": "application/json"}
    )
    check_problem(response, "InvalidInput", 422, 2)


async def test_a_body_over_the_limit(http: httpx2.AsyncClient, pool: Pool) -> None:
    response = await http.post("/v1/volumes", json={"name": "v" * BODY_BYTES_MAX, "size": MIB})
    assert response.status_code == 413
    assert pool.log.lsn == 0


async def test_no_such_path(http: httpx2.AsyncClient) -> None:
    check_problem(await http.get("/v1/nix"), "about:blank", 404, 1)
    check_problem(await http.put("/v1/volumes", json={}), "about:blank", 405, 1)


async def test_a_failed_pool_says_so(http: httpx2.AsyncClient, pool: Pool) -> None:
    assert (await http.get("/readyz")).status_code == 200
    pool.failed = "a sync failed"
    body = {"name": "v", "size": MIB}
    problem = check_problem(await http.post("/v1/volumes", json=body), "PoolFailed", 500, 9)
    assert problem["hint"] == PoolFailed.hint_default
    assert (await http.get("/readyz")).status_code == 503
    assert (await http.get("/healthz")).status_code == 200
    assert (await http.get("/v1/status")).json()["failed"] == "a sync failed"
    pool.failed = ""


async def test_a_bug_is_a_problem_document(
    http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(api.volumes, "find", broken)
    problem = check_problem(await http.get("/v1/volumes/v"), "InternalError", 500, 1)
    assert "ZeroDivisionError: oops" in problem["detail"]


async def test_the_openapi_document_is_whole(http: httpx2.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    schemas = document["components"]["schemas"]

    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            here = {value["$ref"]} if "$ref" in value else set()
            return here.union(*map(references, value.values()))
        return set().union(*map(references, value)) if isinstance(value, list) else set()

    names = {reference.removeprefix("#/components/schemas/") for reference in references(document)}
    assert names <= set(schemas)
    assert {"VolumeView", "GroupView", "PeerStatus", "Problem"} <= names


@pytest.fixture
async def tcp(pool: Pool, fresh: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """As over a port: the server has a name and a number."""
    inner = make_app(pool, Mirrors(pool, pool.world), fresh)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await inner({**scope, "server": ("127.0.0.1", 8000)}, receive, send)

    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        yield client


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:8000"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"host": "evil.example:8000"}, 403),  # its name was made to resolve to this machine
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"origin": "http://evil.example"}, 403),  # a page that posts here
        ({"origin": "null"}, 403),
    ],
)
async def test_web_pages_are_kept_out(
    tcp: httpx2.AsyncClient, headers: dict[str, str], status: int
) -> None:
    assert (await tcp.get("/v1/status", headers=headers)).status_code == status


async def test_the_door(http: httpx2.AsyncClient, pool: Pool, fresh: Path) -> None:
    shown = (await http.get("/v1/door")).json()
    assert set(shown) == set(views.DoorView.__struct_fields__)
    assert (shown["tls"], shown["rules"], shown["clients"]) == ("off", [], [])
    assert shown["memory"]["tables_limit"] == pool.limits.node_bytes
    await make(http, "v")
    pool.attached.attach(pool.state.names["v"], Caller(Proof.USER, "uid 7", "unix#1"))
    (guest,) = (await http.get("/v1/door")).json()["clients"]
    assert guest.pop("since")
    assert guest == {
        "export": "v", "role": "app", "kind": "user", "host": "uid 7", "addresses": ["unix#1"],
        "read_only": False, "lease_left": 0.0,
    }  # fmt: skip


async def test_reloading_the_door(http: httpx2.AsyncClient, fresh: Path) -> None:
    (fresh / "exports.toml").write_text('default = "v"')
    assert (await http.post("/v1/door/reload")).json() == {"clients_gone": 0}
    (fresh / "exports.toml").write_text("default = 7")
    problem = check_problem(await http.post("/v1/door/reload"), "InvalidInput", 422, 2)
    assert "what was in force still is" in problem["detail"]
    assert (await http.get("/v1/door")).json()["default"] == "v"
