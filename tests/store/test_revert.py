from __future__ import annotations

import pytest

from isochrone.errors import Conflict, InvalidInput, IsochroneError, NotFound, ReadOnly
from isochrone.store import copies, relations, volumes
from isochrone.store import records as r
from isochrone.store.check import check_pool
from isochrone.store.front import PoolBackend
from isochrone.store.pool import Pool
from isochrone.store.relations import Span, Wish
from isochrone.store.revert import revert
from isochrone.types import MIB, TRACK, Caller, Proof
from tests.store.pools import Rig, get, pattern, put, settle

HOST = Caller(Proof.ADDRESS, "10.0.0.9", "10.0.0.9:1234")


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def pool(rig: Rig) -> Pool:
    """a and b were copied as p, and changed since: a has grown."""
    pool = rig.open()
    for n, name in enumerate("ab"):
        volumes.create(pool, name, MIB)
        put(pool, name, 0, pattern(n, MIB))
    copies.take(pool, ["a", "b"], name="p")
    volumes.resize(pool, "a", 2 * MIB)
    put(pool, "a", MIB, pattern(5, MIB))
    put(pool, "b", 0, pattern(6))
    return pool


def test_all_members_go_back_at_once_and_forth_again(rig: Rig, pool: Pool) -> None:
    before = get(pool, "a"), get(pool, "b")
    copies.take(pool, ["b"], name="newer")
    undo = revert(pool, "p")
    assert (get(pool, "a"), get(pool, "b")) == (pattern(0, MIB), pattern(1, MIB))
    assert undo.name.startswith("before-revert-")
    assert get(pool, "b@newer") == before[1]
    put(pool, "a", 0, pattern(7))
    assert get(pool, "a@p") == pattern(0, MIB)
    settle(pool.flush())
    pool = rig.cut()
    assert get(pool, "a") == pattern(7) + pattern(0, MIB)[4096:]
    revert(pool, undo.name, undo_name="again")
    assert (get(pool, "a"), get(pool, "b")) == before
    check_pool(pool)


def test_one_volume_goes_back_alone(pool: Pool) -> None:
    b = get(pool, "b")
    undo = revert(pool, "p", ["a"], undo_name="u")
    assert get(pool, "a") == pattern(0, MIB)
    assert get(pool, "b") == b
    assert [pool.state.volumes[m].name for _, m in undo.members] == ["a@u"]


def test_two_reverts_of_one_instant_have_two_names(pool: Pool) -> None:
    names = {revert(pool, "p").name for _ in range(3)}
    assert len(names) == 3


@pytest.mark.parametrize(
    ("name", "chosen", "undo", "kind", "words"),
    [
        ("nothing", [], "", NotFound, "no copy 'nothing'"),
        ("p", ["c"], "", NotFound, "has no volume 'c'"),
        ("p", ["a", "a"], "", InvalidInput, "named twice"),
        ("p", [], "p", Conflict, "a copy 'p' already"),
        ("p", [], "no good", InvalidInput, "cannot be the name"),
    ],
)
def test_what_makes_no_sense_is_refused(
    pool: Pool, name: str, chosen: list[str], undo: str, kind: type[IsochroneError], words: str
) -> None:
    lsn = pool.log.lsn
    with pytest.raises(kind, match=words):
        revert(pool, name, chosen, undo_name=undo)
    assert pool.log.lsn == lsn


def test_a_deleted_volume_cannot_go_back(pool: Pool) -> None:
    volumes.delete(pool, "b")
    with pytest.raises(Conflict, match="'b@p' is a copy of has been deleted") as refused:
        revert(pool, "p")
    assert "--volume" in refused.value.hint
    revert(pool, "p", ["a"])


def test_who_is_attached_keeps_a_volume(pool: Pool) -> None:
    PoolBackend(pool).attach("b", HOST)
    with pytest.raises(Conflict, match="'b' is in use"):
        revert(pool, "p")
    revert(pool, "p", ["a"])


def test_relations_are_respected(pool: Pool) -> None:
    (onto,) = relations.establish(pool, [Wish("a", "b", (Span(MIB, 0, TRACK),))])
    with pytest.raises(Conflict, match="'b' cannot be reverted"):
        revert(pool, "p", ["b"])
    with pytest.raises(Conflict, match="'a' cannot be made smaller"):
        revert(pool, "p", ["a"])
    relations.withdraw(pool, [onto], discard=False)
    revert(pool, "p")


def test_what_another_site_writes_is_not_reverted(pool: Pool) -> None:
    pool.record(r.GroupCreated(name="g", lineage="ab" * 16, volumes=(pool.state.names["a"],)))
    pool.record(r.Fenced(group="g", epoch=2))
    with pytest.raises(ReadOnly, match="'a' cannot be reverted"):
        revert(pool, "p")
