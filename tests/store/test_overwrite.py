from __future__ import annotations

import contextlib
from typing import Any

import pytest

from isochrone.errors import Conflict, Damaged
from isochrone.store import overwrite, relations, volumes
from isochrone.store import records as r
from isochrone.store.check import check_pool
from isochrone.store.overlay import Decision
from isochrone.store.overwrite import Permission, Rehearsed
from isochrone.store.pool import Pool
from isochrone.store.relations import Span, Wish
from isochrone.types import MIB
from tests.store.pools import Rig


@pytest.fixture
def pool() -> Pool:
    """b is mirrored, and followed by one secondary."""
    pool = Rig().open()
    for name in "abc":
        volumes.create(pool, name, MIB)
    pool.record(r.GroupCreated(name="g", lineage="ab" * 16, volumes=(pool.state.names["b"],)))
    pool.record(r.SessionOpened(group="g", peer="p"))
    return pool


def test_a_followed_volume_needs_a_word(pool: Pool) -> None:
    with pytest.raises(Conflict, match="mirrored with the group 'g'") as refused:
        relations.establish(pool, [Wish("a", "b")])
    assert "--mirror none" in refused.value.hint
    relations.establish(pool, [Wish("a", "b")], permission=Permission(mirror="none"))
    assert len(pool.state.groups["g"].images) == 1


def test_nobody_follows_and_no_word_is_needed(pool: Pool) -> None:
    relations.establish(pool, [Wish("b", "c")], once=True)
    pool.record(r.SessionClosed(group="g", peer="p"))
    relations.establish(pool, [Wish("a", "b")])
    assert pool.state.groups["g"].images == []


def test_images_are_bounded(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overwrite, "IMAGES_MAX", 2)
    agreed = Permission(mirror="none")
    for _ in range(2):
        relations.establish(pool, [Wish("a", "b")], once=True, permission=agreed)
    with pytest.raises(Conflict, match="2 changes of the group 'g' wait"):
        relations.establish(pool, [Wish("a", "b")], once=True, permission=agreed)


def test_images_get_numbers_of_their_own(pool: Pool) -> None:
    before = pool.state.next_id
    assert overwrite.images(pool, {1: (3,), 2: (1,), 3: (1,)}) == ((2, before),)
    assert overwrite.images(pool, {2: (1, 2)}, 50) == ((2, 50),)
    assert overwrite.images(pool, {2: ()}, 50) == ((2, 50),)
    assert overwrite.images(pool, {2: (2,)}, 50) == ((2, 0),)
    (made,) = relations.establish(pool, [Wish("a", "b")], permission=Permission(mirror="none"))
    (image,) = pool.state.groups["g"].images
    assert {made.id, image.image} == {before, before + 1}


def test_what_secondaries_have_needs_no_word(pool: Pool) -> None:
    half = Span(0, MIB // 2, MIB // 2)
    (made,) = relations.establish(pool, [Wish("b", "b", (half,))])
    relations.refresh(pool, [made])
    assert pool.state.groups["g"].images == [], "nothing is kept: they do the same by themselves"


def test_a_rehearsal_checks_everything_and_does_nothing(pool: Pool) -> None:
    lsn, told = pool.log.lsn, list[Decision]()
    pool.on_decision.append(told.append)
    with pytest.raises(Rehearsed) as seen:
        relations.establish(
            pool, [Wish("a", "b")], permission=Permission(mirror="preferred", rehearse=True)
        )
    assert seen.value.changes == {2: {1}}
    with pytest.raises(Conflict, match="mirrored with"):
        relations.establish(pool, [Wish("a", "b")], permission=Permission(rehearse=True))
    assert (pool.log.lsn, told, pool.state.relations) == (lsn, [], {})


@pytest.mark.parametrize(
    ("mirror", "allowed"), [("", False), ("required", False), ("preferred", True), ("none", True)]
)
def test_what_comes_from_outside(pool: Pool, mirror: Any, allowed: bool) -> None:
    with contextlib.nullcontext() if allowed else pytest.raises(Conflict, match="travel as data"):
        relations.establish(pool, [Wish("a", "b")], permission=Permission(mirror=mirror))


def test_a_lost_image_is_damage(pool: Pool) -> None:
    relations.establish(pool, [Wish("a", "b")], permission=Permission(mirror="none"))
    check_pool(pool)
    (image,) = pool.state.groups["g"].images
    pool.state.drop(image.image)
    with pytest.raises(Damaged, match="waits for an image"):
        check_pool(pool)
