"""Production is not overlaid: the table, the people at it, and what the audit hears."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from isochrone.errors import Conflict
from isochrone.store import copies, relations, volumes
from isochrone.store import records as r
from isochrone.store.attachments import LEASE_S
from isochrone.store.front import PoolBackend
from isochrone.store.overlay import Decision
from isochrone.store.overwrite import Permission
from isochrone.store.pool import Pool
from isochrone.store.relations import Wish
from isochrone.store.revert import revert
from isochrone.types import BLOCK, MIB
from tests.store.pools import Rig, client, get, pattern, put

MOVER, HOST = client("mover"), client("host")


@pytest.fixture
def pool() -> Pool:
    pool = Rig().open()
    for n, name in enumerate("ab"):
        volumes.create(pool, name, MIB)
        put(pool, name, 0, pattern(n))
    return pool


@pytest.fixture
def heard(pool: Pool) -> list[Decision]:
    heard: list[Decision] = []
    pool.on_decision.append(heard.append)
    return heard


def mirror(pool: Pool) -> None:
    """`b` is a mirror primary, and its mover is here."""
    id = pool.state.names["b"]
    pool.record(r.GroupCreated(name="g", lineage="ab" * 16, volumes=(id,)))
    pool.record(r.SessionOpened(group="g", peer="ab" * 16))
    pool.attached.attach(id, MOVER, role="mover", read_only=True)


def establish(pool: Pool, **agreed: bool | str) -> None:
    permission = Permission(**agreed)  # type: ignore[arg-type]
    relations.establish(pool, [Wish("a", "b")], once=True, permission=permission)


def test_a_mirror_primary_that_only_its_mover_uses(pool: Pool, heard: list[Decision]) -> None:
    mirror(pool)
    establish(pool, mirror="none")
    assert get(pool, "b", 0, BLOCK) == pattern(0)
    (decision,) = heard
    assert (decision.mirrored, decision.verdict.perform) == (True, True)
    assert [each.role for each in decision.attached] == ["mover"]


@pytest.mark.parametrize("online_ok", [False, True])
def test_a_mirror_primary_that_a_host_uses(
    pool: Pool, heard: list[Decision], online_ok: bool
) -> None:
    mirror(pool)
    PoolBackend(pool).attach("b", HOST)
    lsn = pool.log.lsn
    with pytest.raises(Conflict, match="'b' is in use by host") as e:
        establish(pool, mirror="none", online_ok=online_ok)
    assert ("and is mirrored" in e.value.message) is online_ok
    assert "isochrone volume detach b --host 'host'" in e.value.hint
    assert (pool.log.lsn, get(pool, "b", 0, BLOCK)) == (lsn, pattern(1))
    (decision,) = heard
    assert not decision.verdict.perform
    assert {each.host for each in decision.attached} == {"host", "mover"}
    establish(pool, mirror="none", online_ok=online_ok, force=True)
    assert get(pool, "b", 0, BLOCK) == pattern(0)
    assert "forced" in heard[-1].verdict.why


def test_a_plain_volume_that_a_host_uses(pool: Pool, heard: list[Decision]) -> None:
    PoolBackend(pool).attach("b", HOST)
    with pytest.raises(Conflict, match="in use by host"):
        establish(pool)
    establish(pool, online_ok=True)
    assert [decision.verdict.perform for decision in heard] == [False, True]


def test_a_mover_is_one_only_as_such(pool: Pool) -> None:
    """A block client that presents itself with a mover's name is an application."""
    mirror(pool)
    PoolBackend(pool).attach("b", MOVER)
    with pytest.raises(Conflict, match="in use by mover"):
        establish(pool, mirror="none")


def test_a_mover_that_moves_to_another_host(pool: Pool) -> None:
    """The session says who its mover is; where it ran before is a host like any other."""
    mirror(pool)
    id = pool.state.names["b"]
    pool.attached.attach(id, HOST, role="mover", read_only=True)
    pool.attached.detach(id, MOVER, role="mover")
    establish(pool, mirror="none")
    PoolBackend(pool).attach("b", MOVER)
    with pytest.raises(Conflict, match="in use by mover"):
        establish(pool, mirror="none")


def test_a_host_that_was_cut_off(pool: Pool) -> None:
    backend = PoolBackend(pool)
    backend.detach(backend.attach("b", HOST), HOST, lost=True)
    with pytest.raises(Conflict, match=rf"cut off and expected back for another {LEASE_S:.0f} s"):
        establish(pool)
    pool.attached.evict(pool.state.names["b"], "host")
    establish(pool)


def test_a_host_that_reads_a_snapshot_does_not_come_back(pool: Pool) -> None:
    copies.take(pool, ["b"], name="s")
    backend = PoolBackend(pool)
    device = backend.attach("b@s", HOST)
    with pytest.raises(Conflict, match="in use"):
        copies.delete(pool, "s")
    backend.detach(device, HOST, lost=True)
    copies.delete(pool, "s")


def test_all_that_overlays_passes_the_fence(pool: Pool, heard: list[Decision]) -> None:
    copies.take(pool, ["b"], name="p")
    (made,) = relations.establish(pool, [Wish("b", "a")])
    volumes.resize(pool, "b", 2 * MIB)
    heard.clear()
    PoolBackend(pool).attach("b", HOST)

    def refused(act: str, run: Callable[[], object]) -> None:
        with pytest.raises(Conflict, match="'b' is in use by host"):
            run()
        (decision,) = heard
        assert (decision.act, decision.verdict.perform) == (act, False)
        heard.clear()

    refused("restored", lambda: relations.restore(pool, [made]))
    refused("reverted", lambda: revert(pool, "p"))
    relations.withdraw(pool, [made], discard=False)
    refused("copied onto", lambda: relations.establish(pool, [Wish("a", "b")]))
    refused("made smaller", lambda: volumes.resize(pool, "b", MIB, shrink=True))
    refused("deleted", lambda: volumes.delete(pool, "b"))


def test_what_the_audit_cannot_note_is_not_done(pool: Pool) -> None:
    def full(_: Decision) -> None:
        raise Conflict("no room")

    pool.on_decision.append(full)
    lsn = pool.log.lsn
    with pytest.raises(Conflict, match="no room"):
        establish(pool)
    assert pool.log.lsn == lsn
