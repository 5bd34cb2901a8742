"""What is touched for one copy beside very many: counted, not timed."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from isochrone.errors import IsochroneError, Unavailable
from isochrone.store import checkpoint, copies, holds, relations, revert, volumes
from isochrone.store import records as r
from isochrone.store.cleaner import Cleaner
from isochrone.store.metadata import Item, Metadata, item_bytes
from isochrone.store.pool import Pool
from isochrone.types import BLOCK, MIB
from tests.store.pools import Rig, catalogue, device, pattern, put, settle, shown

MANY = 400
WIDTH = 4


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def pool(rig: Rig) -> Pool:
    """With many copies, saved."""
    pool = rig.open()
    for n in range(WIDTH):
        volumes.create(pool, f"v{n}", MIB)
        put(pool, f"v{n}", 0, pattern(n))
    for n in range(MANY):
        copies.take(pool, [f"v{m}" for m in range(WIDTH)], name=f"c{n}")
    settle(pool.checkpoint())
    return pool


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[Item]:
    """Every item that a checkpoint encodes."""
    found: list[Item] = []

    def counting(item: Item) -> bytes:
        found.append(item)
        return item_bytes(item)

    monkeypatch.setattr(checkpoint, "item_bytes", counting)
    return found


def names(items: list[Item]) -> list[str]:
    return sorted(str(getattr(item, "name", item)) for item in items)


MEMBERS = [f"v{n}" for n in range(WIDTH)]


def test_a_checkpoint_encodes_what_a_copy_added(pool: Pool, encoded: list[Item]) -> None:
    copies.take(pool, MEMBERS, name="new")
    settle(pool.checkpoint())
    assert names(encoded) == sorted(["new", *(f"{name}@new" for name in MEMBERS)])
    encoded.clear()
    settle(pool.checkpoint())
    assert encoded == []


def test_and_what_a_deletion_or_a_write_changed(pool: Pool, encoded: list[Item]) -> None:
    copies.delete(pool, "c7")
    put(pool, "v2", 0, b"x")
    settle(pool.checkpoint())
    assert names(encoded) == ["v2"]
    assert "c7" not in {getattr(item, "name", "") for item in pool._metadata.items()}


def test_a_checkpoint_writes_the_rows_of_what_changed(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[tuple[str, tuple[int | str, ...]]] = []
    put_row = Metadata._put

    def counting(self: Metadata, table: str, key: tuple[int | str, ...], *cells: bytes) -> None:
        rows.append((table, key))
        put_row(self, table, key, *cells)

    monkeypatch.setattr(Metadata, "_put", counting)
    copies.take(pool, ["v0"], name="new")
    settle(pool.checkpoint())
    new = pool.state.names["v0@new"]
    wanted = [("item", ("copy", "new")), ("item", ("volume", f"{new:010d}")), ("root", (new,))]
    assert sorted(rows) == sorted(wanted)


def test_only_tables_that_changed_are_sealed(pool: Pool) -> None:
    before = {id: table.epoch for id, table in pool.state.tables.items()}
    put(pool, "v1", 0, b"x")
    settle(pool.checkpoint())
    after = {id: table.epoch for id, table in pool.state.tables.items()}
    assert [id for id in before if before[id] != after[id]] == [pool.state.names["v1"]]


def test_copies_without_a_write_between_share_their_root(pool: Pool) -> None:
    tables = pool.state.tables
    roots = {id(tables[pool.state.names[f"v0@c{n}"]].root) for n in range(MANY)}
    assert roots == {id(tables[pool.state.names["v0"]].root)}
    put(pool, "v0", 0, b"x")
    assert tables[pool.state.names["v0"]].root is not tables[pool.state.names["v0@c0"]].root


def test_many_changes_are_encoded_with_breaks_for_others(rig: Rig, pool: Pool) -> None:
    """And what they change meanwhile is in the checkpoint, as it is at its instant."""
    for n in range(MANY):
        copies.delete(pool, f"c{n}")
    looked = False

    async def both() -> None:
        nonlocal looked
        running = asyncio.get_running_loop().create_task(pool.checkpoint())
        await pool.world.clock.sleep(0)
        looked = bool(pool.state.touched_volumes)  # in the middle
        put(pool, "v0", 0, b"meanwhile")
        copies.take(pool, ["v0"], name="meanwhile")
        await running

    settle(both())
    assert looked
    assert_saved(pool)
    image = shown(pool)
    assert shown(rig.kill()) == image


# -- what is skipped is as it was


def everything(pool: Pool) -> list[bytes]:
    state = pool.state
    items = [
        *state.volumes.values(), *state.copies.values(), *state.groups.values(),
        *state.relations.values(), *state.schedules.values(), *state.windows.values(),
        *([state.trusted] if state.trusted.stamp else []),
    ]  # fmt: skip
    return sorted([*map(item_bytes, items), *state.changes.rows().values()])


def assert_saved(pool: Pool) -> None:
    """The store holds what a checkpoint of everything would hold."""
    assert sorted(map(item_bytes, pool._metadata.items())) == everything(pool)
    roots = {id: table.root.tobytes() for id, table in pool.state.tables.items()}
    assert pool._metadata.roots() == roots


WORDS = [
    *("write", "write", "discard", "create", "resize", "delete", "take", "take", "drop", "drop"),
    *(
        "hold",
        "classify",
        "classify",
        "label",
        "group",
        "ungroup",
        "relate",
        "refresh",
        "withdraw",
        "revert",
    ),
    *("receive", "receive"),
]


def change(pool: Pool, dice: Random, n: int) -> None:
    """A random command, on a pool that is primary of some groups and secondary of another."""
    state = pool.state
    plain = sorted(v.name for v in state.volumes.values() if v.kind == "volume")
    own = [name for name in plain if not state.volumes[state.names[name]].group]
    taken = sorted(name for name, copy in state.copies.items() if not copy.group)
    one, other = dice.sample(own, 2)
    copy = dice.choice(taken) if taken else ""
    match dice.choice(WORDS):
        case "write":
            put(pool, one, dice.randrange(200) * BLOCK, pattern(n))
        case "discard":
            device(pool, one).discard(0, dice.randrange(9) * BLOCK)
            pool.commit()
        case "create":
            volumes.create(pool, f"n{n}", MIB)
        case "resize":
            volumes.resize(pool, one, dice.choice([MIB, 2 * MIB]), shrink=True)
        case "delete" if len(own) > 3:
            volumes.delete(pool, one)
        case "take":
            copies.take(pool, [one, other], name=f"t{n}", writable=n % 2 == 0)
        case "drop":
            copies.delete(pool, copy)
        case "hold":
            holds.pin(pool, copies.find_copy(pool, copy), f"{n}")
            holds.unpin(pool, copies.find_copy(pool, dice.choice(taken)))
        case "classify":
            copies.classify(pool, copy, dice.choice(["crash", "filesystem", "application"]))
        case "label":
            pool.record(r.VolumeLabelled(id=state.names[one], labels={"n": str(n)}))
            holds.note_time(pool)
        case "group" if len(own) > 3:
            ids = (state.names[one],)
            pool.record(r.GroupCreated(name=f"g{n}", lineage="ab" * 16, volumes=ids))
        case "ungroup":
            for name in sorted(g.name for g in state.groups.values() if g.role == "primary")[:1]:
                pool.record(r.GroupDeleted(name=name))
        case "receive":
            receive(pool, n)
        case word:
            relate(pool, word, one, other, copy, n)


def relate(pool: Pool, word: str, one: str, other: str, copy: str, n: int) -> None:
    oldest = list(pool.state.relations.values())[:1]
    if word == "relate":
        relations.establish(pool, [relations.Wish(one, other)])
    elif word == "refresh":
        relations.refresh(pool, oldest)
    elif word == "withdraw":
        relations.withdraw(pool, oldest, discard=n % 2 == 0)
    elif word == "revert":
        revert.revert(pool, copy)


def receive(pool: Pool, n: int) -> None:
    """A group of the mirror arrives, with a copy in it, and others deleted; some break off."""
    group = pool.state.groups["far"]
    if group.incoming is not None and n % 5:
        commit(pool, n)
        return
    local = group.remote_ids.get(9, pool.state.next_id)
    shadow, member = pool.state.next_id + 1, pool.state.next_id + 2
    volume = r.IncomingVolume(remote=9, name="x", size=MIB, local=local, shadow=shadow)
    base = group.cut
    pool.record(
        r.IncomingBegun(group="far", lineage="cd" * 16, epoch=2, base=base, volumes=(volume,))
    )
    pool.stage_write(shadow, n % 100, memoryview(pattern(n)))
    pool.commit()
    pool.record(
        r.CopyTaken(name=f"m{n}", writable=False, stamp=n, members=((shadow, member),), group="far")
    )
    pool.record(r.CopyClassified(name=f"m{n}", consistency="application", group="far"))


def commit(pool: Pool, n: int) -> None:
    here = sorted(copy.name for copy in pool.state.copies.values() if copy.group == "far")
    for name in here[:2]:
        pool.record(r.CopyDeleted(name=name, group="far"))
    kept = tuple(here[:1]) if n % 2 else ()
    pool.record(
        r.IncomingCommitted(group="far", cut=pool.state.groups["far"].cut + 1, stamp=n, kept=kept)
    )


@pytest.mark.parametrize("seed", range(12))
def test_what_is_saved_is_what_a_checkpoint_of_everything_saves(
    rig: Rig, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After random commands, also with checkpoints that fail, and over restarts."""
    monkeypatch.setattr(checkpoint, "CHECKED_MAX", -1)  # it would notice by itself
    dice = Random(seed)
    pool = rig.open()
    for n in range(3):
        volumes.create(pool, f"v{n}", MIB)
    pool.record(r.MirrorAdded(group="far", source="there:1"))
    refused = 0
    for n in range(120):
        try:
            change(pool, dice, n)
        except IsochroneError:  # it cannot be done now
            refused += 1
        if dice.random() < 0.7:
            continue
        if dice.random() < 0.2:
            fail(pool)
        if dice.random() < 0.15:
            items = catalogue(pool)
            pool = rig.kill()
            assert catalogue(pool) == items
        settle(pool.checkpoint())
        assert_saved(pool)
    assert refused < 60


def fail(pool: Pool) -> None:
    def refuse(change: object) -> None:
        raise Unavailable("no room")

    commit = pool._metadata.commit
    pool._metadata.commit = refuse  # type: ignore[method-assign]
    try:
        with pytest.raises(Unavailable):
            settle(pool.checkpoint())
    finally:
        pool._metadata.commit = commit  # type: ignore[method-assign]


def test_a_change_that_was_not_noted_stops_a_checkpoint(rig: Rig) -> None:
    """In a small pool; so every test and simulation would notice."""
    pool = rig.open()
    volumes.create(pool, "v", MIB)
    settle(pool.checkpoint())
    pool.state.volumes[1].labels = {"nobody": "noted"}
    with pytest.raises(AssertionError, match="was not noted"):
        settle(pool.checkpoint())
    pool.state.changing(1)
    settle(pool.checkpoint())
    assert_saved(pool)


# -- who is whose copy


def test_copies_of_a_volume_are_found_without_looking_at_others(rig: Rig, pool: Pool) -> None:
    volumes.create(pool, "other", MIB)
    copies.take(pool, ["other"], name="o1")
    copies.take(pool, ["other", "v0"], name="o2")
    copies.delete(pool, "o1")
    other = pool.state.names["other"]
    for state in (pool.state, rig.reopen(pool).state):
        assert [state.volumes[id].name for id in state.copied[other]] == ["other@o2"]
        assert len(state.copied[state.names["v0"]]) == MANY + 1


def test_the_last_copy_of_a_volume_leaves_nothing_behind(pool: Pool) -> None:
    for n in range(MANY):
        copies.delete(pool, f"c{n}")
    assert pool.state.copied == {}
    assert device(pool, "v0").copies() == {}


def test_a_cut_is_due_for_copies_of_its_volumes_alone(rig: Rig) -> None:
    pool = rig.open()
    for name in ("a", "b"):
        volumes.create(pool, name, MIB)
    pool.record(r.GroupCreated(name="g", lineage="ab" * 16, volumes=(1,)))
    group = pool.state.groups["g"]
    copies.take(pool, ["b"], name="other")
    assert pool.state.copies_changed_lsn(group) == 0
    copies.take(pool, ["a", "b"], name="both")
    taken = pool.log.lsn
    assert pool.state.copies_changed_lsn(group) == taken
    copies.classify(pool, "both", "filesystem")
    assert pool.state.copies_changed_lsn(group) == pool.log.lsn > taken
    said = pool.log.lsn
    pool = rig.reopen(pool)
    assert pool.state.copies_changed_lsn(pool.state.groups["g"]) == said


def test_deletions_alone_do_not_keep_the_cleaner_busy(rig: Rig, pool: Pool) -> None:
    """A round that took long is followed by a rest, unless space is short."""
    cleaner, clock = Cleaner(pool), pool.world.clock
    monotonic, now = clock.monotonic, 0.0
    clock.monotonic = lambda: now  # type: ignore[method-assign]
    try:
        settle(cleaner.round())
        copies.delete(pool, "c0")
        assert cleaner.due
        cleaner._rested_at = now + 1
        assert not cleaner.due
        pool.space.short = True
        assert cleaner.due
        pool.space.short = False
        now += 1
        assert cleaner.due
    finally:
        clock.monotonic = monotonic  # type: ignore[method-assign]
